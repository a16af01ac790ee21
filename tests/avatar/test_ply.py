import numpy as np
import pytest
import torch

from fportrait.avatar.ply import SH_0, SH_1, export_ply, read_ply
from fportrait.body.model import Pose, rotation_matrix
from fportrait.camera.cameras import camera_centre
from fportrait.camera.paths import orbit


@pytest.fixture
def posed(truth):
    pose = Pose(np.eye(3), np.array([0.0, 0.1, 0.0]), rotation_matrix(np.array([0.0, 0.4, 0.0])))
    return truth.expression(torch.zeros(128)), truth.guide(pose)


def test_the_ply_holds_the_posed_gaussians_in_the_columns_of_the_original_viewer(truth, posed, tmp_path):
    columns = read_ply(export_ply(truth, tmp_path / "ada.ply", *posed))
    expected = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(45))]
    assert list(columns) == [*expected, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    parts, _ = truth.without_view(*posed)
    assert np.allclose(np.stack([columns[n] for n in "xyz"], 1), parts.means.detach().numpy())
    assert np.allclose(np.exp(columns["scale_1"]), parts.scales[:, 1].detach().numpy(), rtol=1e-4)
    assert np.allclose(1 / (1 + np.exp(-columns["opacity"])), parts.opacities.detach().numpy(), atol=1e-4)


def test_the_spherical_harmonics_give_the_colours_that_the_renderer_draws(truth, posed, tmp_path):
    with torch.no_grad():
        truth.view_colour.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
    try:
        columns = read_ply(export_ply(truth, tmp_path / "ada.ply", *posed))
        view = orbit(np.array([27.0]), np.array([10.0]), np.array([0.7]))[0]
        eye = torch.from_numpy(camera_centre(view)).float()
        parts = truth.gaussians(*posed, view)
        towards = torch.nn.functional.normalize(parts.means - eye, dim=1).detach().numpy()
        for channel in range(3):
            y, z, x = (columns[f"f_rest_{15 * channel + i}"] for i in range(3))
            drawn = 0.5 + SH_0 * columns[f"f_dc_{channel}"]
            drawn = drawn + SH_1 * (-y * towards[:, 1] + z * towards[:, 2] - x * towards[:, 0])
            assert np.allclose(drawn, parts.colours[:, channel].detach().numpy(), atol=1e-5)
    finally:
        with torch.no_grad():
            truth.view_colour.zero_()
