"""Loads a model once and animates portraits with it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.animate.alignment import aligned
from fportrait.animate.carried import portraits_for
from fportrait.animate.film import Frame, frames_for
from fportrait.animate.likeness import strangers
from fportrait.animate.matching import Response, driver_rises, matched_codes, response_of
from fportrait.animate.pictures import colourless, enlarge, in_grey
from fportrait.animate.portrait import rectangle_notes, track_picture
from fportrait.animate.profile import Profile
from fportrait.animate.request import Prepared, Request, check_guidance, clock_notes
from fportrait.animate.retarget import check_strengths, directions, offset
from fportrait.animate.scenery import scene_of
from fportrait.animate.sizes import AS_PORTRAIT, CELL, chosen_picture, like_portrait, size_notes
from fportrait.animate.together import in_one_scene
from fportrait.animate.tracked import Report, Tracked, draw_normals, far_turn_notes, paint_portrait, track_video
from fportrait.animate.viewpoint import Framing, training_fit, viewpoint
from fportrait.atomic_io import file_hash
from fportrait.body.model import load_body
from fportrait.body.painting import WARP_SCALE
from fportrait.bundle import BundleSettings, read_settings
from fportrait.camera.cameras import scale_intrinsics
from fportrait.devices import pick_device, sampling_dtype
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.conditions import padded
from fportrait.diffusion.lora import adapter_name, find_adapter
from fportrait.errors import UserError
from fportrait.pixels import Picture
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, smoothing
from fportrait.tracking.matting import SIDE, matte_around
from fportrait.tracking.neutral import Rest, check_neutral, rendered_rest, rest_for, rest_of
from fportrait.tracking.points import landmark_codes
from fportrait.tracking.residual import landmark_offsets
from fportrait.tracking.segments import segment_codes

MAX_FRAMES = 10**9  # of a video that another one's seconds cut


def quiet(what: str, done: int, total: int) -> None:
    """The report that nobody reads."""


class Animator:
    """Args:
    model: a bundle folder. remember: how many tracked files to keep, so that a second video of them starts at once.
    size, aspect: of the picture that it draws, see `sizes.chosen_picture`; None takes the model's own square.
    device: where its networks run; None asks the rule of `fportrait.devices`.
    adapter: LoRA weights over the model's transformer: a folder, its `adapter.safetensors`, or the stage that holds it.

    Raises:
        UserError: the folder is no bundle, its model does not draw such a picture, or there is no adapter (that it is
            of another base is told when the sampling pipeline is first asked for).
    """

    def __init__(
        self,
        model: str | Path,
        remember: int = 0,
        size: int | str | Picture | None = None,
        device: str | None = None,
        adapter: str | Path | None = None,
        aspect: str | None = None,
    ):
        from fportrait.tracking.expression import ExpressionEncoder

        self.model, self.remember, self.device = Path(model), remember, pick_device(device)
        self.profile = Profile()
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self.adapter: Path | None = None
        self.made_by: dict[str, str] | None = None  # what names the adapter, as it was when it was asked for
        self._take(adapter)
        self._draw(size, aspect)
        self.encoder = ExpressionEncoder.from_pretrained(self.model / "expression_encoder").to(self.device)
        self.body = load_body()
        self.landmarks = LandmarkModel(self.body)
        self.config = TrackConfig(camera_distance=self.settings.camera_distance, crop_metres=self.settings.crop_metres)

    def _take(self, adapter: str | Path | None) -> None:
        if adapter is not None:
            self.adapter = find_adapter(adapter)
            self.made_by = adapter_name(self.adapter)

    def _draw(self, size: int | str | Picture | None, aspect: str | None) -> None:
        stated = read_settings(self.model)
        self.picture = chosen_picture(stated, size, aspect, CELL * self._patch)
        self.settings: BundleSettings = replace(stated, size=self.picture.short)
        self._size_notes = size_notes(stated, self.picture, aspect)

    def drawing(
        self,
        size: int | str | Picture | None = None,
        aspect: str | None = None,
        portrait: Path | None = None,
        fov: float | None = None,
        force: bool = False,
    ) -> Animator:
        """This animator for another picture (`sizes.chosen_picture`); what it has loaded and tracked is shared.

        Args:
            aspect: `AS_PORTRAIT` is that of `portrait`, upright, as far as the model goes. fov, force: see `Request`.

        Raises:
            UserError: the model does not draw such a picture, or there is no face in the portrait.
        """
        longer = ""
        if aspect == AS_PORTRAIT and portrait is not None:
            height, width = self.tracked_portrait(portrait, fov, force)[1].shape[:2]
            aspect, longer = like_portrait(width, height)
        other = copy.copy(self)
        other._draw(size, aspect)
        other._size_notes = [*[longer] * bool(longer), *other._size_notes]
        _ = self.pipeline  # loaded once for both
        other.__dict__["pipeline"] = self.pipeline
        return other

    def with_adapter(self, adapter: str | Path | None) -> Animator:
        """This animator with other LoRA weights (None: without any); what it has tracked is shared.

        Raises:
            UserError: there is no adapter.
        """
        other = copy.copy(self)
        other.__dict__.pop("pipeline", None)
        other.adapter = other.made_by = None
        other._take(adapter)
        return other

    @cached_property
    def pipeline(self) -> Any:
        """The sampling pipeline, in float32; loaded when first asked for, because tracking does without it."""
        with self.profile.measured("load"):
            from fportrait.diffusion.pipeline import FactorPortraitPipeline

            pipeline = FactorPortraitPipeline.from_bundle(
                self.model, sampling_dtype(self.device), self.device, self.adapter
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def directions(self) -> dict[str, np.ndarray]:
        """What expression sliders add in this encoder's code space; see `fportrait.animate.retarget`."""
        return directions(self.encoder)

    @property
    def reads_landmarks(self) -> bool:
        """Whether the model reads landmarks and not codes: the ablation C3."""
        return bool(self.pipeline.transformer.config.expression == "landmarks")

    @property
    def bridge_level(self) -> float:
        """The noise level that sampling starts at; told without loading the model."""
        return float(self._config.get("bridge_level", 1.0))

    @property
    def reads_painted(self) -> bool:
        """Whether the model reads the portrait painted on the body."""
        return bool(self._config.get("warped_reference"))

    @property
    def _patch(self) -> int:
        """Cells of the codec that a token of the model is wide."""
        return int(max(self._config.get("patch_size", (1, 2, 2))[1:]))

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The transformer's configuration, without loading it."""
        found: dict[str, Any] = json.loads((self.model / "transformer" / "config.json").read_text(encoding="utf-8"))
        return found

    def guidance(self, request: Request) -> dict[str, float]:
        """Scale per factor: the model's own, and over it what the request asks for."""
        return {**self.settings.guidance, **request.guidance}

    def prepare(self, request: Request, report: Report = quiet) -> Prepared:
        """Track the request's files and lay out its cameras.

        Raises:
            UserError: unreadable files, no face or two faces, a bad camera, unknown factors.
        """
        check_guidance(request.guidance)
        check_neutral(request.neutral)
        check_strengths(request.adjust)
        size, max_frames = self.encoder.crop_size, request.max_frames
        config = replace(self.config, force=request.force)
        person, image = self.tracked_portrait(request.portrait, request.portrait_fov, request.force, request.as_filmed)
        others = [self.tracked_portrait(path, request.portrait_fov, request.force) for path in request.more]
        carried, film, told = portraits_for(self, person, image, request.force)

        def track(path: Path, what: str, seconds: float = math.inf) -> Tracked:
            limits = (self.landmarks, config, size, max_frames)
            if seconds < math.inf:
                limits = (*limits[:3], MAX_FRAMES)
            tracked = self.once(
                ((max_frames, seconds, request.fov, request.force), path),
                lambda: track_video(path, *limits, report, what, seconds, request.fov),
            )
            return replace(tracked, path=Path(path))  # the same bytes may lie elsewhere now

        drive = express = track(request.driving, "track driving")
        if request.expression is not None:
            express = track(request.expression, "track expression", len(drive) / drive.fps)
        scene = in_one_scene(person, image, drive, self.body, self.landmarks, config)
        if scene is not None:
            person = self.personal(scene[0])
            own = self.aligned(person, image, scene[1], report)
            drive, express = own, own if express is drive else express
        frames = min(len(drive), math.ceil(len(express) / express.fps * drive.fps - 1e-6))
        framing = Framing.of(person, self.picture)
        view = viewpoint(request.camera, frames, self.settings, request.seed, drive.fps, framing)
        notes = [*person.notes, *self.picture_notes(person), *clock_notes(drive, express, frames)]
        notes += [*view.notes, *training_fit(view, self.settings)]
        notes += far_turn_notes(person, drive, view.world_to_camera)
        if drive.own:
            notes.append(f"{drive.path.name} shows the portrait's own scene: both were fitted as one person")
        rest = self.rest(request, express, segment_codes(express.track, self.encoder))
        notes += [rest.note] * bool(rest.note)
        if others and not self.reads_painted:
            notes.append(f"{len(others)} further portraits are not used: this model does not read the painted portrait")
        notes += [note for other, _ in others for note in other.notes]
        if others and self.reads_painted:
            notes += strangers([(person.path, image), *[(other.path, picture) for other, picture in others]])
        shown = [*others, *carried] if self.reads_painted else []
        return Prepared(request, person, drive, express, image, view, notes + told, shown, film)

    def tracked_portrait(
        self, path: Path, fov: float | None = None, force: bool = False, as_filmed: bool = False
    ) -> tuple[Tracked, np.ndarray]:
        """A portrait's track and its upright picture `H W 3`; see `track_picture`."""
        config, size = replace(self.config, force=force), self.encoder.crop_size

        def track() -> tuple[Tracked, np.ndarray]:
            person, image = track_picture(path, self.landmarks, config, size, fov, as_filmed)
            return self.personal(person), image

        return self.once((("portrait", fov, force, as_filmed), path), track)

    def filmed(self, person: Tracked, image: np.ndarray, paths: Sequence[Path]) -> tuple[list[Frame], list[str]]:
        """The frames of a person's films, tracked with a portrait of theirs; see `film.frames_for`."""
        if not paths:
            return [], []
        who = (hashlib.sha256(image.tobytes()).hexdigest(), person.crop, float(person.intrinsics[0, 0]))
        return self.once((("film", who), paths[0]), lambda: frames_for(self, person, image, paths))

    def picture_notes(self, person: Tracked) -> list[str]:
        """What a user should know of a rectangle before judging it: none of a square."""
        return [*self._size_notes, *rectangle_notes(person, self.picture)]

    def personal(self, person: Tracked) -> Tracked:
        """A portrait with its own face's offsets from the fitted body (`tracking.residual`)."""
        track, seen = person.track, person.track.seen[0]
        finer = seen.refined if track.refined and seen.refined is not None else seen.landmarks
        pose = (track.rotations[0], track.translations[0], track.cameras[0], person.intrinsics)
        offsets = landmark_offsets(self.body, self.landmarks, person.shape, self._acted(person), *pose, finer[0])
        return replace(person, offsets=offsets)

    def aligned(self, person: Tracked, image: np.ndarray, drive: Tracked, report: Report) -> Tracked:
        """A video of the portrait's own scene, by its pixels; see `fportrait.animate.alignment`."""
        readout, own = self.encoder.readout, self._acted(person)
        if readout is None or not self.reads_painted:  # nothing tells how the painted portrait acts
            return drive
        codes, along = segment_codes(drive.track, self.encoder), np.stack(list(self.directions.values()))
        return aligned(self.body, person, image, drive, codes, readout, along, own, report)

    def once(self, key: tuple[Any, Path], make: Callable[[], Any]) -> Any:
        """What `make` gives, kept under the file's bytes when this animator remembers."""
        if not self.remember or not Path(key[1]).is_file():  # `make` says what is wrong with it
            return make()
        name = (key[0], file_hash(key[1]))
        if name not in self._kept:
            self._kept[name] = make()
        self._kept.move_to_end(name)
        while len(self._kept) > self.remember:
            self._kept.popitem(last=False)
        return self._kept[name]

    def normals(self, prepared: Prepared, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Normal maps `H W 3` of the portrait's body in the driver's poses, one by one."""
        numbers = list(numbers)
        return draw_normals(
            self.body,
            prepared.person.shape,
            prepared.drive,
            prepared.view.world_to_camera[numbers],
            prepared.view.intrinsics[numbers],
            self.picture,
            numbers,
        )

    def portrait(self, prepared: Prepared, scale: int = 1) -> np.ndarray:
        """The model's picture of the portrait, `H W 3`, or `scale` times as large."""
        return prepared.person.shown(prepared.image, self.picture.times(scale))

    def painted(
        self,
        prepared: Prepared,
        numbers: Iterable[int],
        scale: int = 1,
        shown: bool = False,
        trusted: list[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """The portrait painted on its body in the driver's poses, acting as the codes tell, `H W 3`, one by one.

        Args:
            scale: draws them so many times as large. shown: before what stands behind (`matte`), for people, and not as
                the model was trained on them. trusted: takes up how far each one is trusted, `H W` uint8.
        """
        numbers, view, readout = list(numbers), prepared.view, self.encoder.readout
        own: np.ndarray | None = None
        told: list[np.ndarray | None] = [None] * len(numbers)
        if readout is not None and not self.reads_landmarks:
            own = self._acted(prepared.person)
            told = list(readout(self.expression(prepared)[numbers]))
        lenses = np.stack([scale_intrinsics(lens, scale) for lens in view.intrinsics[numbers]])
        where = (prepared.drive, view.world_to_camera[numbers], lenses, numbers)
        samples, picture = WARP_SCALE if scale == 1 else 1, self.picture.times(scale)
        others = [
            (other, other.shown(image, picture), self._acted(other) if own is not None else None)
            for other, image in prepared.others
        ]
        portrait = self.portrait(prepared, scale)
        film = [frame.texture(self.body, picture) for frame in prepared.film] if shown else []
        matte, scene = self.matte(prepared) if shown else None, None
        if film and matte is not None and own is not None:
            person, image = prepared.person, prepared.image
            scene = functools.partial(scene_of, self.body, person, image, own, prepared.film, picture, samples, matte)
        return paint_portrait(
            *(self.body, prepared.person, portrait, *where, own, told, samples, others, trusted),
            matte=matte,
            film=film,
            scene=scene,
        )

    def matte(self, prepared: Prepared) -> np.ndarray | None:
        """The person's opacity in the portrait, `h w`: None where no person is known."""
        picture = self.picture.times(max(1, SIDE // self.picture.short))
        person = prepared.person
        return matte_around(person.shown(prepared.image, picture), person.landmarks(picture)[0])

    def _acted(self, person: Tracked) -> np.ndarray | None:
        """The actions that the portrait's own code tells."""
        readout = self.encoder.readout
        return None if readout is None else readout(segment_codes(person.track, self.encoder)[0])

    def portrait_normals(self, person: Tracked) -> np.ndarray:
        """The portrait's own normal map `H W 3`: its body in its pose, seen by its camera."""
        camera, own = person.reference_camera[None], person.lens(self.picture)[None]
        return next(draw_normals(self.body, person.shape, person, camera, own, self.picture, [0]))

    def expression(self, prepared: Prepared) -> np.ndarray:
        """What the model reads of the expression: codes `T 128`, or for the ablation C3 landmarks `T 476`."""
        if self.reads_landmarks:
            if prepared.request.adjust:
                raise UserError("expression sliders for a model that reads landmarks", "one of codes", "leave them out")
            size, middle = self.settings.size, Framing.of(prepared.person, self.picture).off_middle
            codes = landmark_codes(prepared.express.landmarks(size) + middle, size)
        else:
            express = prepared.express
            codes = segment_codes(express.track, self.encoder)
            rest = self.rest(prepared.request, express, codes)
            if express.code_changes is not None:
                codes = codes + express.code_changes
            if rest.code is not None:
                codes = codes - rest.code + self.portrait_rest(prepared.person)
            codes = self._matched(prepared, codes)
            if any(prepared.request.adjust.values()):
                codes = codes + offset(prepared.request.adjust, self.directions)
        before, after, share = prepared.express_rows()
        mixed = codes[before] * (1 - share[:, None]) + codes[after] * share[:, None]
        return np.asarray(mixed, codes.dtype)

    def _matched(self, prepared: Prepared, codes: np.ndarray) -> np.ndarray:
        """Codes at the strength at which the portrait shows them; see `fportrait.animate.matching`."""
        request, express, readout = prepared.request, prepared.express, self.encoder.readout
        if request.neutral == "off" or express.own or readout is None or not self.reads_painted or len(codes) < 2:
            return codes
        seen = express.track.seen[0]
        rest = rest_of(codes, seen, express.path.name, None if request.neutral == "auto" else int(request.neutral))
        if rest.code is None:  # without his rest nobody can say how far he is from it
            return codes
        if prepared.response is None and prepared.drive.own:  # the portrait has a shape of this pair, not to be kept
            prepared.response = self.response(prepared.person, prepared.image)
        elif prepared.response is None:
            key = (("response", request.portrait_fov, request.force, request.as_filmed), request.portrait)
            prepared.response = self.once(key, lambda: self.response(prepared.person, prepared.image))
        rises = driver_rises(seen, rest, len(codes))
        told = (readout, self.directions, self.body.action_names)
        return matched_codes(codes, rises, rest.code, prepared.response, *told, smoothing(express.fps))

    def response(self, person: Tracked, image: np.ndarray) -> Response:
        """How a portrait's scores answer its body's actions, in its own pose and view."""
        return response_of(self.body, person, image, self._acted(person))

    def portrait_rest(self, person: Tracked) -> np.ndarray:
        """The code `128` that stands for the portrait's face at rest."""
        own = segment_codes(person.track, self.encoder)[0]
        return rest_for(own, person.track.seen[0], rendered_rest(self.encoder))

    def rest(self, request: Request, express: Tracked, codes: np.ndarray) -> Rest:
        """The face at rest of whom the expressions `T 128` come from; see `Request.neutral`.

        Codes of people like the rendered ones hold little of the person: what would be taken out there is expression.
        And from a video of the portrait's own scene, nothing of the person needs to be.
        """
        if request.neutral == "off" or (request.neutral == "auto" and (express.track.refined or express.own)):
            return Rest(None)
        named = None if request.neutral == "auto" else int(request.neutral)
        return rest_of(codes, express.track.seen[0], express.path.name, named)

    def cameras(self, prepared: Prepared) -> Cameras:
        """The path's cameras, and the portrait's own."""
        view, person = prepared.view, prepared.person
        return Cameras(view.world_to_camera, view.intrinsics, person.reference_camera, person.lens(self.picture))

    def sample(self, prepared: Prepared, report: Report = quiet, scale: int = 1) -> Iterator[np.ndarray]:
        """Frames `H W 3` uint8, decoded as they are read; an exception raised by `report` ends the work.

        Args:
            scale: makes them so many times as large. Of a model that starts from the painted portrait they are as sharp
                as the portrait's file where nothing changes (`diffusion.detail`); others are enlarged.

        Raises:
            UserError: values that are not finite.
        """
        import torch

        request, count = prepared.request, len(prepared)
        steps = request.steps or self.settings.steps
        rows = padded(count)
        keeps = self.bridge_level < 1 and self.pipeline.config.detail
        trusted = list[np.ndarray]() if keeps else None

        def tell(pipeline: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
            report("sample", step + 1, steps)
            return {}

        report("sample", 0, steps)
        with self.profile.measured("sample"):
            result = self.pipeline(
                self.portrait(prepared),
                self.cameras(prepared).take(rows),
                self.normals(prepared, rows.tolist()),
                torch.from_numpy(self.expression(prepared)[rows])[None],
                reference_normals=self.portrait_normals(prepared.person),
                warped=self.painted(prepared, rows.tolist(), trusted=trusted),
                num_inference_steps=steps,
                guidance=self.guidance(request),
                generator=torch.Generator().manual_seed(request.seed),
                output_type="stream",
                callback_on_step_end=tell,
                larger=self.painted(prepared, rows.tolist(), scale, shown=True) if keeps else None,
                trusted=trusted,
            )
        left, grey = count, colourless(prepared.image)
        for chunk in self.profile.each("decode", result.frames):
            for frame in chunk[0][:left]:
                shown = frame if keeps or scale == 1 else enlarge(frame, scale)
                yield in_grey(shown) if grey else shown
            left -= len(chunk[0])
            if left <= 0:
                return
