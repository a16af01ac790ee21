"""What the studio's inputs and buttons do; mistakes become sentences on the page."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from fportrait.animate import Request
from fportrait.animate.retarget import SLIDERS
from fportrait.animate.viewpoint import parse_keys, viewpoint
from fportrait.bundle import BundleSettings
from fportrait.capture.video_io import probe
from fportrait.diffusion.factors import FACTORS
from fportrait.errors import UserError
from fportrait.web.results import Result
from fportrait.web.scene import angle_map, camera_scene, to_angles
from fportrait.web.security import Uploads, visitor_of
from fportrait.web.studio import SHAPES, Cancelled, Drawing, Studio, describe, sizes_of
from fportrait.web.uploads import PICTURE_KINDS, browsers_play, check_camera, check_picture, check_video

OWN, FILE = "own path", "file"
SHOWN = 512  # pixels of the short side of the video that is written, whatever the model draws
NO_ADAPTER = "none: the model as it is"
GUIDED = tuple(reversed(FACTORS))  # the face first
log = logging.getLogger(__name__)


def sentences(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake becomes one sentence on the page; a fault says that it is one, with its details in the server's log."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Cancelled:
            gr.Info("Cancelled: nothing was kept of it.", duration=10, title="Cancelled")
            return gr.skip()
        except UserError as error:
            raise gr.Error(without_folders(str(error), args), duration=None, print_exception=False) from None
        except Exception:
            log.exception("a fault in the studio")
            text = "A fault of fportrait's, not of your files. The server's log has the details."
            raise gr.Error(text, duration=None, print_exception=False) from None

    return wrapped


def without_folders(message: str, values: Any) -> str:
    """The message with uploaded files under their names, without the server's folders."""
    for value in values:
        if isinstance(value, str | Path) and os.sep in str(value):
            message = message.replace(str(value), Path(value).name)
    return message


def visitor(session: gr.Request) -> str:
    """Whose request it is, as `StudioDefence` tells visitors apart."""
    return visitor_of(session.headers.get("cookie", ""))


def own_path(settings: BundleSettings) -> str:
    """Key positions to begin with: slow enough for a driving video as long as a trained clip."""
    yaw = round(min(settings.trained_yaw, 0.4 * settings.trained_turn * (settings.frames - 1)))
    return f"-{yaw},0; 0,{min(8, settings.trained_elevation):g},0.95; {yaw},0"


def clips_long(settings: BundleSettings, count: int) -> int:
    """Frames of a video as long as so many of the clips that the model was trained on."""
    return count * (settings.frames - 1) + 1


def number(value: Any, what: str) -> float:
    """A finite number from an input, which may have been emptied; NaN passes Gradio's limits of a slider.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError("an empty field" if value is None else "no number", f"a number as {what}", "write one")
    return float(value)


def chosen_camera(kind: str | None, keys: str | None, file: str | None) -> str:
    """What `viewpoint` understands, from the three camera inputs."""
    if kind is None:
        raise UserError("no camera path", "one of the list", "choose one")
    if kind == OWN:
        parse_keys(keys or "")
        return keys or ""
    return str(check_camera(file)) if kind == FILE else kind


def camera_inputs(kind: str) -> Any:
    """The inputs that a kind of camera path needs."""
    return gr.update(visible=kind == OWN), gr.update(visible=kind == FILE)


def add_key(keys: str, event: gr.SelectData) -> str:
    """A clicked position at the end of the path."""
    yaw, elevation = to_angles(*event.index)
    return f"{keys}; {yaw:g},{elevation:g}".lstrip("; ")


def drop_key(keys: str | None) -> str:
    """The path without its last position."""
    return "; ".join(part.strip() for part in (keys or "").split(";")[:-1])


def reporter(progress: gr.Progress) -> Callable[[str, int, int], None]:
    """A job's progress, shown on the page."""

    def report(what: str, done: int, total: int) -> None:
        progress((done, total) if total > 1 else 0.0, desc=what, unit="frames" if "track" in what else "steps")

    return report


