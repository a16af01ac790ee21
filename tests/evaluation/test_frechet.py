"""The Fréchet distance against SciPy's matrix square root and torchmetrics, in constant memory, with a warning."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fportrait.errors import UserError
from fportrait.evaluation.metrics.frechet import FeatureSet, frechet_distance, too_few


def filled(features: np.ndarray) -> FeatureSet:
    found = FeatureSet()
    for feature in features:
        found.add(feature)
    return found


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ two)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * np.real(root)))


@pytest.mark.parametrize("counts", [(60, 40), (9, 40), (6, 5)], ids=["moments", "mixed", "members"])
def test_it_is_scipys_value_with_few_and_with_many_members(counts):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (counts[0], 8)), rng.normal(0.3, 1.5, (counts[1], 8)) @ rng.normal(size=(8, 8))
    assert frechet_distance(filled(a), filled(b)) == pytest.approx(by_scipy(a, b), abs=1e-4)


def test_it_is_torchmetrics_value():
    fid = pytest.importorskip("torchmetrics.image.fid")
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (200, 6)), rng.normal(0.5, 2, (150, 6))
    means = [torch.from_numpy(x.mean(0)) for x in (a, b)]
    covariances = [torch.from_numpy(np.cov(x, rowvar=False)) for x in (a, b)]
    theirs = float(fid._compute_fid(means[0], covariances[0], means[1], covariances[1]))
    assert frechet_distance(filled(a), filled(b)) == pytest.approx(theirs, abs=1e-4)


def test_memory_stays_that_of_the_moments():
    found = filled(np.random.default_rng(2).normal(size=(50, 4)))
    assert found._members is None and found._scatter.shape == (4, 4)


def test_few_members_warn_and_one_is_refused():
    rng = np.random.default_rng(3)
    few, many = filled(rng.normal(size=(3, 8))), filled(rng.normal(size=(40, 8)))
    assert "biased" in too_few(few, many) and too_few(many, many) == ""
    with pytest.raises(UserError, match="at least two"):
        frechet_distance(filled(rng.normal(size=(1, 8))), many)
    with pytest.raises(UserError):
        frechet_distance(filled(rng.normal(size=(9, 7))), many)
    with pytest.raises(UserError):
        filled(np.array([[1.0, np.nan]]))
