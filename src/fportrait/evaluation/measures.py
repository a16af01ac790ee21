"""Everything an evaluation measures, and which way is better. Whoever judges a number asks here.

A gain is best at 1: half the asked expression is as wrong as one and a half of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fportrait.errors import UserError, nearest_name
from fportrait.evaluation.metrics import METRICS

HIGHER, LOWER, ONE = "higher", "lower", "one"
STATISTICS = ("mean", "low", "high", "value")  # of a measure; they say nothing about its direction


@dataclass(frozen=True)
class Measure:
    """A title and unit for people, and what is `better`: `HIGHER`, `LOWER`, or near `ONE`."""

    title: str
    unit: str
    better: str

    def benefit(self, value: float) -> float:
        """The value as a number of which more is better.

        >>> Measure("LPIPS", "", LOWER).benefit(0.3), Measure("gain", "", ONE).benefit(1.25)
        (-0.3, -0.25)
        """
        if self.better == ONE:
            return -abs(value - 1)
        return -value if self.better == LOWER else value

    def reaches(self, value: float, bound: float) -> bool:
        """Whether a value is no worse than a bound; a number that is none (NaN) never is.

        For gains the bound holds on both sides of 1: at 0.6, what lies between 0.6 and 1.4 passes.
        """
        return self.benefit(value) >= self.benefit(bound) - 1e-12

    def bound_words(self, bound: float) -> str:
        """The bound in words: `at least 20`, `at most 0.3`, `within 0.6 … 1.4`."""
        if self.better == ONE:
            low, high = sorted((bound, 2 - bound))
            return f"within {low:.4g} … {high:.4g}"
        return f"{'at most' if self.better == LOWER else 'at least'} {bound:.4g}"


MEASURES: dict[str, Measure] = {
    **{
        name: Measure(entry.title, entry.unit, HIGHER if entry.higher_is_better else LOWER)
        for name, entry in METRICS.items()
    },
    "ours_minus_portrait": Measure("PSNR above the repeated portrait", "dB", HIGHER),
    "expression_gain": Measure("expression gain", "", ONE),
    "expression_correlation": Measure("expression correlation", "", HIGHER),
    "expression_error": Measure("expression error", "standard deviations", LOWER),
    "landmark_gain": Measure("landmark gain", "", ONE),
    "landmark_error": Measure("landmark error", "pixels", LOWER),
    "reprojection_error": Measure("reprojection error", "% of the side", LOWER),
    "head_pose_error": Measure("head pose error", "degrees", LOWER),
    "lip_error": Measure("lip error", "", LOWER),
    "gaze_error": Measure("gaze error", "", LOWER),
    "faces_found": Measure("faces found", "share", HIGHER),
    "gain": Measure("gain of a probe", "", ONE),
    "correlation": Measure("correlation of a probe", "", HIGHER),
    "worst_leak": Measure("largest leak", "", LOWER),
    "clips": Measure("clips", "", HIGHER),
    "identities": Measure("people", "", HIGHER),
    "people": Measure("people", "", HIGHER),
}


def measure_of(name: str) -> Measure:
    """The measure that a number is of: `ours/psnr`, `PhoneCapture.ours.lip_error.mean`, `probes/gain_jaw` and so on.

    Raises:
        UserError: none is known by that name, so nobody could say which way is better.

    >>> measure_of("DynamicSweep.ours.lpips.mean").better
    'lower'
    >>> measure_of("probes/gain_jaw").better
    'one'
    """
    parts = [part for part in re.split(r"[./]", name) if part not in STATISTICS]
    last = parts[-1] if parts else name
    if last.startswith("gain_"):
        last = "gain"
    if last not in MEASURES:
        near = nearest_name(last, MEASURES)
        fix = f"rename it to '{near}'" if near else f"end it with one of {', '.join(sorted(MEASURES))}"
        raise UserError(f"'{name}', a number without a direction", "a measure that is known better high or low", fix)
    return MEASURES[last]
