"""PyTorch3D's rasterizer behind the same contract, for machines that have it (its wheels do not match every torch)."""

from __future__ import annotations

import torch

from fportrait.body.rasterizer import NEAR
from fportrait.errors import UserError


def rasterize(
    vertices_cam: torch.Tensor, faces: torch.Tensor, intrinsics: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Z-buffer a mesh given in OpenCV camera space; see `fportrait.body.rasterizer_torch.rasterize`.

    PyTorch3D's screen has +x to the left, +y up, and ±1 at the ends of the shorter side; depth stays metres.

    Raises:
        UserError: PyTorch3D is not installed. ValueError: a vertex that is not finite.
    """
    try:
        from pytorch3d.renderer.mesh import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ImportError as error:
        raise UserError(
            f"the rasterizer 'pytorch3d' without PyTorch3D ({error})",
            "an installed pytorch3d",
            "build it from source for this torch (github.com/facebookresearch/pytorch3d), or use backend='torch'",
        ) from None
    if not bool(torch.isfinite(vertices_cam).all()):
        raise ValueError("vertices_cam holds non-finite values; check the fit or the pose that made them")
    device, z = vertices_cam.device, vertices_cam[:, 2]
    kept = (z[faces] >= NEAR).all(1).nonzero()[:, 0]
    if not len(kept):
        shape = (height, width)
        return (
            torch.full(shape, -1, dtype=torch.int64, device=device),
            torch.zeros(*shape, 3, dtype=torch.float64, device=device),
            torch.full(shape, torch.inf, dtype=torch.float64, device=device),
        )
    pixels = (vertices_cam @ intrinsics.T)[:, :2] / torch.where(z < NEAR, 1.0, z)[:, None]
    size = vertices_cam.new_tensor([width, height])
    screen = torch.cat([(size - 2 * pixels) / min(width, height), z[:, None]], 1).float()
    found, depth, weights, _ = rasterize_meshes(
        Meshes(verts=[screen], faces=[faces[kept]]),
        image_size=(height, width),
        blur_radius=0.0,
        faces_per_pixel=1,
        perspective_correct=True,
        clip_barycentric_coords=False,
        cull_backfaces=False,
    )
    found = found[0, :, :, 0].long()
    seen = found >= 0
    ids = torch.where(seen, kept[found.clamp(min=0)], -1)
    weights = torch.where(seen[..., None], weights[0, :, :, 0].double(), 0.0)
    return ids, weights, torch.where(seen, depth[0, :, :, 0].double(), torch.inf)
