"""Camera paths: still front, spin (an oval around the head) and spiral (a smooth curve through random seeds).

Distances are metres from the target, angles degrees; yaw 0 looks at the face from +z, positive yaw moves to +x.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from fportrait.atomic_io import write_json
from fportrait.camera.cameras import check_world_to_camera, look_at
from fportrait.errors import UserError, refuse_unknown_keys

ORIGIN = (0.0, 0.0, 0.0)


def orbit(yaw_degrees: np.ndarray, elevation_degrees: np.ndarray, distance: np.ndarray, target=ORIGIN) -> np.ndarray:
    """Cameras `T 4 4` at given angles and distances, looking at `target`."""
    yaw, elevation, distance = np.broadcast_arrays(np.radians(yaw_degrees), np.radians(elevation_degrees), distance)
    direction = np.stack(
        [np.sin(yaw) * np.cos(elevation), np.sin(elevation), np.cos(yaw) * np.cos(elevation)], -1
    )
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
    return orbit(yaw, elevation, (near + far) / 2 + (far - near) / 2 * np.cos(phase), target)


def spiral_seeds(
    rng: np.random.Generator, distance: tuple[float, float], yaw_degrees: float, elevation_degrees: float, seeds: int
) -> np.ndarray:
    """`seeds 3` random (yaw, elevation, distance), yaw in order so that the curve winds once."""
    yaw = np.sort(rng.uniform(-yaw_degrees, yaw_degrees, seeds))[:: rng.choice([-1, 1])]
    return np.stack(
        [yaw, rng.uniform(-elevation_degrees, elevation_degrees, seeds), rng.uniform(*distance, seeds)], 1
    )


def spiral_path(
    frames: int,
    rng: np.random.Generator,
    distance: tuple[float, float] = (0.25, 0.40),
    yaw_degrees: float = 90.0,
    elevation_degrees: float = 20.0,
    seeds: int = 4,
    target=ORIGIN,
) -> np.ndarray:
    """A smooth curve through random seed positions, `T 4 4`; it passes each seed, and stays in the given ranges."""
    points = spiral_seeds(rng, distance, yaw_degrees, elevation_degrees, seeds)
    curve = CubicSpline(np.linspace(0, 1, seeds), points, bc_type="natural")(np.linspace(0, 1, frames))
    limits = np.array([[-yaw_degrees, yaw_degrees], [-elevation_degrees, elevation_degrees], list(distance)])
    yaw, elevation, reach = np.clip(curve, limits[:, 0], limits[:, 1]).T
    return orbit(yaw, elevation, reach, target)


def save_camera_path(path: str | Path, world_to_camera: np.ndarray, intrinsics: np.ndarray | None = None) -> Path:
    """Write cameras `T 4 4` (and optional `3 3` intrinsics, of all frames) as a camera file."""
    frames = [{"world_to_camera": np.asarray(matrix).tolist()} for matrix in world_to_camera]
    if intrinsics is not None:
        for frame in frames:
            frame["intrinsics"] = np.asarray(intrinsics).tolist()
    return write_json(path, {"frames": frames})


def load_camera_path(path: str | Path, frames: int) -> np.ndarray:
    """The first `frames` cameras `T 4 4` of a camera file: `{"frames": [{"world_to_camera": 4x4}, ...]}`.

    Raises:
        UserError: no such file, not JSON, unknown keys (the nearest known one is named), non-rotations, too few frames.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no camera file {path}", "front, spin, spiral or a JSON file", "check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}, which is not JSON ({error})", "a camera file", "export it as JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames", []), list):
        raise UserError(f"another structure in {path}", '{"frames": [...]}', "wrap the list of cameras in 'frames'")
    refuse_unknown_keys(content, ("frames", "fps"), str(path))
    if "frames" not in content:
        raise UserError(f"no key 'frames' in {path}", '{"frames": [...]}', "add the list of cameras as 'frames'")
    if len(content["frames"]) < frames:
        raise UserError(
            f"{len(content['frames'])} cameras in {path}", f"at least {frames}, one per driving frame",
            "add cameras or shorten the driving video",
        )  # fmt: skip
    cameras = []
    for index, entry in enumerate(content["frames"][:frames]):
        where = f"{path}, frame {index}"
        if not isinstance(entry, dict):
            raise UserError(f"a {type(entry).__name__} at {where}", "a camera", 'write {"world_to_camera": 4x4}')
        refuse_unknown_keys(entry, ("world_to_camera", "intrinsics"), where)
        try:
            matrix = np.array(entry.get("world_to_camera"), np.float64)
        except (TypeError, ValueError):
            raise UserError(f"a camera that is no matrix at {where}", "4x4 numbers", "write four rows of four") from None
        cameras.append(check_world_to_camera(matrix, where))
    return np.stack(cameras)
