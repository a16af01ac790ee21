"""Which pictures of a video file are meant, and how they are shown: turned, mirrored, stretched, woven, exposed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.capture.colour import ColourConverter, colours_of, exposure_of
from fportrait.errors import UserError

SIZE_TAG = "fportrait_size"
MAX_STRETCH = 8  # of a pixel, to either side; more is a damaged header
SQUARE = 0.005  # share by which a scaled file's pixels may miss a square without a word: a pixel in two hundred
MAX_SIDE = 16384  # pixels
SAMPLED = 8  # frames on which an HDR file's light is measured


def choose_stream(container: Any, path: str | Path) -> tuple[Any, str]:
    """The video stream that is meant, and a note when there was a choice.

    Cover pictures and thumbnails are no video. Of several streams the one marked as default is taken, then the largest.

    Raises:
        UserError: none, or none that can be decoded.
    """
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & still]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams} - {"video"})) or "nothing"
        cover = " and a cover picture" if container.streams.video else ""
        raise UserError(
            f"{path} with {kinds}{cover} but no pictures", "a file with a video stream", "choose the video file"
        )
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        raise UserError(
            f"{path} without a codec that can be decoded: truncated in its header, or a rare codec",
            "a whole video file such as MP4 with H.264",
            "record or copy the file again, or re-encode it, for example with ffmpeg -i IN -c:v libx264 OUT.mp4",
        )

    def rank(stream: Any) -> tuple[bool, int, int]:
        pixels = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), pixels, -stream.index

    # FFmpeg marks the first stream of a file without any mark, too; a mark on all says nothing.
    chosen = max(usable, key=rank)
    if len(usable) == 1:
        return chosen, ""
    size = f"{chosen.codec_context.width}x{chosen.codec_context.height}"
    return chosen, f"of its {len(usable)} video streams number {chosen.index} ({size}) was read"


def quarter_turn(matrix: tuple[int, ...]) -> tuple[bool, bool, bool]:
    """A display matrix (nine numbers as in a track's header) as: exchange rows and columns, then flip columns, rows.

    The matrix sends a pixel (x, y), y down, to (a·x + c·y, b·x + d·y); the nearest of the eight quarter turns and
    mirrors is taken.
    """
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def askew(matrix: tuple[int, ...]) -> bool:
    """Whether a display matrix turns by something between quarter turns."""
    a, b, _, c, d, *_ = matrix
    straight, crossed = abs(a) + abs(d), abs(b) + abs(c)
    return min(straight, crossed) > 0.05 * max(straight, crossed, 1)


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """The nine numbers of a frame's display matrix, if it has one."""
    from av.sidedata.sidedata import SideDataContainer, Type

    # Not `frame.side_data`: the frame would keep that, and that the frame, so that decoded pictures would stay in
    # memory until Python looks for cycles, in a large process every few hundred frames.
    for data in SideDataContainer(frame):  # type: ignore[call-arg]  # its stub leaves out `__init__`
        if data.type == Type.DISPLAYMATRIX:
            return struct.unpack("=9i", bytes(data)[:36])
    return None


@dataclass(frozen=True)
class Shape:
    """How stored pictures become shown ones: `stretch` is a pixel's width over its height, `crop` the true size."""

    stretch: Fraction = Fraction(1)
    crop: tuple[int, int] | None = None  # width, height

    def __call__(self, image: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
        """`H W 3` as stored to `H W 3` as shown."""
        if self.crop:
            image = image[: self.crop[1], : self.crop[0]]
        if self.stretch != 1:
            import cv2

            width = max(1, round(image.shape[1] * self.stretch))
            method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
            image = cv2.resize(image, (width, image.shape[0]), interpolation=method)
        if matrix is not None:
            crossed, columns, rows = quarter_turn(matrix)
            image = image.swapaxes(0, 1) if crossed else image
            image = image[:: -1 if rows else 1, :: -1 if columns else 1]
        return np.ascontiguousarray(image)


def shape_of(container: Any, stream: Any, path: str | Path) -> Shape:
    """The shape of a stream's pictures.

    Raises:
        UserError: pixels of an absurd shape, or pictures of an absurd size.
    """
    stretch = Fraction(stream.sample_aspect_ratio or 1)
    width, height = stream.codec_context.width, stream.codec_context.height
    if not Fraction(1, MAX_STRETCH) <= stretch <= MAX_STRETCH or max(width * max(stretch, 1), height) > MAX_SIDE:
        raise UserError(
            f"{path} with pictures of {width}x{height} pixels, each {float(stretch):.3g} times as wide as high",
            f"up to {MAX_SIDE} pixels a side, about square",
            "write it again, for example with ffmpeg -i IN -vf setsar=1 -c:v libx264 OUT.mp4",
        )
    tags = {key.lower(): value for key, value in container.metadata.items()}
    parts = tags.get(SIZE_TAG, "").split("x")
    crop = (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdecimal() for p in parts) else None
    # Tags survive editors: ours counts only while the picture is the one that was padded to even sides.
    if crop and (crop[0] + crop[0] % 2, crop[1] + crop[1] % 2) != (width, height):
        crop = None
    return Shape(stretch, crop)


class Screen:
    """Shows the frames (PyAV) of one open file; an HDR file's exposure is measured when first needed."""

    def __init__(self, container: Any, stream: Any, path: str | Path):
        self.path, self.shape = path, shape_of(container, stream, path)
        self._converter: ColourConverter | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """`H W 3` uint8 RGB as shown."""
        if self._converter is None:
            colours = colours_of(frame, str(self.path))
            exposure = file_exposure(self.path, colours, _stamp(self.path)) if colours.hdr else None
            self._converter = ColourConverter(colours, exposure)
        return self.shape(self._converter(frame), display_matrix(frame))

    def size(self, frame: Any) -> tuple[int, int]:
        """Width and height of a frame as shown."""
        blank = np.zeros((frame.height, frame.width, 1), np.uint8)
        height, width = self.shape(blank, display_matrix(frame)).shape[:2]
        return width, height

    def notes(self, frame: Any) -> list[str]:
        """What was done to the pictures that a viewer would want to know, for one of its decoded frames."""
        notes = [note] if (note := colours_of(frame, str(self.path)).note) else []
        if abs(self.shape.stretch - 1) > SQUARE:
            notes.append(f"its pixels are {float(self.shape.stretch):.4g} times as wide as high, and were made square")
        if frame.interlaced_frame:
            notes.append("its pictures are interlaced, and were deinterlaced")
        matrix = display_matrix(frame)
        if matrix is not None and askew(matrix):
            notes.append("it asks to be turned by less than a quarter turn, which was left out")
        return notes


def _stamp(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def file_exposure(path: str | Path, colours: Any, stamp: tuple[int, int]) -> tuple[float, float]:
    """White and peak of an HDR file from some frames spread over it. `stamp` only tells a changed file apart."""
    import av

    with av.open(str(path)) as container:
        stream, _ = choose_stream(container, path)
        frames = []
        start, length = stream.start_time or 0, stream.duration or 0
        for part in range(SAMPLED if length else 1):
            try:
                if part:
                    container.seek(start + part * length // SAMPLED, stream=stream)
                frame = next(container.decode(stream), None)
            except av.error.FFmpegError:  # the damage is named by who reads the whole file
                break
            if frame is not None:
                frames.append(frame)
    return exposure_of(frames, colours)


def deinterlaced(frames: Iterable[Any]) -> Iterator[Any]:
    """The frames, those that hold two fields woven into one picture again: one a frame, by FFmpeg's `bwdif`."""
    import av

    graph: Any = None
    for frame in frames:
        if graph is None:
            if not frame.interlaced_frame:
                yield frame
                continue
            graph = av.filter.Graph()
            graph.link_nodes(
                graph.add_buffer(
                    width=frame.width,
                    height=frame.height,
                    format=frame.format,
                    time_base=frame.time_base or Fraction(1, 1000),
                ),
                graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced"),
                graph.add("buffersink"),
            ).configure()
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
