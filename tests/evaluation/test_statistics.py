"""Intervals over clips, and the gain of a control."""

import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.evaluation.bootstrap import bootstrap_mean, paired_difference
from fportrait.evaluation.control import changes, gain


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        estimate = bootstrap_mean(rng.normal(3, 1, 40), seed=trial, draws=400)
        hits += estimate.low <= 3 <= estimate.high
    assert 0.90 <= hits / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval_and_one_clip_gives_none():
    values = [1.0, 2.0, 4.0]
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert np.isnan(bootstrap_mean([2.0]).low)


def test_a_paired_difference_sees_what_separate_intervals_hide():
    base = np.random.default_rng(0).normal(20, 5, 30)
    estimate = paired_difference(list(base + 0.3), list(base))
    assert estimate.low == pytest.approx(0.3)
    with pytest.raises(UserError):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_no_value_and_broken_values_are_refused(values):
    with pytest.raises(UserError):
        bootstrap_mean(values)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.4])
def test_the_gain_is_the_strength_that_came_out(strength):
    asked = changes(np.random.default_rng(1).normal(size=(30, 4)))
    assert gain(asked, strength * asked).gain == pytest.approx(strength)


def test_a_faint_copy_correlates_fully_but_gains_little():
    asked = changes(np.random.default_rng(1).normal(size=(30, 4)))
    measured = gain(asked, 0.05 * asked)
    assert measured.correlation == pytest.approx(1)
    assert measured.gain == pytest.approx(0.05)


def test_nothing_asked_unequal_lengths_and_nan_are_refused():
    for asked, produced in ((np.zeros(3), np.ones(3)), (np.ones(3), np.ones(2)), (np.ones(2), np.array([1, np.nan]))):
        with pytest.raises(UserError):
            gain(asked, produced)
