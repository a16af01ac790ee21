"""A lens that nobody measured is told by the face before it."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import load_body, rotation_matrix
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, Observations, fit_identity, solve_frames
from fportrait.tracking.lens import intrinsics_across
from fportrait.tracking.lens_estimate import estimated_lens, fov_of
from fportrait.tracking.segments import front_camera

MODEL = LandmarkModel(load_body())
SIDE = 400
ASSUMED = intrinsics_across(40.0, SIDE, SIDE)


def turning(degrees: float, share: float = 0.4, frames: int = 6, lost: int = 0) -> ClipLandmarks:
    """What is seen of a head, `share` of the picture wide, that turns by 35 degrees either way before a lens."""
    rng, lens = np.random.default_rng(3), intrinsics_across(degrees, SIDE, SIDE)
    points = MODEL.at(rng.normal(0, 0.7, MODEL.body.identity_dim))
    depth = lens[0, 0] * 0.16 / (share * SIDE)
    yaws = np.radians(np.linspace(-35, 35, frames)) if frames > 1 else [0.3]
    facing = rotation_matrix(np.array([np.pi, 0.0, 0.0]))  # the camera's axes are down and away
    heads = [facing @ rotation_matrix(np.array([0.0, yaw, 0.0])) for yaw in yaws]
    seen = np.stack([points @ head.T + [0.03, 0.02, depth] for head in heads]) @ lens.T
    seen = seen[..., :2] / seen[..., 2:] + rng.normal(0, 0.004 * share * SIDE, (frames, 478, 2))
    confidence = np.ones(frames, np.float32)
    seen[:lost], confidence[:lost] = np.nan, 0
    return ClipLandmarks(seen.astype(np.float32), confidence, np.zeros((frames, 8, 8, 3), np.uint8))


def test_a_head_that_turns_tells_lenses_apart():
    found = [estimated_lens(MODEL, turning(degrees), ASSUMED) for degrees in (15.0, 30.0, 60.0)]
    long, middle, wide = map(fov_of, found)
    assert long < 20 and 1.2 * long < middle < wide / 1.5 and wide > 40
    assert all(np.array_equal(one[:2, 2], ASSUMED[:2, 2]) and one[0, 0] == one[1, 1] for one in found)


def test_frames_without_a_face_are_passed_over():
    seen = turning(30.0, lost=4)
    kept = ClipLandmarks(seen.landmarks[4:], seen.confidence[4:], seen.crops[4:])
    assert np.array_equal(estimated_lens(MODEL, seen, ASSUMED), estimated_lens(MODEL, kept, ASSUMED))


def test_a_face_that_fills_its_picture_was_not_a_hands_breadth_away():
    """40 degrees would put it there; where the picture says little, the distance decides."""
    found = estimated_lens(MODEL, turning(12.0, share=0.9, frames=1), ASSUMED)
    assert fov_of(found) < 25


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_a_small_face_before_a_long_lens_is_fitted_and_not_refused_by_opencv(share):
    lens = intrinsics_across(5.0, SIDE, SIDE)
    seen = turning(5.0, share, frames=1).landmarks[:, None].astype(float)
    faces = Observations(seen, front_camera(TrackConfig())[None], lens[None]).of_stranger()
    fit = solve_frames(MODEL, faces, fit_identity(MODEL, [faces]))
    assert np.isfinite(fit.rotations).all() and fit.errors[0] < 0.03
    camera = front_camera(TrackConfig())
    distance = float(camera[2, :3] @ fit.translations[0] + camera[2, 3])
    assert 0.7 < distance / (lens[0, 0] * 0.16 / (share * SIDE)) < 1.4
