"""gsplat itself needs CUDA; its projection written in torch runs anywhere, and must agree with ours."""

import inspect

import numpy as np
import pytest
import torch

from fportrait.avatar import splat, splat_numba
from fportrait.avatar.splat_gsplat import arguments_of
from fportrait.errors import UserError

gsplat = pytest.importorskip("gsplat", reason="the extra `gpu` is not installed")
H, W = 48, 64
INTRINSICS = np.array([[90.0, 0, 31.0], [0, 95.0, 25.0], [0, 0, 1]])


@pytest.fixture
def gaussians():
    rng = np.random.default_rng(0)
    return [
        torch.from_numpy(array)
        for array in (
            rng.normal(0, 0.1, (200, 3)),
            np.exp(rng.normal(np.log(0.01), 0.5, (200, 3))),
            rng.normal(size=(200, 4)),
            rng.uniform(0.1, 0.95, 200),
            rng.uniform(0, 1, (200, 3)),
        )
    ]


@pytest.fixture
def view():
    matrix = np.eye(4)
    angle = 0.3
    matrix[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    matrix[:3, 3] = 0.01, -0.02, 0.6
    return matrix


def test_our_projection_is_that_of_gsplat(gaussians, view):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    means, scales, rotations, *_ = gaussians
    covariances, _ = _quat_scale_to_covar_preci(rotations, scales, True, False, triu=False)
    radii, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, torch.from_numpy(view)[None], torch.from_numpy(INTRINSICS)[None], W, H, splat.LOW_PASS
    )
    table = splat_numba._project(*(tensor.numpy() for tensor in gaussians), view, INTRINSICS, H, W)
    seen = (table[:, splat_numba.REACH] > 0) & (radii[0] > 0).all(dim=1).numpy()
    assert seen.sum() > 100
    columns = [splat_numba.U, splat_numba.V, splat_numba.DEPTH, splat_numba.KA, splat_numba.KB, splat_numba.KC]
    theirs = torch.cat([centres[0], depths[0][:, None], conics[0]], dim=1).numpy()
    assert np.allclose(table[seen][:, columns], theirs[seen], rtol=1e-9, atol=1e-9)


def test_the_call_names_only_parameters_that_gsplat_has(gaussians, view):
    arguments = arguments_of(*gaussians, view, INTRINSICS, H, W)
    signature = inspect.signature(gsplat.rasterization)
    signature.bind(**arguments)
    assert arguments["means"].dtype == torch.float32
    assert arguments["viewmats"].shape == (1, 4, 4) and arguments["Ks"].shape == (1, 3, 3)
    assert signature.parameters["eps2d"].default == splat.LOW_PASS


def test_the_alpha_clamp_is_the_one_in_the_sources_of_gsplat():
    from pathlib import Path

    kernel = Path(gsplat.__file__).parent / "cuda/csrc/RasterizeToPixels3DGSFwd.cu"
    source = kernel.read_text(encoding="utf-8")
    assert f"min({splat.ALPHA_MAX}f, opac" in source
    header = (kernel.parent.parent / "include/Common.h").read_text(encoding="utf-8")
    assert "ALPHA_THRESHOLD (1.f / 255.f)" in header and splat.ALPHA_MIN == 1 / 255


def test_without_a_gpu_the_backend_says_what_to_do(gaussians, view):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="a CUDA device"):
        splat.render(*gaussians, view, INTRINSICS, H, W, backend="gsplat")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat rasterizes on CUDA only")
def test_gsplat_draws_what_the_oracle_draws(gaussians, view):
    exact = splat.render(*gaussians, view, INTRINSICS, H, W, backend="oracle")
    drawn = splat.render(*(tensor.cuda() for tensor in gaussians), view, INTRINSICS, H, W)
    for one, other in zip(drawn, exact, strict=True):
        assert (one.cpu().double() - other).abs().mean() < 1e-4


def test_an_unknown_backend_is_refused(gaussians, view):
    with pytest.raises(UserError, match="splatting backend 'cuda'"):
        splat.render(*gaussians, view, INTRINSICS, H, W, backend="cuda")
