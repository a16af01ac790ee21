"""Small clips of every kind that people bring, made with PyAV; nothing here needs an ffmpeg program."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from fportrait.capture import colour


def moving_frames(frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours that move, with a marked corner, so that order, size, turning and mirroring show."""
    y, x = np.mgrid[0:height, 0:width]
    video = [np.stack([x * 3 + 8 * t, y * 4, np.full_like(x, 100 + 10 * t)], axis=-1) for t in range(frames)]
    video = np.clip(np.stack(video), 0, 255).astype(np.uint8)
    video[:, :12, :12] = (230, 20, 20)
    return video


def write_clip(
    path: Path,
    images: np.ndarray,
    codec: str = "ffv1",
    layout: str = "bgr0",
    *,
    source: str = "rgb24",
    times: list[float] | None = None,
    rate: float = 25,
    matrix: int | None = None,
    full: bool = False,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    sound: int = 0,
    sar: Fraction | None = None,
    **tags: int,
) -> Path:
    """A video of `images` as another program writes it: lossless in Matroska unless told otherwise.

    Args:
        times: seconds of the frames. matrix: of the YUV values. sound: hertz of a tone beside it.
        tags: `color_primaries`, `color_trc` of the stream.
    """
    with av.open(str(path), "w", options=container or {}) as sink:
        stream = sink.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options or {})
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], layout
        context = stream.codec_context
        context.time_base = Fraction(1, 1000) if times else 1 / Fraction(rate).limit_denominator(1001)
        if sar:
            context.sample_aspect_ratio = sar
        if matrix:
            context.colorspace = matrix
        if matrix or full:
            context.color_range = 2 if full else 1
        for name, value in tags.items():
            setattr(context, name, value)
        tone = sink.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=source)
            if matrix or full:
                frame = frame.reformat(
                    format=layout,
                    src_color_range=2,
                    dst_colorspace=colour.MATRICES[matrix or 5],
                    dst_color_range=2 if full else 1,
                )
            frame.pts = index if times is None else round(times[index] * 1000)
            frame.time_base = context.time_base
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
        if tone is not None:
            seconds = (times[-1] if times else (len(images) - 1) / rate) + 1 / rate
            wave = np.sin(np.arange(int(seconds * 16000)) * 2 * np.pi * sound / 16000).astype(np.float32) * 0.5
            for start in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 16000, start, Fraction(1, 16000)
                sink.mux(tone.encode(part))
            sink.mux(tone.encode(None))
    return path


def set_matrix(path: Path, a: int, b: int, c: int, d: int, one: int = 1 << 16) -> Path:
    """Write a display matrix into the first track of an MP4 file."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and track, then reserved to volume
    data[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_at(path: Path, frames: int, rate: float = 25) -> Path:
    """Move the edit list of an MP4 file by some frames, as copying a part of it does."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        tick = float(container.streams.video[0].time_base)
    place = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, count, duration
    (start,) = struct.unpack(">i", data[place : place + 4])
    data[place : place + 4] = struct.pack(">i", start + round(frames / rate / tick))
    path.write_bytes(data)
    return path


def as_hdr(images: np.ndarray, transfer: int, white: float) -> np.ndarray:
    """BT.709 pictures as full-range BT.2020 values in PQ or HLG, uint16, their white at `white` cd/m²."""
    light = (images / 255) ** 2.4 @ np.linalg.inv(colour.to_bt709(colour.BT2020)).T * white
    light = np.maximum(light, 0)
    if transfer == colour.PQ:
        signal = colour.pq_signal(light)
    else:  # BT.2100: the screen's gamma undone on luminance, then the camera's curve
        luminance = (light @ np.array([0.2627, 0.6780, 0.0593]) / 1000)[..., None]
        scene = light / 1000 * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return (np.clip(signal, 0, 1) * 65535 + 0.5).astype(np.uint16)
