"""The portrait painted on the body: hair moves with it, what is far stays, and nothing moves where nothing did."""

import numpy as np

from fportrait.body.model import Pose, load_body
from fportrait.body.painting import spread, warp_portrait
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.world import HEAD_TARGET, orbit_camera


def test_what_lies_beside_moves_as_its_nearest_and_less_with_distance():
    seen = np.zeros((9, 40), bool)
    seen[:, :5] = True
    moved = np.where(seen[..., None], np.float32([3, -1]), np.float32(0))
    found = spread(moved, seen, 4.0)
    assert np.allclose(found[seen], [3, -1])
    across = found[4, :, 0]
    assert (np.diff(across[4:]) < 0).all() and across[5] > 2 and across[39] < 0.01


def test_in_its_own_pose_the_portrait_is_itself_also_in_a_picture_that_is_no_square():
    body = load_body()
    camera = orbit_camera(0, 0, 0.55, HEAD_TARGET)
    vertices = body.vertices(np.zeros(body.identity_dim), None, Pose(np.eye(3), np.zeros(3), np.eye(3)))
    placed = vertices @ camera[:3, :3].T + camera[:3, 3]
    lens = intrinsics_from_fov(30.0, 48, 64)
    smooth = np.broadcast_to(np.linspace(0, 200, 48)[None, :, None], (64, 48, 3)).astype(
        np.uint8
    )  # brighter rightwards
    same = warp_portrait(smooth, placed, lens, placed, lens, body.faces, 0.12, 2)
    assert same.shape == smooth.shape and np.abs(same.astype(int) - smooth).max() <= 2
    aside = placed + np.array([0.02, 0, 0])  # to the right, where it brings the darker left
    moved = warp_portrait(smooth, placed, lens, aside, lens, body.faces, 0.12, 2)
    assert (smooth.astype(int) - moved)[25:40, 20:30].min() > 5
