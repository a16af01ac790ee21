"""Triangle rasterizer on the CPU: which triangle each pixel sees, and normal maps from it.

Pixels are sampled at their centres (+0.5), OpenCV cameras look along +z. Triangles behind the near plane are dropped.
`normal_map` can also draw by torch (for CUDA) or PyTorch3D; the three agree within 0.05 degrees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from fportrait.devices import pick_device
from fportrait.errors import UserError, nearest_name

NEAR = 0.01  # metres
TILE = 8  # pixels
EDGE = 1e-9  # of a triangle's height: a pixel centre on a shared edge belongs to both, so that rounding leaves no gap
BACKENDS = ("numba", "torch", "pytorch3d", "auto")


@numba.njit(cache=True, inline="always")
def _narrow(weight, step, inverse_step, low, high):
    """The part of `low..high` where a weight that grows by `step` a pixel is positive, and a pixel more."""
    if step > 0.0:
        low = max(low, -weight * inverse_step - 1.0)
    elif step < 0.0:
        high = min(high, -weight * inverse_step + 1.0)
    return low, high


@numba.njit(cache=True, nogil=True)
def _fill(pixels, depth_in, faces, ids, nearness):
    """Keep each pixel's nearest triangle; `nearness` is 1/depth, linear over the screen, and 0 where nothing is seen.

    Triangles that face the camera come first. Most of the others then lie behind what is drawn, and a look at the
    farthest depth of the tiles they touch is enough to pass them over.
    """
    height, width = ids.shape
    farthest = np.zeros(((height + TILE - 1) // TILE, (width + TILE - 1) // TILE))
    _fill_facing(pixels, depth_in, faces, ids, nearness, farthest, -1.0)  # rows run down: clockwise is front
    for i in range(farthest.shape[0]):
        for j in range(farthest.shape[1]):
            lowest = np.inf
            for y in range(i * TILE, min((i + 1) * TILE, height)):
                for x in range(j * TILE, min((j + 1) * TILE, width)):
                    lowest = min(lowest, nearness[y, x])
            farthest[i, j] = lowest
    _fill_facing(pixels, depth_in, faces, ids, nearness, farthest, 1.0)


@numba.njit(cache=True, nogil=True)
def _fill_facing(pixels, depth_in, faces, ids, nearness, farthest, side):
    """Draw the triangles that turn one side to the camera, unless the tiles they touch are all nearer.

    Weights and nearness are stepped along the rows, so a pixel costs a few additions; what only the winner needs is
    computed afterwards, once per pixel.
    """
    height, width = ids.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        za, zb, zc = depth_in[a], depth_in[b], depth_in[c]
        if za < NEAR or zb < NEAR or zc < NEAR:
            continue
        ax, ay = pixels[a, 0], pixels[a, 1]
        bx, by = pixels[b, 0], pixels[b, 1]
        cx, cy = pixels[c, 0], pixels[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area * side <= 0.0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        if x0 > x1 or y0 > y1:
            continue
        nearest = 1.0 / min(za, zb, zc)
        hidden = True
        for i in range(y0 // TILE, y1 // TILE + 1):
            for j in range(x0 // TILE, x1 // TILE + 1):
                if nearest > farthest[i, j]:
                    hidden = False
                    break
            if not hidden:
                break
        if hidden:
            continue
        inverse = 1.0 / area
        ic = 1.0 / zc
        ia, ib = 1.0 / za - ic, 1.0 / zb - ic
        # all three weights, by how much they grow per pixel along a row, and its inverse
        step_a, step_b = (by - cy) * inverse, (cy - ay) * inverse
        step_c, step_near = -step_a - step_b, step_a * ia + step_b * ib
        inverse_a = 1.0 / step_a if step_a != 0.0 else 0.0
        inverse_b = 1.0 / step_b if step_b != 0.0 else 0.0
        inverse_c = 1.0 / step_c if step_c != 0.0 else 0.0
        px, wide = x0 + 0.5, x1 - x0 > 6
        for y in range(y0, y1 + 1):
            py = y + 0.5
            wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
            wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
            low, high = 0.0, float(x1 - x0)
            if wide:
                low, high = _narrow(wa, step_a, inverse_a, low, high)
                low, high = _narrow(wb, step_b, inverse_b, low, high)
                low, high = _narrow(1.0 - wa - wb, step_c, inverse_c, low, high)
                if low > high:
                    continue
            first = int(low)
            wa += first * step_a
            wb += first * step_b
            near = ic + wa * ia + wb * ib
            for x in range(x0 + first, x0 + int(high) + 1):
                if near > nearness[y, x] and wa >= -EDGE and wb >= -EDGE and wa + wb <= 1.0 + EDGE:
                    nearness[y, x] = near
                    ids[y, x] = f
                wa += step_a
                wb += step_b
                near += step_near


@numba.njit(cache=True, inline="always")
def _weights(pixels, depth_in, a, b, c, px, py):
    """Perspective-correct weights of a triangle's corners at a place on the screen, and the depth there."""
    ax, ay = pixels[a, 0], pixels[a, 1]
    bx, by = pixels[b, 0], pixels[b, 1]
    cx, cy = pixels[c, 0], pixels[c, 1]
    inverse = 1.0 / ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
    wa = max(((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse, 0.0)
    wb = max(((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse, 0.0)
    qa, qb, qc = wa / depth_in[a], wb / depth_in[b], max(1.0 - wa - wb, 0.0) / depth_in[c]
    z = 1.0 / (qa + qb + qc)
    return qa * z, qb * z, qc * z, z


@numba.njit(cache=True, nogil=True)
def _resolve(pixels, depth_in, faces, ids, nearness, bary, depth):
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            if nearness[y, x] == 0.0:
                ids[y, x] = -1
                bary[y, x, 0] = bary[y, x, 1] = bary[y, x, 2] = 0.0
                depth[y, x] = np.inf
            else:
                f = ids[y, x]
                wa, wb, wc, z = _weights(pixels, depth_in, faces[f, 0], faces[f, 1], faces[f, 2], x + 0.5, y + 0.5)
                bary[y, x, 0], bary[y, x, 1], bary[y, x, 2], depth[y, x] = wa, wb, wc, z


def _project(vertices_cam: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `V 2` and depths `V`, float64; what lies before the near plane gets any pixel."""
    vertices = np.ascontiguousarray(vertices_cam, np.float64)
    if not np.isfinite(vertices).all():
        raise ValueError("vertices_cam holds non-finite values; check the fit or the pose that made them")
    depth = np.ascontiguousarray(vertices[:, 2])
    homogeneous = vertices @ np.asarray(intrinsics, np.float64).T
    return homogeneous[:, :2] / np.where(depth < NEAR, 1.0, depth)[:, None], depth


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
    pixels, depth_in = _project(vertices_cam, intrinsics)
    faces = np.ascontiguousarray(faces, np.int32)
    ids, nearness = np.empty((height, width), np.int32), np.zeros((height, width))
    bary, depth = np.empty((height, width, 3), np.float32), np.empty((height, width), np.float32)
    _fill(pixels, depth_in, faces, ids, nearness)
    _resolve(pixels, depth_in, faces, ids, nearness, bary, depth)
    return ids, bary, depth


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _shade_normals(pixels, depth_in, faces, ids, nearness, normals, factor, out):
    share = 1.0 / (factor * factor)
    corners, bent, last = np.empty((3, 2)), np.empty((3, 3)), -1
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            r = g = b = 0.0
            if factor == 1 and nearness[row, column] == 0.0:
                out[row, column, 0] = out[row, column, 1] = out[row, column, 2] = 0
                continue
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    if nearness[y, x] == 0.0:
                        continue
                    f = ids[y, x]
                    if f != last:  # neighbours mostly see the same triangle
                        last = f
                        for n in range(3):
                            v = faces[f, n]
                            corners[n, 0], corners[n, 1] = pixels[v, 0], pixels[v, 1]
                            bent[n, 0] = normals[v, 0] / depth_in[v]
                            bent[n, 1] = normals[v, 1] / depth_in[v]
                            bent[n, 2] = normals[v, 2] / depth_in[v]
                    # corners seen from the pixel; weights up to a common factor, which the normal's length takes out
                    ax, ay = corners[0, 0] - (x + 0.5), corners[0, 1] - (y + 0.5)
                    bx, by = corners[1, 0] - (x + 0.5), corners[1, 1] - (y + 0.5)
                    cx, cy = corners[2, 0] - (x + 0.5), corners[2, 1] - (y + 0.5)
                    wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
                    turned = 1.0 if wa + wb + wc > 0.0 else -1.0
                    nx = wa * bent[0, 0] + wb * bent[1, 0] + wc * bent[2, 0]
                    ny = wa * bent[0, 1] + wb * bent[1, 1] + wc * bent[2, 1]
                    nz = wa * bent[0, 2] + wb * bent[1, 2] + wc * bent[2, 2]
                    length = np.sqrt(nx * nx + ny * ny + nz * nz)
                    if length > 0:
                        scale = turned * 127.5 / length
                        r += nx * scale + 127.5
                        g += 127.5 - ny * scale
                        b += 127.5 - nz * scale
            out[row, column, 0] = np.uint8(r * share + 0.5)
            out[row, column, 1] = np.uint8(g * share + 0.5)
            out[row, column, 2] = np.uint8(b * share + 0.5)


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
    return draw(vertices, faces, weld, np.asarray(intrinsics, np.float64), height, width, supersample)


def _draw_normals(
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    weld: np.ndarray | None,
    intrinsics: np.ndarray,
    height: int,
    width: int,
    supersample: int,
) -> np.ndarray:
    pixels, depth_in = _project(vertices_cam, np.diag([supersample, supersample, 1.0]) @ intrinsics)
    faces = np.ascontiguousarray(faces, np.int32)
    large = (height * supersample, width * supersample)
    ids, nearness = np.empty(large, np.int32), np.zeros(large)
    _fill(pixels, depth_in, faces, ids, nearness)
    out = np.empty((height, width, 3), np.uint8)
    _shade_normals(pixels, depth_in, faces, ids, nearness, vertex_normals(vertices_cam, faces, weld), supersample, out)
    return out


def _backend(name: str) -> Callable[..., np.ndarray]:
    if name not in BACKENDS:
        near = nearest_name(name, BACKENDS) or "numba"
        raise UserError(f"the rasterizer '{name}'", f"one of {', '.join(BACKENDS)}", f"use backend='{near}'")
    if name == "numba":
        return _draw_normals
    from fportrait.body import rasterizer_torch

    if name == "auto":
        return rasterizer_torch.draw_normals if pick_device().type == "cuda" else _draw_normals
    if name == "torch":
        return rasterizer_torch.draw_normals
    from fportrait.body import rasterizer_pytorch3d

    return functools.partial(rasterizer_torch.draw_normals, rasterize_with=rasterizer_pytorch3d.rasterize)
