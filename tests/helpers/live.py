"""A stream without a model and a source without a camera, for tests of what lies between them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np

from fportrait.animate.stream import Moment
from fportrait.body.model import load_body
from fportrait.bundle import BundleSettings
from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel


class FakeStream:
    """Windows of four frames, each as grey as its second; `seconds` for each, and `fails_at` a window."""

    frames, carry, calls = 4, "faded", 1

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None):
        self.seconds, self.fails_at, self.windows = seconds, fails_at, 0
        self.settings = BundleSettings(steps=1)
        self.rest_code = np.zeros(128, np.float32)
        self.encoder = SimpleNamespace(crop_size=96, encode=lambda crops: np.zeros((len(crops), 128), np.float32))
        self.animator = SimpleNamespace(
            encoder=self.encoder, config=TrackConfig(), landmarks=LandmarkModel(load_body())
        )

    def rest(self, camera, at):
        return Moment(np.eye(3), np.zeros(3), self.rest_code, camera, at)

    def draw(self, moment):
        return moment.at

    def sample(self, moments, drawn):
        assert list(drawn) == [moment.at for moment in moments]
        self.windows += 1
        if self.windows == self.fails_at:
            raise UserError("a model that broke", "one that does not", "mend it")
        time.sleep(self.seconds)
        return [moment.at for moment in moments]

    def decode(self, times):
        return np.stack([np.full((8, 8, 3), int(25 * at) % 256, np.uint8) for at in times])


class Frames:
    """`count` empty frames of 25 a second; as a tracker it finds no face."""

    size, fps, name, familiar = (64, 48), 25.0, "frames", True

    def __init__(self, count: int, paced: bool = False):
        self.count, self.paced = count, paced

    def __iter__(self):
        start = time.monotonic()
        for index in range(self.count):
            if self.paced:
                time.sleep(max(0.0, start + index / self.fps - time.monotonic()))
            yield np.zeros((48, 64, 3), np.uint8), index / self.fps

    def look(self, frame, at):
        return None
