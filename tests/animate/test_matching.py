"""A driver's expression at the strength at which the portrait shows it."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.matching import (
    LEVELS,
    MATCHED,
    TRUSTED,
    Response,
    acting,
    matched_codes,
    rises_above,
    score_of,
    scores_at_rest,
)
from fportrait.animate.retarget import directions
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.neutral import rendered_rest
from fportrait.tracking.points import BLENDSHAPE_NAMES

NAMES = load_body().action_names


def face(jaw: float, smile: float, blink: float) -> np.ndarray:
    """Scores `52` of a portrait that shows the square of what it does, and of its jaw less while it smiles."""
    scores = np.zeros(52, np.float32)
    for name, value in (("jaw", jaw**2 * (1 - 0.5 * smile)), ("smile", smile**2), ("blink", blink**2)):
        scores[[BLENDSHAPE_NAMES.index(part) for part in MATCHED[name][0]]] = value
    return scores


def levels(actions: np.ndarray) -> np.ndarray:
    return np.stack([actions[..., [NAMES.index(part) for part in parts]].mean(-1) for parts, _ in MATCHED.values()], -1)


def answers(actions: list[np.ndarray]) -> list[np.ndarray | None]:
    return [face(*levels(one)) for one in actions]


@pytest.fixture(scope="module")
def encoder() -> ExpressionEncoder:
    return ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")


def test_levels_are_those_whose_scores_were_asked_for():
    response = Response.measured(answers, NAMES)
    shown = np.array([[0.5, 0.0, 0.0], [0.5, 1.0, 0.5], [0.75, 0.5, 1.0], [0.0, 0.0, 0.0]])
    wanted = np.array([[score_of(face(*row), name) for name in MATCHED] for row in shown])
    assert response.levels(wanted, shown) == pytest.approx(shown, abs=0.03)
    assert response.levels(wanted, np.zeros_like(shown)) == pytest.approx(shown, abs=0.15)  # told nothing of it
    assert response.at(shown[1]) == pytest.approx(wanted[1], abs=0.03)


def test_what_a_portrait_does_not_show_stays_as_told():
    told = np.array([[0.3, 0.2, 0.6]])
    for deaf in (Response(np.zeros((len(LEVELS), len(LEVELS), 2)), np.zeros(len(LEVELS))), Response(None, None)):
        assert deaf.levels(np.array([[0.9, 0.8, 0.0]]), told) == pytest.approx(told, abs=0.02)
    lost = Response.measured(lambda actions: [None] * len(actions), NAMES)
    assert lost.mouth is None and lost.eyes is None


@pytest.mark.parametrize("sigma", [0.0, 0.8])
@pytest.mark.parametrize("name, at", [("jaw", 0), ("smile", 1), ("blink", 2)])
def test_codes_that_tell_nothing_are_brought_to_what_the_driver_does(encoder, name, at, sigma):
    """A driver of whom the encoder reads nothing at all: the portrait's scores rise as his do all the same."""
    rest, count = rendered_rest(encoder).astype(np.float32), 20
    codes = np.repeat(rest[None], count, 0)
    rise = np.clip(np.linspace(-0.5, 1.0, count), 0, None) * (0.9 * TRUSTED[at]) ** 2  # as far as it is trusted
    scores = np.zeros((count, 52), np.float32)
    scores[:, [BLENDSHAPE_NAMES.index(part) for part in MATCHED[name][0]]] = rise[:, None]
    response = Response.measured(answers, NAMES)
    told = (encoder.readout, directions(encoder), NAMES, sigma)
    matched = matched_codes(codes, rises_above(scores, scores_at_rest(scores, (0, 1, 2))), rest, response, *told)
    assert matched.shape == codes.shape and matched.dtype == codes.dtype
    before, after = (levels(encoder.readout(some)) for some in (codes, matched))
    shown = np.array([score_of(face(*row), name) for row in after])
    slope = np.polyfit(rise, shown, 1)[0]
    assert slope > 0.6 and np.polyfit(rise, before[:, at], 1)[0] < 0.01
    assert np.abs(after[:3] - before[:3]).max() < 0.1  # at rest nothing is added


def test_a_driver_who_does_nothing_changes_nothing(encoder):
    rest = rendered_rest(encoder).astype(np.float32)
    codes = np.repeat(rest[None], 9, 0)
    response = Response.measured(answers, NAMES)
    matched = matched_codes(codes, np.zeros((9, 3)), rest, response, encoder.readout, directions(encoder), NAMES)
    assert np.abs(levels(encoder.readout(matched)) - levels(encoder.readout(codes))).max() < 0.05


def test_acting_names_both_sides():
    assert np.flatnonzero(acting(NAMES, smile=0.5)).tolist() == sorted(
        NAMES.index(part) for part in MATCHED["smile"][0]
    )


def test_a_closed_mouth_is_never_less_than_rest():
    scores = np.zeros((20, 52), np.float32)
    jaw, brow = BLENDSHAPE_NAMES.index("jawOpen"), BLENDSHAPE_NAMES.index("browInnerUp")
    scores[:10, [jaw, brow]] = 0.3  # speaks with a calm face, then is silent with a stern one
    rest = scores_at_rest(scores, (2, 3, 4))
    assert rest[jaw] == 0 and rest[brow] == pytest.approx(0.3)
    assert rises_above(scores, rest)[:, 0].min() == 0
