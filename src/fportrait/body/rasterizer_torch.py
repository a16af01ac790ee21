"""The z-buffer as torch operations, for meshes and cameras that live on a GPU; runs on the CPU as well.

Every triangle is spread over the pixels of its bounding box, all pairs are tested at once, and each pixel keeps the
nearest hit (of equal ones the triangle with the lowest number, as the CPU rasterizer does). Float64 throughout, so
that pictures do not depend on the device.
"""

from __future__ import annotations

import numpy as np
import torch

from fportrait.body.rasterizer import NEAR
from fportrait.devices import pick_device

PAIRS_AT_ONCE = 1 << 22  # triangle-pixel pairs in memory at a time, about 0.7 GB


def rasterize(
    vertices_cam: torch.Tensor, faces: torch.Tensor, intrinsics: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Z-buffer a mesh given in OpenCV camera space; the contract of `fportrait.body.rasterizer.rasterize`.

    Args:
        vertices_cam: `V 3` float64, metres. faces: `F 3` int64. intrinsics: `3 3` float64, pixels. One device for all.

    Returns:
        ids `H W` int64 (−1 where empty), perspective-correct weights `H W 3`, depth `H W` (inf where empty); float64.

    Raises:
        ValueError: a vertex that is not finite.
    """
    if not bool(torch.isfinite(vertices_cam).all()):
        raise ValueError("vertices_cam holds non-finite values; check the fit or the pose that made them")
    device, empty = vertices_cam.device, height * width
    ids = torch.full((empty,), -1, dtype=torch.int64, device=device)
    weights = torch.zeros(empty, 3, dtype=torch.float64, device=device)
    depth = torch.full((empty,), torch.inf, dtype=torch.float64, device=device)

    z = vertices_cam[:, 2]
    homogeneous = vertices_cam @ intrinsics.T
    pixels = homogeneous[:, :2] / torch.where(z < NEAR, 1.0, z)[:, None]
    corners, corner_z = pixels[faces], z[faces]
    (ax, ay), (bx, by), (cx, cy) = (corners[:, i].unbind(1) for i in range(3))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    limit = torch.tensor([width, height], dtype=torch.float64, device=device)
    # clamped before the cast: a vertex just in front of the near plane may project beyond any integer
    low = torch.ceil(corners.amin(1) - 0.5).clamp(min=0).minimum(limit).long()
    high = torch.floor(corners.amax(1) - 0.5).clamp(min=-1).minimum(limit - 1).long()
    span = (high - low + 1).clamp(min=0)
    drawn = (corner_z >= NEAR).all(1) & (area != 0) & (span.prod(1) > 0)
    kept = drawn.nonzero()[:, 0]
    counts = span[kept].prod(1)
    for chunk in _chunks(counts, PAIRS_AT_ONCE):
        face = torch.repeat_interleave(kept[chunk], counts[chunk])
        start = torch.repeat_interleave(counts[chunk].cumsum(0) - counts[chunk], counts[chunk])
        step = torch.arange(len(face), device=device) - start
        column = low[face, 0] + step % span[face, 0]
        row = low[face, 1] + step // span[face, 0]
        px, py = column + 0.5, row + 0.5
        wa = ((bx[face] - px) * (cy[face] - py) - (by[face] - py) * (cx[face] - px)) / area[face]
        wb = ((cx[face] - px) * (ay[face] - py) - (cy[face] - py) * (ax[face] - px)) / area[face]
        wc = 1 - wa - wb
        hit = ((wa >= 0) & (wb >= 0) & (wc >= 0)).nonzero()[:, 0]
        face, pixel = face[hit], (row * width + column)[hit]
        over_depth = torch.stack([wa[hit], wb[hit], wc[hit]], 1) / corner_z[face]  # perspective-correct
        near = 1 / over_depth.sum(1)
        best = torch.scatter_reduce(depth, 0, pixel, near, "amin")
        won = (near == best[pixel]) & (near < depth[pixel])
        face, pixel, over_depth, near = face[won], pixel[won], over_depth[won], near[won]
        first = torch.full_like(ids, len(faces)).scatter_reduce_(0, pixel, face, "amin")
        won = face == first[pixel]
        pixel = pixel[won]
        ids[pixel], depth[pixel] = face[won], near[won]
        weights[pixel] = over_depth[won] * near[won][:, None]
    return ids.view(height, width), weights.view(height, width, 3), depth.view(height, width)


def _chunks(counts: torch.Tensor, max_pairs: int) -> list[slice]:
    """Consecutive triangles whose pairs together are at most `max_pairs` (a larger triangle goes alone)."""
    total, begin, chunks = 0, 0, []
    for index, count in enumerate(counts.tolist()):
        if total and total + count > max_pairs:
            chunks.append(slice(begin, index))
            total, begin = 0, index
        total += count
    return [*chunks, slice(begin, len(counts))] if len(counts) else []


def vertex_normals(vertices: torch.Tensor, faces: torch.Tensor, weld: torch.Tensor) -> torch.Tensor:
    """Area-weighted unit normals `V 3` of vertices `V 3`; `weld` `V` joins those split by a seam."""
    a, b, c = vertices[faces].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices).index_add_(0, weld[faces].reshape(-1), across.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(normals, dim=1, eps=1e-20)[weld]


def shade_normals(ids: torch.Tensor, weights: torch.Tensor, faces: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Colours `H W 3` in 0..255 of interpolated camera-space normals `V 3`, black where `ids` is −1."""
    out = torch.zeros(*ids.shape, 3, dtype=normals.dtype, device=ids.device)
    seen = ids >= 0
    mixed = (normals[faces[ids[seen]]] * weights[seen].to(normals.dtype)[..., None]).sum(1)
    length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
    mirrored = mixed * mixed.new_tensor([1.0, -1.0, -1.0])
    out[seen] = torch.where(length > 0, (mirrored / length.clamp(min=1e-30) * 0.5 + 0.5) * 255, 0.0)
    return out


def draw_normals(
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    weld: np.ndarray | None,
    intrinsics: np.ndarray,
    height: int,
    width: int,
    supersample: int = 1,
    device: torch.device | str | None = None,
    rasterize_with=rasterize,
) -> np.ndarray:
    """Normal colours `H W 3` uint8, as the CPU's shading gives them; `device` None asks the rule of `devices`."""
    device = pick_device(device)
    vertices = torch.as_tensor(np.asarray(vertices_cam, np.float64), device=device)
    triangles = torch.as_tensor(np.asarray(faces, np.int64), device=device)
    twins = np.arange(len(vertices)) if weld is None else weld
    k = torch.as_tensor(np.diag([supersample, supersample, 1.0]) @ intrinsics, device=device)
    with torch.no_grad():
        ids, weights, _ = rasterize_with(vertices, triangles, k, height * supersample, width * supersample)
        normals = vertex_normals(vertices, triangles, torch.as_tensor(np.asarray(twins, np.int64), device=device))
        colours = shade_normals(ids, weights, triangles, normals)
        colours = colours.view(height, supersample, width, supersample, 3).mean((1, 3))
        return (colours + 0.5).to(torch.uint8).cpu().numpy()
