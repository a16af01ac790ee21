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
import torch

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import in_camera, project, scale_intrinsics
from fportrait.dataset.focus import FOCUS_LANDMARKS, focus_weights
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import decode_latents, encode_video
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.errors import UserError, nearest_name
from fportrait.pixels import to_model_range, to_uint8
from fportrait.tracking.actions import ActionReadout, told_actions
from fportrait.tracking.points import landmark_codes

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

    `video`, `normals`, `warped` `T S S 3` uint8; `codes` `T 128`; `cameras` `T 4 4` and `intrinsics` `3 3`;
    `reference`, `reference_normals` `S S 3` uint8 and its `reference_camera` `4 4`; `landmarks` `T 478 2` (projected,
    pixels of `video`), `driver_landmarks` those of who drives.
    """

    video: np.ndarray
    normals: np.ndarray
    codes: np.ndarray
    cameras: np.ndarray
    reference: np.ndarray
    reference_normals: np.ndarray
    warped: np.ndarray
    reference_camera: np.ndarray
    landmarks: np.ndarray
    intrinsics: np.ndarray
    driver_landmarks: np.ndarray

    def expression(self, reads: Reads) -> np.ndarray:
        """Codes `T 128`, or for a model that reads landmarks (the ablation C3) the driver's, `T 476`."""
        if reads.expression != "landmarks":
            return self.codes
        return landmark_codes(self.driver_landmarks, self.video.shape[1])


class Studio:
    """Renders scenes for one model.

    Args:
        encoder: an `ExpressionEncoder`. size: of the model's picture.
        distance, crop_metres: of the canonical camera, as the model was trained.
    """

    def __init__(self, encoder: Any, size: int, distance: float = 0.55, crop_metres: float = 0.3):
        self.encoder, self.size, self.distance = encoder, size, distance
        self.readout: ActionReadout | None = getattr(encoder, "readout", None)
        self.body: BodyModel = load_body()
        focal = size * distance / crop_metres
        self.intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
        self._drawn: dict[tuple[int, Shot], dict[str, Any]] = {}

    def scene(
        self,
        person: Person,
        shots: Sequence[Shot],
        driver: Person | None = None,
        reference: Shot = Shot(),
        more: Sequence[Shot] = (),
    ) -> Scene:
        """The clip of `person` going through `shots`; codes are read from `driver` doing the same (default: themself).

        Args:
            reference: the portrait's. more: further portraits, for what it does not see.

        Raises:
            UserError: an unknown action, or a number of shots that is not 4k+1.
        """
        drawn = [self._draw(person, shot) for shot in shots]
        driven = drawn if driver is None else [self._draw(driver, shot) for shot in shots]
        own, *others = portraits = [self._draw(person, shot) for shot in (reference, *more)]
        codes, own_codes = (self.encoder.encode(np.stack([f["crop"] for f in some])) for some in (driven, portraits))
        (start, *starts), placed = self._placed(portraits, own_codes), self._placed(drawn, codes)
        painters = [
            PortraitPainter(self.body, other["picture"], vertices, self.intrinsics)
            for other, vertices in zip(others, starts, strict=True)
        ]
        paint = PortraitPainter(self.body, own["picture"], start, self.intrinsics, others=painters)
        return Scene(
            video=np.stack([frame["picture"] for frame in drawn]),
            normals=np.stack([frame["normals"] for frame in drawn]),
            codes=codes,
            cameras=np.stack([frame["camera"] for frame in drawn]),
            reference=own["picture"],
            reference_normals=own["normals"],
            warped=np.stack([paint(vertices, self.intrinsics) for vertices in placed]),
            reference_camera=own["camera"],
            landmarks=np.stack([frame["landmarks"] for frame in drawn]),
            intrinsics=self.intrinsics,
            driver_landmarks=np.stack([frame["landmarks"] for frame in driven]),
        )

    def _draw(self, person: Person, shot: Shot) -> dict[str, Any]:
        key = (person.seed, shot)
        if key not in self._drawn:
            self._drawn[key] = self._render(person, shot)
        return self._drawn[key]

    def _render(self, person: Person, shot: Shot) -> dict[str, Any]:
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
            "shape": person.identity,
            "pose": pose,
        }

    def _placed(self, frames: Sequence[Mapping[str, Any]], codes: np.ndarray) -> list[np.ndarray]:
        """Vertices `V 3` before their cameras of the bodies that portraits are painted on, acting as codes tell."""
        placed = []
        for frame, actions in zip(frames, told_actions(self.readout, codes), strict=True):
            vertices = acting_vertices(self.body, frame["shape"], actions, frame["pose"])
            placed.append(in_camera(vertices, frame["camera"]))
        return placed


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


@torch.no_grad()
def scene_conditions(vae: Any, scenes: Sequence[Scene], reads: Reads) -> Conditions:
    """The conditions of scenes of one length."""
    portraits, own_normals, normals, warped = (
        encode_video(vae, to_model_range(np.stack(videos)))
        for videos in (
            [scene.reference[None] for scene in scenes],
            [scene.reference_normals[None] for scene in scenes],
            [scene.normals for scene in scenes],
            [scene.warped for scene in scenes],
        )
    )
    return Conditions.cat(
        Conditions.of_clip(
            reads,
            portraits[row],
            Cameras(scene.cameras, scene.intrinsics, scene.reference_camera),
            normals[row],
            torch.from_numpy(scene.expression(reads)),
            own_normals[row],
            warped[row],
        )
        for row, scene in enumerate(scenes)
    )


@torch.no_grad()
def scene_batch(vae: Any, scenes: Sequence[Scene], reads: Reads, focus_gain: float) -> dict[str, Any]:
    """What training reads of scenes of one length: `latents`, `conditions`, and `weights` on eyes and mouth."""
    points = [[scene.landmarks[:, list(group)].mean(1) for group in FOCUS_LANDMARKS] for scene in scenes]
    focus = np.stack([np.stack(groups, 1) for groups in points])
    return {
        "latents": encode_video(vae, to_model_range(np.stack([scene.video for scene in scenes]))).float(),
        "conditions": scene_conditions(vae, scenes, reads),
        "weights": focus_weights(focus, scenes[0].video.shape[1], focus_gain),
    }


def generate(sampler: Sampler, scenes: Sequence[Scene]) -> list[np.ndarray]:
    """The model's videos `T S S 3` uint8 of scenes of one length; all start from the same noise.

    The same noise for all is what makes the difference of two of them a difference of their conditions.
    """
    conditions = scene_conditions(sampler.vae, scenes, sampler.reads)
    return sampler(conditions, [sampler.seed] * len(scenes), [scene.warped for scene in scenes])


@torch.no_grad()
def codec_limit(vae: Any, video: np.ndarray) -> np.ndarray:
    """`T S S 3` uint8 through the codec and back: the best that any sample can show."""
    return to_uint8(decode_latents(vae, encode_video(vae, to_model_range(video[None])).float()))[0]