def show(result: Result) -> Any:
    """A result's video, picture, files and facts."""
    files = [str(path) for path in (result.video, result.picture, result.conditions) if path.is_file()]
    return str(result.video), str(result.picture), files, describe(dict(result.settings))


class Handlers:
    """The handlers of one server's pages; the arguments' order is that of the inputs in `fportrait.web.app`."""

    def __init__(self, studio: Studio, uploads: Uploads):
        self.studio, self.uploads = studio, uploads

    def request_of(
        self, who: str, portrait: Any, driving: Any, expression: Any, kind: str, keys: str, file: Any, *rest: Any
    ) -> Request:
        """What the inputs ask for, every file checked."""
        for path, what in ((portrait, "portrait"), (driving, "driving video"), (expression, "expression video")):
            self.uploads.check(who, path, what)
        if kind == FILE:
            self.uploads.check(who, file, "camera file")
        scales, (steps, seed, frames, neutral, force), strengths = rest[:4], rest[4:9], rest[9:-2]
        size = self.drawing_of(*rest[-2:]).size or self.studio.animator.settings.size
        guidance = {name: number(scale, f"the guidance of {name}") for name, scale in zip(GUIDED, scales, strict=True)}
        return Request(
            check_picture(portrait),
            check_video(driving),
            chosen_camera(kind, keys, file),
            check_video(expression, "expression video") if expression else None,
            guidance,
            int(number(steps, "sampling steps")),
            int(number(seed, "the seed")),
            max(1, SHOWN // size),
            int(number(frames, "the length")),
            neutral=str(neutral or "auto").strip(),
            adjust={name: float(value) for name, value in zip(SLIDERS, strengths, strict=True) if value},
            force=bool(force),
        )

    def drawing_of(self, shape: Any, size: Any = None) -> Drawing:
        """The picture that the two lists ask for; without a size it is the model's own.

        Raises:
            UserError: what is not on them; browsers' pages send what they like.
        """
        offered = sizes_of(self.studio.animator.settings)
        size = offered[0] if size is None else size
        if not isinstance(shape, str) or shape not in SHAPES:
            raise UserError("a shape that is not on the list", f"one of {', '.join(SHAPES)}", "choose one")
        if isinstance(size, bool) or size not in offered:
            raise UserError("a size that is not on the list", f"one of {offered}", "choose one")
        return Drawing(int(size), SHAPES[shape])

    def looked_at(self, check: Callable[..., Path], what: str) -> Callable[[str | None, gr.Request], Any]:
        """Says what is wrong with a file as soon as it is there, and takes it away: no player need try it."""

        def look_at(path: str | None, session: gr.Request) -> Any:
            if path is None:
                return gr.skip()
            try:
                checked = check(self.uploads.check(visitor(session), path, what), what)
            except UserError as error:
                gr.Warning(without_folders(str(error), [path]), duration=None, title="Not used")
                return None
            if check is check_video and not browsers_play(checked):
                gr.Info("Browsers may not play this kind of video. It is used all the same.", title=what.capitalize())
            if check is check_video and (words := self.studio.words(str(session.session_hash), checked)):
                gr.Info(words, duration=None, title=f"{what.capitalize()}: how it was filmed")
            return gr.skip()

        return look_at

    @sentences
    def draw_camera(
        self, kind: str, keys: str, file: str | None, seed: float, frames: float, session: gr.Request
    ) -> Any:
        """The camera path around the head, in space and as a map of angles."""
        if kind == FILE:
            self.uploads.check(visitor(session), file, "camera file")
        settings = self.studio.animator.settings
        points = parse_keys(keys) if keys and keys.strip() else []
        most, seed = int(number(frames, "the length")), int(number(seed, "the seed"))
        if kind == OWN and not points:
            kind = "front"
        path = viewpoint(
            chosen_camera(kind, keys, file), min(most, clips_long(settings, 3)), settings, seed
        ).world_to_camera
        return camera_scene(path), angle_map(points if kind == OWN else [], path)

    def plan(self, session: gr.Request, *values: Any) -> str:
        """How much of the videos will be used, and about how long that takes: one line beside Generate."""
        portrait, shape, size, driving, expression, frames, steps, *scales = values
        who = visitor(session)
        try:
            most, count = int(number(frames, "the length")), int(number(steps, "sampling steps"))
            guidance = {name: number(scale, name) for name, scale in zip(GUIDED, scales, strict=True)}
            paths = [check_video(self.uploads.check(who, path, "video")) for path in (driving, expression) if path]
            found = [probe(path) for path in paths]
            pixels = self.studio.pixels(self.drawing_of(shape, size), self.portrait_sides(who, portrait))
        except UserError:
            return ""  # said where it was uploaded, or by Generate
        if not found:
            return f"At most {most} frames: about {self.studio.seconds(most, count, guidance, pixels):.0f} s to make."
        given = min(info.frames / info.fps for info in found)
        used = min(most, math.ceil(given * found[0].fps - 1e-6))
        sound = "its sound is kept" if any(info.sound for info in found) else "it has no sound"
        return (
            f"**{given:.1f} s given, {used / found[0].fps:.1f} s will be used** ({used} frames); {sound}. "
            f"About {self.studio.seconds(used, count, guidance, pixels):.0f} s to make."
        )

    def portrait_sides(self, who: str, portrait: str | None) -> tuple[int, int] | None:
        """Width and height by the file's header; None before there is a portrait."""
        if not portrait:
            return None
        from PIL import Image

        checked = check_picture(self.uploads.check(who, portrait, "portrait"))
        with Image.open(checked, formats=PICTURE_KINDS) as opened:
            return opened.size

    @sentences
    def preview(self, session: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        """What the tracker finds, and the normal maps."""
        shown = self.studio.preview(
            str(session.session_hash),
            self.request_of(visitor(session), *values),
            reporter(progress),
            self.drawing_of(*values[-2:]),
        )
        notes = [f"{len(shown.prepared)} frames.", *shown.prepared.notes]
        return shown.overlays, shown.normals, " ".join(notes)

    @sentences
    def generate(self, session: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        """Make a video, in its turn; the last of the values is the adapter's name."""
        *values, adapter = values  # type: ignore[assignment]
        request = self.request_of(visitor(session), *values)
        names = {"portrait": request.portrait.name, "driving": request.driving.name}
        if request.expression is not None:
            names["expression"] = request.expression.name
        if values[3] == FILE:
            names["camera_file"] = Path(values[5]).name
        result = self.studio.generate(
            str(session.session_hash),
            request,
            reporter(progress),
            names,
            str(adapter or ""),
            self.drawing_of(*values[-2:]),
        )
        return show(result)

    def adapters(self, chosen: str | None) -> Any:
        """The list of adapters as it is now, hidden where there are none; what was chosen stays, if it is there."""
        names = self.studio.adapters()
        given = self.studio.animator.adapter
        own = f"{given.name}, as the studio was started" if given else NO_ADAPTER
        choices = [(own, ""), *((name, name) for name in names)]
        return gr.update(choices=choices, value=chosen if chosen in names else "", visible=bool(names))

    def cancel(self, session: gr.Request) -> None:
        """Stop this visitor's job."""
        if not self.studio.cancel(str(session.session_hash)):
            gr.Info("Nothing is running.", title="Cancel")

    def closed(self, session: gr.Request) -> None:
        """The page was left: nobody waits for its job."""
        self.studio.cancel(str(session.session_hash))

    def gallery_items(self) -> Any:
        """Past results, newest first, and nothing opened."""
        results = self.studio.store.list()
        captions = [f"{r.settings.get('created', '')} · {r.settings.get('camera', '')}" for r in results]
        items = [(str(r.thumbnail), caption) for r, caption in zip(results, captions, strict=True)]
        return gr.update(value=items, selected_index=None), [r.name for r in results], "", None, None, ""

    @sentences
    def open_result(self, names: list[str], event: gr.SelectData) -> Any:
        """One past result."""
        result = self.studio.store.get(names[int(event.index)])
        video, _, files, text = show(result)
        return result.name, video, files, text

    @sentences
    def delete_result(self, name: str) -> Any:
        """Delete it, and show those that are left."""
        if name:
            self.studio.store.delete(name)
        return self.gallery_items()
