import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fportrait.camera.cameras import camera_centre, intrinsics_from_fov, look_at, project
from fportrait.camera.paths import (
    front_path,
    load_camera_path,
    orbit,
    read_camera_file,
    save_camera_path,
    spin_path,
    spiral_path,
    spiral_seeds,
)
from fportrait.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)
TARGET = np.array([0.02, -0.03, 0.01])


def orbit_of(cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Yaw and elevation in degrees and distance of each camera, seen from the target."""
    offset = camera_centre(cameras) - TARGET
    distance = np.linalg.norm(offset, axis=1)
    yaw = np.degrees(np.arctan2(offset[:, 0], offset[:, 2]))
    return yaw, np.degrees(np.arcsin(offset[:, 1] / distance)), distance


def assert_looks_at_target(cameras: np.ndarray) -> None:
    k = intrinsics_from_fov(72, 100, 100)
    for matrix in cameras:
        assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
        pixels, depth = project(TARGET[None], matrix, k)
        assert np.allclose(pixels, 50, atol=1e-6)
        assert depth[0] > 0


@given(SEEDS, st.sampled_from([1, 5, 13, 49, 128]))
@settings(max_examples=200, deadline=None)
def test_spins_stay_within_distance_elevation_and_yaw(seed, frames):
    cameras = spin_path(frames, np.random.default_rng(seed), target=TARGET)
    yaw, elevation, distance = orbit_of(cameras)
    assert cameras.shape == (frames, 4, 4)
    assert distance.min() > 0.25 - 1e-9
    assert distance.max() < 0.40 + 1e-9
    assert np.abs(elevation).max() < 5 + 1e-6
    assert np.abs(yaw).max() < 90 + 1e-6
    assert_looks_at_target(cameras[:: max(1, frames // 4)])


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_spin_is_a_closed_curve_that_sees_both_sides(seed):
    yaw, _, distance = orbit_of(spin_path(64, np.random.default_rng(seed), target=TARGET))
    assert yaw.max() > 50
    assert yaw.min() < -50
    steps = np.abs(np.diff(yaw, append=yaw[:1]))
    assert steps.max() < 2 * np.pi * 90 / 64 + 0.1  # the step that closes it is no longer than the others
    assert np.abs(np.diff(distance, append=distance[:1])).max() < 0.01


@given(SEEDS, st.sampled_from([4, 5, 9, 13, 17, 49, 81, 128]))
@settings(max_examples=200, deadline=None)
def test_spirals_pass_their_four_seeds_and_stay_in_range(seed, frames):
    seeds = spiral_seeds(np.random.default_rng(seed), (0.25, 0.40), 90, 20, 4)
    cameras = spiral_path(frames, np.random.default_rng(seed), target=TARGET)
    yaw, elevation, distance = orbit_of(cameras)
    path = np.stack([yaw, elevation, distance * 100], 1)
    gaps = np.abs(path[None] - (seeds * [1, 1, 100])[:, None]).max(2)
    assert gaps.min(1).max() < 1e-6
    assert np.allclose(path[[0, -1]], (seeds * [1, 1, 100])[[0, -1]], atol=1e-6)
    assert np.abs(yaw).max() < 90 + 1e-6
    assert np.abs(elevation).max() < 20 + 1e-6
    assert distance.min() > 0.25 - 1e-9
    assert distance.max() < 0.40 + 1e-9
    assert_looks_at_target(cameras[:: max(1, frames // 4)])


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_spirals_have_no_corner(seed):
    """Halving the time step halves the change of velocity, as it does for a smooth curve only."""
    coarse, fine = (
        np.stack(orbit_of(spiral_path(frames, np.random.default_rng(seed), target=TARGET)), 1) / [90, 20, 0.1]
        for frames in (151, 301)
    )
    jolt_coarse = np.abs(np.diff(coarse, 2, axis=0)).max() * 150
    jolt_fine = np.abs(np.diff(fine, 2, axis=0)).max() * 300
    assert jolt_fine < 0.7 * jolt_coarse


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_shorter_than_the_seeds_still_get_a_path(frames):
    cameras = spiral_path(frames, np.random.default_rng(0), target=TARGET)
    assert cameras.shape == (frames, 4, 4)
    assert np.isfinite(cameras).all()


def test_a_path_depends_on_its_generator_alone():
    for path in (spin_path, spiral_path):
        first, again, other = (path(9, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)


def test_positive_yaw_moves_to_plus_x_and_positive_elevation_up():
    centre = camera_centre(orbit(np.array([30.0]), np.array([10.0]), np.array([0.5])))[0]
    assert centre[0] > 0
    assert centre[1] > 0
    assert centre[2] > 0


def test_the_front_path_stands_still_in_front_of_the_face():
    cameras = front_path(5, 0.6, TARGET)
    assert cameras.shape == (5, 4, 4)
    assert np.ptp(cameras, axis=0).max() == 0
    assert np.allclose(camera_centre(cameras[0]), TARGET + np.array([0, 0, 0.6]))


def test_a_saved_path_comes_back(tmp_path):
    cameras, k = spiral_path(9, np.random.default_rng(0)), intrinsics_from_fov(72, 64, 64)
    path = save_camera_path(tmp_path / "path.json", cameras, k)
    assert np.allclose(load_camera_path(path, 5), cameras[:5])
    content = read_camera_file(path, 9)
    assert np.allclose(content.intrinsics, np.tile(k, (9, 1, 1)))
    assert content.fps is None
    assert read_camera_file(save_camera_path(tmp_path / "bare.json", cameras), 9).intrinsics is None


CAMERA = {"world_to_camera": look_at([0, 0, 0.5], [0, 0, 0]).tolist()}
TWISTED = {"world_to_camera": np.diag([2.0, 1, 1, 1]).tolist()}


@pytest.mark.parametrize(
    ("content", "found", "fix"),
    [
        ({"frame": [CAMERA] * 3}, "'frame'", "'frames'"),
        ({"frames": [{"world_to_cam": CAMERA["world_to_camera"]}] * 3}, "'world_to_cam'", "'world_to_camera'"),
        ({"frames": [CAMERA, TWISTED, CAMERA]}, "non-rotation", "orthonormal"),
        ({"frames": [CAMERA, {}, CAMERA]}, "no key 'world_to_camera'", "add it"),
        ({"frames": [CAMERA] * 2}, "2 cameras", "add cameras or shorten"),
        ({"frames": [CAMERA, 7, CAMERA]}, "a int", "world_to_camera"),
        ({"frames": [{"world_to_camera": "eye"}] * 3}, "no matrix", "write"),
        ({"frames": [{"world_to_camera": [[1, 2], [3]]}] * 3}, "no matrix", "write"),
        ({"frames": {"0": CAMERA}}, "another structure", "wrap"),
        ([CAMERA] * 3, "another structure", "wrap"),
        ({}, "no key 'frames'", "add the list"),
        ({"fps": -3, "frames": [CAMERA] * 3}, "fps", "remove 'fps'"),
        ({"frames": [CAMERA | {"intrinsics": np.eye(3).tolist()}, CAMERA, CAMERA]}, "1 of 3", "every frame"),
        ({"frames": [CAMERA | {"intrinsics": [[0, 0, 1]]}] * 3}, "intrinsics of shape", "fx"),
    ],
)
def test_a_bad_camera_file_is_one_clear_message(tmp_path, content, found, fix):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_camera_path(path, 3)
    assert found in caught.value.found
    assert fix in caught.value.fix
    assert "cameras.json" in str(caught.value)


def test_files_that_are_no_json_or_do_not_exist_are_refused(tmp_path):
    path = tmp_path / "cameras.json"
    for data in (b"", b'{"frames": [', b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not JSON"):
            load_camera_path(path, 1)
    with pytest.raises(UserError, match="no camera file"):
        load_camera_path(tmp_path / "none.json", 1)
