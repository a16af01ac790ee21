"""From what is seen of a driver to what each frame is to show: hold, rest, strengths and the steered camera.

A lost face is held for half a second, then everything goes to the portrait's rest within a second, and comes back by
itself as soon as a face is there again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from fportrait.animate.matching import rises_above, scores_at_rest
from fportrait.animate.stream import Moment, PortraitStream
from fportrait.body.pose import rotation_matrix, rotation_vector
from fportrait.camera.paths import orbit
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.live import Sight
from fportrait.tracking.neutral import rest_of

HOLD, FADE, RETURN = 0.5, 1.0, 0.3  # seconds: the last pose stays, goes to rest, comes back
CENTRE_SECONDS = 4.0  # in which the picture follows a driver who has moved to another place
REST_EVERY, REST_FRAMES = 25, 250  # frames between estimates of the driver's face at rest, and those they are made from
REST_SHARE = 0.08  # of a new estimate, per frame: none is seen to begin


@dataclass
class Steering:
    """What may be changed while a stream runs, by any thread.

    `yaw` and `elevation` of the camera in degrees and its `distance` in units of the model's; `expression` and `pose`
    are strengths: 0 is the portrait at rest, 1 the driver, above it more.
    """

    yaw: float = 0.0
    elevation: float = 0.0
    distance: float = 1.0
    expression: float = 1.0
    pose: float = 1.0


class Driving:
    """Moments from sights, one by one.

    Args:
        stream: whose portrait is driven. steering: read at every frame.
    """

    def __init__(self, stream: PortraitStream, steering: Steering):
        self.stream, self.steering = stream, steering
        self.encoder: Any = stream.encoder
        self.present = 0.0  # 1: the driver is shown, 0: the portrait at rest
        self.state = "waiting for a face"
        self._camera = self._asked_camera()
        self._sight: Sight | None = None
        self._code: np.ndarray = stream.rest_code
        self._centre: np.ndarray | None = None
        self._seen_at = -math.inf
        self._at: float | None = None
        self._rest: np.ndarray | None = None  # the driver's code at rest, followed
        self._estimate: np.ndarray | None = None  # its last estimate
        self._rest_scores: np.ndarray | None = None
        self._matched = 0.0  # 1: expressions have the strength at which the portrait shows them, 0: that of the codes
        self._kept: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=REST_FRAMES)
        self._count = 0

    def __call__(self, sight: Sight | None, at: float, familiar: bool = False) -> Moment:
        """The moment of a frame that came `at` a second; `sight` is None where no face was found in it."""
        step = 0.0 if self._at is None else min(max(at - self._at, 0.0), 0.5)
        self._at = at
        if sight is not None:
            self._take(sight, at, step, familiar)
        lost = at - self._seen_at
        if sight is not None:
            self.present = min(1.0, self.present + step / RETURN)
            self.state = "following"
        elif self._sight is None:
            self.state = "waiting for a face"
        elif lost <= HOLD:
            self.state = "face lost: holding"
        else:
            self.present = max(0.0, self.present - step / FADE)
            self.state = "face lost: at rest" if self.present == 0 else "face lost: going to rest"
        camera = self._steered()
        if self._sight is None or self.present == 0:
            return self.stream.rest(camera, at)
        return self._moment(self._sight, camera, at)

    def _take(self, sight: Sight, at: float, step: float, familiar: bool) -> None:
        self._sight, self._seen_at = sight, at
        share = 1.0 if self._centre is None else 1 - math.exp(-step / CENTRE_SECONDS)
        self._centre = sight.centre if self._centre is None else self._centre + share * (sight.centre - self._centre)
        self._code = self.encoder.encode(sight.crop[None])[0]
        self._kept.append((self._code, sight.scores, sight.confidence))
        self._count += 1
        if self._count % REST_EVERY == 0:
            codes, scores, confidence = (np.stack(part) for part in zip(*self._kept, strict=True))
            nothing = np.zeros((len(codes), 0))
            seen = ClipLandmarks(nothing, confidence, nothing, scores=scores)
            found = rest_of(codes, seen, "the driver")
            if found.code is not None:
                self._estimate, self._rest_scores = found.code, scores_at_rest(scores, found.frames)
        if self._rest_scores is not None:
            self._matched = min(1.0, self._matched + REST_SHARE)
        if familiar:  # of people like the rendered ones, codes hold little of the person
            self._rest = None
        elif self._estimate is not None:
            begun = self.stream.rest_code if self._rest is None else self._rest
            self._rest = begun + REST_SHARE * (self._estimate - begun)

    def _moment(self, sight: Sight, camera: np.ndarray, at: float) -> Moment:
        own = self.stream.rest_code
        code = own + self._code - (own if self._rest is None else self._rest)
        if self._rest_scores is not None:
            rises = rises_above(sight.scores[None], self._rest_scores)
            code = code + self._matched * (self.stream.matched(code, rises) - code)
        away = code - own
        code = own + self.present * self.steering.expression * away
        turn = rotation_vector(sight.rotation[None])[0] * self.present * self.steering.pose
        moved = (sight.centre - self._centre) * self.present
        rotation = rotation_matrix(turn[None])[0]
        # The head's centre is moved, and the bone stands where that puts it.
        offset = sight.rotation.T @ (sight.centre - sight.translation)
        return Moment(rotation, moved - rotation @ offset, np.asarray(code, np.float32), camera, at)

    def _asked_camera(self) -> tuple[float, float, float]:
        """Yaw, elevation and distance that are steered to, within what the model was trained to see."""
        settings, asked = self.stream.settings, self.steering
        yaw = np.clip(asked.yaw, -settings.trained_yaw, settings.trained_yaw)
        elevation = np.clip(asked.elevation, -settings.trained_elevation, settings.trained_elevation)
        return float(yaw), float(elevation), float(np.clip(asked.distance, 0.8, 1.25))

    def _steered(self) -> np.ndarray:
        """The camera `4 4`, on its way to where it is asked to be, no faster than the model was trained to see."""
        settings = self.stream.settings
        was = np.array(self._camera)
        step = np.array(self._asked_camera()) - was
        turn = float(np.hypot(step[0], step[1]))
        share = min(1.0, settings.trained_turn / turn) if turn > 0 else 1.0
        step[:2] *= share
        step[2] = np.clip(step[2], -0.01, 0.01)
        self._camera = tuple(was + step)  # type: ignore[assignment]
        yaw, elevation, distance = self._camera
        return orbit(
            np.array([yaw]), np.array([elevation]), np.array([distance * self.stream.settings.camera_distance])
        )[0]
