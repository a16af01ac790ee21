"""Where an animation's time goes: load, track, draw (of a stream), sample, decode, write."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

STAGES = ("load", "track", "draw", "sample", "decode", "write")
T = TypeVar("T")


class Profile:
    """Processor seconds of the process by stage, those of all its threads. A stage within another is taken off it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = [0.0]  # seconds of the stages inside, of each stage that is open

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        begun = time.process_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.process_time() - begun
            self.seconds[stage] += whole - self._within.pop()
            self._within[-1] += whole

    def each(self, stage: str, values: Iterable[T]) -> Iterator[T]:
        """The values, with the time that making each of them takes."""
        source = iter(values)
        while True:
            with self.measured(stage):
                try:
                    value = next(source)
                except StopIteration:
                    return
            yield value


def table(seconds: Mapping[str, float], frames: int) -> str:
    """The stages in order: processor seconds, share of all, milliseconds per frame."""
    total = sum(seconds.values()) or 1.0
    lines = [f"{'stage':<8}{'CPU s':>8}{'share':>8}{'ms/frame':>10}"]
    for stage in (*STAGES, "all"):
        if stage == "draw" and stage not in seconds:  # a part of sampling where nothing overlaps
            continue
        spent = total if stage == "all" else seconds.get(stage, 0.0)
        each = "" if stage == "load" or not frames else f"{1000 * spent / frames:.1f}"
        lines.append(f"{stage:<8}{spent:>8.2f}{100 * spent / total:>7.0f}%{each:>10}")
    return "\n".join(lines)
