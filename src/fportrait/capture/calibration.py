"""Small files that users and studios write beside videos, and the names they give: checked, refused with reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import write_json
from fportrait.camera.cameras import check_intrinsics, check_world_to_camera, project
from fportrait.camera.conventions import AXES, focus
from fportrait.errors import UserError, refuse_unknown_keys

MAX_METRES_FROM_ORIGIN = 50.0  # no studio is larger; millimetres always exceed it
MIN_METRES_FROM_ORIGIN = 0.05  # of the farthest camera; kilometres and normalised scenes stay below it
METRES_ONLY: Mapping[str, float] = {"m": 1.0}
MAX_JSON_BYTES = 64 * 2**20
MAX_NAME = 100  # characters; identity, segment and camera together stay within what file systems allow
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


@dataclass(frozen=True)
class Camera:
    """Size and `intrinsics` `3 3` in pixels, `world_to_camera` `4 4` in metres (OpenCV)."""

    width: int
    height: int
    intrinsics: np.ndarray
    world_to_camera: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Where it stands in the world, `3`."""
        return -self.world_to_camera[:3, :3].T @ self.world_to_camera[:3, 3]


def check_name(name: str, what: str) -> str:
    """`name` if it can be a folder's or file's name on every system and part of a clip's name.

    Raises:
        UserError: separators, control or invisible characters, a leading dot or dash, reserved or overlong names.
    """
    fix = "use letters, digits, and . _ + - between them"
    if not name or len(name) > MAX_NAME:
        raise UserError(f"{what} name of {len(name)} characters", f"1 to {MAX_NAME}", "choose a shorter name")
    if not re.fullmatch(r"\w(?:[\w.+ -]*[\w+)-])?", name.replace("(", "_").replace(")", "_")):
        raise UserError(f"{what} name {name!r}", "a plain file name", fix)
    if name.split(".")[0].lower() in RESERVED_NAMES:
        raise UserError(f"{what} name {name!r}", "a name that no system reserves", fix)
    return name


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON file whose top is an object.

    Raises:
        UserError: missing, unreadable, too large, not UTF-8, not JSON (or nested without end), or another top.
    """
    path = Path(path)
    fix = f"export {path.name} again"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path.name} of {path.stat().st_size >> 20} MiB", "a small JSON file", fix)
        if not path.is_file():  # a folder, or a pipe that would never end
            raise UserError(f"{path.name}, which is no file", "a JSON file", fix)
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"no {path.name} in {path.parent.name}", f"the file {path.name}", f"write {path.name}"
        ) from None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path.name} unreadable ({error.strerror})", "a readable JSON file", fix) from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path.name} that is not JSON ({reason})", "a JSON object", fix) from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} with a {type(content).__name__} at its top", "a JSON object", fix)
    return content


def read_calibration(path: str | Path, metres: Mapping[str, float] = METRES_ONLY) -> dict[str, Camera]:
    """Read and check our own `calibration.json`: `{"units": "m", "cameras": {NAME: {width, height, intrinsics, ...}}}`.

    Args:
        metres: the units that are accepted, and how many metres each is; the cameras come back in metres.

    Raises:
        UserError: missing or not JSON, no cameras, unknown or missing keys, units other than metres, a bad name or
            matrix, or cameras that cannot stand around a head (see `check_studio`).
    """
    path = Path(path)
    content = read_json(path)
    refuse_unknown_keys(content, ("units", "cameras"), path.name)
    cameras = content.get("cameras")
    if not isinstance(cameras, dict) or not cameras:
        raise UserError(f"no cameras in {path.name}", 'an object {"units": "m", "cameras": {...}}', "add the cameras")
    units = content.get("units", "m")
    if not isinstance(units, str) or units not in metres:
        raise UserError(
            f"the units '{str(units)[:40]}' in {path.name}",
            f"one of {', '.join(metres)}",
            "scale the translations to metres and write 'm'",
        )
    checked = {
        check_name(name, "a camera's"): _read_camera(name, camera, metres[units]) for name, camera in cameras.items()
    }
    check_studio(checked)
    return checked


def write_calibration(path: str | Path, cameras: Mapping[str, Camera]) -> Path:
    """Write cameras (metres, OpenCV) as our own `calibration.json`."""
    content = {
        name: {
            **{"width": camera.width, "height": camera.height},
            **{"intrinsics": camera.intrinsics.tolist(), "world_to_camera": camera.world_to_camera.tolist()},
        }
        for name, camera in cameras.items()
    }
    return write_json(path, {"units": "m", "cameras": content})


def _read_camera(name: str, camera: Any, metres_per_unit: float) -> Camera:
    where = f"camera {name}"
    if not isinstance(camera, dict):
        raise UserError(f"{where} as {type(camera).__name__}", "an object", "write its four fields")
    keys = ("width", "height", "intrinsics", "world_to_camera")
    missing = [key for key in keys if key not in camera]
    if missing:
        raise UserError(f"{where} without {', '.join(missing)}", "all four fields", "add what is missing")
    refuse_unknown_keys(camera, keys, where)
    width, height = (_pixels(camera[key], f"{key} of {where}") for key in ("width", "height"))
    intrinsics = to_numbers(camera["intrinsics"], (3, 3), f"intrinsics of {where}")
    matrix = to_numbers(camera["world_to_camera"], (4, 4), f"world_to_camera of {where}")
    matrix[:3, 3] *= metres_per_unit
    return make_camera(width, height, intrinsics, matrix, where)


def make_camera(width: int, height: int, intrinsics: np.ndarray, world_to_camera: np.ndarray, where: str) -> Camera:
    """A checked camera.

    Raises:
        UserError: NaN, no rotation (scaled, sheared, mirrored), an impossible focal length or centre of projection.
    """
    if not (np.isfinite(intrinsics).all() and np.isfinite(world_to_camera).all()):
        raise UserError(f"NaN or infinity in {where}", "finite matrices", "calibrate this camera again")
    check_world_to_camera(world_to_camera, where)
    check_intrinsics(intrinsics, where)
    size = np.array([width, height])
    focal, centre = np.diag(intrinsics)[:2], intrinsics[:2, 2]
    if (focal < 0.1 * size.max()).any() or (focal > 100 * size.max()).any():
        raise UserError(
            f"focal lengths of {focal[0]:.4g} and {focal[1]:.4g} pixels in {where}",
            f"0.1 to 100 picture sizes ({size.max()} pixels)",
            "write intrinsics in pixels of the recorded size",
        )
    if (centre < -0.5 * size).any() or (centre > 1.5 * size).any():
        raise UserError(
            f"a principal point at {centre[0]:.4g}, {centre[1]:.4g} in {where}",
            f"one near the picture of {width}x{height}",
            "write intrinsics in pixels of the recorded size",
        )
    return Camera(width, height, intrinsics, world_to_camera)


def check_studio(cameras: Mapping[str, Camera]) -> None:
    """Do these cameras, together, stand upright around a head in metres?

    Raises:
        UserError: distances that can only be another unit, matrices that see no common place while those of another
            convention would, or a world that is upside down (y must point up).
    """
    distances = {name: float(np.linalg.norm(camera.centre)) for name, camera in cameras.items()}
    farthest = max(distances, key=lambda name: distances[name])
    if distances[farthest] > MAX_METRES_FROM_ORIGIN:
        raise UserError(
            f"camera {farthest} {distances[farthest]:.0f} units from the origin",
            f"metres, at most {MAX_METRES_FROM_ORIGIN:.0f}",
            "these are probably millimetres: divide the translations by 1000",
        )
    if distances[farthest] < MIN_METRES_FROM_ORIGIN:
        raise UserError(
            f"every camera within {distances[farthest]:.2g} units of the origin",
            f"metres, some beyond {MIN_METRES_FROM_ORIGIN}",
            "scale the translations to metres",
        )
    matrices = np.stack([camera.world_to_camera for camera in cameras.values()])
    if share_around_a_place(matrices, cameras) < 0.5:
        for name, fix, read in AXES[:3]:
            if share_around_a_place(read(matrices), cameras) == 1:
                raise UserError(
                    f"{len(cameras)} cameras that see no common place",
                    "world-to-camera matrices of OpenCV (x right, y down, z forward) around a head",
                    f"these look like {name}, under which all of them see it: {fix}",
                )
    # A camera's image points down along its second axis. Cameras may lie on their side, but hardly all on their head.
    upright = float(np.mean([-camera.world_to_camera[1, 1] for camera in cameras.values()]))
    if upright < -0.3:
        raise UserError(
            f"cameras whose pictures are upside down in the world ({upright:.2f} on average, +1 is upright)",
            "a world with y up, and cameras with x right, y down, z forward",
            "turn the world by 180 degrees about x, or convert OpenGL cameras to OpenCV",
        )


def share_around_a_place(world_to_camera: np.ndarray, cameras: Mapping[str, Camera]) -> float:
    """The share of cameras `N 4 4` that have the place at which they all look in front of them and in their picture."""
    place = focus(world_to_camera)
    if place is None:
        return 0.0
    seen = []
    for matrix, camera in zip(world_to_camera, cameras.values(), strict=True):
        pixels, depth = project(place[None], matrix, camera.intrinsics)
        inside = (pixels[0] > 0).all() and pixels[0, 0] < camera.width and pixels[0, 1] < camera.height
        seen.append(bool(depth[0] > 0 and inside))
    return float(np.mean(seen))


def to_numbers(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Nested lists as float64 of `shape`.

    Raises:
        UserError: ragged, not numbers, or of another shape.
    """
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or array.shape != shape or _holds_text(value):
        broken = array is None or _holds_text(value)
        found = "no matrix" if broken else f"shape {'x'.join(map(str, np.shape(value))) or '1'}"
        size = "x".join(map(str, shape))
        raise UserError(f"bad numbers for {what} ({found})", f"{size} numbers", "export them again")
    return array


def _holds_text(value: Any) -> bool:
    """NumPy turns "1" and true into numbers; a calibration that says so is broken."""
    if isinstance(value, list):
        return any(_holds_text(item) for item in value)
    return isinstance(value, str | bool)


def _pixels(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 65536 or value != int(value):
        raise UserError(f"{repr(value)[:40]} as the {what}", "a whole number of pixels", "write the recorded size")
    return int(value)


def phone_field_of_view(path: str | Path, default_degrees: float) -> float:
    """Horizontal field of view, in degrees, from a `capture.json` (`{"horizontal_fov_degrees": 60}`), or the default.

    Raises:
        UserError: not JSON, unknown keys, or an angle that no phone has.
    """
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        return float(default_degrees)
    content = read_json(path)
    refuse_unknown_keys(content, ("horizontal_fov_degrees",), path.name)
    value = content.get("horizontal_fov_degrees", default_degrees)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 5.0 <= value <= 150.0:
        shown = repr(value)[:40]
        raise UserError(f"a field of view of {shown} degrees in {path.name}", "5 to 150", "correct the number")
    return float(value)
