"""Camera paths: still front, spin (an oval around the head) and spiral (a smooth curve through random seeds).

Distances are metres from the target, angles degrees; yaw 0 looks at the face from +z, positive yaw moves to +x.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from fportrait.atomic_io import write_json
from fportrait.camera.cameras import check_intrinsics, check_world_to_camera, look_at
from fportrait.errors import UserError, refuse_unknown_keys

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
    points = spiral_seeds(rng, distance, yaw_degrees, elevation_degrees, seeds)
    if seeds == 1 or frames == 1:
        yaw, elevation, reach = np.repeat(points[:1], frames, axis=0).T
        return orbit(yaw, elevation, reach, target)
    knots = np.linspace(0, frames - 1, seeds)
    if frames >= seeds:
        knots = np.rint(knots)
    yaw, elevation, reach = PchipInterpolator(knots, points)(np.arange(frames)).T
    return orbit(yaw, elevation, reach, target)


@dataclass(frozen=True)
class CameraFile:
    """What a camera file says: `world_to_camera` `T 4 4`; `intrinsics` `T 3 3` or None; `fps` or None."""

    world_to_camera: np.ndarray
    intrinsics: np.ndarray | None
    fps: float | None


def save_camera_path(path: str | Path, world_to_camera: np.ndarray, intrinsics: np.ndarray | None = None) -> Path:
    """Write cameras `T 4 4` (and optional `3 3` intrinsics, of all frames) as a camera file."""
    frames = [{"world_to_camera": np.asarray(matrix).tolist()} for matrix in world_to_camera]
    if intrinsics is not None:
        for frame in frames:
            frame["intrinsics"] = np.asarray(intrinsics).tolist()
    return write_json(path, {"frames": frames})


def load_camera_path(path: str | Path, frames: int) -> np.ndarray:
    """The first `frames` cameras `T 4 4` of a camera file; see `read_camera_file`, which also gives its intrinsics."""
    return read_camera_file(path, frames).world_to_camera


def read_camera_file(path: str | Path, frames: int) -> CameraFile:
    """The first `frames` cameras of `{"fps"?: 25, "frames": [{"world_to_camera": 4x4, "intrinsics"?: 3x3}, ...]}`.

    Raises:
        UserError: no such file, not JSON, unknown keys (the nearest known one is named), non-rotations, bad intrinsics,
            intrinsics on some frames only, too few frames.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no camera file {path}", "front, spin, spiral or a JSON file", "check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}, which is not JSON ({error})", "a camera file", "export it as JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames", []), list):
        raise UserError(f"another structure in {path}", '{"frames": [...]}', "wrap the list of cameras in 'frames'")
    refuse_unknown_keys(content, ("frames", "fps"), str(path))
    if "frames" not in content:
        raise UserError(f"no key 'frames' in {path}", '{"frames": [...]}', "add the list of cameras as 'frames'")
    fps = content.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e4):
        raise UserError(f"fps = {fps!r} in {path}", "frames per second, above 0", "mend or remove 'fps'")
    entries = content["frames"][:frames]
    if len(entries) < frames:
        raise UserError(
            f"{len(entries)} cameras in {path}",
            f"at least {frames}, one per driving frame",
            "add cameras or shorten the driving video",
        )
    cameras, intrinsics = [], []
    for index, entry in enumerate(entries):
        where = f"{path}, frame {index}"
        if not isinstance(entry, dict):
            raise UserError(f"a {type(entry).__name__} at {where}", "a camera", 'write {"world_to_camera": 4x4}')
        refuse_unknown_keys(entry, ("world_to_camera", "intrinsics"), where)
        if "world_to_camera" not in entry:
            raise UserError(f"no key 'world_to_camera' at {where}", "a 4x4 matrix per frame", "add it")
        cameras.append(check_world_to_camera(_numbers(entry["world_to_camera"], where), where))
        if "intrinsics" in entry:
            intrinsics.append(check_intrinsics(_numbers(entry["intrinsics"], where), where))
    if len(intrinsics) not in (0, len(cameras)):
        raise UserError(
            f"intrinsics on {len(intrinsics)} of {len(cameras)} frames in {path}",
            "all frames or none",
            "add them to every frame, or remove them",
        )
    return CameraFile(
        np.stack(cameras) if cameras else np.zeros((0, 4, 4)), np.stack(intrinsics) if intrinsics else None, fps
    )


def _numbers(value: object, where: str) -> np.ndarray:
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"a camera that is no matrix at {where}", "rows of numbers", "write every row out") from None
