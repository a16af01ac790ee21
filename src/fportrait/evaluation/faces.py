"""Faces in scored videos: found once per frame for every metric that needs one, and what their points say.

Small pictures are enlarged first, because the landmark nets miss faces smaller than a few dozen pixels. A face that
is not found is None, never a guess: metrics count it.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fportrait.tracking.points import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

if TYPE_CHECKING:
    from fportrait.tracking.landmarks import Face

DETECTION_SIZE = 256  # pixels; smaller pictures are enlarged to it
REMEMBERED = 64  # frames
UPPER_LIP, LOWER_LIP = 13, 14  # inner edge, middle
RIGHT_IRIS, LEFT_IRIS = 468, 473


class FaceFinder:
    """Finds the largest face of a frame; the last `REMEMBERED` answers are kept, so that metrics share the search."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Face | None] = OrderedDict()

    def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> Face | None:
        """The face of `frame` `H W 3` uint8, landmarks in its pixels.

        Args:
            near: landmarks `478 2` of where the face should be. The search is then confined to that place: a face
                elsewhere is no answer to what was asked, and a missing one costs no search of the whole picture.
        """
        key = hashlib.blake2b(np.ascontiguousarray(frame).data, digest_size=16).digest()
        key += b"" if near is None else hashlib.blake2b(np.ascontiguousarray(near).data, digest_size=8).digest()
        if key not in self._known:
            self._known[key] = _find(frame, near)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


@functools.cache
def shared_finder() -> FaceFinder:
    """The process's own finder."""
    return FaceFinder()


def _find(frame: np.ndarray, near: np.ndarray | None) -> Face | None:
    from fportrait.tracking.landmarks import Face, shared_landmarker, upright

    scale = max(1, -(-DETECTION_SIZE // frame.shape[0]))
    large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else frame
    if near is None:
        faces = shared_landmarker().detect(large, max_faces=1)
        faces = [face for face in faces if upright(face.landmarks)]  # as in every video that is scored; noise does not
        face = faces[0] if faces else None
    else:
        face = shared_landmarker().follow(large, np.asarray(near) * scale)
    return face and Face(face.landmarks / scale, face.blendshapes, face.confidence)


def lip_distance(landmarks: np.ndarray) -> np.ndarray:
    """Opening of the mouth `...` between the inner lips, in units of the distance between the outer eye corners."""
    points = np.asarray(landmarks, np.float64)
    gap = np.linalg.norm(points[..., UPPER_LIP, :] - points[..., LOWER_LIP, :], axis=-1)
    return gap / np.linalg.norm(points[..., LEFT_EYE_CORNERS[0], :] - points[..., RIGHT_EYE_CORNERS[0], :], axis=-1)


def gaze(landmarks: np.ndarray) -> np.ndarray:
    """Where the irises stand between the corners of their eyes, `... 2` (right eye, left eye): 0 outer, 1 inner corner.

    A measure in the picture, not an angle: it moves with the eyes and, a little, with the head.
    """
    points = np.asarray(landmarks, np.float64)
    places = []
    for iris, (outer, inner) in ((RIGHT_IRIS, RIGHT_EYE_CORNERS), (LEFT_IRIS, LEFT_EYE_CORNERS)):
        axis = points[..., inner, :] - points[..., outer, :]
        along = ((points[..., iris, :] - points[..., outer, :]) * axis).sum(-1)
        places.append(along / np.maximum((axis**2).sum(-1), 1e-12))
    return np.stack(places, -1)


def head_rotations(landmarks: np.ndarray, intrinsics: np.ndarray, shape: np.ndarray | None = None) -> np.ndarray:
    """Rotation `T 3 3` of the head relative to the camera, fitted to landmarks `T 478 2` with the body's actions free.

    Args:
        intrinsics: `3 3`, pixels of the landmarks' picture. shape: identity coefficients; the mean person's by default.
    """
    from fportrait.tracking.fit import Observations, solve_frames

    model = _landmark_model()
    shape = np.zeros(model.body.identity_dim) if shape is None else np.asarray(shape, np.float64)
    seen = Observations(np.asarray(landmarks)[:, None], np.eye(4)[None], np.asarray(intrinsics, np.float64)[None])
    # By the landmarks alone: those asked for are projected from a mesh, and the regression knows the network's only.
    return solve_frames(model, seen.alone(), shape).rotations


def angles_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations `... 3 3`."""
    trace = np.einsum("...ij,...ij->...", a, b)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


@functools.cache
def _landmark_model():
    from fportrait.body.model import load_body
    from fportrait.tracking.fit import LandmarkModel

    return LandmarkModel(load_body())
