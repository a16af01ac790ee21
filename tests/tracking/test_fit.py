"""The body fit against projected truth: exact when landmarks are exact, robust when they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fportrait.body.model import rotation_matrix
from fportrait.tracking.fit import (
    Observations,
    bridge_gaps,
    fit_identity,
    smooth_rotations,
    solve_frames,
    to_pose,
)
from helpers.filmed import BODY, MODEL, degrees_between, filmed, person


def test_exact_landmarks_of_a_known_person_give_the_exact_pose():
    identity, poses, _ = person(0)
    actions = np.zeros((len(poses), 52))
    fit = solve_frames(MODEL, filmed(identity, poses, actions, [0]), identity, rounds=8)
    truth = np.stack([p.head_rotation for p in poses])
    assert degrees_between(fit.rotations, truth).max() < 0.2
    centres = np.stack([BODY.head_centre(identity, p) for p in poses])
    assert np.linalg.norm(fit.translations - centres, axis=1).max() < 1e-3
    assert fit.errors.max() < 0.003


def test_an_open_mouth_and_blinks_do_not_turn_the_head():
    identity, poses, actions = person(1)
    actions[:] = 0
    actions[:, BODY.action_names.index("jawOpen")] = np.linspace(0, 0.9, len(poses))
    actions[:, BODY.action_names.index("eyeBlinkLeft")] = 1
    fit = solve_frames(MODEL, filmed(identity, poses, actions, [0], noise=0.3), identity)
    assert np.median(degrees_between(fit.rotations, np.stack([p.head_rotation for p in poses]))) < 1
    jaw = fit.actions[:, BODY.action_names.index("jawOpen")]
    assert np.corrcoef(jaw, np.linspace(0, 0.9, len(poses)))[0, 1] > 0.9
    assert (fit.actions >= 0).all() and (fit.actions <= 1).all()


@pytest.mark.parametrize("seed", [2, 3])
def test_one_camera_finds_pose_and_size_of_a_stranger(seed):
    identity, poses, actions = person(seed)
    seen = filmed(identity, poses, actions, [0], noise=1.0)
    shape = fit_identity(MODEL, [seen])
    fit = solve_frames(MODEL, seen, shape)
    assert np.median(degrees_between(fit.rotations, np.stack([p.head_rotation for p in poses]))) < 4
    size = MODEL.at(shape)[MODEL.valid].std(0).mean() / MODEL.at(np.zeros_like(shape))[MODEL.valid].std(0).mean()
    assert abs(size - 1) < 0.06


def posed_faces(identity, rotations, translations) -> np.ndarray:
    """Landmarks `N L 3` of the expressionless face in the world."""
    return MODEL.at(identity)[MODEL.valid] @ rotations.transpose(0, 2, 1) + translations[:, None]


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_several_cameras_find_the_face_to_millimetres_with_its_own_shape(seed):
    identity, poses, actions = person(seed)
    seen = filmed(identity, poses, actions, [-40, 0, 40], noise=0.5)
    truth = posed_faces(
        identity,
        np.stack([p.head_rotation for p in poses]),
        np.stack([BODY.head_centre(identity, p) for p in poses]),
    )

    def error(shape):
        fit = solve_frames(MODEL, seen, shape)
        return np.linalg.norm(posed_faces(shape, fit.rotations, fit.translations) - truth, axis=-1).mean()

    fitted = error(fit_identity(MODEL, [seen]))
    assert fitted < 0.0015
    assert fitted < 0.7 * error(np.zeros_like(identity))  # than the average face in its best pose


def test_a_camera_without_the_face_is_left_out():
    identity, poses, actions = person(5)
    seen = filmed(identity, poses, actions, [0, 30])
    alone = solve_frames(
        MODEL, Observations(seen.landmarks[:, :1], seen.world_to_camera[:1], seen.intrinsics[:1]).alone(), identity
    )
    seen.landmarks[:, 1] = np.nan
    both = solve_frames(MODEL, seen, identity)
    assert np.allclose(alone.rotations, both.rotations, atol=1e-9)


def test_wild_landmarks_hardly_move_the_pose():
    identity, poses, actions = person(6)
    clean = filmed(identity, poses, actions, [0], noise=0.5)
    wild = Observations(clean.landmarks.copy(), clean.world_to_camera, clean.intrinsics).alone()
    wild.landmarks[:, :, MODEL.valid[::15]] += 80
    truth = np.stack([p.head_rotation for p in poses])
    error = degrees_between(solve_frames(MODEL, wild, identity, rounds=10).rotations, truth)
    assert np.median(error) < 2.5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-0.6, 0.6), min_size=3, max_size=3), st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=3))
def test_a_pose_puts_the_head_bone_where_the_fit_found_it(vector, place):
    rotation, translation = rotation_matrix(np.array(vector)), np.array(place)
    identity = np.linspace(-1, 1, BODY.identity_dim)
    pose = to_pose(BODY, identity, rotation, translation)
    assert np.allclose(BODY.head_centre(identity, pose), translation, atol=1e-6)
    assert np.allclose(pose.body_rotation, np.eye(3)) and np.allclose(pose.head_rotation, rotation)


def test_smoothed_rotations_stay_rotations_and_lose_jitter():
    rng = np.random.default_rng(0)
    steady = rotation_matrix(np.linspace([0, 0, 0], [0.1, 0.3, 0], 40))
    noisy = rotation_matrix(rng.normal(0, 0.02, (40, 3))) @ steady
    smoothed = smooth_rotations(noisy)
    assert np.allclose(smoothed @ smoothed.transpose(0, 2, 1), np.eye(3)) and np.allclose(np.linalg.det(smoothed), 1)
    assert degrees_between(smoothed, steady).mean() < 0.75 * degrees_between(noisy, steady).mean()


def test_gaps_are_bridged_in_a_straight_line_and_ends_are_held():
    bridged = bridge_gaps(np.array([1, 4]), np.array([[10.0], [40.0]]), 6)
    assert bridged[:, 0].tolist() == [10, 10, 20, 30, 40, 40]
