"""Gaussian splatting on a CUDA device through gsplat: the backend `gsplat` of `splat.render`."""

from __future__ import annotations

import numpy as np
import torch

from fportrait.avatar.splat import LOW_PASS, NEAR
from fportrait.errors import UserError


def draw(
    means: torch.Tensor,
    scales: torch.Tensor,
    rotations: torch.Tensor,
    opacities: torch.Tensor,
    colours: torch.Tensor,
    view: np.ndarray,
    camera: np.ndarray,
    height: int,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour (H, W, 3) over black, transmittance (H, W) and alpha-weighted depth (H, W), float32, on the GPU.

    Raises:
        UserError: gsplat is not installed, or the Gaussians are not on a CUDA device.
    """
    rasterization = rasterizer()
    if not means.is_cuda:
        raise UserError(
            f"Gaussians on {means.device} for the backend 'gsplat'",
            "a CUDA device",
            "move the avatar there, or set backend: numba",
        )
    arguments = arguments_of(means, scales, rotations, opacities, colours, view, camera, height, width)
    picture, alpha, _ = rasterization(**arguments)
    return picture[0, ..., :3], 1 - alpha[0, ..., 0], picture[0, ..., 3]


def arguments_of(means, scales, rotations, opacities, colours, view, camera, height, width) -> dict:
    """What `gsplat.rasterization` is called with, for one camera; depth comes as a fourth channel."""
    device = means.device
    return {
        "means": means.float(),
        "quats": rotations.float(),
        "scales": scales.float(),
        "opacities": opacities.float(),
        "colors": colours.float(),
        "viewmats": torch.from_numpy(view)[None].float().to(device),
        "Ks": torch.from_numpy(camera)[None].float().to(device),
        "width": width,
        "height": height,
        "near_plane": NEAR,
        "eps2d": LOW_PASS,
        "packed": False,
        "render_mode": "RGB+D",
    }


def rasterizer():
    """gsplat's `rasterization`, or a `UserError` that says how to get it."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise UserError(
            f"no gsplat ({error})", "gsplat for splatting on a GPU", "pip install 'fportrait[gpu]', or backend: numba"
        ) from error
    return rasterization
