"""Camera files: ours, nerfstudio's two, and NeRSemble's. All are read as OpenCV `world_to_camera`.

- ours: `frames[].world_to_camera` (and `intrinsics`), `fps`: OpenCV, metres, the head's middle at the origin;
- nerfstudio's `transforms.json`: `frames[].transform_matrix`, `fl_x` … or `camera_angle_x`: OpenGL, camera-to-world;
- nerfstudio's `camera_path.json`: `camera_path[].camera_to_world`, `fov`, `fps`: OpenGL, camera-to-world;
- NeRSemble's `camera_params.json`: `world_2_cam`, `intrinsics`: OpenCV, metres; its cameras in their order.

The last three do not say where the head is: `located` is False, and who uses them has to find it (`conventions`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import write_json
from fportrait.camera.cameras import camera_centre, check_intrinsics, check_world_to_camera
from fportrait.errors import UserError, refuse_unknown_keys

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # from a camera that looks along -z, y up, to one that looks along z, y down
DISTORTIONS = ("k1", "k2", "k3", "k4", "p1", "p2")
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class CameraFile:
    """What a camera file says: `world_to_camera` `T 4 4`; `intrinsics` `T 3 3` or None; `fps` or None.

    `layout` names the format, `located` tells whether the head is known to be at the origin of its world, `metric`
    whether lengths are metres.
    """

    world_to_camera: np.ndarray
    intrinsics: np.ndarray | None
    fps: float | None
    layout: str = "fportrait"
    located: bool = True
    metric: bool = True
    notes: tuple[str, ...] = ()


def save_camera_path(path: str | Path, world_to_camera: np.ndarray, intrinsics: np.ndarray | None = None) -> Path:
    """Write cameras `T 4 4` (and intrinsics: `3 3` of all frames, or `T 3 3`) as a camera file."""
    frames = [{"world_to_camera": np.asarray(matrix).tolist()} for matrix in world_to_camera]
    if intrinsics is not None:
        lenses = np.broadcast_to(np.asarray(intrinsics), (len(frames), 3, 3))
        for frame, lens in zip(frames, lenses, strict=True):
            frame["intrinsics"] = lens.tolist()
    return write_json(path, {"frames": frames})


def load_camera_path(path: str | Path, frames: int) -> np.ndarray:
    """The first `frames` cameras `T 4 4` of a camera file; see `read_camera_file`, which also gives its intrinsics."""
    return read_camera_file(path, frames).world_to_camera


def read_camera_file(path: str | Path, frames: int, fps: float | None = None) -> CameraFile:
    """The cameras of `frames` frames of a video.

    Args:
        fps: of the video. A file with a rate of its own is then read at the video's times, between its cameras where
            need be; without either rate frame i has camera i.

    Raises:
        UserError: no such file, not JSON, another structure, unknown keys (the nearest known one is named),
            non-rotations, bad intrinsics, intrinsics on some frames only, too few frames.
    """
    path = Path(path)
    content = _parsed(path)
    if isinstance(content, dict) and "world_2_cam" in content:
        file = _nersemble(content, path)
    elif isinstance(content, dict) and "camera_path" in content:
        file = _nerfstudio_path(content, path)
    elif _is_transforms(content):
        file = _nerfstudio_transforms(content, path)
    else:
        file = _own(content, path, frames if fps is None else None)
    if fps is not None and file.fps is not None and abs(fps - file.fps) > 1e-6 * fps:
        return at_times(file, np.arange(frames) / fps, path)
    if len(file.world_to_camera) < frames:
        raise UserError(
            f"{len(file.world_to_camera)} cameras in {path}",
            f"at least {frames}, one per driving frame",
            "add cameras or shorten the driving video",
        )
    lenses = None if file.intrinsics is None else file.intrinsics[:frames]
    return replace(file, world_to_camera=file.world_to_camera[:frames], intrinsics=lenses)


def at_times(file: CameraFile, seconds: np.ndarray, path: Path) -> CameraFile:
    """The cameras at times `T` of a file with a rate: centres and lenses in straight lines, rotations by slerp.

    Raises:
        UserError: the path ends before the times do.
    """
    assert file.fps is not None
    count = len(file.world_to_camera)
    place = np.asarray(seconds, np.float64) * file.fps
    # The last camera stands until the next one would come.
    if place[-1] >= count - 1e-6:
        raise UserError(
            f"{count} cameras at {file.fps:g} a second in {path}, which are {count / file.fps:.2f} s",
            f"at least {seconds[-1]:.2f} s, as long as the driving video",
            "add cameras, or shorten the driving video with --max-frames",
        )
    place = np.minimum(place, count - 1)
    if count == 1:
        rows = np.zeros(len(place), int)
        lenses = None if file.intrinsics is None else file.intrinsics[rows]
        return replace(file, world_to_camera=file.world_to_camera[rows], intrinsics=lenses)
    from scipy.spatial.transform import Rotation, Slerp

    numbers = np.arange(count)
    rotations = Slerp(numbers, Rotation.from_matrix(file.world_to_camera[:, :3, :3]))(place).as_matrix()
    eyes = camera_centre(file.world_to_camera)
    eyes = np.stack([np.interp(place, numbers, eyes[:, axis]) for axis in range(3)], 1)
    cameras = np.tile(np.eye(4), (len(place), 1, 1))
    cameras[:, :3, :3] = rotations
    cameras[:, :3, 3] = -np.einsum("tij,tj->ti", rotations, eyes)
    lenses = file.intrinsics
    if lenses is not None:
        flat = lenses.reshape(count, 9)
        lenses = np.stack([np.interp(place, numbers, flat[:, i]) for i in range(9)], 1).reshape(-1, 3, 3)
    return replace(file, world_to_camera=cameras, intrinsics=lenses)


def _parsed(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no camera file {path}", "front, spin, spiral or a JSON file", "check the path")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} of {path.stat().st_size >> 20} MiB", "a camera file", "export the cameras alone")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise UserError(f"{path}, which is not JSON ({error})", "a camera file", "export it as JSON") from None


def _rate(content: Mapping[str, Any], path: Path) -> float | None:
    fps = content.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e4):
        raise UserError(f"fps = {fps!r} in {path}", "frames per second, above 0", "mend or remove 'fps'")
    return None if fps is None else float(fps)


def _own(content: Any, path: Path, most: int | None) -> CameraFile:
    """`{"fps"?: 25, "frames": [{"world_to_camera": 4x4, "intrinsics"?: 3x3}, ...]}`; no more than `most` cameras."""
    if not isinstance(content, dict) or not isinstance(content.get("frames", []), list):
        raise UserError(f"another structure in {path}", '{"frames": [...]}', "wrap the list of cameras in 'frames'")
    refuse_unknown_keys(content, ("frames", "fps"), str(path))
    if "frames" not in content:
        raise UserError(f"no key 'frames' in {path}", '{"frames": [...]}', "add the list of cameras as 'frames'")
    fps = _rate(content, path)
    cameras, intrinsics = [], []
    for index, entry in enumerate(content["frames"][:most]):
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


def _is_transforms(content: Any) -> bool:
    entries = content.get("frames") if isinstance(content, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    return isinstance(first, dict) and "transform_matrix" in first


def _nerfstudio_transforms(content: dict[str, Any], path: Path) -> CameraFile:
    """nerfstudio's (and instant-ngp's) description of pictures; lenses of all frames, or of each."""
    cameras, lenses = [], []
    for index, entry in enumerate(content["frames"]):
        where = f"{path}, frame {index}"
        if not isinstance(entry, dict) or "transform_matrix" not in entry:
            raise UserError(f"no key 'transform_matrix' at {where}", "a 4x4 matrix per frame", "add it")
        cameras.append(_from_opengl(entry["transform_matrix"], where))
        lens = _lens({**content, **entry}, where)
        if lens is not None:
            lenses.append(lens)
    bent = any(abs(float(content.get(key) or 0)) > 1e-9 for key in DISTORTIONS if _is_number(content.get(key)))
    notes = ("its lens distortion was left out",) if bent else ()
    return CameraFile(
        np.stack(cameras),
        np.stack(lenses) if len(lenses) == len(cameras) else None,
        _rate(content, path),
        "nerfstudio",
        located=False,
        metric=False,
        notes=notes,
    )


def _lens(values: Mapping[str, Any], where: str) -> np.ndarray | None:
    """Intrinsics `3 3` of nerfstudio's keys; a camera that only gives its angle has a picture of width 1."""
    width, height = (float(values[key]) if _is_number(values.get(key)) else None for key in ("w", "h"))
    height = height or width
    if _is_number(values.get("fl_x")):
        focal = (float(values["fl_x"]), float(values.get("fl_y") or values["fl_x"]))
        centre = (values.get("cx", width and width / 2), values.get("cy", height and height / 2))
    elif _is_number(values.get("camera_angle_x")):
        across = width or 1.0
        if not 0 < values["camera_angle_x"] < np.pi:
            raise UserError(f"camera_angle_x = {values['camera_angle_x']} at {where}", "radians below π", "mend it")
        focal = (across / 2 / np.tan(float(values["camera_angle_x"]) / 2),) * 2
        centre = (across / 2, (height or across) / 2)
    else:
        return None
    if not all(_is_number(value) for value in centre):
        raise UserError(f"fl_x without cx, cy or w, h at {where}", "the picture's centre or size", "add w and h")
    matrix = np.array([[focal[0], 0, float(centre[0])], [0, focal[1], float(centre[1])], [0, 0, 1.0]])
    return check_intrinsics(matrix, where)


