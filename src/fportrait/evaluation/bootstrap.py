"""Confidence intervals by bootstrap: frames of one clip are alike, so clips are what is drawn; and clips of one person
are alike, so whoever compares models draws people first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Comparison(NamedTuple):
    """A mean difference, each person counting once, with its 95% interval and what the data can tell.

    `detectable`: the loss that data of this spread would notice with 80%, and equally the tolerance at which a model
    as good as the other passes with 80%. Without a second person `low` and `high` are NaN and `detectable` infinite.
    """

    mean: float
    low: float
    high: float
    detectable: float
    people: int
    clips: int


def compare_people(
    differences: Mapping[str, Sequence[float]],
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    power: float = 0.8,
) -> Comparison:
    """Compare two models by the paired differences of every person's clips.

    People are drawn with replacement, then clips of each (Davison & Hinkley, 1997, 3.8): clips of one person do not
    stand for others. A percentile interval of three people would be a draw of three numbers, far too narrow; so the
    bootstrap gives the standard error, and the interval is Student's with n − 1 degrees of freedom. Resampling n people
    loses a share of 1/n of the variance between them; the error is never less than what their own means say.

    Args:
        differences: person to one difference per clip; at least one, and finite.

    Raises:
        UserError: a person without a clip, or a difference that is no number.
    """
    from scipy.stats import t as student

    values = [_checked(list(clips)) for _, clips in sorted(differences.items())]
    if not values:
        raise UserError("no clip to compare", "clips that both models were scored on", "score both on one holdout")
    count, clips = len(values), sum(map(len, values))
    mean = float(np.mean([own.mean() for own in values]))
    if count < 2:
        return Comparison(mean, float("nan"), float("nan"), float("inf"), count, clips)
    random = np.random.default_rng(seed)
    people = random.integers(0, count, (draws, count))
    drawn = np.empty(people.shape)
    for index, own in enumerate(values):
        chosen = people == index
        drawn[chosen] = own[random.integers(0, len(own), (int(chosen.sum()), len(own)))].mean(1)
    between = float(np.std([own.mean() for own in values], ddof=1)) / float(np.sqrt(count))
    error = max(float(drawn.mean(1).std(ddof=1)), between)
    if np.ptp(np.concatenate(values)) == 0:
        error = 0.0  # not the rounding of equal numbers
    half = float(student.ppf((1 + level) / 2, count - 1)) * error
    detectable = half + float(student.ppf(power, count - 1)) * error
    return Comparison(mean, mean - half, mean + half, detectable, count, clips)


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
