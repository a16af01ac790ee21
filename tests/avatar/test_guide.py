import numpy as np
import pytest
import torch

from fportrait.avatar import guide
from fportrait.avatar.splat_oracle import rotation_matrices
from fportrait.errors import UserError

SQUARE = np.array([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def test_points_fall_in_proportion_to_area_times_density():
    triangle, barycentric, area = guide.sample_surface(SQUARE, FACES, np.array([3.0, 1.0]), 400)
    assert np.bincount(triangle).tolist() == pytest.approx([300, 100], abs=1)
    assert (barycentric >= 0).all() and np.allclose(barycentric.sum(axis=1), 1)
    assert area.sum() == pytest.approx(2.0, rel=0.02)


def test_no_points_are_refused():
    with pytest.raises(UserError, match="0 Gaussians"):
        guide.sample_surface(SQUARE, FACES, np.ones(2), 0)


def test_triangle_frames_are_rotations_with_the_normal_last():
    corners = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3, 3)))
    frames = guide.triangle_frames(corners)
    assert torch.allclose(frames @ frames.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    assert torch.allclose(torch.linalg.det(frames), torch.ones(50, dtype=torch.float64))
    edges = corners[:, 1:] - corners[:, :1]
    assert (edges @ frames[:, :, 2:]).abs().max() < 1e-12


def test_quaternions_and_matrices_agree_also_for_half_turns():
    quaternions = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 4)))
    quaternions[:4] = torch.eye(4, dtype=torch.float64)
    matrices = rotation_matrices(quaternions)
    again = guide.quaternions_from_matrices(matrices)
    assert torch.allclose(rotation_matrices(again), matrices, atol=1e-10)


def test_a_product_of_quaternions_is_the_product_of_their_matrices():
    rng = np.random.default_rng(2)
    left, right = (torch.from_numpy(rng.normal(size=(20, 4))) for _ in range(2))
    product = rotation_matrices(guide.multiply_quaternions(left, right))
    assert torch.allclose(product, rotation_matrices(left) @ rotation_matrices(right))
