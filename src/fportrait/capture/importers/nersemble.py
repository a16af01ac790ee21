"""NeRSemble v2 (TUM): sixteen synchronised cameras in front of a person.

What is read: `PARTICIPANT/calibration/camera_params.json` (`world_2_cam` by serial, OpenCV, metres; `intrinsics` that
all cameras share, in pixels of the full 2200x3208 picture) and `PARTICIPANT/sequences/SEQUENCE/images/cam_SERIAL.mp4`.
The file does not say where up and front are, so both are read off the cameras (`align.to_head_world`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fportrait.capture.calibration import Camera, check_name, check_studio, make_camera, read_json, to_numbers
from fportrait.capture.importers.align import draw_cameras, to_head_world
from fportrait.capture.importers.plan import Options, Plan, Refusal, StudioPlan, folders, need, refusal, videos
from fportrait.capture.video_io import probe
from fportrait.errors import UserError

SENSOR = (2200, 3208)
WITHOUT_VIDEO = ("BACKGROUND",)  # pictures of the empty studio


def is_nersemble(source: Path) -> bool:
    return any((folder / "calibration" / "camera_params.json").exists() for folder in folders(source))


def plan_nersemble(source: Path, options: Options) -> Plan:
    """`SOURCE/PARTICIPANT/…`, participants numbered 017 and so on."""
    for participant in folders(source):
        try:
            yield from _plan_participant(participant, options)
        except UserError as error:
            yield Refusal(participant.name, participant, str(error))


def _plan_participant(participant: Path, options: Options) -> Plan:
    identity = check_name(participant.name, "a participant's")
    poses, intrinsics = read_camera_params(participant / "calibration" / "camera_params.json")
    found = {
        sequence.name: {path.stem.removeprefix("cam_"): path for path in videos(sequence / "images")}
        for sequence in folders(participant / "sequences")
        if sequence.name not in WITHOUT_VIDEO
    }
    if not any(found.values()):
        raise UserError("no videos under sequences", "SEQUENCE/images/cam_SERIAL.mp4", "download some sequences")
    # Downloads are often partial: cameras count when at least half of the sequences have them.
    usual = {name for name in poses if 2 * sum(name in files for files in found.values()) >= len(found)}
    first = next(path for files in found.values() for name, path in files.items())
    info = probe(first)
    cameras = _cameras(poses, intrinsics, info.width, info.height, usual)
    cameras = to_head_world(cameras)
    check_studio(cameras)
    drawn = draw_cameras(cameras, options.cameras, options.seed, identity)
    segments: dict[str, dict] = {}
    for sequence, files in found.items():
        place = participant / "sequences" / sequence
        missing = [name for name in drawn if name not in files]
        unknown = sorted(set(files) - set(poses))
        if missing or unknown:
            what = f"no video of {', '.join(missing)}" if missing else f"uncalibrated {', '.join(unknown)}"
            yield refusal(
                identity, place, f"{what} in {sequence}", "a video of every drawn camera", "download the missing videos"
            )
            continue
        try:
            segments[check_name(sequence, "a sequence's")] = {name: files[name] for name in drawn}
        except UserError as error:
            yield Refusal(identity, place, str(error))
    if segments:
        yield StudioPlan(identity, {name: cameras[name] for name in drawn}, segments)


def read_camera_params(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`world_to_camera` `4 4` by serial number, and the shared intrinsics `3 3` in pixels of the full picture.

    Raises:
        UserError: not the data set's `{"world_2_cam": {SERIAL: 4x4}, "intrinsics": 3x3}`.
    """
    content = read_json(path)
    poses = need(content, "world_2_cam", dict, path.name)
    checked = {}
    for name, matrix in poses.items():
        if not re.fullmatch(r"\d{1,20}", name, re.ASCII):
            raise UserError(f"the camera {name[:40]!r} in {path.name}", "a serial number", "download it again")
        checked[name] = to_numbers(matrix, (4, 4), f"world_2_cam of {name}")
    if not checked:
        raise UserError(f"no cameras in {path.name}", "poses under 'world_2_cam'", "download it again")
    return checked, to_numbers(content.get("intrinsics"), (3, 3), f"intrinsics of {path.name}")


def _cameras(
    poses: dict[str, np.ndarray], intrinsics: np.ndarray, width: int, height: int, names: set[str]
) -> dict[str, Camera]:
    if abs(width / height - SENSOR[0] / SENSOR[1]) > 0.02:
        raise UserError(
            f"videos of {width}x{height}", f"the shape of the {SENSOR[0]}x{SENSOR[1]} picture", "do not crop them"
        )
    scaled = np.diag([width / SENSOR[0], height / SENSOR[1], 1.0]) @ intrinsics
    return {name: make_camera(width, height, scaled, poses[name], f"camera {name}") for name in sorted(names)}
