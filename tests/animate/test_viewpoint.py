"""Named camera paths, key positions and camera files."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.viewpoint import (
    fit_intrinsics,
    key_path,
    parse_keys,
    square_intrinsics,
    training_fit,
    turn_degrees,
    viewpoint,
)
from fportrait.bundle import BundleSettings
from fportrait.camera.cameras import camera_centre, intrinsics_from_fov
from fportrait.camera.paths import front_path, save_camera_path
from fportrait.errors import UserError

SETTINGS = BundleSettings()


def test_a_camera_file_of_the_models_own_cameras_changes_nothing(tmp_path):
    path = save_camera_path(tmp_path / "c.json", front_path(5, 0.55), square_intrinsics(SETTINGS))
    view = viewpoint(str(path), 5, SETTINGS, 0)
    assert np.allclose(view.intrinsics, square_intrinsics(SETTINGS)) and view.intrinsics.shape == (5, 3, 3)


def test_the_focal_length_of_a_camera_file_is_honoured_whatever_the_size_of_its_picture(tmp_path):
    own = square_intrinsics(SETTINGS)
    for width, height in ((1920, 1080), (1080, 1920), (640, 640)):
        k = intrinsics_from_fov(40, width, height)
        fitted = fit_intrinsics(k, SETTINGS.square)
        assert fitted[0, 0] / SETTINGS.size == pytest.approx(k[0, 0] / min(width, height))
        assert fitted[0, 2] == fitted[1, 2] == SETTINGS.size / 2
    twice = own.copy()
    twice[0, 0] *= 2
    twice[1, 1] *= 2
    path = save_camera_path(tmp_path / "zoom.json", front_path(5, 0.55), twice)
    view = viewpoint(str(path), 5, SETTINGS, 0)
    assert view.intrinsics[0, 0, 0] == pytest.approx(2 * own[0, 0])
    assert "the picture is 50% as wide at the head as in training" in training_fit(view, SETTINGS)[0]


def test_the_path_passes_every_key_position_and_never_overshoots():
    keys = parse_keys("-40,0; 0,15,0.9; 40,0")
    path = key_path(keys, 9, 0.5)
    centres = camera_centre(path)
    yaw = np.degrees(np.arctan2(centres[:, 0], centres[:, 2]))
    assert yaw[[0, 4, 8]] == pytest.approx([-40, 0, 40]) and np.all(np.diff(yaw) > 0)
    assert np.linalg.norm(centres[4]) == pytest.approx(0.45)
    assert training_fit(viewpoint("-40,0; 40,0", 49, SETTINGS, 0), SETTINGS) == []
    assert "a frame" in training_fit(viewpoint("-40,0; 40,0", 9, SETTINGS, 0), SETTINGS)[0]


@pytest.mark.parametrize(
    "camera, said",
    [
        ("55,18", []),
        ("-70,0", ["70° aside"]),
        ("0,40", ["40° up or down"]),
        ("0,-40", ["40° up or down"]),
        ("-70,0; 70,40", ["aside", "a frame"]),
    ],
)
def test_a_path_that_leaves_what_was_trained_is_told_in_full(camera, said):
    notes = training_fit(viewpoint(camera, 9, SETTINGS, 0), SETTINGS)
    assert len(notes) == len(said) and all(words in note for words, note in zip(said, notes, strict=True))


@pytest.mark.parametrize("camera", ["spin", "spiral"])
@pytest.mark.parametrize("frames", [9, 33, 250])
def test_the_named_paths_turn_no_faster_than_the_model_was_trained(camera, frames):
    for seed in range(20):
        view = viewpoint(camera, frames, SETTINGS, seed)
        assert len(view.world_to_camera) == frames and training_fit(view, SETTINGS) == []
        assert turn_degrees(view.world_to_camera) <= SETTINGS.trained_turn


@pytest.mark.parametrize("camera", ["1", "1,2,3,4", "a,1", "200,0", "0,0,9", "10,x", "nan,1"])
def test_key_positions_that_are_no_angles_are_refused(camera):
    with pytest.raises(UserError):
        viewpoint(camera, 5, SETTINGS, 0)


def test_a_principal_point_outside_the_picture_is_refused():
    with pytest.raises(UserError, match="inside the picture"):
        fit_intrinsics(np.array([[50.0, 0, 0], [0, 50, 0], [0, 0, 1]]), SETTINGS.square)
