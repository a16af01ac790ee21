"""Confidence intervals over people: frames of one clip are alike, and clips of one person are, so people are what is
drawn. Without a second person there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fportrait.errors import UserError


class Estimate(NamedTuple):
    """A mean over `clips` of `people` with its 95% interval; `low` and `high` are NaN without a second person."""

    mean: float
    low: float
    high: float
    clips: int
    people: int

    def cell(self, digits: int = 4) -> dict[str, float]:
        """As results keep it: `mean`, and `low` and `high` where there is an interval."""
        cell = {"mean": round(self.mean, digits)}
        if self.people > 1:
            cell |= {"low": round(self.low, digits), "high": round(self.high, digits)}
        return cell


def mean_over_people(
    values: Mapping[str, Sequence[float]], seed: int = 0, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """The mean over clips, with an interval that knows whose they are: see `compare_people`.

    Args:
        values: person to one number per clip; at least one, and finite.

    Raises:
        UserError: a person without a clip, or a number that is none.

    >>> mean_over_people({"ada": [1.0, 3.0]}).mean
    2.0
    """
    each = _each(values)
    clips = np.array([len(own) for own in each], np.float64)
    mean = float(np.concatenate(each).mean())
    if len(each) < 2:
        return Estimate(mean, float("nan"), float("nan"), int(clips.sum()), len(each))
    half = _half_width(len(each), _error(each, clips, seed, draws), level)
    return Estimate(mean, mean - half, mean + half, int(clips.sum()), len(each))


def estimate(scores: Iterable[tuple[str, float]], seed: int = 0) -> Estimate | None:
    """`mean_over_people` of (person, number) pairs; numbers that are none are left out, and None stands for no number.

    >>> estimate([("ada", 1.0), ("ada", float("nan"))]).clips
    1
    """
    values: dict[str, list[float]] = {}
    for person, value in scores:
        if np.isfinite(value):
            values.setdefault(person, []).append(value)
    return mean_over_people(values, seed) if values else None


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
    each = _each(differences)
    count, clips = len(each), sum(map(len, each))
    mean = float(np.mean([own.mean() for own in each]))
    if count < 2:
        return Comparison(mean, float("nan"), float("nan"), float("inf"), count, clips)
    error = _error(each, np.ones(count), seed, draws)
    half = _half_width(count, error, level)
    return Comparison(mean, mean - half, mean + half, half + _half_width(count, error, 2 * power - 1), count, clips)


def _each(values: Mapping[str, Sequence[float]]) -> list[np.ndarray]:
    if not values:
        raise UserError("no clip to compare", "clips that were scored", "score both on one holdout")
    return [_checked(list(clips)) for _, clips in sorted(values.items())]


def _error(values: Sequence[np.ndarray], weights: np.ndarray, seed: int, draws: int) -> float:
    """Standard error of the mean in which person i's clips weigh `weights[i]` together.

    The bootstrap's, and never less than what the people's own means say (their weighted variance, by linearization).
    """
    if np.ptp(np.concatenate(values)) == 0:
        return 0.0  # not the rounding of equal numbers
    count = len(values)
    random = np.random.default_rng(seed)
    people = random.integers(0, count, (draws, count))
    drawn = np.empty(people.shape)
    for index, own in enumerate(values):
        chosen = people == index
        drawn[chosen] = own[random.integers(0, len(own), (int(chosen.sum()), len(own)))].mean(1)
    share = weights[people]
    means = np.array([own.mean() for own in values])
    away = weights * (means - np.average(means, weights=weights))
    between = float(np.sqrt(count / (count - 1) * (away**2).sum()) / weights.sum())
    return max(float(((drawn * share).sum(1) / share.sum(1)).std(ddof=1)), between)


def _half_width(people: int, error: float, level: float) -> float:
    """Student's, with one degree of freedom less than there are people."""
    from scipy.stats import t as student

    return float(student.ppf((1 + level) / 2, people - 1)) * error


def _checked(values: np.ndarray | list[float]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise UserError(
            f"values {np.array2string(array, threshold=5)}",
            "one finite value per clip",
            "leave out clips without a score, and count them",
        )
    return array
