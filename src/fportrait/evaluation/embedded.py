"""Exact scenes of embedded people: what a model is asked for and, unlike anywhere else, what it should have drawn.

Everything is known here, so a condition can be changed alone and its truth rendered anew: another action, head angle,
camera or person. Conditions are made as for a real video (codes read by the expression encoder from face crops, normal
maps of the neutral mesh, rays of the camera), only without the tracker's errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import project, scale_intrinsics
from fportrait.camera.rays import fold_rays, plucker_rays
from fportrait.errors import UserError, nearest_name

if TYPE_CHECKING:
    from fportrait.capture.people import Person

RENDER_SCALE = 3  # frames are drawn larger and averaged down, as the base's own clips are


@dataclass(frozen=True)
class Shot:
    """What is seen in one frame. Angles in degrees: head yaw, pitch, roll; camera yaw and elevation."""

    actions: tuple[tuple[str, float], ...] = ()
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera: tuple[float, float] = (0.0, 0.0)

    def at(self, strength: float) -> Shot:
        """The same shot with everything scaled towards rest."""
        return Shot(
            tuple((name, value * strength) for name, value in self.actions),
            tuple(value * strength for value in self.head),  # type: ignore[arg-type]
            tuple(value * strength for value in self.camera),  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Scene:
    """A clip with its conditions and its truth.

    `video`, `normals` `T S S 3` uint8; `codes` `T 128`; `rays` `24|6 l h w`; `reference` `S S 3` uint8;
    `landmarks` `T 478 2` (projected, pixels of `video`), `driver_landmarks` those of who drives; `intrinsics` `3 3`.
    """

    video: np.ndarray
    normals: np.ndarray
    codes: np.ndarray
    rays: np.ndarray
    reference: np.ndarray
    landmarks: np.ndarray
    intrinsics: np.ndarray
    driver_landmarks: np.ndarray

    def expression(self, config: Mapping[str, Any]) -> np.ndarray:
        """Codes `T 128`, or for a model that reads landmarks (the ablation C3) the driver's, `T 476`."""
        from fportrait.diffusion.landmarks import landmark_codes

        if config.get("expression") != "landmarks":
            return self.codes
        return landmark_codes(self.driver_landmarks, self.video.shape[1])


class Studio:
    """Renders scenes for one model.

    Args:
        encoder: an `ExpressionEncoder`. size: of the model's picture. ray_channels: 24 or 6, as the model takes them.
        distance, crop_metres: of the canonical camera, as the model was trained.
    """

    def __init__(
        self, encoder: Any, size: int, ray_channels: int = 24, distance: float = 0.55, crop_metres: float = 0.3
    ):
        self.encoder, self.size, self.ray_channels = encoder, size, ray_channels
        self.distance = distance
        self.body: BodyModel = load_body()
        focal = size * distance / crop_metres
        self.intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
        self._drawn: dict[tuple[int, Shot], dict[str, np.ndarray]] = {}

    def scene(
        self, person: Person, shots: Sequence[Shot], driver: Person | None = None, reference: Shot = Shot()
    ) -> Scene:
        """The clip of `person` going through `shots`; codes are read from `driver` doing the same (default: themself).

        Raises:
            UserError: an unknown action, or a number of shots that is not 4k+1.
        """
        drawn = [self._draw(person, shot) for shot in shots]
        driven = drawn if driver is None else [self._draw(driver, shot) for shot in shots]
        cameras = np.stack([frame["camera"] for frame in drawn])
        own = self._draw(person, reference)
        rays = plucker_rays(cameras, self.intrinsics, own["camera"], self.size, self.size)
        return Scene(
            video=np.stack([frame["picture"] for frame in drawn]),
            normals=np.stack([frame["normals"] for frame in drawn]),
            codes=self.encoder.encode(np.stack([frame["crop"] for frame in driven])),
            rays=np.ascontiguousarray(fold_rays(rays, self.ray_channels)),
            reference=own["picture"],
            landmarks=np.stack([frame["landmarks"] for frame in drawn]),
            intrinsics=self.intrinsics,
            driver_landmarks=np.stack([frame["landmarks"] for frame in driven]),
        )

    def _draw(self, person: Person, shot: Shot) -> dict[str, np.ndarray]:
        key = (person.seed, shot)
        if key not in self._drawn:
            self._drawn[key] = self._render(person, shot)
        return self._drawn[key]

    def _render(self, person: Person, shot: Shot) -> dict[str, np.ndarray]:
        import cv2

        from fportrait.capture.motion import rotation_from_degrees
        from fportrait.capture.people import render
        from fportrait.capture.world import HEAD_TARGET, orbit_camera
        from fportrait.tracking.crops import face_crop

        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(*shot.head))
        camera = orbit_camera(*shot.camera, self.distance, HEAD_TARGET)
        actions = action_vector(dict(shot.actions), self.body)
        large = scale_intrinsics(self.intrinsics, RENDER_SCALE)
        picture = render(person, actions, pose, camera, large, self.size * RENDER_SCALE, 2, self.body)
        pixels, _ = project(self.body.landmarks(self.body.vertices(person.identity, actions, pose)), camera, large)
        neutral = self.body.vertices(person.identity, None, pose)
        return {
            "picture": cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA),
            "crop": face_crop(picture, pixels.astype(np.float32), self.encoder.crop_size),
            "landmarks": pixels / RENDER_SCALE,
            "normals": normal_map(
                neutral, self.body.faces, camera, self.intrinsics, self.size, self.size, 2, self.body.weld
            ),
            "camera": camera,
        }


