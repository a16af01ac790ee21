"""Is the head in the picture? If not, under which convention would it be?

Cameras come as world-to-camera or camera-to-world, for OpenCV or OpenGL, in metres or millimetres, in worlds with
another axis up or another origin. All of these are proper rotations, so nothing about a matrix alone is wrong; but a
head at the origin, 25 cm high, is then behind the camera, beside the picture or a dot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fportrait.camera.cameras import camera_centre
from fportrait.camera.files import OPENGL
from fportrait.pixels import Picture

HEAD = 0.25  # metres, height of a head
SMALLEST, LARGEST = 0.04, 6.0  # height of the head, of the picture's short side
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # from our world to one with z up

Cameras = np.ndarray


def _scaled(factor: float) -> Callable[[Cameras], Cameras]:
    def scale(cameras: Cameras) -> Cameras:
        moved = cameras.copy()
        moved[:, :3, 3] *= factor
        return moved

    return scale


def _after(first: Callable[[Cameras], Cameras], then: Callable[[Cameras], Cameras]) -> Callable[[Cameras], Cameras]:
    return lambda cameras: then(first(cameras))


AXES: tuple[tuple[str, str, Callable[[Cameras], Cameras]], ...] = (
    # what the file seems to hold, how to mend it, and what it is as our convention
    ("camera-to-world matrices", "invert every matrix", np.linalg.inv),
    ("cameras of OpenGL (y up, looking along -z)", "negate the second and third row", lambda m: OPENGL @ m),
    (
        "camera-to-world matrices of OpenGL (nerfstudio, Blender)",
        "negate their second and third column, then invert",
        lambda m: np.linalg.inv(m @ OPENGL),
    ),
    ("a world with y down", "negate the second and third column", lambda m: m @ OPENGL),
    ("a world with z up", "turn the world by 90 degrees about x", lambda m: m @ Z_UP),
    (
        "camera-to-world matrices of OpenGL in a world with z up",
        "negate their second and third column, invert, then turn the world by 90 degrees about x",
        lambda m: np.linalg.inv(m @ OPENGL) @ Z_UP,
    ),
)
UNITS = (
    ("millimetres", "divide the translations by 1000", 0.001),
    ("centimetres", "divide the translations by 100", 0.01),
)


@dataclass(frozen=True)
class Sight:
    """How a path sees the head: shares of its frames, 0 to 1. `whole` frames show it upright and not from behind."""

    seen: float
    whole: float
    distance: float  # metres, the mean
    ahead: float  # the share of frames in which it lies before the camera

    @property
    def fault(self) -> str:
        """Where the head is when it is not in the picture."""
        if self.ahead < 0.5:
            return "behind the camera"
        if self.distance > 5:
            return f"{self.distance:.3g} m away"
        return f"{self.distance * 100:.0f} cm away" if self.distance < 0.15 else "beside the picture"


def sight(world_to_camera: Cameras, intrinsics: np.ndarray, picture: Picture) -> Sight:
    """How cameras `T 4 4` see a head at the origin.

    Args:
        intrinsics: `T 3 3` in pixels of a picture.
    """
    place = world_to_camera[:, :3, 3]  # of the head, in the camera's axes
    ahead = place[:, 2] > 1e-6
    depth = np.where(ahead, place[:, 2], 1.0)
    x = intrinsics[:, 0, 0] * place[:, 0] / depth + intrinsics[:, 0, 2] - picture.width / 2
    y = intrinsics[:, 1, 1] * place[:, 1] / depth + intrinsics[:, 1, 2] - picture.height / 2
    height = intrinsics[:, 1, 1] * HEAD / depth
    near = (abs(x) < picture.width / 2 + height / 4) & (abs(y) < picture.height / 2 + height / 4)
    seen = ahead & near & (height > SMALLEST * picture.short) & (height < LARGEST * picture.short)
    upright = -world_to_camera[:, 1, 1] > 0.3
    front = camera_centre(world_to_camera)[:, 2] > 0
    distance = float(np.linalg.norm(place, axis=1).mean())
    return Sight(float(seen.mean()), float((seen & upright & front).mean()), distance, float(ahead.mean()))


def likely(world_to_camera: Cameras, intrinsics: np.ndarray, picture: Picture) -> tuple[str, str] | None:
    """Under which convention the head would be in every frame, upright and from the front: what it is, how to mend it.

    The plainest that fits is taken; None when none does.
    """
    plain = [(f"lengths in {unit}", fix, _scaled(factor)) for unit, fix, factor in UNITS]
    both = [
        (f"{name}, in {unit}", f"{mend}, and {fix}", _after(_scaled(factor), turn))
        for unit, fix, factor in UNITS
        for name, mend, turn in AXES
    ]
    trials = [*AXES, *plain, *both]
    for name, fix, read in trials:
        if sight(read(world_to_camera), intrinsics, picture).whole > 0.999:
            return name, fix
    centre = focus(world_to_camera)
    if centre is not None and sight(moved_to(world_to_camera, centre), intrinsics, picture).whole > 0.999:
        x, y, z = centre
        where = f"{x:.2f}, {y:.2f}, {z:.2f}"
        return f"a world whose origin is not the head (the cameras look at {where})", f"move the origin to {where}"
    return None


def focus(world_to_camera: Cameras) -> np.ndarray | None:
    """The point `3` nearest to all optical axes in the least-squares sense; None when they meet nowhere.

    Each axis with centre c and direction d asks for (I − d dᵀ)(x − c) = 0.
    """
    centres, directions = camera_centre(world_to_camera), world_to_camera[:, 2, :3]
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    total = across.sum(axis=0)
    if len(world_to_camera) < 2 or np.linalg.cond(total) > 1e4:
        return None
    return np.linalg.solve(total, np.einsum("nij,nj->i", across, centres))


def moved_to(world_to_camera: Cameras, origin: np.ndarray) -> Cameras:
    """The same cameras in a world whose origin is the point `3`."""
    moved = world_to_camera.copy()
    moved[:, :3, 3] += world_to_camera[:, :3, :3] @ origin
    return moved


def upright_axes(world_to_camera: Cameras, centre: np.ndarray) -> np.ndarray | None:
    """The rotation `3 3` to a world with y up and +z towards the cameras' mean side; None when they do not say.

    Up is the mean of what the cameras see as up.
    """
    upward = -world_to_camera[:, 1, :3].mean(0)
    if np.linalg.norm(upward) < 0.5:
        return None
    up = upward / np.linalg.norm(upward)
    sides = camera_centre(world_to_camera) - centre
    front = (sides / np.linalg.norm(sides, axis=1, keepdims=True)).mean(axis=0)
    front = front - (front @ up) * up
    if np.linalg.norm(front) < 0.2:
        return None
    front /= np.linalg.norm(front)
    return np.stack([np.cross(up, front), up, front])
