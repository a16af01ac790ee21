"""Triangle rasterizer on the CPU: which triangle each pixel sees, and normal maps from it.

Pixels are sampled at their centres (+0.5), OpenCV cameras look along +z. Triangles behind the near plane are dropped.
`normal_map` can also draw by torch (for CUDA) or PyTorch3D; the three agree within 0.05 degrees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from fportrait.errors import UserError, nearest_name

NEAR = 0.01  # metres
BACKENDS = ("numba", "torch", "pytorch3d", "auto")


@numba.njit(cache=True)
def _crossing(x0, y0, x1, y1, y, low, high):
    """Widen the span `low..high` by where the edge crosses the row at height `y`, if it does."""
    if y < min(y0, y1) or y > max(y0, y1):
        return low, high
    if y0 == y1:
        return min(low, x0, x1), max(high, x0, x1)
    x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return min(low, x), max(high, x)


@numba.njit(cache=True)
def _fill(pixels, depth_in, faces, height, width, ids, bary, depth):
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        za, zb, zc = depth_in[a], depth_in[b], depth_in[c]
        if za < NEAR or zb < NEAR or zc < NEAR:
            continue
        ax, ay = pixels[a, 0], pixels[a, 1]
        bx, by = pixels[b, 0], pixels[b, 1]
        cx, cy = pixels[c, 0], pixels[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        inverse = 1.0 / area
        ia, ib, ic = 1.0 / za, 1.0 / zb, 1.0 / zc
        for y in range(y0, y1 + 1):
            py = y + 0.5
            # Only pixels between the edges are tried, a pixel more on each side: the tests below decide.
            low, high = np.inf, -np.inf
            low, high = _crossing(ax, ay, bx, by, py, low, high)
            low, high = _crossing(bx, by, cx, cy, py, low, high)
            low, high = _crossing(cx, cy, ax, ay, py, low, high)
            if low > high:
                continue
            first = x0 if low < x0 else int(low - 0.5)
            last = x1 if high > x1 else int(high + 0.5)
            day, dby, dcy = ay - py, by - py, cy - py
            for x in range(max(x0, first), min(x1, last) + 1):
                px = x + 0.5
                wa = ((bx - px) * dcy - dby * (cx - px)) * inverse
                if wa < 0.0:
                    continue
                wb = ((cx - px) * day - dcy * (ax - px)) * inverse
                wc = 1.0 - wa - wb
                if wb < 0.0 or wc < 0.0:
                    continue
                # Perspective-correct: screen-space weights over depth.
                qa, qb, qc = wa * ia, wb * ib, wc * ic
                z = 1.0 / (qa + qb + qc)
                if z < depth[y, x]:
                    depth[y, x] = z
                    ids[y, x] = f
                    bary[y, x, 0] = qa * z
                    bary[y, x, 1] = qb * z
                    bary[y, x, 2] = qc * z


def rasterize(
    vertices_cam: np.ndarray, faces: np.ndarray, intrinsics: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z-buffer a mesh given in camera space.

    Args:
        vertices_cam: `V 3`, metres, OpenCV camera space. faces: `F 3`. intrinsics: `3 3`, pixels.

    Returns:
        triangle ids `H W` int32 (−1 where empty), perspective-correct barycentric weights `H W 3` float32, and
        depth `H W` float32 (inf where empty). Both sides of a triangle are drawn.

    Raises:
        ValueError: a vertex that is not finite (a diverged fit), which would otherwise draw nothing or anything.
    """
    vertices = np.ascontiguousarray(vertices_cam, np.float64)
    if not np.isfinite(vertices).all():
        raise ValueError("vertices_cam holds non-finite values; check the fit or the pose that made them")
    depth_in = vertices[:, 2]
    safe = np.where(depth_in < NEAR, 1.0, depth_in)
    homogeneous = vertices @ np.asarray(intrinsics, np.float64).T
    pixels = homogeneous[:, :2] / safe[:, None]
    ids = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float64)
    _fill(pixels, depth_in, np.ascontiguousarray(faces, np.int32), height, width, ids, bary, depth)
    return ids, bary, depth.astype(np.float32)