def action_vector(strengths: Mapping[str, float], body: BodyModel | None = None) -> np.ndarray:
    """`52` actions in 0..1 from names to strengths.

    Raises:
        UserError: an unknown name.
    """
    names = (body or load_body()).action_names
    actions = np.zeros(len(names))
    for name, strength in strengths.items():
        if name not in names:
            near = nearest_name(name, names)
            raise UserError(
                f"the action '{name}'", "one of the body's actions", f"use '{near}'" if near else "check it"
            )
        actions[names.index(name)] = np.clip(strength, 0, 1)
    return actions


def ramp_and_hold(shot: Shot, frames: int) -> list[Shot]:
    """From rest to `shot` and held there for the last four frames (one latent frame); `frames` shots.

    A still clip is something no capture shows; a short move that ends is what the model was trained on.
    """
    moving = max(frames - 4, 1)
    strengths = [*(t / moving for t in range(moving)), *([1.0] * (frames - moving))]
    return [shot.at(s * s * (3 - 2 * s)) for s in strengths]


def generate(
    pipeline: Any, scenes: Sequence[Scene], steps: int, seed: int, guidance: Mapping[str, float] | None = None
) -> list[np.ndarray]:
    """The model's videos `T S S 3` uint8 of scenes of one length; all start from the same noise.

    The same noise for all is what makes the difference of two of them a difference of their conditions.
    """
    import torch

    from fportrait.diffusion.codec import encode_video

    def pictures(videos: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with torch.no_grad():
            return encode_video(pipeline.vae, stacked).float()

    output = pipeline(
        pictures([scene.reference[None] for scene in scenes]),
        torch.from_numpy(np.stack([scene.rays for scene in scenes])).float(),
        pictures([scene.normals for scene in scenes]),
        torch.from_numpy(np.stack([scene.expression(pipeline.transformer.config) for scene in scenes])).float(),
        num_inference_steps=steps,
        guidance=guidance,
        generator=[torch.Generator().manual_seed(seed) for _ in scenes],
    )
    return list(output.frames)


def codec_limit(pipeline: Any, video: np.ndarray) -> np.ndarray:
    """`T S S 3` uint8 through the codec and back: the best that any sample can show."""
    import torch

    from fportrait.diffusion.codec import decode_latents, encode_video

    clip = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        back = decode_latents(pipeline.vae, encode_video(pipeline.vae, clip).float())[0]
    return ((back + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
