"""One face followed as frames come: tracking that looks back only, and never stops a stream.

What `track_video` finds at the end of a file is found here as it goes: the person's shape from the first frames, then a
head's pose per frame from the pose before it, smoothed by a filter that knows no future. Of two faces the one that was
followed is kept; when it is lost, the whole picture is looked at now and then, upright and without small tiles, because
a thorough search takes as long as ten frames.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from fportrait.tracking.config import TrackConfig
from fportrait.tracking.crops import face_crop
from fportrait.tracking.fit import Fit, LandmarkModel, Observations, fit_identity, measured, solve_frames
from fportrait.tracking.landmarks import Face, FaceLandmarker
from fportrait.tracking.segments import LOOK_AT, front_camera, is_familiar

LEARN = 12  # frames with a face, from which the person's shape is read
SEARCH_SECONDS = 0.3  # between searches for a lost face
REMEMBERED = 3.0  # seconds for which a lost face is expected near its old place
STEADY = 0.6  # share of a new pose in the smoothed one
FIRST_ROUNDS, ROUNDS = 6, 2  # of Gauss-Newton, from nothing and from the frame before


@dataclass(frozen=True)
class Sight:
    """A face in one frame. `rotation` `3 3` and `translation` `3` of the head in the front camera's world, `crop`
    `S S 3` for the expression encoder, `scores` `52`, `landmarks` `478 2`, pixels.
    """

    rotation: np.ndarray
    translation: np.ndarray
    crop: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    confidence: float

    @property
    def centre(self) -> np.ndarray:
        """The head's centre, `3`."""
        return self.translation + self.rotation @ LOOK_AT


class LiveTracker:
    """Args:
    model: the body's landmarks. crop_size: of the encoder. intrinsics: `3 3` of the camera. beside: read the person's
        shape in a thread of its own, which takes as long as three frames: none is missed, and which is the first with
        the shape depends on the machine.

    It owns a `FaceLandmarker`, because one cannot be shared by threads.
    """

    def __init__(
        self,
        model: LandmarkModel,
        config: TrackConfig,
        crop_size: int,
        intrinsics: np.ndarray,
        beside: bool = False,
    ):
        self.beside = beside
        self._learning: Future[tuple[bool, np.ndarray]] | None = None
        self.model, self.config, self.crop_size, self.intrinsics = model, config, crop_size, intrinsics
        self.landmarker = FaceLandmarker()
        self.camera = front_camera(config)[None]
        self.identity = np.zeros(model.body.identity_dim)
        self.familiar = False  # a person like the rendered ones, whom the regression of turns knows
        self.faces = 0  # seen at the last search
        self._learned: list[np.ndarray] = []
        self._face: Face | None = None  # followed now
        self._last: tuple[Face, float] | None = None  # followed last, and when
        self._fit: Fit | None = None
        self._smooth: tuple[np.ndarray, np.ndarray] | None = None
        self._searched = -np.inf

    def look(self, frame: np.ndarray, at: float | None = None) -> Sight | None:
        """The followed face in a frame `H W 3` uint8 taken `at` a second of some clock; None when it is not there."""
        at = time.monotonic() if at is None else at
        face = None if self._face is None else self.landmarker.follow(frame, self._face.landmarks)
        if face is None:
            self._fit = self._smooth = None
            face = self._search(frame, at)
        self._face = face
        if face is None:
            return None
        self._last = (face, at)
        return self._pose(frame, face)

    def _search(self, frame: np.ndarray, at: float) -> Face | None:
        if at - self._searched < SEARCH_SECONDS:
            return None
        self._searched = at
        found = self.landmarker.detect(frame, quick=True)
        self.faces = len(found)
        if not found or self._last is None or at - self._last[1] > REMEMBERED:
            return found[0] if found else None
        known = self._last[0]

        def departure(face: Face) -> float:
            moved = np.linalg.norm(face.landmarks.mean(0) - known.landmarks.mean(0)) / known.size
            return float(moved + abs(np.log(face.size / known.size)))

        return min(found, key=departure)

    def _pose(self, frame: np.ndarray, face: Face) -> Sight:
        seen = Observations(face.landmarks[None, None].astype(np.float64), self.camera, self.intrinsics[None])
        if len(self._learned) < LEARN:
            self._learned.append(face.landmarks)
            if len(self._learned) == LEARN:
                self._learning = Future()
                if self.beside:
                    threading.Thread(target=self._learn, args=(self._learning,), daemon=True).start()
                else:
                    self._learn(self._learning)
        if self._learning is not None and self._learning.done():
            self.familiar, self.identity = self._learning.result()
            self._fit = self._learning = None  # of another shape
        seen = measured(seen) if self.familiar else seen.of_stranger()
        rounds = FIRST_ROUNDS if self._fit is None else ROUNDS
        self._fit = fit = solve_frames(self.model, seen, self.identity, rounds, self._fit)
        rotation, translation = fit.rotations[0], fit.translations[0]
        if self._smooth is not None:
            turned, moved = self._smooth
            u, _, vt = np.linalg.svd(STEADY * rotation + (1 - STEADY) * turned)
            rotation, translation = u @ vt, STEADY * translation + (1 - STEADY) * moved
        self._smooth = rotation, translation
        crop = face_crop(frame, face.landmarks, self.crop_size)
        return Sight(rotation, translation, crop, face.blendshapes, face.landmarks, face.confidence)

    def _learn(self, told: Future[tuple[bool, np.ndarray]]) -> None:
        """Whether the person is like the rendered ones, and their shape, from the first frames."""
        try:
            landmarks = np.stack(self._learned)[:, None].astype(np.float64)
            seen = Observations(landmarks, self.camera, self.intrinsics[None])
            familiar = is_familiar([seen])
            seen = measured(seen) if familiar else seen.of_stranger()
            told.set_result((familiar, fit_identity(self.model, [seen], frames=len(landmarks))))
        except BaseException as error:  # raised where the result is asked for
            told.set_exception(error)
