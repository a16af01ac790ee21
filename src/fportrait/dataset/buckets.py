"""Buckets: training pictures of several sizes and shapes, none of them squashed, every batch of one shape.

A bucket is a picture's height and width. A clip goes to the bucket whose shape is nearest to its video's, and among
those of one shape to the largest that its crop fills without being enlarged. The square around the head that tracking
cut (`crop`) becomes the bucket's short side; the long side shows more of the video, moved into the frame where it can.

The order of draws is `mixing.sample_at`'s, whatever the buckets, so shares stay exact: draws queue by bucket, and a
queue that holds a batch is the next batch. Nothing is drawn twice or left out; at any time fewer than one batch of
each bucket waits. Which draws a batch holds is a function of seed and number, the same for any number of processes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fportrait.dataset.mixing import samples_at
from fportrait.diffusion.shapes import check_picture_size
from fportrait.errors import UserError
from fportrait.pixels import Picture, two_sides

SAME_SHAPE = 0.05  # of the logarithm of width over height: buckets this near to the nearest one count as its shape
CHUNK = 4096  # draws looked at together


Bucket = Picture


def parse_bucket(text: str) -> Bucket:
    """`"96x64"` (height x width) as a bucket.

    Raises:
        UserError: not two numbers, or sides that a VAE does not take.
    """
    sides = two_sides(text, "x")
    if sides is None:
        raise UserError(f"the bucket {text!r}", "HEIGHTxWIDTH in pixels", "write e.g. '96x64' for an upright picture")
    bucket = Bucket(*sides)
    check_picture_size(*bucket)
    return bucket


def parse_buckets(size: int, texts: Sequence[str]) -> tuple[Bucket, ...]:
    """The square `size` and the further buckets of encode's settings.

    Raises:
        UserError: text instead of a list, a bucket that is none, or one named twice.
    """
    if isinstance(texts, str):
        raise UserError(f"buckets as the text {texts!r}", "a list", "write e.g. [96x64, 64x96]")
    buckets = (Bucket(size, size), *map(parse_bucket, texts))
    twice = [bucket for number, bucket in enumerate(buckets) if bucket in buckets[:number]]
    if twice:
        raise UserError(
            f"the bucket {twice[0]} twice (encode's size, {size}x{size}, is one)", "each once", "take it off the list"
        )
    return buckets


def nearest_bucket(frame: tuple[int, int], side: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket of a clip.

    Args:
        frame: height and width of the video. side: pixels of the square around the head.
    """

    def distance(bucket: Bucket) -> float:
        return abs(math.log(bucket.width / bucket.height) - math.log(frame[1] / frame[0]))

    nearest = min(map(distance, buckets))
    alike = sorted((b for b in buckets if distance(b) <= nearest + SAME_SHAPE), key=lambda b: (b.short, *b))
    filled = [bucket for bucket in alike if bucket.short <= side]
    return filled[-1] if filled else alike[0]


def bucket_crop(
    crop: tuple[int, int, int], bucket: Bucket, frame: tuple[int, int] | None = None
) -> tuple[int, int, int, int]:
    """`x0, y0, width, height` in whole pixels of the bucket's shape around the square `crop` (`x0, y0, side`).

    The square is its short side and lies inside it: in the middle, or nearer to an edge where that keeps the rectangle
    inside the frame (height and width).
    """
    x0, y0, side = crop
    sides = [round(side * bucket.width / bucket.short), round(side * bucket.height / bucket.short)]
    starts = []
    for start, length, whole in zip((x0, y0), sides, frame[::-1] if frame else (None, None), strict=True):
        first = start - (length - side) // 2
        if whole is not None and length <= whole:
            first = min(max(first, 0), whole - length)
        starts.append(min(max(first, start + side - length), start))
    return starts[0], starts[1], sides[0], sides[1]


def shares(
    mixture: Mapping[str, int], buckets: Mapping[str, Sequence[Bucket | tuple[int, int]]]
) -> dict[tuple[int, int], float]:
    """Share of every bucket in training, from the datasets' shares and the bucket of each of their records."""
    total = sum(mixture.values())
    found: dict[tuple[int, int], float] = {}
    for dataset, share in sorted(mixture.items()):
        for bucket in buckets.get(dataset, ()) if share else ():
            found[bucket] = found.get(bucket, 0.0) + share / total / len(buckets[dataset])
    return dict(sorted(found.items()))


class BucketOrder:
    """`order(n)`: which draw of the mixture is the n-th sample, when every `batch` samples are of one bucket.

    Args:
        buckets: the bucket of every item, by dataset.
    """

    def __init__(
        self, seed: int, mixture: Mapping[str, int], buckets: Mapping[str, Sequence[tuple[int, int]]], batch: int
    ):
        self.seed, self.mixture, self.batch = seed, dict(mixture), batch
        names = sorted({bucket for some in buckets.values() for bucket in some})
        self.sizes = {dataset: len(some) for dataset, some in buckets.items()}
        self._numbers = {
            dataset: np.array([names.index(bucket) for bucket in some], np.int16) for dataset, some in buckets.items()
        }
        self._waiting = [np.zeros(0, np.int64) for _ in names]
        self._batches: list[np.ndarray] = []
        self._played = 0
        self._lock = threading.Lock()  # the batch that is read ahead asks from a thread of its own

    def __call__(self, sample: int) -> int:
        number, place = divmod(sample, self.batch)
        with self._lock:
            while number >= len(self._batches):
                self._play()
            return int(self._batches[number][place])

    def _play(self) -> None:
        """Queue the next draws, and take out every batch that they complete, in the order of their last draws."""
        stop = self._played + max(CHUNK, 2 * self.batch * len(self._waiting))
        draws = np.arange(self._played, stop)
        numbers = np.empty(len(draws), np.int16)
        for dataset, rows, items in samples_at(self.seed, self._played, stop, self.mixture, self.sizes):
            numbers[rows] = self._numbers[dataset][items]
        complete: list[np.ndarray] = []
        for number, waiting in enumerate(self._waiting):
            queue = np.concatenate([waiting, draws[numbers == number]])
            whole = len(queue) // self.batch * self.batch
            complete += list(queue[:whole].reshape(-1, self.batch))
            self._waiting[number] = queue[whole:]
        self._batches += sorted(complete, key=lambda batch: int(batch[-1]))
        self._played = stop


def bucket_counts(buckets: Iterable[Bucket]) -> dict[str, int]:
    """How many there are of each, by name."""
    found: dict[str, int] = {}
    for bucket in buckets:
        found[str(bucket)] = found.get(str(bucket), 0) + 1
    return dict(sorted(found.items()))
