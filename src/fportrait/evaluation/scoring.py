"""Score a clip frame by frame, in memory that does not grow with its length.

    scores = ClipScorer(metrics).score(produced_frames, true_frames)

Both sides are read together, a few frames at a time. Lengths, sizes and types that differ are errors, never numbers; a
frame without a face is left out of the metrics that need one, and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from fportrait.errors import UserError
from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.metrics import METRICS
from fportrait.evaluation.metrics.frechet import FeatureSet, frechet_distance, too_few

CHUNK = 8  # frames


@dataclass
class ClipScores:
    """`means` by metric over the frames that could be measured; `missed` counts the others; `per_frame`: `difference`,
    mean absolute, 0–255, of every frame, for the report's curve."""

    frames: int = 0
    means: dict[str, float] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    per_frame: dict[str, list[float]] = field(default_factory=dict)


class FrechetScorer:
    """Collects one metric's segments of both sides over all clips; `side` names what is compared (method, dataset).

    Args:
        keep: remember whose features are whose, so that a distance can be taken over some of the clips.
    """

    def __init__(self, features: Any, keep: bool = False):
        self.features, self.keep = features, keep
        self.sets: dict[str, FeatureSet] = {}
        self._kept: dict[str, dict[str, list[np.ndarray]]] = {}
        self._buffers: dict[str, list[np.ndarray]] = {}

    def feed(self, side: str, frames: Sequence[np.ndarray], clip: str = "") -> None:
        buffer = self._buffers.setdefault(side, [])
        for frame in frames:
            buffer.append(frame)
            if len(buffer) == self.features.segment:
                feature = self.features(np.stack(buffer))
                self.sets.setdefault(side, FeatureSet()).add(feature)
                if self.keep:
                    self._kept.setdefault(side, {}).setdefault(clip, []).append(feature)
                buffer.clear()

    def end_clip(self, side: str) -> None:
        """A clip ended: what does not fill a segment is left out."""
        self._buffers.pop(side, None)

    def distance(self, one: str, two: str, clips: Collection[str] | None = None) -> tuple[float, str] | None:
        """The distance of two sides and a warning ('' when there are enough segments); None without segments.

        Args:
            clips: only their segments; needs `keep`.
        """
        sides = [self.sets.get(side, FeatureSet()) if clips is None else self._of(side, clips) for side in (one, two)]
        if min(side.count for side in sides) < 2:
            return None
        return frechet_distance(*sides), too_few(*sides)

    def _of(self, side: str, clips: Collection[str]) -> FeatureSet:
        chosen = FeatureSet()
        for clip, features in self._kept.get(side, {}).items():
            for feature in features if clip in clips else ():
                chosen.add(feature)
        return chosen


class ClipScorer:
    """Feeds frame metrics.

    Args:
        metrics: by name, as `metrics.make` gives them. every: networks look at every so many frames.
    """

    def __init__(self, metrics: Mapping[str, Any], every: int = 1):
        if every < 1:
            raise UserError(f"every {every} frames", "1 or more", "set network_every to 1 or more")
        self.metrics, self.every = dict(metrics), every

    def score(
        self,
        produced: Iterable[np.ndarray],
        truth: Iterable[np.ndarray],
        skip: Sequence[int] = (),
        near: np.ndarray | None = None,
    ) -> ClipScores:
        """Scores of one clip; frames `H W 3` uint8 from arrays or readers.

        Args:
            skip: frames that are left out (they are the portrait itself).
            near: landmarks `T 478 2` of the true faces, where they are known: faces are looked for there.

        Raises:
            UserError: one side is longer, sizes or types differ, or there is no frame.
        """
        result = ClipScores()
        values: dict[str, list[float]] = {name: [] for name in self.metrics}
        left_out, index = set(skip), 0
        chunk: tuple[list, list, list] = ([], [], [])
        for ours, theirs in zip_longest(produced, truth):
            if ours is None or theirs is None:
                shorter = "produced" if ours is None else "true"
                raise UserError(
                    f"a {shorter} video that ends after {index} frames while the other goes on",
                    "videos of one length and rate",
                    "cut both alike before scoring",
                )
            if index not in left_out:
                chunk[0].append(ours)
                chunk[1].append(theirs)
                chunk[2].append(None if near is None else near[index])
            index += 1
            if len(chunk[0]) == CHUNK:
                self._chunk(chunk, values, result)
                chunk = ([], [], [])
        if chunk[0]:
            self._chunk(chunk, values, result)
        if not result.frames:
            raise UserError(f"{index} frames, none of them to be scored", "at least one", "give a longer video")
        for name, numbers in values.items():
            array = np.array(numbers, np.float64)
            seen = np.isfinite(array) if METRICS[name].network else ~np.isnan(array)
            result.missed[name] = int((~seen).sum())
            if seen.any():
                result.means[name] = float(array[seen].mean()) * METRICS[name].scale
        return result

    def _chunk(self, chunk: tuple[list, list, list], values: dict[str, list[float]], result: ClipScores) -> None:
        sizes = {getattr(frame, "shape", None) for frame in (*chunk[0], *chunk[1])}
        if len(sizes) > 1:
            raise UserError(
                f"frames of {' and '.join(map(str, sorted(map(str, sizes))))}",
                "frames of one size",
                "crop or resize both videos alike",
            )
        ours, theirs = np.stack(chunk[0]), np.stack(chunk[1])
        check_videos(ours, theirs)
        places = None if chunk[2][0] is None else np.stack(chunk[2])
        looked = [i for i in range(len(ours)) if (result.frames + i) % self.every == 0]
        for name, metric in self.metrics.items():
            if METRICS[name].network:
                if looked and getattr(metric, "needs_face", False):
                    values[name].extend(
                        metric(ours[looked], theirs[looked], None if places is None else places[looked])
                    )
                elif looked:
                    values[name].extend(metric(ours[looked], theirs[looked]))
            else:
                values[name].extend(metric(ours, theirs))
        result.frames += len(ours)
        differences = np.abs(ours.astype(np.int16) - theirs).mean((1, 2, 3))
        result.per_frame.setdefault("difference", []).extend(float(value) for value in differences)
