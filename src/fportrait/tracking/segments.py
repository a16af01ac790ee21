"""One person's segments: a shape over all of them, and per segment the poses that its synchronised cameras share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fportrait.camera.cameras import look_at, project
from fportrait.errors import UserError
from fportrait.tracking.clips import Clip, ClipLandmarks, longest_gap
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import (
    LandmarkModel,
    Observations,
    bridge_gaps,
    fit_identity,
    measured,
    smooth,
    smooth_rotations,
    smoothing,
    solve_frames,
    with_estimates,
)
from fportrait.tracking.mesh_estimator import MeshEstimator
from fportrait.tracking.refinement import STRANGE, shipped_refiner
from fportrait.tracking.views import view_bias, without_bias

LOOK_AT = np.array([0.0, -0.005, 0.02])  # of the head, in its own axes: the centre of the crop


def front_camera(config: TrackConfig, quarter_turns: int = 0) -> np.ndarray:
    """`world_to_camera` of the canonical front camera: a monocular clip's world is defined by it.

    Args:
        quarter_turns: by which what it sees is rolled, clockwise on screen. Heads stand upright in the world, so a face
            on its side or upside down was filmed by a camera held that way.
    """
    camera = look_at(np.array([0.0, 0.0, config.camera_distance]), np.zeros(3))
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
    camera[:3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]) @ camera[:3]
    return camera


@dataclass
class Track:
    """What was found in one segment: poses `T`, one per frame, and per camera what it saw.

    `refined`: poses and shape were fitted to landmarks moved to their places (`refinement.py`).
    """

    rotations: np.ndarray
    translations: np.ndarray
    error: float
    clips: list[Clip]
    cameras: list[np.ndarray]
    seen: list[ClipLandmarks]
    refined: bool = False


def track_segments(
    segments: list[list[tuple[Clip, ClipLandmarks]]],
    model: LandmarkModel,
    config: TrackConfig,
    estimator: MeshEstimator | None = None,
) -> tuple[np.ndarray, list[Track]]:
    """Shape `K` of one person, and a track per segment (all its synchronised cameras together).

    Raises:
        UserError: a gap without a face that is too long, or the mesh estimator's shape is not the body's.
    """
    shapes: list[np.ndarray] = []
    observations, refined, seen_rows = [], [], []
    for segment in segments:
        seen = observe(segment, config, estimator, shapes)
        check_gaps(segment, config)
        rows = np.flatnonzero(seen.seen.any(1))
        observations.append(seen.at(rows))
        finer = [s.landmarks if s.refined is None else s.refined for _, s in segment]
        refined.append(np.stack(finer, 1)[rows])
        seen_rows.append(rows)
    familiar = is_familiar(observations)
    # Regression and refinement know rendered people: a stranger's nod would be damped, and lips moved elsewhere.
    observations = [
        measured(seen) if familiar or seen.turns is not None else seen.of_stranger() for seen in observations
    ]
    if familiar and config.refine_landmarks:
        observations = [replace(seen, landmarks=finer) for seen, finer in zip(observations, refined, strict=True)]
    if shapes:
        shape = estimated_shape(shapes, model)
    else:
        shape = fit_identity(model, observations, frames=config.identity_frames)
    bias = view_bias(model, observations, shape)
    observations = [without_bias(group, bias) for group in observations]
    tracks = []
    for segment, group, rows in zip(segments, observations, seen_rows, strict=True):
        fit = solve_frames(model, group, shape)
        count = len(segment[0][1].landmarks)
        sigma = smoothing(segment[0][0].fps)
        tracks.append(
            Track(
                smooth_rotations(bridge_gaps(rows, smooth_rotations(fit.rotations, sigma), count), 0.01),
                bridge_gaps(rows, smooth(fit.translations, sigma), count),
                float(fit.errors.mean()),
                [clip for clip, _ in segment],
                list(group.world_to_camera),
                [seen for _, seen in segment],
                familiar and config.refine_landmarks,
            )
        )
    return shape, tracks


def observe(
    segment: list[tuple[Clip, ClipLandmarks]],
    config: TrackConfig,
    estimator: MeshEstimator | None,
    shapes: list[np.ndarray],
) -> Observations:
    """A segment's landmarks and cameras, with the turns of a mesh estimator; its shapes are added to `shapes`.

    A monocular clip's camera is rolled by quarter turns as the face is.
    """
    cameras = np.stack(
        [
            front_camera(config, seen.quarter_turns) if clip.world_to_camera is None else clip.world_to_camera
            for clip, seen in segment
        ]
    )
    seen = Observations(
        np.stack([s.landmarks for _, s in segment], 1), cameras, np.stack([c.intrinsics for c, _ in segment])
    )
    if estimator is None:
        return seen
    sigma = float(np.radians(config.estimator_degrees))
    return with_estimates(seen, estimates(segment, estimator, shapes), sigma)


def estimated_shape(shapes: list[np.ndarray], model: LandmarkModel) -> np.ndarray:
    """Mean `K` of the mesh estimator's shapes.

    Raises:
        UserError: they are of another body.
    """
    shape = np.concatenate(shapes).mean(0)
    if shape.shape != (model.body.identity_dim,):
        raise UserError(
            f"{len(shape)} shape coefficients from the mesh estimator",
            f"{model.body.identity_dim}",
            "leave that output away, and the shape is fitted",
        )
    return np.asarray(shape)


def check_gaps(segment: list[tuple[Clip, ClipLandmarks]], config: TrackConfig) -> None:
    """Refuse a segment whose face no camera sees for longer than can be bridged.

    Raises:
        UserError: a gap longer than `max_gap_seconds`.
    """
    start, gap = longest_gap(np.any([seen.confidence > 0 for _, seen in segment], axis=0))
    seconds = gap / segment[0][0].fps
    if seconds > config.max_gap_seconds + 1e-6:
        raise UserError(
            f"no face from frame {start} to {start + gap - 1} of {segment[0][0].name} ({seconds:.2g} s)",
            f"gaps of at most {config.max_gap_seconds:g} s",
            "cut the clip there",
        )


def is_familiar(seen: list[Observations]) -> bool:
    """Whether a person's face, in the views from which it looks least strange, is like those the refiner knows."""
    faces = np.concatenate([group.landmarks[group.seen] for group in seen])
    return bool(np.quantile(shipped_refiner().strangeness(faces), 0.1) < STRANGE)