def _nerfstudio_path(content: dict[str, Any], path: Path) -> CameraFile:
    """What nerfstudio's viewer exports for rendering; `fov` is the vertical angle in degrees."""
    entries, kind = content["camera_path"], content.get("camera_type", "perspective")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"no cameras in {path}", "a list under 'camera_path'", "export the path again")
    if kind != "perspective":
        raise UserError(f"{kind!r} cameras in {path}", "perspective ones", "export the path with perspective cameras")
    cameras, lenses = [], []
    for index, entry in enumerate(entries):
        where = f"{path}, camera {index}"
        if not isinstance(entry, dict) or "camera_to_world" not in entry:
            raise UserError(f"no key 'camera_to_world' at {where}", "16 numbers per camera", "export the path again")
        cameras.append(_from_opengl(entry["camera_to_world"], where))
        fov, aspect = entry.get("fov", content.get("default_fov", 50.0)), entry.get("aspect", 1.0)
        if not (_is_number(fov) and 0 < fov < 180 and _is_number(aspect) and aspect > 0):
            raise UserError(
                f"fov {fov!r} and aspect {aspect!r} at {where}", "degrees below 180, and a ratio", "mend it"
            )
        focal = 0.5 / np.tan(np.radians(fov) / 2)
        lenses.append(np.array([[focal, 0, aspect / 2], [0, focal, 0.5], [0, 0, 1.0]]))
    return CameraFile(np.stack(cameras), np.stack(lenses), _rate(content, path), "nerfstudio", False, False)


