"""One video before its fit: the clip with its camera, and the landmarks and crops found in its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.crops import face_crop, upper_body_crop
from fportrait.tracking.landmarks import Face, shared_landmarker
from fportrait.tracking.refinement import CROP, shipped_refiner

SEARCH_EVERY = 12  # frames between searches for a second face


@dataclass(frozen=True)
class Clip:
    """One video with its camera, before tracking. `world_to_camera` is None for a monocular clip."""

    name: str
    path: str
    segment: str
    camera: str
    width: int
    height: int
    intrinsics: np.ndarray
    world_to_camera: np.ndarray | None


@dataclass
class ClipLandmarks:
    """`landmarks` `T 478 2` (NaN without a face), `confidence` `T`, `crops` `T S S 3`; `bodies` for an estimator,
    `refined` as `landmarks`, but moved to their places (`refinement.py`)."""

    landmarks: np.ndarray
    confidence: np.ndarray
    crops: np.ndarray
    bodies: np.ndarray | None = None
    refined: np.ndarray | None = None


def read_landmarks(
    frames: Iterable[np.ndarray], where: str, crop_size: int, config: TrackConfig, body_size: int = 0
) -> ClipLandmarks:
    """Landmarks and face crops of a video, following one face; upper-body crops too if they have a `body_size`.

    Raises:
        UserError: no face at all, two faces of like size, or a gap longer than `max_gap` frames.
    """
    landmarker = shared_landmarker()
    points, confidence, crops = [], [], []
    bodies: list[np.ndarray] = []
    close: list[np.ndarray] = []
    previous: Face | None = None
    for index, frame in enumerate(frames):
        faces = everyone = landmarker.detect(frame, previous=previous)
        # Following a face is blind to others, so the rest of the frame is searched now and then.
        if faces and previous is not None and index % SEARCH_EVERY == 0:
            everyone = landmarker.detect(frame, known=faces[0])
        if len(everyone) > 1 and everyone[0].size < config.clear_lead * everyone[1].size:
            raise UserError(f"two faces in frame {index} of {where}", "one person", "crop it to one of them")
        previous = faces[0] if faces else None
        points.append(previous.landmarks if previous else np.full((478, 2), np.nan, np.float32))
        confidence.append(previous.confidence if previous else 0.0)
        crops.append(
            np.zeros((crop_size, crop_size, 3), np.uint8)
            if previous is None
            else face_crop(frame, previous.landmarks, crop_size)
        )
        if config.refine_landmarks:
            nothing = np.zeros((CROP, CROP, 3), np.uint8)
            close.append(nothing if previous is None else face_crop(frame, previous.landmarks, CROP))
        if body_size:
            nothing = np.zeros((body_size, body_size, 3), np.uint8)
            bodies.append(nothing if previous is None else upper_body_crop(frame, previous.landmarks, body_size))
    found = np.array(confidence) > 0
    if not found.any():
        among = f"any of the {len(found)} frames of " if len(found) > 1 else ""
        raise UserError(
            f"no face in {among}{where}", "a visible face", "crop to head and shoulders, upright and from the front"
        )
    landmarks = np.stack(points)
    return ClipLandmarks(
        landmarks,
        np.array(confidence, np.float32),
        np.stack(crops),
        np.stack(bodies) if bodies else None,
        shipped_refiner().refine(landmarks, np.stack(close)) if close else None,
    )


def longest_gap(found: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], found, [True]]).astype(int)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int((stops - starts).argmax())
    return int(starts[best]), int(stops[best] - starts[best])
