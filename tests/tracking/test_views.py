"""The views' bias: what single cameras see otherwise is found and taken away, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import Pose, rotation_matrix
from fportrait.tracking.fit import Observations, solve_frames
from fportrait.tracking.views import view_bias, without_bias
from helpers.filmed import BODY, MODEL, degrees_between, filmed

YAWS = (-40, -15, 10, 35)
SHAPE = np.zeros(BODY.identity_dim)
TRUTH = np.stack([rotation_matrix(np.array([0.02 * t, 0.03 * t, 0.0])) for t in range(8)])


def bent(rng, cameras=YAWS) -> Observations:
    """A person whose landmarks each camera sees pushed along in a way of its own, by 5% of an eye distance."""
    poses = [Pose(np.eye(3), np.zeros(3), rotation) for rotation in TRUTH]
    seen = filmed(SHAPE, poses, np.zeros((len(poses), 52)), cameras, noise=0.1)
    pushes = np.concatenate([rng.normal(0, 4, (len(cameras), 1, 2)) * MODEL.points[None, :, 1:2] / 0.05], -1)
    pushed = seen.landmarks + pushes
    rough = np.stack([TRUTH] * len(cameras), 1)  # the regression's part: which view is which
    return Observations(pushed, seen.world_to_camera, seen.intrinsics, rough, np.full(pushed.shape[:2], 1e-6))


def half(seen: Observations, start: int) -> Observations:
    return Observations(
        seen.landmarks[:, start::2],
        seen.world_to_camera[start::2],
        seen.intrinsics[start::2],
        seen.turns[:, start::2],
        seen.turn_weights[:, start::2],
    )


def disagreement(seen: Observations) -> float:
    one, other = (solve_frames(MODEL, half(seen, start), SHAPE).rotations for start in (0, 1))
    return float(np.median(degrees_between(one, other)))


def test_halves_of_the_cameras_agree_on_frames_that_the_bias_was_not_measured_on():
    seen = bent(np.random.default_rng(1))
    bias = view_bias(MODEL, [seen.at(np.arange(0, 8, 2))], SHAPE)
    others = seen.at(np.arange(1, 8, 2))
    before, after = disagreement(others), disagreement(without_bias(others, bias))
    assert before > 0.5
    assert after < 0.35 * before


def test_the_pose_that_all_cameras_find_together_hardly_changes():
    seen = bent(np.random.default_rng(2))
    free = without_bias(seen, view_bias(MODEL, [seen], SHAPE))
    poses = [solve_frames(MODEL, one, SHAPE).rotations for one in (seen, free)]
    assert np.median(degrees_between(*poses)) < 0.3


def test_a_view_unlike_all_others_is_left_as_it_is():
    seen = bent(np.random.default_rng(3))
    bias = view_bias(MODEL, [seen], SHAPE)
    landmarks, turn = bias.at(rotation_matrix(np.array([[0.0, 2.5, 0.0]])))
    assert abs(landmarks).max() < 1e-9 and abs(turn).max() < 1e-9


def test_a_single_camera_has_no_bias_and_a_camera_that_saw_nobody_is_passed_over():
    seen = bent(np.random.default_rng(4))
    assert view_bias(MODEL, [half(half(seen, 0), 0)], SHAPE) is None
    assert without_bias(seen, None) is seen
    blind = Observations(seen.landmarks.copy(), seen.world_to_camera, seen.intrinsics, seen.turns, seen.turn_weights)
    blind.landmarks[:, 3] = np.nan
    blind.landmarks[:5, 2] = np.nan
    bias = view_bias(MODEL, [blind], SHAPE)
    assert len(bias.turns) == 8 + 8 + 3
    free = without_bias(blind, bias)
    assert np.array_equal(free.seen, blind.seen)
    assert np.isfinite(solve_frames(MODEL, free, SHAPE).rotations).all()


@pytest.mark.parametrize("index", [0, 3])
def test_a_fit_takes_the_regression_unless_told_to_go_by_the_landmarks_alone(index):
    from fportrait.tracking.fit import measured

    seen = bent(np.random.default_rng(5)).at(np.array([index]))
    plain = Observations(seen.landmarks, seen.world_to_camera, seen.intrinsics)
    assert measured(plain).turn_weights.min() > 10
    assert np.array_equal(
        solve_frames(MODEL, plain, SHAPE).rotations, solve_frames(MODEL, measured(plain), SHAPE).rotations
    )
    alone = solve_frames(MODEL, plain.alone(), SHAPE).rotations
    assert degrees_between(alone, solve_frames(MODEL, plain, SHAPE).rotations).max() > 1e-3
