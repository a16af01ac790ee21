"""What every rasterizer is measured against: each pixel's ray against each triangle, in float64."""

import numpy as np

from fportrait.body.model import Pose, load_body
from fportrait.body.rasterizer import NEAR
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit


def ray_traced(vertices: np.ndarray, faces: np.ndarray, k: np.ndarray, height: int, width: int):
    """Every pixel's ray against every triangle (Möller and Trumbore 1997), float64: ids, weights, depth."""
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones_like(x)], -1).reshape(-1, 3)
    ids, depth, weights = np.full(len(rays), -1), np.full(len(rays), np.inf), np.zeros((len(rays), 3))
    for index, (a, b, c) in enumerate(vertices[faces].astype(np.float64)):
        if min(a[2], b[2], c[2]) < NEAR:
            continue
        p = np.cross(rays, c - a)
        determinant = p @ (b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            v = (p @ -a) / determinant
            q = np.cross(-a, b - a)
            w = (rays @ q) / determinant
            z = ((c - a) @ q) / determinant
            hit = (v >= 0) & (w >= 0) & (v + w <= 1) & (z > 0) & (z < depth)
        ids[hit], depth[hit] = index, z[hit]
        weights[hit] = np.stack([1 - v - w, v, w], 1)[hit]
    return ids.reshape(height, width), weights.reshape(height, width, 3), depth.reshape(height, width)


def head_view(size: int, yaw: float = 20.0, person: int = 3):
    body = load_body()
    identity = np.random.default_rng(person).normal(size=body.identity_dim)
    vertices = body.vertices(identity, None, Pose.rest())
    w2c = orbit(np.array([yaw]), np.array([5.0]), np.array([0.5]))[0]
    return body, vertices, w2c, intrinsics_from_fov(35, size, size)
