"""Sliders of expression: directions in code space, and what they add."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.retarget import ROWS, SLIDERS, check_strengths, directions, faces_acting, offset
from fportrait.bundle import SHIPPED_BASE
from fportrait.errors import UserError
from fportrait.tracking.expression import ExpressionEncoder


@pytest.fixture(scope="module")
def encoder():
    return ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")


@pytest.fixture(scope="module")
def along(encoder):
    return directions(encoder)


def test_the_sheet_shows_the_same_people_in_every_row():
    faces = faces_acting()
    assert list(faces) == list(ROWS)
    assert {crops.shape for crops in faces.values()} == {(10, 96, 96, 3)}
    for name, crops in faces.items():  # the same pictures but for what moves
        difference = np.abs(crops.astype(int) - faces["rest"]).mean()
        assert difference == 0 if name == "rest" else 0.3 < difference < 12, name


def test_a_slider_moves_a_persons_code_to_where_the_action_puts_it(encoder, along):
    """Measured on one person with the direction of the nine others: nearer to the action's code than rest is."""
    faces = faces_acting()
    for name in ("eyes_closed", "jaw_open", "smile", "eyes_wide", "gaze_left", "gaze_right"):
        rest, acted = encoder.encode(faces["rest"]), encoder.encode(faces[name])
        moved = acted - rest
        for person in range(3):
            others = np.delete(moved, person, 0).mean(0)
            left = np.linalg.norm(acted[person] - rest[person] - others)
            assert left < 0.9 * np.linalg.norm(moved[person]), name


def test_strengths_add_up_and_a_negative_one_goes_to_the_opposite_where_there_is_one(along):
    assert not offset({}, along).any() and not offset(dict.fromkeys(SLIDERS, 0.0), along).any()
    np.testing.assert_allclose(offset({"eyes": -1.0}, along), along["eyes_closed"])
    np.testing.assert_allclose(offset({"lips": -0.5}, along), -0.5 * along["jaw_open"], rtol=1e-6)
    both = offset({"smile": 0.5}, along) + offset({"brows": 1.0}, along)
    np.testing.assert_allclose(offset({"smile": 0.5, "brows": 1.0}, along), both, rtol=1e-6)


@pytest.mark.parametrize(
    ("strengths", "said"),
    [({"smil": 1.0}, "smile"), ({"lips": 9.0}, "-1.5 to 1.5"), ({"eyes": float("nan")}, "to 1.5")],
)
def test_unknown_sliders_and_strengths_beyond_the_codes_are_refused(strengths, said):
    with pytest.raises(UserError, match=said):
        check_strengths(strengths)
