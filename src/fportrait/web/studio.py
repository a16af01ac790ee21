"""What the web studio does, without its pages: previews, jobs in turn, cancelling."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.animate import Animator, Prepared, Request
from fportrait.animate.adapters import fitting
from fportrait.animate.clip_check import upload_words
from fportrait.animate.edit import Edit, write_edit
from fportrait.animate.pictures import shown_frames, tracking_overlay
from fportrait.animate.sizes import AS_PORTRAIT, CELL, chosen_picture, like_portrait
from fportrait.animate.tracked import Report
from fportrait.animate.writing import write_conditions, write_result
from fportrait.bundle import BundleSettings
from fportrait.capture.video_io import read_video, write_image
from fportrait.diffusion.schedule import shifted_levels
from fportrait.errors import UserError
from fportrait.web.results import THUMBNAIL, Result, ResultStore, file_names, stem_of

START_SECONDS, TRACK_SECONDS, CALL_SECONDS = 2.0, 0.12, 0.012  # a video, a frame, a frame and model call: two cores
WAITING = 8  # jobs beyond the running one; more are turned away at once


SQUARE = "square"
SHAPES = {
    SQUARE: None,
    "as the portrait": AS_PORTRAIT,
    **{aspect: aspect for aspect in ("9:16", "3:4", "4:3", "16:9")},
}
"""Shapes of the picture as the pages name them, and as `fportrait animate --aspect` does."""


def sizes_of(settings: BundleSettings) -> list[int]:
    """Short sides of the pictures that a model draws, its own first."""
    return list(dict.fromkeys([settings.size, *sorted(settings.sizes)]))


@dataclass(frozen=True)
class Drawing:
    """The picture that a visitor asks for: its short side in pixels (None: the model's own) and its aspect."""

    size: int | None = None
    aspect: str | None = None


class Cancelled(Exception):
    """The user, or a closed tab, ended the job."""


@dataclass
class Preview:
    """Overlays `H W 3` of portrait, driving (and expression) frames, and the normal maps the model would be given."""

    overlays: list[tuple[np.ndarray, str]]
    normals: list[tuple[np.ndarray, str]]
    prepared: Prepared


class Studio:
    """Jobs run one at a time in the order they came; a session has at most one.

    Args:
        model: a bundle. store: where results go. adapter: LoRA weights over the model, for every video that asks for
            no other. home: the project whose adapters a visitor may choose from; None offers none.
    """

    def __init__(
        self, model: str | Path, store: ResultStore, adapter: str | Path | None = None, home: str | Path | None = None
    ):
        self.animator = Animator(model, remember=16, adapter=adapter)
        self.store, self.home = store, home
        self._adapted: Animator | None = None  # the one that a visitor chose last
        self._turn = threading.Condition()
        self._queue: deque[str] = deque()
        self._cancelled: set[str] = set()

    @contextmanager
    def job(self, session: str, report: Report) -> Iterator[Report]:
        """Wait for the visitor's turn; yields a report that raises `Cancelled` once they have cancelled.

        Raises:
            UserError: the session already has a job, or too many wait.
            Cancelled: cancelled while waiting.
        """
        with self._turn:
            if session in self._queue:
                raise UserError("a job of yours that still runs", "one at a time", "wait for it or cancel it")
            if len(self._queue) > WAITING:
                raise UserError(f"{len(self._queue)} jobs before yours", f"at most {WAITING}", "try again in a minute")
            self._queue.append(session)

        def checked(what: str, done: int, total: int) -> None:
            if session in self._cancelled:
                raise Cancelled
            report(what, done, total)

        try:
            with self._turn:
                while self._queue[0] != session:
                    checked(f"waiting, {self._queue.index(session)} before you", 0, 1)
                    self._turn.wait(0.5)
            yield checked
        finally:
            with self._turn:
                self._queue.remove(session)
                self._cancelled.discard(session)
                self._turn.notify_all()

    def cancel(self, session: str) -> bool:
        """End a session's job, running or waiting, at its next step; whether there was one."""
        with self._turn:
            if session not in self._queue:
                return False
            self._cancelled.add(session)
            self._turn.notify_all()
            return True

    def adapters(self) -> list[str]:
        """Names of the project's adapters that belong to this model, as they are now."""
        return [] if self.home is None else list(fitting(self.animator.model, self.home))

    def with_adapter(self, name: str) -> Animator:
        """The animator of an adapter by its name, never by a path; "" is the studio's own.

        Raises:
            UserError: the project has none of that name (any more), or it does not belong to this model.
        """
        if not name:
            return self.animator
        known = {} if self.home is None else fitting(self.animator.model, self.home)
        if name not in known:
            self._adapted = None  # deleted, perhaps: what was made of it goes from memory, too
            raise UserError(
                f"no adapter '{name[:64]}' of this model", "one of the list", "open the list again: it may be deleted"
            )
        wanted = self.animator.with_adapter(known[name])
        if self._adapted is None or self._adapted.made_by != wanted.made_by:
            self._adapted = wanted
        return self._adapted

    def drawing(self, animator: Animator, wanted: Drawing, request: Request | Edit) -> Animator:
        """The animator for the picture that is asked for; for the model's own it is the animator itself."""
        if wanted.aspect is None and wanted.size in (None, animator.settings.size):
            return animator
        return animator.drawing(wanted.size, wanted.aspect, request.portrait, request.portrait_fov, request.force)

    def words(self, session: str, video: Path) -> str:
        """How an uploaded video was filmed (`clip_check.upload_words`), looked at in its turn: the networks serve one
        job at a time. Nothing where too many wait."""
        try:
            with self.job(f"{session} looks at {video}", lambda what, done, total: None):
                return upload_words(video) or ""
        except UserError:
            return ""

    def preview(self, session: str, request: Request, report: Report, wanted: Drawing = Drawing()) -> Preview:
        """Track the files and show what was found."""
        with self.job(session, report) as checked:
            animator = self.drawing(self.animator, wanted, request)
            prepared = animator.prepare(request, checked)
            numbers = shown_frames(len(prepared), 6)
            overlays = [(tracking_overlay(prepared.image, prepared.person, 0), "portrait")]
            clips = [("driving", prepared.drive, numbers)]
            if prepared.express is not prepared.drive:
                shown = prepared.express_numbers(numbers)
                clips = [("pose", prepared.drive, numbers), ("expression", prepared.express, shown)]
            for label, clip, places in clips:
                frames = clip.pictures(places)
                overlays += [
                    (tracking_overlay(frame, clip, number), f"{label}, frame {number}")
                    for frame, number in zip(frames, places, strict=True)
                ]
            maps = animator.normals(prepared, numbers)
            normals = [(image, f"frame {number}") for image, number in zip(maps, numbers, strict=True)]
            return Preview(overlays, normals, prepared)

    def edit(
        self, session: str, edit: Edit, folder: Path, report: Report, wanted: Drawing = Drawing()
    ) -> tuple[Path, list[str]]:
        """Write an edited picture into `folder`, named after the portrait; and what a viewer should know of it."""
        with self.job(session, report) as checked:
            output = folder / f"{stem_of(edit.portrait.name)}-edited.png"
            return output, write_edit(self.drawing(self.animator, wanted, edit), edit, output, checked).notes

    def pixels(self, wanted: Drawing, portrait: tuple[int, int] | None = None) -> int:
        """How many a frame of such a picture has; `portrait` is the width and height of the portrait's file.

        Raises:
            UserError: the model does not draw it.
        """
        aspect = wanted.aspect
        if aspect == AS_PORTRAIT:
            aspect = None if portrait is None else like_portrait(*portrait)[0]
        height, width = chosen_picture(self.animator.settings, wanted.size, aspect, CELL)
        return height * width

    def seconds(self, frames: int, steps: int, guidance: Mapping[str, float], pixels: int | None = None) -> float:
        """About how long a video takes here: as the last results did, or as on two cores."""
        own = self.animator.settings.size**2
        rates = []
        for past in self.store.list()[:5]:
            values = past.settings
            with contextlib.suppress(KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
                sides = str(values.get("picture", f"{own}x1")).split("x")  # older results are of the model's own
                work = self._work(values["frames"], values["steps"], values["guidance"], int(sides[0]) * int(sides[1]))
                rates.append(float(values["seconds"]) / work)
        return self._work(frames, steps, guidance, pixels or own) * (float(np.median(rates)) if rates else 1.0)

    def _work(self, frames: int, steps: int, guidance: Mapping[str, float], pixels: int) -> float:
        """Seconds on two cores: tracking once per frame, and the model's calls over noise levels, by its pixels."""
        settings = self.animator.settings
        levels = shifted_levels(steps, self.animator.bridge_level, settings.shift)
        guided = int((levels <= settings.guidance_below).sum())
        calls = steps + guided * sum(scale != 1 for scale in guidance.values())
        return START_SECONDS + frames * (TRACK_SECONDS + calls * CALL_SECONDS * pixels / 64**2)

    def generate(
        self,
        session: str,
        request: Request,
        report: Report,
        names: dict[str, str],
        adapter: str = "",
        wanted: Drawing = Drawing(),
    ) -> Result:
        """Make a video and keep it; `names` are what the user called the files, `adapter` one of `adapters`."""
        started = time.monotonic()
        with self.job(session, report) as checked:
            animator = self.drawing(self.with_adapter(adapter), wanted, request)
            prepared = animator.prepare(request, checked)
            stem = stem_of(names["portrait"])
            video, picture, _ = file_names(stem)
            settings: dict[str, Any] = {
                **names,
                "files": stem,
                "camera": request.camera if "camera_file" not in names else "file",
                "guidance": animator.guidance(request),
                "steps": request.steps or animator.settings.steps,
                "seed": request.seed,
                "picture": animator.picture.across_by_down,
                "frames": len(prepared),
                "adjust": {name: value for name, value in request.adjust.items() if value},
                "sound": "kept" if prepared.sound else "none in the video",
                "model": animator.model.name,
                "adapter": adapter or (animator.adapter.name if animator.adapter else ""),
                "notes": prepared.notes,
                "created": time.strftime("%Y-%m-%d %H:%M:%S"),
            }

            def write(folder: Path) -> None:
                written = write_result(animator, prepared, folder / video, checked)
                written["picture"].rename(folder / picture)
                half = len(prepared) // 2
                write_image(folder / THUMBNAIL, read_video(folder / video, half, half + 1)[0])
                (folder / "conditions").mkdir()
                write_conditions(animator, prepared, folder / "conditions")
                settings["seconds"] = round(time.monotonic() - started, 1)

            return self.store.add(write, settings)


def describe(settings: dict[str, Any]) -> str:
    """A result's settings as lines of Markdown."""
    lines = []
    for key, value in settings.items():
        if key == "files" or value in ("", None, {}, []):
            continue
        text = ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
        text = "; ".join(text) if isinstance(text, list) else text
        lines.append(f"**{key.replace('_', ' ')}** {escape(str(text))}")
    return "  \n".join(lines)


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is: names of files come from strangers."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    return "".join(marks.get(c, f"\\{c}" if c in "\\`*_{}[]()#!|~$" else c) for c in text)[:200]