def estimates(
    segment: list[tuple[Clip, ClipLandmarks]], estimator: MeshEstimator, shapes: list[np.ndarray]
) -> np.ndarray:
    """Rotations `T cameras 3 3` in the cameras' axes of all faces of a segment; their shapes are added to `shapes`."""
    rotations = np.tile(np.eye(3), (len(segment[0][1].landmarks), len(segment), 1, 1))
    for c, (clip, seen) in enumerate(segment):
        assert seen.bodies is not None
        found = np.flatnonzero(seen.confidence > 0)
        rotations[found, c], shape = estimator.estimate(seen.bodies[found], seen.landmarks[found], clip.intrinsics)
        if shape is not None:
            shapes.append(shape)
    return rotations


def best_view(track: Track) -> int:
    """The camera that faces the person best over the segment, among those that always saw them."""
    facing = track.rotations[:, :, 2]  # +z of the head in the world
    scores = []
    for camera, seen in zip(track.cameras, track.seen, strict=True):
        backwards = -camera[2, :3]
        scores.append((facing @ backwards).mean() * (seen.confidence > 0).mean())
    return int(np.argmax(scores))


def crop_square(
    translations: np.ndarray, rotations: np.ndarray, camera: np.ndarray, intrinsics: np.ndarray, metres: float
) -> np.ndarray:
    """`x0, y0, size` of the square, `metres` wide at the head, around the head's mean place in the picture."""
    centre = translations + rotations @ LOOK_AT
    pixels, depth = project(centre, camera, intrinsics)
    size = float(intrinsics[0, 0] * metres / depth.mean())
    return np.array([*(pixels.mean(0) - size / 2), size])


def segment_codes(track: Track, encoder: Any) -> np.ndarray:
    """Expression codes `T 128` from the best view, bridged where it lost the face."""
    seen = track.seen[best_view(track)]
    found = np.flatnonzero(seen.confidence > 0)
    return bridge_gaps(found, encoder.encode(seen.crops[found]), len(seen.confidence)).astype(np.float32)
