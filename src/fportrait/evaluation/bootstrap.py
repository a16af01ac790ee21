"""Confidence intervals by bootstrap over clips: frames of one clip are alike, so clips are what is drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fportrait.errors import UserError


class Estimate(NamedTuple):
    """A mean over `clips` with the bounds of its interval; `low` and `high` are NaN for fewer than two clips."""

    mean: float
    low: float
    high: float
    clips: int


def bootstrap_mean(values: np.ndarray | list[float], seed: int = 0, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Percentile interval (Efron, 1979) of the mean of one value per clip.

    Raises:
        UserError: no value, or one that is not finite.
    """
    array = _checked(values)
    if len(array) < 2:
        return Estimate(float(array.mean()), float("nan"), float("nan"), len(array))
    low, high = np.quantile(_drawn_means(array, seed, draws), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def paired_difference(ours: list[float], theirs: list[float], seed: int = 0, draws: int = 2000) -> Estimate:
    """Interval of the mean difference `ours − theirs` over the same clips.

    Raises:
        UserError: different numbers of clips.
    """
    if len(ours) != len(theirs):
        raise UserError(f"{len(ours)} clips beside {len(theirs)}", "the same clips", "score both models on one holdout")
    return bootstrap_mean(_checked(ours) - _checked(theirs), seed, draws)


def _checked(values: np.ndarray | list[float]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise UserError(
            f"values {np.array2string(array, threshold=5)}",
            "one finite value per clip",
            "leave out clips without a score, and count them",
        )
    return array


def _drawn_means(array: np.ndarray, seed: int, draws: int) -> np.ndarray:
    picks = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    return array[picks].mean(1)
