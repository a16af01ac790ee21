"""Camera paths: still front, spin (an oval around the head) and spiral (a smooth curve through random seeds).

Distances are metres from the target, angles degrees; yaw 0 looks at the face from +z, positive yaw moves to +x.
"""

from __future__ import annotations

import numpy as np

from fportrait.camera.cameras import look_at
from fportrait.camera.files import CameraFile, load_camera_path, read_camera_file, save_camera_path

__all__ = [
    "CameraFile",
    "front_path",
    "load_camera_path",
    "orbit",
    "read_camera_file",
    "save_camera_path",
    "spin_path",
    "spiral_path",
    "spiral_seeds",
]

ORIGIN = (0.0, 0.0, 0.0)


def orbit(yaw_degrees: np.ndarray, elevation_degrees: np.ndarray, distance: np.ndarray, target=ORIGIN) -> np.ndarray:
    """Cameras `T 4 4` at given angles and distances, looking at `target`."""
    yaw, elevation, distance = np.broadcast_arrays(np.radians(yaw_degrees), np.radians(elevation_degrees), distance)
    direction = np.stack([np.sin(yaw) * np.cos(elevation), np.sin(elevation), np.cos(yaw) * np.cos(elevation)], -1)
    target = np.broadcast_to(np.asarray(target, np.float64), direction.shape)
    eyes = target + direction * distance[:, None]
    return np.stack([look_at(eye, point) for eye, point in zip(eyes, target, strict=True)])


def front_path(frames: int, distance: float, target=ORIGIN) -> np.ndarray:
    """A camera that stands still in front of the face, `T 4 4`."""
    return np.repeat(orbit(np.zeros(1), np.zeros(1), np.full(1, distance), target), frames, axis=0)


def spin_path(
    frames: int,
    rng: np.random.Generator,
    distance: tuple[float, float] = (0.25, 0.40),
    elevation_degrees: float = 5.0,
    yaw_degrees: float = 90.0,
    target=ORIGIN,
) -> np.ndarray:
    """An oval around the head, `T 4 4`: yaw swings within ±`yaw_degrees`, distance and elevation follow an ellipse.

    Distance stays in the given range and elevation within ±`elevation_degrees`.
    """
    phase = np.linspace(0, 2 * np.pi, frames, endpoint=False) * rng.choice([-1, 1]) + rng.uniform(0, 2 * np.pi)
    near, far = np.sort(rng.uniform(*distance, 2))
    amplitude = yaw_degrees * rng.uniform(0.6, 1.0)
    tilt = elevation_degrees * rng.uniform(-1, 1)
    yaw = amplitude * np.sin(phase)
    elevation = tilt * np.cos(phase + rng.uniform(0, np.pi))
    reach = np.clip((near + far) / 2 + (far - near) / 2 * np.cos(phase), near, far)  # against rounding only
    return orbit(yaw, elevation, reach, target)


def spiral_seeds(
    rng: np.random.Generator, distance: tuple[float, float], yaw_degrees: float, elevation_degrees: float, seeds: int
) -> np.ndarray:
    """`seeds 3` random (yaw, elevation, distance), yaw in order so that the curve winds once."""
    yaw = np.sort(rng.uniform(-yaw_degrees, yaw_degrees, seeds))[:: rng.choice([-1, 1])]
    return np.stack([yaw, rng.uniform(-elevation_degrees, elevation_degrees, seeds), rng.uniform(*distance, seeds)], 1)


def spiral_path(
    frames: int,
    rng: np.random.Generator,
    distance: tuple[float, float] = (0.25, 0.40),
    yaw_degrees: float = 90.0,
    elevation_degrees: float = 20.0,
    seeds: int = 4,
    target=ORIGIN,
) -> np.ndarray:
    """A smooth curve through random seed positions, `T 4 4`, that stays in the given ranges.

    The first and the last frame are seeds, and from `seeds` frames upwards a frame lies on each seed. Monotone cubic
    pieces never leave the range of the two seeds around them, so nothing has to be clipped (which would put a corner
    into the path).
    """
    from scipy.interpolate import PchipInterpolator

    points = spiral_seeds(rng, distance, yaw_degrees, elevation_degrees, seeds)
    if seeds == 1 or frames == 1:
        yaw, elevation, reach = np.repeat(points[:1], frames, axis=0).T
        return orbit(yaw, elevation, reach, target)
    knots = np.linspace(0, frames - 1, seeds)
    if frames >= seeds:
        knots = np.rint(knots)
    yaw, elevation, reach = PchipInterpolator(knots, points)(np.arange(frames)).T
    return orbit(yaw, elevation, reach, target)
