"""Studios as we want them: eleven cameras spread over the sphere, metres, y up, and the head at the origin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fportrait.camera.conventions import focus, upright_axes
from fportrait.capture.calibration import Camera, make_camera
from fportrait.errors import UserError


def focus_point(cameras: Mapping[str, Camera]) -> np.ndarray:
    """The point `3` nearest to all optical axes: where the head is; see `fportrait.camera.conventions.focus`.

    Raises:
        UserError: parallel axes, which meet nowhere.
    """
    point = focus(np.stack([camera.world_to_camera for camera in cameras.values()]))
    if point is None:
        raise UserError(
            f"{len(cameras)} cameras whose axes do not meet", "cameras around a head", "calibrate the studio again"
        )
    return point


def draw_cameras(cameras: Mapping[str, Camera], count: int, seed: int, identity: str) -> list[str]:
    """`count` camera names (all, when there are no more), spread over the sphere of directions around the head.

    The first is a draw from (seed, identity), so that over many people every camera is used; each further one is the
    camera whose nearest chosen neighbour is farthest away (farthest-point sampling), ties by name.

    Raises:
        UserError: fewer than one asked for.
    """
    if count < 1:
        raise UserError(f"{count} cameras to draw", "at least 1", "ask for more cameras")
    names = sorted(cameras)
    if count >= len(names):
        return names
    middle = focus_point(cameras)
    directions = np.stack([cameras[name].centre - middle for name in names])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    chosen = [int.from_bytes(digest[:8], "big") % len(names)]
    while len(chosen) < count:
        nearest = cosines[:, chosen].max(axis=1)
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
    return sorted(names[index] for index in chosen)


def to_head_world(
    cameras: Mapping[str, Camera], axes: np.ndarray | None = None, metres_per_unit: float = 1.0
) -> dict[str, Camera]:
    """The same cameras in metres, in a world with y up, +z towards the front cameras and the head at the origin.

    Args:
        axes: rotation `3 3` from the data set's world to ours, where it is known. Without it, up is the mean of what
            the cameras see as up, and front the mean side on which they stand; right for rigs that film from the front.

    Raises:
        UserError: the cameras contradict `axes`, or do not say where up and front are.
    """
    middle = focus_point(cameras)
    upward = np.mean([-camera.world_to_camera[1, :3] for camera in cameras.values()], axis=0)
    if axes is None:
        axes = _axes_from_cameras(cameras, middle, upward)
    elif (axes @ upward)[1] < 0:
        raise UserError(
            "cameras whose pictures are upside down under the data set's axes",
            "y of the world up",
            "check that this is the layout you named",
        )
    moved = {}
    for name, camera in cameras.items():
        matrix = np.eye(4)
        matrix[:3, :3] = camera.world_to_camera[:3, :3] @ axes.T
        matrix[:3, 3] = (camera.world_to_camera[:3, :3] @ middle + camera.world_to_camera[:3, 3]) * metres_per_unit
        moved[name] = make_camera(camera.width, camera.height, camera.intrinsics, matrix, f"camera {name}")
    return moved


def _axes_from_cameras(cameras: Mapping[str, Camera], middle: np.ndarray, upward: np.ndarray) -> np.ndarray:
    if np.linalg.norm(upward) < 0.5:
        raise UserError("cameras that disagree on up", "pictures with the head upright", "turn the videos upright")
    axes = upright_axes(np.stack([camera.world_to_camera for camera in cameras.values()]), middle)
    if axes is None:
        raise UserError(
            "cameras all around, none in front", "a rig that films from the front", "keep the front cameras"
        )
    return axes
