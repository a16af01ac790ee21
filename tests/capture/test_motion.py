import itertools

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.capture.motion import (
    HEAD_LIMITS_DEGREES,
    KINDS,
    MAX_HEAD_DEGREES_PER_SECOND,
    rotation_from_degrees,
    sample_motion,
    smooth_degrees,
)
from fportrait.errors import UserError

NAMES = list(load_body().action_names)


def angle(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


@pytest.mark.parametrize(
    ("frames", "seed", "fps"), [(1, 0, 25.0), (9, 1, 25.0), (120, 2, 15.0), (200, 3, 60.0), (80, 4, 30.0)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_motion_is_bounded_smooth_and_repeatable(kind, frames, seed, fps):
    motion = sample_motion(kind, frames, np.random.default_rng(seed), fps)
    again = sample_motion(kind, frames, np.random.default_rng(seed), fps)
    assert motion.actions.shape == (frames, 52) and len(motion.poses) == frames
    assert np.isfinite(motion.actions).all() and motion.actions.min() >= 0 and motion.actions.max() <= 1
    assert np.array_equal(motion.actions, again.actions)
    heads = [pose.head_rotation for pose in motion.poses]
    assert np.array_equal(heads, [pose.head_rotation for pose in again.poses])
    for head, pose in zip(heads, motion.poses, strict=True):
        assert np.allclose(head @ head.T, np.eye(3)) and np.linalg.det(head) > 0
        assert angle(head, np.eye(3)) <= HEAD_LIMITS_DEGREES.sum()
        assert np.abs(pose.body_translation).max() < 0.02 and angle(pose.body_rotation, np.eye(3)) < 6
    steps = [angle(a, b) for a, b in itertools.pairwise(heads)]
    assert not steps or max(steps) <= MAX_HEAD_DEGREES_PER_SECOND / fps + 1e-3


def test_still_holds_one_expression_and_pose():
    motion = sample_motion("still", 20, np.random.default_rng(1))
    assert np.ptp(motion.actions, axis=0).max() == 0
    assert all(np.array_equal(pose.head_rotation, motion.poses[0].head_rotation) for pose in motion.poses)


def test_a_minute_of_expressions_shows_every_important_action_at_full_strength():
    motion = sample_motion("expressions", 1500, np.random.default_rng(2))
    strongest = dict(zip(NAMES, motion.actions.max(axis=0), strict=True))
    for name in (
        "jawOpen",
        "mouthSmileLeft",
        "eyeBlinkRight",
        "mouthPucker",
        "browDownLeft",
        "browInnerUp",
        "cheekPuff",
    ):
        assert strongest[name] > 0.9, name
    assert strongest["noseSneerLeft"] > 0.7 and strongest["mouthFunnel"] > 0.7 and strongest["eyeSquintLeft"] > 0.6
    # some mouth shape is strong more than half of the time
    mouth = [i for i, name in enumerate(NAMES) if name.startswith(("mouth", "jaw"))]
    assert (motion.actions[:, mouth].max(axis=1) > 0.6).mean() > 0.5
    # mostly symmetric, sometimes not
    difference = np.abs(
        motion.actions[:, NAMES.index("mouthSmileLeft")] - motion.actions[:, NAMES.index("mouthSmileRight")]
    )
    assert np.median(difference) < 0.05 < difference.max()


def test_rotation_turns_the_head_under_a_calm_face_and_expressions_do_the_reverse():
    turning = sample_motion("rotation", 500, np.random.default_rng(3))
    acting = sample_motion("expressions", 500, np.random.default_rng(3))
    jaw = NAMES.index("jawOpen")
    assert turning.actions[:, jaw].max() == 0 and acting.actions[:, jaw].max() > 0.5
    spread = [max(angle(p.head_rotation, np.eye(3)) for p in m.poses) for m in (turning, acting)]
    assert spread[0] > 20 and spread[1] < 20


def test_speech_opens_the_jaw_at_the_rate_of_syllables():
    motion = sample_motion("speech", 750, np.random.default_rng(4))
    mouth = motion.actions[:, [i for i, n in enumerate(NAMES) if n.startswith(("mouth", "jaw"))]]
    speed = np.abs(np.diff(mouth, axis=0)).sum(axis=1)
    spectrum = np.abs(np.fft.rfft(mouth - mouth.mean(axis=0), axis=0)).sum(axis=1)
    rates = np.fft.rfftfreq(750, 1 / 25)
    assert speed.mean() > 0.1
    assert spectrum[(rates > 0.8) & (rates < 6)].sum() > 0.5 * spectrum[1:].sum()


def test_eyes_look_together_and_shut_fully():
    motion = sample_motion("mixed", 1000, np.random.default_rng(5))
    column = {name: motion.actions[:, i] for i, name in enumerate(NAMES)}
    assert np.array_equal(column["eyeLookOutLeft"], column["eyeLookInRight"]) and column["eyeLookOutLeft"].max() > 0.5
    both = np.minimum(column["eyeBlinkLeft"], column["eyeBlinkRight"])
    assert 3 < ((both[1:] > 0.9) & (both[:-1] <= 0.9)).sum() < 80


def test_positive_yaw_turns_towards_the_persons_left_and_positive_pitch_looks_down():
    forward = np.array([0, 0, 1.0])
    assert (rotation_from_degrees(20, 0, 0) @ forward)[0] > 0.3
    assert (rotation_from_degrees(0, 20, 0) @ forward)[1] < -0.3


def test_smooth_angles_keep_their_limits_and_speed():
    for seed in range(20):
        curve = smooth_degrees(200, 25.0, np.random.default_rng(seed), np.array([60.0, 20.0]), 69.0)
        assert (np.abs(curve) <= [60.0, 20.0]).all()
        assert np.abs(np.diff(curve, axis=0)).sum(axis=1).max() <= 69.0 / 25 + 1e-6


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="rotation"):
        sample_motion("rotations", 5, np.random.default_rng(0))
    with pytest.raises(UserError, match="0 frames"):
        sample_motion("still", 0, np.random.default_rng(0))
