"""Plücker ray maps: per pixel (o×d, d), in the reference camera's frame, built directly at latent resolution."""

from __future__ import annotations

import numpy as np

from fportrait.camera.cameras import camera_centre
from fportrait.errors import UserError


def plucker_rays(
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    reference_world_to_camera: np.ndarray,
    height: int,
    width: int,
    stride: int = 8,
) -> np.ndarray:
    """Rays `T 6 h w` float32 of cameras `T 4 4` seen from the reference camera, h = height / stride.

    Args:
        intrinsics: `3 3`, pixels of the full picture. height, width: of the full picture.

    The frame of camera i is `reference_world_to_camera @ inverse(world_to_camera_i)`, so a change of world changes
    nothing. Channels 0–2 are the moment o×d in metres, 3–5 the unit direction d.
    """
    world_to_camera = np.asarray(world_to_camera, np.float64)
    rows, cols = height // stride, width // stride
    k = np.asarray(intrinsics, np.float64)
    x = ((np.arange(cols) + 0.5) * stride - k[0, 2]) / k[0, 0]
    y = ((np.arange(rows) + 0.5) * stride - k[1, 2]) / k[1, 1]
    local = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.ones((rows, cols))), -1)
    local = local / np.linalg.norm(local, axis=-1, keepdims=True)

    reference = np.asarray(reference_world_to_camera, np.float64)
    relative = np.einsum("ij,tkj->tik", reference[:3, :3], world_to_camera[:, :3, :3])
    origin = camera_centre(world_to_camera) @ reference[:3, :3].T + reference[:3, 3]
    direction = np.einsum("tij,hwj->thwi", relative, local)
    moment = np.cross(np.broadcast_to(origin[:, None, None], direction.shape), direction)
    return np.concatenate([moment, direction], -1).transpose(0, 3, 1, 2).astype(np.float32)


def folded_rays(
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    reference_world_to_camera: np.ndarray,
    height: int,
    width: int,
    channels: int = 24,
) -> np.ndarray:
    """What the model reads of cameras: `plucker_rays` of `T 4 4`, folded (`fold_rays`) to `24|6 l h w` float32.

    Args:
        intrinsics: `3 3`, or `T 3 3` for a lens that zooms.

    Raises:
        UserError: T is not 4k+1, or `channels` is neither 24 nor 6.
    """
    intrinsics = np.asarray(intrinsics, np.float64)
    if intrinsics.ndim == 2:
        rays = plucker_rays(world_to_camera, intrinsics, reference_world_to_camera, height, width)
    else:
        lenses, which = np.unique(intrinsics, axis=0, return_inverse=True)
        rays = np.empty((len(world_to_camera), 6, height // 8, width // 8), np.float32)
        for index, lens in enumerate(lenses):  # one, unless the lens zooms
            rows = which.ravel() == index
            rays[rows] = plucker_rays(world_to_camera[rows], lens, reference_world_to_camera, height, width)
    return np.ascontiguousarray(fold_rays(rays, channels))


def fold_rays(rays: np.ndarray, channels: int = 24) -> np.ndarray:
    """Rays `T 6 h w` to `24 l h w` (the first frame four times, then groups of four) or `6 l h w` (every fourth frame).

    Raises:
        UserError: T is not 4k+1, or `channels` is neither 24 nor 6.
    """
    frames, _, height, width = rays.shape
    if frames % 4 != 1:
        raise UserError(f"{frames} ray maps", "T = 4k+1 frames", f"use {frames // 4 * 4 + 1} frames")
    if channels == 6:
        return rays[::4].transpose(1, 0, 2, 3)
    if channels != 24:
        raise UserError(f"ray_channels = {channels}", "24 or 6", "set ray_channels to one of them")
    padded = np.concatenate([rays[:1]] * 3 + [rays])
    return padded.reshape(-1, 24, height, width).transpose(1, 0, 2, 3)
