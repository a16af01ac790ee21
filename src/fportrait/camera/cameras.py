"""Pinhole cameras in the OpenCV convention: x right, y down, z forward.

`world_to_camera` is `4 4` (metres), `intrinsics` is `3 3` in pixels, and pixel centres lie at +0.5.
"""

from __future__ import annotations

import numpy as np

from fportrait.errors import UserError


def intrinsics_from_fov(fov_degrees: float, width: int, height: int) -> np.ndarray:
    """`3 3` intrinsics whose horizontal field of view is `fov_degrees`; square pixels, centred principal point."""
    focal = width / 2 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def look_at(eye: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> np.ndarray:
    """`world_to_camera` `4 4` of a camera at `eye` that sees `target` in its centre with world `up` upwards.

    Raises:
        ValueError: `eye` is `target`, or the camera looks along `up`: no such camera is determined.
    """
    eye, target = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    forward = target - eye
    distance = np.linalg.norm(forward)
    if not distance > 1e-9:
        raise ValueError(f"the camera stands on its target {target.tolist()}; move one of them")
    forward /= distance
    right = np.cross(forward, np.asarray(up, np.float64))
    across = np.linalg.norm(right)
    if not across > 1e-9 * np.linalg.norm(up):
        raise ValueError("the camera looks along 'up'; give another 'up' direction")
    right /= across
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ eye
    return matrix


def camera_centre(world_to_camera: np.ndarray) -> np.ndarray:
    """Position of the camera in the world, `... 3`."""
    matrix = np.asarray(world_to_camera)
    return -np.einsum("...ji,...j->...i", matrix[..., :3, :3], matrix[..., :3, 3])


def angles_towards(rotation: np.ndarray, towards: np.ndarray) -> tuple[float, float]:
    """Yaw and pitch, degrees, of a direction `3` of the world in the axes of a head turned by `rotation` `3 3`."""
    x, y, z = rotation.T @ (towards / np.linalg.norm(towards))
    return float(np.degrees(np.arctan2(x, z))), float(np.degrees(np.arcsin(np.clip(y, -1, 1))))


def crop_intrinsics(intrinsics: np.ndarray, crop: tuple[float, float, float] | np.ndarray, out_size: int) -> np.ndarray:
    """Intrinsics of the square `crop` (`x0, y0, size`, pixels) resized to `out_size` pixels."""
    x0, y0, size = (float(value) for value in crop)
    return rectangle_intrinsics(intrinsics, (x0, y0, size, size), (out_size, out_size))


def rectangle_intrinsics(
    intrinsics: np.ndarray, crop: tuple[float, float, float, float], out: tuple[int, int]
) -> np.ndarray:
    """Intrinsics of the rectangle `crop` (`x0, y0, width, height`, pixels) resized to `out` (height, width)."""
    x0, y0, width, height = crop
    moved = np.array(intrinsics, np.float64)
    moved[0, 2] -= x0
    moved[1, 2] -= y0
    moved[0] *= out[1] / width
    moved[1] *= out[0] / height
    return moved


def scale_intrinsics(intrinsics: np.ndarray, factor: float) -> np.ndarray:
    """Intrinsics after the image is resized by `factor`."""
    scaled = np.array(intrinsics, np.float64)
    scaled[:2] *= factor
    return scaled


def in_camera(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """Points `N 3` of the world in the axes of a camera `4 4`."""
    return np.asarray(points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])


def project(points: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points `N 3` to pixels `N 2` and depth `N` (metres along the optical axis; negative when behind)."""
    matrix = np.asarray(world_to_camera, np.float64)
    local = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    homogeneous = local @ np.asarray(intrinsics, np.float64).T
    return homogeneous[:, :2] / homogeneous[:, 2:], local[:, 2]


def check_intrinsics(matrix: np.ndarray, where: str) -> np.ndarray:
    """The matrix as `3 3` float64.

    Raises:
        UserError: wrong shape, non-finite values, a focal length that is not positive, or a bad last row.
    """
    matrix = np.asarray(matrix, np.float64)
    expected, fix = "3x3 intrinsics in pixels", "give [fx 0 cx; 0 fy cy; 0 0 1] with positive fx and fy"
    if matrix.shape != (3, 3):
        raise UserError(f"intrinsics of shape {matrix.shape} in {where}", expected, fix)
    if not np.isfinite(matrix).all():
        raise UserError(f"non-finite intrinsics in {where}", expected, fix)
    if min(matrix[0, 0], matrix[1, 1]) <= 0 or np.abs(matrix[2] - np.array([0, 0, 1])).max() > 1e-6:
        raise UserError(f"the intrinsics {matrix.tolist()} in {where}", expected, fix)
    return matrix


def check_world_to_camera(matrix: np.ndarray, where: str, tolerance: float = 1e-3) -> np.ndarray:
    """The matrix as `4 4` float64.

    Raises:
        UserError: wrong shape, non-finite values, no rotation (scaled, sheared or mirrored), or a bad last row.
    """
    matrix = np.asarray(matrix, np.float64)
    expected = "a 4x4 world-to-camera matrix with a proper rotation"
    fix = "give [R t; 0 0 0 1] with R orthonormal and det R = +1, translation in metres"
    if matrix.shape != (4, 4):
        raise UserError(f"a matrix of shape {matrix.shape} in {where}", expected, fix)
    if not np.isfinite(matrix).all():
        raise UserError(f"non-finite values in the camera of {where}", expected, fix)
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    determinant = np.linalg.det(rotation)
    if error > tolerance or determinant < 0:
        kind = "a mirrored rotation" if error <= tolerance else f"a non-rotation (R·Rᵀ is off by {error:.3g})"
        raise UserError(f"{kind} in {where}", expected, fix)
    if np.abs(matrix[3] - np.array([0, 0, 0, 1])).max() > tolerance:
        turned = np.abs(matrix[:3, 3]).max() <= tolerance
        fix = "store the matrix row by row" + (": it looks transposed" if turned else "")
        raise UserError(f"the last row {matrix[3].tolist()} in {where}", "0 0 0 1", fix)
    return matrix