@numba.njit(cache=True)
def _accumulate_normals(vertices, faces, weld, normals):
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[weld[corner], 0] += nx
            normals[weld[corner], 1] += ny
            normals[weld[corner], 2] += nz


@functools.lru_cache(maxsize=8)
def _identity_weld(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray, weld: np.ndarray | None = None) -> np.ndarray:
    """Area-weighted unit normals `V 3` float32. `weld` joins vertices split by a seam (see `BodyModel.weld`)."""
    vertices = np.ascontiguousarray(vertices, np.float64)
    weld = _identity_weld(len(vertices)) if weld is None else weld
    normals = np.zeros((len(vertices), 3))
    _accumulate_normals(vertices, np.ascontiguousarray(faces, np.int32), weld, normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    return normals[weld].astype(np.float32)


@numba.njit(cache=True)
def _shade_normals(ids, bary, faces, normals, out):
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            f = ids[y, x]
            if f < 0:
                continue
            n0 = n1 = n2 = 0.0
            for k in range(3):
                v, w = faces[f, k], bary[y, x, k]
                n0 += w * normals[v, 0]
                n1 += w * normals[v, 1]
                n2 += w * normals[v, 2]
            length = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
            if length > 0:
                out[y, x, 0] = (n0 / length * 0.5 + 0.5) * 255
                out[y, x, 1] = (-n1 / length * 0.5 + 0.5) * 255
                out[y, x, 2] = (-n2 / length * 0.5 + 0.5) * 255


def normal_map(
    vertices_world: np.ndarray,
    faces: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    height: int,
    width: int,
    supersample: int = 1,
    weld: np.ndarray | None = None,
    backend: str = "numba",
) -> np.ndarray:
    """Camera-space normal map `H W 3` uint8: (nx, −ny, −nz)/2 + 1/2, black background.

    Normals are interpolated from the vertices, facing the camera or not as the mesh says.

    Args:
        supersample: samples averaged per pixel and side.
        backend: `numba` (CPU), `torch` (CUDA where there is one), `pytorch3d`, or `auto`: torch with CUDA, else numba.

    Raises:
        UserError: an unknown backend, or PyTorch3D asked for and not installed.
        ValueError: a vertex that is not finite.
    """
    draw = _backend(backend)
    rotation, translation = np.asarray(world_to_camera)[:3, :3], np.asarray(world_to_camera)[:3, 3]
    vertices = np.asarray(vertices_world, np.float64) @ rotation.T + translation
    k = np.asarray(intrinsics, np.float64).copy()
    k[:2] *= supersample
    high, wide = height * supersample, width * supersample
    out = draw(vertices, faces, weld, k, high, wide)
    if supersample > 1:
        out = out.reshape(height, supersample, width, supersample, 3).mean((1, 3))
    return np.rint(out).astype(np.uint8)


def _draw_normals(
    vertices_cam: np.ndarray, faces: np.ndarray, weld: np.ndarray | None, intrinsics: np.ndarray, high: int, wide: int
) -> np.ndarray:
    ids, bary, _ = rasterize(vertices_cam, faces, intrinsics, high, wide)
    out = np.zeros((high, wide, 3), np.float32)
    normals = vertex_normals(vertices_cam, faces, weld)
    _shade_normals(ids, bary, np.ascontiguousarray(faces, np.int32), normals, out)
    return out


def _backend(name: str) -> Callable[..., np.ndarray]:
    if name not in BACKENDS:
        near = nearest_name(name, BACKENDS) or "numba"
        raise UserError(f"the rasterizer '{name}'", f"one of {', '.join(BACKENDS)}", f"use backend='{near}'")
    if name == "numba":
        return _draw_normals
    from fportrait.body import rasterizer_torch

    if name == "auto":
        return rasterizer_torch.draw_normals if rasterizer_torch.default_device().type == "cuda" else _draw_normals
    if name == "torch":
        return rasterizer_torch.draw_normals
    from fportrait.body import rasterizer_pytorch3d

    return functools.partial(rasterizer_torch.draw_normals, rasterize_with=rasterizer_pytorch3d.rasterize)
