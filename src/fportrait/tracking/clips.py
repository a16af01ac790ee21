"""One video before its fit: the clip with its camera, and the landmarks and crops found in its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.crops import face_crop, upper_body_crop
from fportrait.tracking.landmarks import Face, quarter_turns, shared_landmarker
from fportrait.tracking.points import BLENDSHAPE_NAMES
from fportrait.tracking.refinement import CROP, shipped_refiner
from fportrait.tracking.unlikeness import LOOKED_AT, REFUSED

SEARCH_EVERY = 12  # frames between searches for a second face
LOOK_EVERY = 15  # frames between looks at how unlike a face it is


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
    fps: float = 25.0


@dataclass
class ClipLandmarks:
    """`landmarks` `T 478 2` (NaN without a face), `confidence` `T`, `crops` `T S S 3`; `bodies` for an estimator,
    `refined` as `landmarks`, but moved to their places (`refinement.py`); `scores` `T 52` as `points.BLENDSHAPE_NAMES`
    says; `unlike` tells how unlike a face it is (`unlikeness.py`)."""

    landmarks: np.ndarray
    confidence: np.ndarray
    crops: np.ndarray
    bodies: np.ndarray | None = None
    refined: np.ndarray | None = None
    scores: np.ndarray | None = None
    unlike: float = 0.0

    @property
    def quarter_turns(self) -> int:
        """Quarter turns, clockwise on screen, by which the face is rolled: the camera was held so, not the head."""
        turns = [quarter_turns(points) for points in self.landmarks[self.confidence > 0]]
        return int(np.argmax(np.bincount(np.array(turns) % 4, minlength=4)))

    def upright(self, width: int, height: int) -> tuple[ClipLandmarks, int]:
        """The same in frames that are turned until the face stands upright (`np.rot90`), and by how many quarter turns.

        Args:
            width, height: pixels of the frames that the landmarks are in.
        """
        turns, sides = self.quarter_turns, (width, height)

        def turned(points: np.ndarray) -> np.ndarray:
            for turn in range(turns):
                points = np.stack([points[..., 1], sides[turn % 2] - points[..., 0]], -1)
            return points

        refined = None if self.refined is None else turned(self.refined)
        return replace(self, landmarks=turned(self.landmarks), refined=refined), turns


def read_landmarks(
    frames: Iterable[np.ndarray], where: str, crop_size: int, config: TrackConfig, body_size: int = 0
) -> ClipLandmarks:
    """Landmarks and face crops of a video, following one face; upper-body crops too if they have a `body_size`.

    Raises:
        UserError: no face at all, two faces of like size, or a gap longer than `max_gap_seconds`.
    """
    landmarker = shared_landmarker()
    points, confidence, crops, scores = [], [], [], []
    unlike: list[float] = []
    bodies: list[np.ndarray] = []
    close: list[np.ndarray] = []
    previous: Face | None = None
    for index, frame in enumerate(frames):
        faces = everyone = landmarker.detect(frame, previous=previous)
        # Following a face is blind to others, so the rest of the frame is searched now and then.
        if faces and previous is not None and index % SEARCH_EVERY == 0:
            everyone = landmarker.detect(frame, known=faces[0])
        if two_alike(everyone, config):
            everyone = [face for face in everyone if landmarker.unlikeness(frame, face) <= REFUSED]
        if two_alike(everyone, config):
            raise UserError(f"two faces in frame {index} of {where}", "one person", "crop it to one of them")
        if previous is None and everyone:
            faces = everyone
        previous = faces[0] if faces else None
        if previous is not None and len(unlike) < LOOKED_AT and index >= LOOK_EVERY * len(unlike):
            unlike.append(landmarker.unlikeness(frame, previous))
        scores.append(previous.blendshapes if previous else np.zeros(len(BLENDSHAPE_NAMES), np.float32))
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
        np.stack(scores),
        float(np.median(unlike)),
    )


def two_alike(faces: list[Face], config: TrackConfig) -> bool:
    """Whether the largest face is not clearly larger than the next."""
    return len(faces) > 1 and faces[0].size < config.clear_lead * faces[1].size


def longest_gap(found: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], found, [True]]).astype(int)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int((stops - starts).argmax())
    return int(starts[best]), int(stops[best] - starts[best])
