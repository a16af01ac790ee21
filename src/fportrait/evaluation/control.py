"""Does a control move what it should? The gain: how much changed, over how much was asked.

A correlation alone misleads: 0.79 has been seen while the mouth stood still. Gain 1 is full strength, 0 is nothing.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from fportrait.errors import UserError


class Gain(NamedTuple):
    """Slope of produced on asked change through the origin, and their correlation (NaN if one is constant)."""

    gain: float
    correlation: float


def gain(asked: np.ndarray, produced: np.ndarray) -> Gain:
    """Gain of `produced` changes over `asked` changes, arrays of one shape; changes are differences from a start.

    Raises:
        UserError: shapes differ, a number is not finite, or nothing was asked.
    """
    asked, produced = np.asarray(asked, np.float64).ravel(), np.asarray(produced, np.float64).ravel()
    if asked.shape != produced.shape or not len(asked):
        raise UserError(
            f"{produced.size} produced and {asked.size} asked changes", "as many of both", "pair them by frame"
        )
    if not (np.isfinite(asked).all() and np.isfinite(produced).all()):
        raise UserError(
            "a change that is not finite", "finite numbers", "leave out frames without a face, and count them"
        )
    power = float(asked @ asked)
    if power == 0:
        raise UserError("no change asked for", "a control that moves", "measure the gain on a clip that moves")
    constant = np.ptp(asked) == 0 or np.ptp(produced) == 0
    correlation = float("nan") if constant else float(np.corrcoef(asked, produced)[0, 1])
    return Gain(float(asked @ produced) / power, correlation)


def changes(series: np.ndarray) -> np.ndarray:
    """Differences of each frame from the mean over the clip, `T …`; one frame alone gives zeros."""
    series = np.asarray(series, np.float64)
    return series - series.mean(0, keepdims=True)


class FaceErrors(NamedTuple):
    """How far a clip's faces are from those asked for; NaN where fewer than two frames show a face.

    `found`: share of frames with a face. `landmarks`: mean distance of the points, pixels; `reprojection`: the same in
    percent of the picture's side, the error of camera and pose together. `head_degrees`: mean angle of the head's
    rotation to the camera. `lips`: difference of the mouth's opening, `gaze` of the irises' place, see `faces`.
    """

    found: float
    landmarks: float
    reprojection: float
    head_degrees: float
    lips: float
    gaze: float
    gain: float


def face_errors(video: np.ndarray, asked: np.ndarray, intrinsics: np.ndarray) -> FaceErrors:
    """Compare the faces found in `video` `T H W 3` with the landmarks asked for, `T 478 2` in its pixels."""
    from fportrait.evaluation.faces import angles_between, gaze, head_rotations, lip_distance, shared_finder

    intrinsics = np.ascontiguousarray(intrinsics, np.float64)
    faces = [shared_finder()(frame, points) for frame, points in zip(video, asked, strict=True)]
    seen = [t for t, face in enumerate(faces) if face is not None]
    nothing = float("nan")
    if len(seen) < 2:
        return FaceErrors(len(seen) / len(video), *[nothing] * 6)
    points = np.stack([face.landmarks for face in faces if face is not None]).astype(np.float64)
    true = np.asarray(asked, np.float64)[seen]
    distance = float(np.linalg.norm(points - true, axis=-1).mean())
    asked_rotations = _asked_rotations(np.ascontiguousarray(asked, np.float64).tobytes(), intrinsics.tobytes())
    turned = angles_between(head_rotations(points, intrinsics), asked_rotations[seen])
    moved = np.abs(changes(true)).max() > 1  # pixels; less is the detector's own noise
    return FaceErrors(
        len(seen) / len(video),
        distance,
        100 * distance / video.shape[2],
        float(turned.mean()),
        float(np.abs(lip_distance(points) - lip_distance(true)).mean()),
        float(np.abs(gaze(points) - gaze(true)).mean()),
        gain(changes(true), changes(points)).gain if moved else nothing,
    )


@functools.lru_cache(maxsize=4)
def _asked_rotations(landmarks: bytes, intrinsics: bytes) -> np.ndarray:
    """Rotations of what was asked, fitted once for all methods of a clip."""
    from fportrait.evaluation.faces import head_rotations

    points = np.frombuffer(landmarks).reshape(-1, 478, 2)
    return head_rotations(points, np.frombuffer(intrinsics).reshape(3, 3))
