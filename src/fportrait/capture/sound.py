"""The sound of one file written beside the pictures of another, cut to the same seconds; always as AAC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # of AAC that players know
USUAL_RATE = 48000
BLOCK = 1024  # samples of an AAC frame


@dataclass(frozen=True)
class Sound:
    """The sound of `path` from `start`, seconds of that file's clock (its first shown picture's time)."""

    path: Path
    start: float = 0.0


class SoundWriter:
    """Adds a stream to a container that is being written, and fills it as the pictures go on.

    Sound that begins late or has holes is filled with silence; sound before the start is cut away. A file whose sound
    is damaged is silent from there: the pictures are worth more.
    """

    def __init__(self, container: Any, sound: Sound):
        import av

        self._sink, self._sound = container, sound
        self._source = av.open(str(sound.path))
        stream = self._source.streams.audio[0]
        self.rate = stream.rate if stream.rate in RATES else USUAL_RATE
        self.channels = 1 if stream.channels == 1 else 2
        layout = "mono" if self.channels == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=self.rate, layout=layout)
        self._stream.codec_context.options = {"flags": "+bitexact"}
        self._stream.codec_context.thread_count = 1
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        self._parts = self._read(stream)
        self._waiting = np.zeros((self.channels, 0), np.float32)
        self._written = 0  # samples

    def advance(self, seconds: float) -> None:
        """Write the sound up to `seconds` of the pictures, in whole frames."""
        while self._written + BLOCK <= round(seconds * self.rate):
            self._write(BLOCK)

    def finish(self, seconds: float) -> None:
        """Write the rest, up to the end of the pictures."""
        self.advance(seconds)
        rest = round(seconds * self.rate) - self._written
        if rest > 0:
            self._write(rest)
        self._sink.mux(self._stream.encode(None))

    def close(self) -> None:
        self._source.close()

    def _write(self, count: int) -> None:
        import av

        while self._waiting.shape[1] < count:
            part = next(self._parts, None)
            if part is None:
                part = np.zeros((self.channels, count - self._waiting.shape[1]), np.float32)
            self._waiting = np.concatenate([self._waiting, part], 1)
        block, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(block), format="fltp", layout="mono" if self.channels == 1 else "stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._written, Fraction(1, self.rate)
        self._written += count
        self._sink.mux(self._stream.encode(frame))

    def _read(self, stream: Any) -> Iterator[np.ndarray]:
        """Samples `channels N` from the start on, without holes."""
        import av

        place = 0  # the next sample to give, counted from the start
        try:
            for decoded in self._source.decode(stream):
                if decoded.time is not None:
                    begin = round((decoded.time - self._sound.start) * self.rate)
                    if begin > place + self.rate // 50:  # a fiftieth of a second: less is jitter
                        yield np.zeros((self.channels, begin - place), np.float32)
                        place = begin
                    late = max(0, place - begin) if begin < 0 or place == 0 else 0
                else:
                    late = 0
                for frame in self._resampler.resample(decoded):
                    samples = frame.to_ndarray()[:, late:]
                    late = max(0, late - frame.samples)
                    place += samples.shape[1]
                    yield samples
        except av.error.FFmpegError:
            return
