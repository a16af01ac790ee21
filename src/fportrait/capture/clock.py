"""Times of a video's frames, and videos brought to one constant rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

USUAL_RATES = (
    *(24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0),
    *(72.0, 90.0, 100.0, 120000 / 1001, 120.0, 240.0),
)
UNEVEN = 1.5  # of the median distance of frames: a longer one is a gap
DRIFT = 0.75  # of the mean distance: how far a frame may lie from where a constant rate has it

Item = TypeVar("Item")


def is_variable(times: np.ndarray) -> bool:
    """Whether sorted times `T` in seconds leave a constant rate, by a gap or by drifting away."""
    gaps = np.diff(times)
    if len(gaps) < 2 or not times[-1] > times[0]:
        return False
    drift = np.abs(times - np.linspace(times[0], times[-1], len(times))).max()
    return bool(gaps.max() > UNEVEN * np.median(gaps) or drift > DRIFT * gaps.mean())


def filled(stamps: Sequence[float | None], rate: float) -> tuple[list[float], int]:
    """Seconds of frames in the order in which they are shown, and how many of them were made up.

    A frame without a time lies evenly between its neighbours, or 1 / `rate` from the nearest one. Times that do not
    rise say nothing, and all are made up.
    """
    known = [(index, stamp) for index, stamp in enumerate(stamps) if stamp is not None]
    if any(later[1] <= earlier[1] for earlier, later in pairwise(known)):
        known = []
    if not known:
        return [index / rate for index in range(len(stamps))], len(stamps)
    every, numbers = np.arange(len(stamps)), [index for index, _ in known]
    times = np.interp(every, numbers, [stamp for _, stamp in known])
    times += (np.minimum(every - numbers[0], 0) + np.maximum(every - numbers[-1], 0)) / rate
    return times.tolist(), len(stamps) - len(known)


def mean_rate(times: np.ndarray, nominal: float = 25.0) -> float:
    """Frames per second of sorted times `T`; `nominal` for one frame, or frames without times."""
    span = float(times[-1] - times[0]) if len(times) > 1 else 0.0
    return (len(times) - 1) / span if span > 0 else nominal


def usual_rate(times: np.ndarray) -> float:
    """The constant rate for frames at uneven sorted times `T`: that of their usual distance.

    Times rounded to milliseconds say 30.3 for 30, so the distances near the median are averaged, and a rate within half
    a percent of a usual one (24, 25, 29.97, 30 …) is that.
    """
    gaps = np.diff(times)
    gaps = gaps[gaps > 0]
    middle = float(np.median(gaps))
    rate = 1 / float(gaps[np.abs(gaps - middle) <= 0.25 * middle].mean())
    nearest = min(USUAL_RATES, key=lambda usual: abs(usual - rate))
    return round(nearest if abs(nearest - rate) <= 0.005 * rate else rate, 3)


def shown_at(times: np.ndarray, rate: float) -> np.ndarray:
    """For each frame of a constant rate the number of the stored frame: the newest by the middle of its time.

    A gap repeats the frame before it, a burst loses frames.
    """
    frame_times = times[0] + np.arange(round(float(times[-1] - times[0]) * rate) + 1) / rate
    return np.maximum(np.searchsorted(times, frame_times + 0.5 / rate, side="right") - 1, 0)


def picked(frames: Iterable[Item], numbers: Iterable[int]) -> Iterator[Item]:
    """The frames of rising, perhaps repeated `numbers`, counted from 0."""
    wanted = iter(numbers)
    target = next(wanted, None)
    for index, frame in enumerate(frames):
        while target == index:
            yield frame
            target = next(wanted, None)
        if target is None:
            return


def rows_at(seconds: np.ndarray, fps: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where times `N` lie among `count` frames of a rate: the frame before, the one after, the share of the latter.

    Times before the first or after the last frame get that frame.
    """
    place = np.clip(np.asarray(seconds, np.float64) * fps, 0, count - 1)
    place = np.where(np.abs(place - np.rint(place)) < 1e-6, np.rint(place), place)
    before = np.floor(place).astype(int)
    return before, np.minimum(before + 1, count - 1), place - before
