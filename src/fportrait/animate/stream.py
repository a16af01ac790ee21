"""A portrait animated window by window, as its driver's frames come: the model's part of a stream, without threads.

A window is the frame that was shown last and `4 n` new ones, so a clip of 1 + n latents as the model was trained on.
Two ways to go on from what was shown:

- `faded`: every window is sampled from the same noise and of its own frames' conditions alone. Its first frame repeats
  the last one shown; what the two differ by is added to the new frames, less and less. Nothing that was generated is
  ever read again, so no error can add up, however long the stream.
- `given`: the last frame shown is the window's first latent, clean, and the student goes on from it. Only students
  learn to (`training.distill`); a model that did not hardens its contrast from window to window, and is refused.

`faded` is the default, because it asks nothing of the model and cannot drift. A model that starts from the portrait
painted on the body (`bridge_level` of its transformer) does so in every window, which then has its own anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fportrait.animate.animator import Animator
from fportrait.animate.matching import matched_codes
from fportrait.animate.pictures import colourless, in_grey
from fportrait.animate.portrait import track_picture
from fportrait.animate.tracked import posed, trust_in
from fportrait.animate.viewpoint import square_intrinsics
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.rasterizer import normal_map
from fportrait.body.warping import Target
from fportrait.camera.cameras import crop_intrinsics, in_camera
from fportrait.dataset.crops import crop_picture
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import decode_latents, encode_video
from fportrait.diffusion.detail import with_detail
from fportrait.diffusion.schedule import set_noise_levels
from fportrait.diffusion.shapes import TEMPORAL_STRIDE
from fportrait.diffusion.streaming import decoded_beside, streamed
from fportrait.errors import UserError
from fportrait.pixels import to_model_range, to_uint8
from fportrait.tracking.actions import told_actions
from fportrait.tracking.backbone import folded
from fportrait.tracking.fit import to_pose
from fportrait.tracking.matting import SIDE, matte_around
from fportrait.tracking.segments import LOOK_AT, segment_codes

CARRIES = ("faded", "given")
LARGE = 96  # pixels: above, or where a window takes several model calls, two new latents cost a third less per frame


def model_calls(pipeline: Any) -> int:
    """How often a pipeline asks its transformer for one window: its steps, and guidance over them."""
    config, scheduler = pipeline.config, pipeline.scheduler
    set_noise_levels(scheduler, config.steps, start=pipeline.transformer.config.bridge_level)
    levels = [float(time) / scheduler.config.num_train_timesteps for time in scheduler.timesteps]
    factors = sum(scale != 1 for scale in config.guidance.values())
    return sum(1 + factors * (level <= config.guidance_below) for level in levels)


@dataclass(frozen=True)
class Moment:
    """What one frame is to show: `rotation` `3 3` and `translation` `3` of the head's bone (the head's centre is near
    the origin), `code` `128`, `camera` `4 4` world to camera; `at`: the second, of any clock, at which the driver's
    frame came."""

    rotation: np.ndarray
    translation: np.ndarray
    code: np.ndarray
    camera: np.ndarray
    at: float = 0.0


class Drawn(NamedTuple):
    """What a moment's body looks like: `normals` `S S 3`, and of a model that reads the painted portrait the `painted`
    one `S S 3` and how far it is `trusted`, `S S`, all uint8."""

    normals: np.ndarray
    painted: np.ndarray | None = None
    trusted: np.ndarray | None = None


class Sampled(NamedTuple):
    """A window before it is decoded: `latents` `1 C 1+n h w`, and of a model that starts from the painted portrait its
    pictures `T S S 3` uint8 and how far they are trusted, `T S S` uint8."""

    latents: torch.Tensor
    painted: np.ndarray | None
    trusted: np.ndarray | None


class PortraitStream:
    """One portrait and a model, ready to make windows.

    Args:
        animator: of any bundle, whatever its number of calls. portrait: a picture with one face. latents: new ones of a
            window; None takes 1, or 2 for large pictures and where a window takes several model calls. carry: see
            above. seed: of the noise.

    Raises:
        UserError: no face in the portrait, a model that reads landmarks, an unknown `carry`, or `given` for a model
            that is no student, or an animator of rectangles.
    """

    def __init__(
        self,
        animator: Animator,
        portrait: Path,
        latents: int | None = None,
        carry: str = "faded",
        seed: int = 0,
        force: bool = False,
    ):
        if carry not in CARRIES:
            raise UserError(f"carry '{carry}'", " or ".join(CARRIES), "choose one of them")
        self.animator, self.settings = animator, animator.settings
        if carry == "given" and not self.settings.teacher:
            raise UserError(
                f"carry 'given' for {animator.model}, which is no student",
                "a model that learned to go on from latents it is given",
                "take carry 'faded', which suits any model, or distil a student of it",
            )
        if not animator.picture.square:
            raise UserError(
                f"a picture of {animator.picture.across_by_down} for live video", "a square", "give the side alone"
            )
        size = self.settings.size
        self.carry, self.seed = carry, seed
        config = replace(animator.config, force=force)
        person, image = track_picture(portrait, animator.landmarks, config, animator.encoder.crop_size)
        self.person = animator.personal(person)
        self.notes = list(self.person.notes)
        self.pipeline = animator.pipeline
        if self.pipeline.transformer.config.expression == "landmarks":
            raise UserError("a model that reads landmarks", "one that reads expression codes", "choose another --model")
        self.calls = model_calls(self.pipeline)
        self.latents = latents or (2 if size > LARGE or self.calls > 1 else 1)
        self.reads_painted = bool(self.pipeline.transformer.config.get("warped_reference"))
        self.device, self.encoder = self.pipeline.device, animator.encoder
        if self.device.type == "cpu":
            self.pipeline = streamed(self.pipeline)
            self.encoder = folded(animator.encoder)
        self.picture, self.grey = crop_picture(image, self.person.crop, size), colourless(image)
        with torch.no_grad():
            self.reference = encode_video(self.pipeline.vae, to_model_range(self.picture[None, None])).float()
        self.own_intrinsics = crop_intrinsics(self.person.intrinsics, self.person.crop, size)
        self.intrinsics = square_intrinsics(self.settings)
        self.own_normals = animator.portrait_normals(self.person)
        told = told_actions(animator.encoder.readout, segment_codes(self.person.track, animator.encoder))
        own = posed(animator.body, self.person.shape, self.person, [0], told, self.person.offsets)
        vertices = in_camera(next(own), self.person.reference_camera)
        large = max(size, SIDE)
        opacity = matte_around(crop_picture(image, self.person.crop, large), self.person.landmarks(large)[0])
        seen, covered = (self.picture, vertices, self.own_intrinsics), self.person.covered
        self.paint = PortraitPainter(
            *(animator.body, *seen), matte=opacity, mouth_covered="mouth" in covered, eyes_covered="eyes" in covered
        )
        self.rest_code = animator.portrait_rest(self.person)
        matches = self.reads_painted and animator.encoder.readout is not None
        self.response = animator.response(self.person, image) if matches else None
        self._before: tuple[Moment, Drawn] | None = None  # the last moment
        self._shown: torch.Tensor | None = None  # the last frame, 1 3 1 H W

    @property
    def frames(self) -> int:
        """New frames of a window."""
        return TEMPORAL_STRIDE * self.latents

    def matched(self, code: np.ndarray, rises: np.ndarray) -> np.ndarray:
        """A code `128` at the strength at which the portrait shows it; `rises` `1 3`, of the driver's scores."""
        readout, animator = self.animator.encoder.readout, self.animator
        if self.response is None or readout is None:
            return code
        told = (readout, animator.directions, animator.body.action_names)
        return matched_codes(code[None], rises, self.rest_code, self.response, *told)[0]

    def rest(self, camera: np.ndarray, at: float = 0.0) -> Moment:
        """The portrait at rest, its head straight, its centre at the origin."""
        return Moment(np.eye(3), -LOOK_AT, self.rest_code, camera, at)

    def vertices(self, moment: Moment, actions: np.ndarray | None = None) -> np.ndarray:
        """The portrait's body in a moment's pose, `V 3`; with `actions` it acts."""
        body = self.animator.body
        pose = to_pose(body, self.person.shape, moment.rotation, moment.translation)
        return acting_vertices(body, self.person.shape, actions, pose)

    def normals(self, moment: Moment) -> np.ndarray:
        """Its normal map, `S S 3`."""
        body, size = self.animator.body, self.settings.size
        vertices = self.vertices(moment)
        return normal_map(vertices, body.faces, moment.camera, self.intrinsics, size, size, 2, body.weld)

    def painted(self, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The portrait painted on it, `S S 3`, for models that read that, and how far it is trusted, `S S`."""
        (told,) = told_actions(self.animator.encoder.readout, moment.code[None])
        vertices = self.vertices(moment, told)
        if self.person.offsets is not None:
            vertices = vertices + self.person.offsets @ moment.rotation.T
        vertices = in_camera(vertices, moment.camera)
        target = Target(vertices, self.intrinsics, self.paint.faces, self.picture.shape[:2], self.paint.samples)
        return self.paint.paint(target), trust_in(self.paint, target, vertices)

    def draw(self, moment: Moment) -> Drawn:
        """What a model reads of a moment's body."""
        return Drawn(self.normals(moment), *(self.painted(moment) if self.reads_painted else ()))

    def sample(self, moments: Sequence[Moment], drawn: Sequence[Drawn] | None = None) -> Sampled:
        """The window of the last moment before and `frames` new ones, which may have been `drawn` already."""
        assert len(moments) == self.frames
        drawn = drawn or [self.draw(moment) for moment in moments]
        before, before_drawn = self._before or (moments[0], drawn[0])
        self._before = moments[-1], drawn[-1]
        whole = [before, *moments]
        cameras = Cameras(
            np.stack([moment.camera for moment in whole]),
            self.intrinsics,
            self.person.reference_camera,
            self.own_intrinsics,
        )
        given = None
        if self.carry == "given" and self._shown is not None:
            with torch.no_grad():
                given = encode_video(self.pipeline.vae, self._shown).float()
        normals, painted, trusted = (
            None if some[0] is None else np.stack(some) for some in zip(before_drawn, *drawn, strict=True)
        )
        latents = self.pipeline(
            self.reference,
            cameras,
            normals,
            torch.from_numpy(np.stack([moment.code for moment in whole])).float()[None],
            reference_normals=self.own_normals,
            warped=painted,
            generator=torch.Generator().manual_seed(self.seed),
            output_type="latent",
            given=given,
            placed=self.device,
        ).frames
        starts = self.pipeline.transformer.config.bridge_level < 1
        return Sampled(latents, *((painted, trusted) if starts else (None, None)))

    @torch.no_grad()
    def decode(self, sampled: Sampled) -> np.ndarray:
        """The new frames `T S S 3` uint8 of a window, going on from the last one shown."""
        vae, latents = self.pipeline.vae, sampled.latents
        if sampled.painted is None or not self.pipeline.config.detail:
            video = decode_latents(vae, latents).float()
        else:
            own = to_model_range(sampled.painted[None]).to(latents.device)
            assert sampled.trusted is not None
            trust = torch.from_numpy(sampled.trusted[None, None]).to(own) / 255
            video, coded = decoded_beside(vae, latents, own)
            video = with_detail(video, own, coded, trusted=trust)
        new = video[:, :, 1:]
        if self.carry == "faded" and self._shown is not None:
            count = new.shape[2]
            share = 1 - torch.arange(1, count + 1, device=new.device) / (count + 1)
            new = new + share[None, None, :, None, None] * (self._shown - video[:, :, :1])
        self._shown = new[:, :, -1:].clone()
        frames = to_uint8(new.clamp(-1, 1))[0]
        return in_grey(frames) if self.grey else frames

    def make(self, moments: Sequence[Moment]) -> np.ndarray:
        """Sample and decode the frames `T S S 3` uint8 of `frames` moments."""
        return self.decode(self.sample(moments))

    def warm_up(self) -> None:
        """Make one window at rest and forget it: what is compiled or allocated once is, before the first frame."""
        camera = self.person.reference_camera
        self.make([self.rest(camera)] * self.frames)
        self.matched(self.rest_code, np.zeros((1, 3)))
        self._before = self._shown = None

    def settings_tags(self) -> dict[str, Any]:
        """What a recording says about how it was made."""
        return {
            "live": True,
            "steps": self.settings.steps,
            "scheduler": self.settings.scheduler,
            "guidance": self.settings.guidance,
            "guidance_below": self.settings.guidance_below,
            "size": self.settings.size,
            "seed": self.seed,
            "carry": self.carry,
        }
