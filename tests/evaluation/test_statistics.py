"""Intervals over people, and the gain of a control."""

import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.evaluation.bootstrap import estimate, mean_over_people
from fportrait.evaluation.control import changes, gain


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    """Six people whose own means differ as much as their clips do; three or five clips each."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        people = {str(i): 3 + rng.normal() + rng.normal(size=3 + 2 * (i % 2)) for i in range(6)}
        found = mean_over_people(people, seed=trial, draws=300)
        hits += found.low <= 3 <= found.high
    assert 0.92 <= hits / 200 <= 1


def test_the_mean_is_over_clips_and_its_interval_over_people():
    found = mean_over_people({"ada": [1.0, 1.0, 1.0], "bob": [5.0]})
    assert found.mean == 2.0 and (found.clips, found.people) == (4, 2)
    assert found.low < 1 and found.high > 5  # two people say little
    one = mean_over_people({"ada": [1.0, 2.0, 4.0]})
    assert np.isnan(one.low) and one.cell() == {"mean": 2.3333}


def test_the_same_seed_gives_the_same_interval_and_more_clips_of_the_same_people_do_not_narrow_it():
    few = {"ada": [1.0], "bob": [2.0], "cy": [4.0]}
    many = {name: values * 50 for name, values in few.items()}
    assert mean_over_people(few, seed=1) == mean_over_people(few, seed=1)
    assert mean_over_people(many).high == pytest.approx(mean_over_people(few).high, rel=0.02)


def test_numbers_that_are_none_are_left_out_and_counted():
    found = estimate([("ada", 1.0), ("ada", float("nan")), ("bob", 3.0)])
    assert found is not None and (found.mean, found.clips, found.people) == (2.0, 2, 2)
    assert estimate([("ada", float("inf"))]) is None


@pytest.mark.parametrize("values", [{}, {"ada": []}, {"ada": [1.0, float("nan")]}, {"ada": [[1.0]]}])
def test_no_value_and_broken_values_are_refused(values):
    with pytest.raises(UserError):
        mean_over_people(values)


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
