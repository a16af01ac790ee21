"""Fréchet distance of two sets of features (Dowson & Landau, 1982; Heusel et al., 2017), in memory that does not grow.

d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½). While a set has fewer members than dimensions its members are kept and the
root's trace is the sum of the singular values of A₁ᵀA₂ (Σ = AAᵀ), which is exact and quick; afterwards the set is
folded into its moments.
"""

from __future__ import annotations

import numpy as np

from fportrait.errors import UserError

FEW = 2  # members per dimension below which the estimate is known to be far too large


class FeatureSet:
    """Features of one side, added one at a time."""

    def __init__(self) -> None:
        self.count = 0
        self._members: list[np.ndarray] | None = []
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, feature: np.ndarray) -> None:
        """One feature `D`.

        Raises:
            UserError: another length than before, or a number that is not finite.
        """
        feature = np.asarray(feature, np.float64).ravel()
        if not self.count:
            self._mean = np.zeros(len(feature))
        if len(feature) != len(self._mean) or not np.isfinite(feature).all():
            raise UserError(
                f"a feature of {len(feature)} numbers, finite or not",
                f"{len(self._mean)} finite ones",
                "check the clip",
            )
        self.count += 1
        if self._members is not None:
            self._members.append(feature)
            if self.count <= len(feature):
                return
            members = np.stack(self._members)
            self._mean = members.mean(0)
            self._scatter = (members - self._mean).T @ (members - self._mean)
            self._members = None
            return
        shift = feature - self._mean  # Welford's update
        self._mean = self._mean + shift / self.count
        self._scatter += np.outer(shift, feature - self._mean)

    @property
    def dimensions(self) -> int:
        return len(self._mean)

    @property
    def mean(self) -> np.ndarray:
        return self._mean if self._members is None else np.mean(self._members, 0)

    def factor(self) -> np.ndarray:
        """A with AAᵀ = the covariance (unbiased): `D n` while members are kept, else `D D`.

        Raises:
            UserError: fewer than two members.
        """
        if self.count < 2:
            raise UserError(f"{self.count} segments", "at least two on either side", "score more or longer clips")
        if self._members is not None:
            return ((np.stack(self._members) - self.mean) / np.sqrt(self.count - 1)).T
        values, vectors = np.linalg.eigh(self._scatter / (self.count - 1))
        return vectors * np.sqrt(np.clip(values, 0, None))


def frechet_distance(one: FeatureSet, two: FeatureSet) -> float:
    """d² of two sets; 0 for equal ones.

    Raises:
        UserError: fewer than two members on a side, or features of different length.
    """
    if one.dimensions != two.dimensions:
        raise UserError(f"features of {one.dimensions} and {two.dimensions} numbers", "one network", "score both alike")
    a, b = one.factor(), two.factor()
    root = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    distance = ((one.mean - two.mean) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root
    return float(max(distance, 0.0))


def too_few(one: FeatureSet, two: FeatureSet) -> str:
    """A warning when the sets are small for their dimension, else ''."""
    count = min(one.count, two.count)
    if count >= FEW * one.dimensions:
        return ""
    return (
        f"{count} segments for features of {one.dimensions} numbers: a Fréchet distance from fewer than "
        f"{FEW * one.dimensions} is biased upwards; compare it only between methods on these same clips"
    )
