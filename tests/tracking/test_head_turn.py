"""The head turn regression: it beats the fit on strangers, follows the camera's frame, and its file is checked."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import load_body, rotation_matrix, rotation_vector
from fportrait.errors import UserError
from fportrait.tracking.fit import LandmarkModel, Observations, solve_frames
from fportrait.tracking.head_turn import HeadTurn, normalised, shipped_head_turn
from fportrait.tracking.making import head_turn
from fportrait.tracking.making.head_turn import samples, sight_widely

BODY = load_body()
STRANGERS = 7_700_000_000  # seeds that nothing was fitted on


@pytest.fixture(scope="module")
def sightings():
    return [seen for person in range(12) for seen in sight_widely(STRANGERS + person, 4, BODY)]


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.linalg.norm(rotation_vector(a @ np.swapaxes(b, -1, -2)), axis=-1))


def test_turns_of_strangers_are_told_better_than_by_the_fit_alone(sightings):
    model, mean = LandmarkModel(BODY), np.zeros(BODY.identity_dim)
    errors = {"alone": [], "with": []}
    for seen in sightings:
        view = Observations(seen.detected[None, None].astype(float), seen.world_to_camera[None], seen.intrinsics[None])
        for name, one in (("alone", view.alone()), ("with", view)):
            errors[name] += degrees(solve_frames(model, one, mean).rotations, seen.pose.head_rotation).tolist()
    assert np.median(errors["with"]) < 0.9 * np.median(errors["alone"])
    assert np.median(errors["with"]) < 4


def test_a_rolled_picture_gives_the_same_head_rolled(sightings):
    seen = sightings[0]
    centre = np.array([seen.intrinsics[0, 2], seen.intrinsics[1, 2]])
    roll = rotation_matrix(np.array([0, 0, 0.4]))
    turned = (seen.detected - centre) @ roll[:2, :2].T + centre
    (plain, rolled), _ = shipped_head_turn().rotations(np.stack([seen.detected, turned]).astype(float), seen.intrinsics)
    assert degrees(roll @ plain, rolled) < 0.5


def test_features_do_not_know_place_and_focal_length(sightings):
    seen = sightings[0]
    features, axes = normalised(seen.detected[None].astype(float), seen.intrinsics)
    assert np.allclose(axes[0] @ axes[0].T, np.eye(3)) and np.isclose(np.linalg.det(axes[0]), 1)
    twice = np.diag([2.0, 2, 1]) @ seen.intrinsics
    assert np.allclose(features, normalised(2 * seen.detected[None].astype(float), twice)[0], atol=1e-9)


def test_a_regression_learns_samples_and_reads_back(sightings, tmp_path, monkeypatch):
    monkeypatch.setattr(head_turn, "CENTRES", 20)
    monkeypatch.setattr(head_turn, "COMPONENTS", 20)
    features, vectors = samples(sightings)
    people = np.arange(len(features))
    fitted = head_turn.fit_head_turn(features, vectors, people)
    assert (
        np.linalg.norm(fitted.vectors(features) - vectors, axis=1).mean()
        < 0.5 * np.linalg.norm(vectors - vectors.mean(0), axis=1).mean()
    )
    fitted.save(tmp_path / "turn.npz")
    assert np.allclose(HeadTurn.load(tmp_path / "turn.npz").vectors(features), fitted.vectors(features), atol=1e-3)
    with pytest.raises(UserError, match="at least"):
        head_turn.fit_head_turn(features[:30], vectors[:30], people[:30])


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        HeadTurn.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "short.npz", mean=np.zeros(3))
    with pytest.raises(UserError, match="basis"):
        HeadTurn.load(tmp_path / "short.npz")
