"""A stream into a file or a named pipe, on its own clock: where frames were dropped, the one before is repeated."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import stat
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.animate.pictures import enlarge
from fportrait.capture.video_io import write_video
from fportrait.errors import UserError

ROOM = 64  # frames that wait for a file's encoder, at most
NEWEST = 8  # and for a pipe's reader: older ones are dropped
RETRY = 0.1  # seconds between looks for a reader
LONGEST_GAP = 250  # frames that one is repeated for, at most


def is_pipe(path: Path) -> bool:
    """Is it a named pipe?"""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


class Recording:
    """Takes frames as a `Sink` of `animate.live`; a file (.mp4) appears whole when it is closed.

    A named pipe gets Matroska with H.264 at once, which ffmpeg, OBS and VLC read: `ffplay PIPE`. It waits for a reader.

    Args:
        scale: enlarges frames for viewing. tags: for the container: what is recorded is synthetic, and says so.

    Raises:
        UserError: (of `close`) what `write_video` refuses; a reader of the pipe that left.
    """

    def __init__(self, path: Path, fps: float, tags: Mapping[str, str], scale: int = 4):
        self.path, self.fps, self.tags, self.scale = path, fps, dict(tags), scale
        self.frames = 0
        self._first: float | None = None
        self._before: np.ndarray | None = None
        self.pipe = is_pipe(path)
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(NEWEST if self.pipe else ROOM)
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="live recording", daemon=True)
        self._thread.start()

    def __call__(self, frame: np.ndarray, at: float) -> None:
        if self._error is not None:
            raise self._error
        self._first = at if self._first is None else self._first
        place = round((at - self._first) * self.fps)
        repeats = min(max(0, place - self.frames), LONGEST_GAP) if self._before is not None else 0
        for one in [self._before] * repeats + [frame]:
            self._put(one)
            self.frames += 1
        self._before = frame

    def _put(self, frame: np.ndarray | None) -> None:
        while self._error is None and self._thread.is_alive():
            try:
                self._queue.put(frame, timeout=0.0 if self.pipe else 0.5)
                return
            except queue.Full:
                if self.pipe:
                    with contextlib.suppress(queue.Empty):
                        self._queue.get_nowait()

    def close(self) -> Path | None:
        """Finish the file; None when no frame came."""
        self._closing.set()
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.path if self.frames else None

    def _write(self) -> None:
        try:
            first = self._queue.get()
            if first is None:
                return
            frames = self._frames(first)
            if self.pipe:
                write_pipe(self.path, frames, self.fps, self.tags, self._closing)
            else:
                write_video(self.path, frames, self.fps, metadata=self.tags)
        except BaseException as error:
            self._error = error

    def _frames(self, frame: np.ndarray | None) -> Iterator[np.ndarray]:
        while frame is not None:
            yield enlarge(frame, self.scale)
            frame = self._queue.get()


def opened(path: Path, closing: threading.Event) -> Any:
    """A named pipe for writing, once it has a reader; None when `closing` comes first."""
    while not closing.is_set():
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no reader yet
                raise
            closing.wait(RETRY)
            continue
        os.set_blocking(handle, True)
        return os.fdopen(handle, "wb", buffering=0)
    return None


def write_pipe(
    path: Path, frames: Iterator[np.ndarray], fps: float, tags: Mapping[str, str], closing: threading.Event
) -> None:
    """Frames `H W 3` uint8 into a named pipe as Matroska with H.264, each as soon as it comes.

    Raises:
        UserError: its reader left.
    """
    import av

    pipe, first = opened(path, closing), next(frames)
    if pipe is None:
        return
    try:
        with (
            pipe as sink,
            av.open(sink, "w", format="matroska", options={"live": "1", "flush_packets": "1"}) as container,
        ):
            for key, value in tags.items():
                container.metadata[key] = str(value)
            stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
            stream.thread_count = 1
            stream.options = {"tune": "zerolatency", "preset": "veryfast", "crf": "18"}
            for frame in chain([first], frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode())
    except (BrokenPipeError, av.error.BrokenPipeError):
        raise UserError(f"{path}, whose reader left", "a program that reads it", "start the reader again") from None
