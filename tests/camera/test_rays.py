import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fportrait.camera.cameras import intrinsics_from_fov, look_at, project
from fportrait.camera.paths import spin_path
from fportrait.camera.rays import fold_rays, plucker_rays
from fportrait.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)


def random_cameras(rng: np.random.Generator, count: int) -> np.ndarray:
    cameras = np.tile(np.eye(4), (count, 1, 1))
    cameras[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    cameras[:, :3, 3] = rng.normal(size=(count, 3))
    return cameras


@given(SEEDS)
@settings(deadline=None)
def test_directions_are_unit_and_moments_are_square_to_them(seed):
    rng = np.random.default_rng(seed)
    cameras = random_cameras(rng, 3)
    k = intrinsics_from_fov(rng.uniform(20, 100), 64, 48)
    rays = plucker_rays(cameras, k, random_cameras(rng, 1)[0], 48, 64).astype(np.float64)
    moment, direction = rays[:, :3], rays[:, 3:]
    assert rays.shape == (3, 6, 6, 8)
    assert np.allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-6)
    assert np.abs((moment * direction).sum(1)).max() < 1e-5


@given(SEEDS)
@settings(deadline=None)
def test_rays_do_not_change_with_the_choice_of_world(seed):
    rng = np.random.default_rng(seed)
    cameras, reference, world = random_cameras(rng, 4), random_cameras(rng, 1)[0], random_cameras(rng, 1)[0]
    k = intrinsics_from_fov(60, 64, 64)
    before = plucker_rays(cameras, k, reference, 64, 64)
    after = plucker_rays(cameras @ world, k, reference @ world, 64, 64)
    assert np.abs(before - after).max() < 1e-5


def test_the_reference_camera_itself_has_no_moment():
    cameras = spin_path(5, np.random.default_rng(0))
    rays = plucker_rays(cameras, intrinsics_from_fov(72, 64, 64), cameras[0], 64, 64)
    assert np.abs(rays[0, :3]).max() < 1e-15
    assert np.abs(rays[1:, :3]).max() > 0.01


@given(SEEDS)
@settings(deadline=None)
def test_a_point_along_a_ray_projects_to_the_centre_of_its_cell(seed):
    rng = np.random.default_rng(seed)
    camera = random_cameras(rng, 1)
    k = intrinsics_from_fov(55, 64, 64)
    rays = plucker_rays(camera, k, np.eye(4), 64, 64)[0].astype(np.float64)
    row, column = rng.integers(0, 8, 2)
    moment, direction = rays[:3, row, column], rays[3:, row, column]
    nearest = np.cross(direction, moment)  # the line's point nearest to the reference camera
    origin = -camera[0, :3, :3].T @ camera[0, :3, 3]
    along = (origin - nearest) @ direction
    assert np.linalg.norm(nearest + along * direction - origin) < 1e-5  # the camera lies on the line
    pixels, depth = project((nearest + (along + 0.7) * direction)[None], camera[0], k)
    assert depth[0] > 0
    assert np.allclose(pixels[0], [column * 8 + 4, row * 8 + 4], atol=1e-2)


def test_rays_at_latent_resolution_are_the_full_rays_at_the_cells_centres():
    camera = look_at([0.1, 0.05, 0.4], [0, 0, 0])[None]
    k = intrinsics_from_fov(72, 64, 64)
    small = plucker_rays(camera, k, np.eye(4), 64, 64, stride=8)
    full = plucker_rays(camera, k, np.eye(4), 64, 64, stride=1)
    middle = full[:, :, 3::8, 3::8] + full[:, :, 3::8, 4::8] + full[:, :, 4::8, 3::8] + full[:, :, 4::8, 4::8]
    assert np.abs(small - middle / 4).max() < 1e-3


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17, 81])
def test_folding_repeats_the_first_frame_four_times_then_takes_fours(frames):
    rays = np.arange(frames * 6 * 2 * 3, dtype=np.float32).reshape(frames, 6, 2, 3)
    folded = fold_rays(rays)
    order = [0, 0, 0, *range(frames)]
    assert folded.shape == (24, (frames + 3) // 4, 2, 3)
    for group in range(folded.shape[1]):
        for slot in range(4):
            assert np.array_equal(folded[6 * slot : 6 * slot + 6, group], rays[order[4 * group + slot]])


@pytest.mark.parametrize("frames", [1, 5, 81])
def test_folding_to_six_channels_keeps_every_fourth_frame(frames):
    rays = np.random.default_rng(0).normal(size=(frames, 6, 2, 3)).astype(np.float32)
    folded = fold_rays(rays, channels=6)
    assert folded.shape == (6, (frames + 3) // 4, 2, 3)
    assert np.array_equal(folded.transpose(1, 0, 2, 3), rays[::4])


def test_clip_lengths_that_do_not_fold_are_refused():
    for frames in (2, 4, 80):
        with pytest.raises(UserError, match="4k\\+1"):
            fold_rays(np.zeros((frames, 6, 2, 2), np.float32))
    with pytest.raises(UserError, match="24 or 6"):
        fold_rays(np.zeros((5, 6, 2, 2), np.float32), channels=12)
