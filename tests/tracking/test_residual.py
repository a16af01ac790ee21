"""What a portrait's face has beside the fitted body."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.camera.cameras import project
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.residual import MOST, landmark_offsets
from fportrait.tracking.segments import front_camera

BODY = load_body()
MODEL = LandmarkModel(BODY)
LENS = np.array([[900.0, 0, 256], [0, 900, 256], [0, 0, 1]])


def offsets_of(moved: np.ndarray, yaw: float = 0.0) -> np.ndarray:
    """Of a face whose landmarks lie `moved` `478 3` metres, in the head's axes, beside the body's."""
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    camera, shape = front_camera(TrackConfig()), np.zeros(BODY.identity_dim)
    world = (MODEL.at(shape) + moved) @ turn.T
    pixels, _ = project(world, camera, LENS)
    return landmark_offsets(BODY, MODEL, shape, None, turn, np.zeros(3), camera, LENS, pixels)


def at_landmarks(offsets: np.ndarray, which: slice | list[int]) -> np.ndarray:
    corners = BODY.faces[BODY.landmark_triangles]
    return np.einsum("lcx,lc->lx", offsets[corners], BODY.landmark_barycentric)[which]


def test_a_face_like_the_body_has_none():
    assert np.abs(offsets_of(np.zeros((478, 3)))).max() < 1e-9


@pytest.mark.parametrize("yaw", [0.0, 0.4])
def test_a_lower_chin_and_higher_lids_are_followed_where_they_are_and_nowhere_else(yaw):
    moved = np.zeros((478, 3))
    chin, lid = [18, 200, 199, 201, 421, 83, 313], [159, 158, 160]
    moved[chin, 1] = -0.005
    moved[lid, 1] = 0.002
    found = offsets_of(moved, yaw)
    assert at_landmarks(found, chin)[:, 1].mean() == pytest.approx(-0.005, abs=0.002)
    assert at_landmarks(found, lid)[:, 1].mean() > 0.0008
    assert np.abs(at_landmarks(found, [10])).max() < 5e-4  # the forehead
    behind = BODY.template[:, 2] < BODY.template[:, 2].mean() - 0.05
    assert np.abs(found[behind]).max() < 1e-4


def test_no_landmark_tears_the_face():
    wild = np.zeros((478, 3))
    wild[:, 0] = 0.2
    found = offsets_of(wild)
    assert np.abs(found).max() <= 1.5 * MOST


def test_a_face_that_was_not_found_has_none():
    nowhere = np.full((478, 2), np.nan)
    camera, shape = front_camera(TrackConfig()), np.zeros(BODY.identity_dim)
    found = landmark_offsets(BODY, MODEL, shape, None, np.eye(3), np.zeros(3), camera, LENS, nowhere)
    assert not found.any()