def _nersemble(content: dict[str, Any], path: Path) -> CameraFile:
    """NeRSemble's calibration: its cameras in the order of the file; they share one lens."""
    entries = content["world_2_cam"]
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"no cameras in {path}", "matrices by serial under 'world_2_cam'", "download it again")
    cameras = [
        check_world_to_camera(_numbers(matrix, f"{path}, camera {name}"), f"{path}, camera {name}")
        for name, matrix in entries.items()
    ]
    lens = content.get("intrinsics")
    lenses = None
    if lens is not None:
        checked = check_intrinsics(_numbers(lens, str(path)), str(path))
        lenses = np.repeat(checked[None], len(cameras), axis=0)
    return CameraFile(np.stack(cameras), lenses, None, "NeRSemble", located=False)


def _from_opengl(value: Any, where: str) -> np.ndarray:
    """An OpenGL `camera_to_world` (4x4, 3x4 or 16 numbers) as OpenCV `world_to_camera`."""
    matrix = _numbers(value, where)
    if matrix.size == 16:
        matrix = matrix.reshape(4, 4)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1.0]])
    return OPENGL @ np.linalg.inv(check_world_to_camera(matrix, where))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _numbers(value: object, where: str) -> np.ndarray:
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"a camera that is no matrix at {where}", "rows of numbers", "write every row out") from None
