"""Frames as they come: a camera of this computer, a file played as one, or what a page's camera sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fportrait.capture.video_io import iter_video, probe
from fportrait.errors import UserError

Taken = tuple[np.ndarray | None, float]
"""A frame `H W 3` uint8 RGB and the second, of `time.monotonic`, at which it came; None where the camera gave none."""
PATIENCE = 10.0  # seconds without a picture after which a camera is given up
RETRY = 1.0  # seconds between tries to open it again
ABSENT = 0.5  # seconds without a pushed frame after which there is none


@dataclass(frozen=True)
class FileSource:
    """A video file at its own rate. `paced`: in real time, as a camera gives it; else as fast as it is read. `loop`:
    from the start again, without end.

    Raises:
        UserError: (of the properties, and while it runs) not a readable video.
    """

    path: Path
    paced: bool = True
    loop: bool = False

    @property
    def fps(self) -> float:
        return probe(self.path).fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        info = probe(self.path)
        return info.width, info.height

    @property
    def name(self) -> str:
        return Path(self.path).name

    def __iter__(self) -> Iterator[Taken]:
        step, start, index = 1 / self.fps, time.monotonic(), 0
        while True:
            for frame in iter_video(self.path):
                due = start + index * step
                if self.paced:
                    time.sleep(max(0.0, due - time.monotonic()))
                yield frame, (time.monotonic() if self.paced else due)
                index += 1
            if not self.loop:
                return


class CameraSource:
    """A camera by its number, as OpenCV counts them.

    While it gives no pictures it yields None, and tries to open it again; after `PATIENCE` seconds it gives up.

    Raises:
        UserError: there is no such camera, or it is used by another program.
    """

    def __init__(self, number: int, width: int = 640, height: int = 480):
        self.number, self.asked = number, (width, height)
        self._camera = self._opened()
        if self._camera is None:
            raise UserError(
                f"no pictures from camera {number}",
                "a camera that no other program uses",
                "plug one in, try --camera 1, close the program that has it, or play a file with --input",
            )
        frame = self._read()
        if frame is None:
            raise UserError(f"no pictures from camera {number}", "a camera that works", "check its cover and its cable")
        self.size = (frame.shape[1], frame.shape[0])
        stated = float(self._camera.get(cv2.CAP_PROP_FPS))
        self.fps = stated if 5 <= stated <= 120 else 30.0
        self.name = f"camera {number}"

    def __iter__(self) -> Iterator[Taken]:
        lost = None
        try:
            while True:
                frame = self._read()
                now = time.monotonic()
                if frame is not None:
                    lost = None
                    yield frame, now
                    continue
                lost = lost or now
                if now - lost > PATIENCE:
                    raise UserError(
                        f"{self.name}, which has given no picture for {PATIENCE:g} s", "one that stays", "plug it in"
                    )
                yield None, now
                time.sleep(1 / self.fps)
                if now - getattr(self, "_tried", 0.0) > RETRY:
                    self._tried = now
                    self.close()
                    self._camera = self._opened()
        finally:
            self.close()

    def _opened(self) -> Any:
        log = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT) if hasattr(cv2, "utils") else None
        try:
            camera = cv2.VideoCapture(self.number)
        finally:
            if log is not None:
                cv2.utils.logging.setLogLevel(log)
        if not camera.isOpened():
            return None
        camera.set(cv2.CAP_PROP_FRAME_WIDTH, self.asked[0])
        camera.set(cv2.CAP_PROP_FRAME_HEIGHT, self.asked[1])
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return camera

    def _read(self) -> np.ndarray | None:
        if self._camera is None:
            return None
        good, frame = self._camera.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if good and frame is not None else None

    def close(self) -> None:
        """Let the camera go."""
        if self._camera is not None:
            self._camera.release()
        self._camera = None


class PushedSource:
    """Frames that come from elsewhere, as a page's camera sends them; only the newest waits, without a word of others.

    While none comes it yields None twice a second; after `PATIENCE` seconds it gives up.

    Args:
        size: width and height of every frame. fps: of a recording, and what is asked of the machine.

    Raises:
        UserError: (while it runs) nothing came for too long.
    """

    name = "the page's camera"

    def __init__(self, size: tuple[int, int] = (640, 480), fps: float = 25.0):
        self.size, self.fps = size, fps
        self._changed = threading.Condition()
        self._waiting: Taken | None = None
        self._closed = False

    def put(self, frame: np.ndarray, at: float) -> None:
        """A frame `H W 3` uint8 RGB and the second, of `time.monotonic`, at which it came."""
        with self._changed:
            self._waiting = frame, at
            self._changed.notify_all()

    def close(self) -> None:
        """End the iteration."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Taken]:
        last = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed, ABSENT)
                if self._closed:
                    return
                taken, self._waiting = self._waiting, None
            now = time.monotonic()
            if taken is not None:
                last = now
                yield taken
            elif now - last > PATIENCE:
                raise UserError(
                    f"{self.name}, which has given no picture for {PATIENCE:g} s", "one that stays", "start again"
                )
            else:
                yield None, now
