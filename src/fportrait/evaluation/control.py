"""Does a control move what it should? The gain: how much changed, over how much was asked.

A correlation alone misleads: 0.79 has been seen while the mouth stood still. Gain 1 is full strength, 0 is nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fportrait.errors import UserError


class Gain(NamedTuple):
    """Slope of produced on asked change through the origin, and their correlation (NaN if one is constant)."""

    gain: float
    correlation: float


def gain(asked: np.ndarray, produced: np.ndarray) -> Gain:
    """Gain of `produced` changes over `asked` changes, arrays of one shape; changes are differences from a start.

    Raises:
        UserError: shapes differ, a number is not finite, or nothing was asked.
    """
    asked, produced = np.asarray(asked, np.float64).ravel(), np.asarray(produced, np.float64).ravel()
    if asked.shape != produced.shape or not len(asked):
        raise UserError(
            f"{produced.size} produced and {asked.size} asked changes", "as many of both", "pair them by frame"
        )
    if not (np.isfinite(asked).all() and np.isfinite(produced).all()):
        raise UserError(
            "a change that is not finite", "finite numbers", "leave out frames without a face, and count them"
        )
    power = float(asked @ asked)
    if power == 0:
        raise UserError("no change asked for", "a control that moves", "measure the gain on a clip that moves")
    constant = np.ptp(asked) == 0 or np.ptp(produced) == 0
    correlation = float("nan") if constant else float(np.corrcoef(asked, produced)[0, 1])
    return Gain(float(asked @ produced) / power, correlation)


def changes(series: np.ndarray) -> np.ndarray:
    """Differences of each frame from the mean over the clip, `T …`; one frame alone gives zeros."""
    series = np.asarray(series, np.float64)
    return series - series.mean(0, keepdims=True)
