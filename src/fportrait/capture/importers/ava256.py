"""Ava-256 (Meta): dome captures as zip archives of pictures, one archive per camera.

What is read of a capture `m--DATE--TIME--SUBJECT--GHS/decoder/`: `camera_calibration.json`, `frame_list.csv`, and
`image/camCAMERA.zip` with `camCAMERA/FRAME.avif` (or .png, .jpg). Matrices are stored column by column, lengths in
millimetres, intrinsics for the full sensor of 2668x4096 pixels. The dome's world is the frame of its front camera
(x right, y down, z away from it); ours turns that by 180 degrees about x and puts the head at the origin. Like the
data set's own loader we take the cameras as pinholes and leave its (small) lens distortion alone.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from fportrait.capture.calibration import check_name, check_studio, make_camera, read_json, to_numbers
from fportrait.capture.importers.align import draw_cameras, to_head_world
from fportrait.capture.importers.plan import Options, Plan, Refusal, StudioPlan, ZippedFrames, folders, need, refusal
from fportrait.errors import UserError

CAPTURE_NAME = re.compile(r"m--\d{8}--\d{4}--(?P<subject>[A-Za-z0-9]+)--GHS")
SENSOR = (2668, 4096)  # width and height that the intrinsics are written for
CAPTURE_FPS = 30.0  # of the dome; frame numbers count its frames, and releases keep every n-th
AXES = np.diag([1.0, -1.0, -1.0])  # from the front camera's frame to y up and z out of the face
METRES = 0.001
PICTURES = (".avif", ".png", ".jpg", ".jpeg", ".webp")


def is_ava256(source: Path) -> bool:
    return any((folder / "decoder" / "camera_calibration.json").exists() for folder in (source, *folders(source)))


def plan_ava256(source: Path, options: Options) -> Plan:
    """`SOURCE/m--DATE--TIME--SUBJECT--GHS/decoder/…`; SOURCE may also be one capture itself."""
    captures = [source] if (source / "decoder").is_dir() else folders(source)
    for capture in captures:
        match = CAPTURE_NAME.fullmatch(capture.resolve().name)
        identity = match["subject"] if match else capture.resolve().name
        try:
            yield from _plan_capture(capture / "decoder", identity, options)
        except UserError as error:
            yield Refusal(identity, capture, str(error))


def _plan_capture(decoder: Path, identity: str, options: Options) -> Plan:
    check_name(identity, "a subject's")
    raw = read_camera_list(decoder / "camera_calibration.json")
    pictures = {}
    for name in raw:
        archive = decoder / "image" / f"cam{name}.zip"
        if archive.exists():
            try:
                pictures[name] = _members(archive)
            except UserError as error:
                yield Refusal(identity, archive, str(error))
    if len(pictures) < 2:
        raise UserError(
            f"{len(pictures)} readable camera archives", "at least two of image/camCAMERA.zip", "download more cameras"
        )
    cameras = {}
    width, height = _stored_size(decoder, pictures)
    for name in pictures:
        intrinsics, matrix = raw[name]
        scaled = np.diag([width / SENSOR[0], height / SENSOR[1], 1.0]) @ intrinsics
        cameras[name] = make_camera(width, height, scaled, matrix, f"camera {name}")
    cameras = to_head_world(cameras, AXES, METRES)
    check_studio(cameras)
    drawn = draw_cameras(cameras, options.cameras, options.seed, identity)
    segments: dict[str, dict] = {}
    for segment, frames in read_frame_list(decoder / "frame_list.csv").items():
        runs, step, dropped = _whole_runs(frames, [pictures[name] for name in drawn], options.min_frames)
        if dropped:
            yield refusal(
                identity,
                decoder / "frame_list.csv",
                f"{dropped} of {len(frames)} frames of {segment} without all {len(drawn)} cameras in a row of "
                f"{options.min_frames}",
                "unbroken runs of frames",
                "nothing, if the rest is enough",
            )
        for number, run in enumerate(runs, start=1):
            segments[segment if number == 1 else f"{segment}_{number}"] = {
                name: ZippedFrames(
                    decoder / "image" / f"cam{name}.zip",
                    tuple(pictures[name][frame] for frame in run),
                    CAPTURE_FPS / step,
                )
                for name in drawn
            }
    if not segments:
        raise UserError("no run of frames that all drawn cameras saw", "pictures of frame_list.csv", "download more")
    yield StudioPlan(identity, {name: cameras[name] for name in drawn}, segments)


def read_camera_list(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Camera name to intrinsics `3 3` (sensor pixels) and `world_to_camera` `4 4` (millimetres), of the dome's world.

    Raises:
        UserError: not the data set's `{"KRT": [{"cameraId", "K", "T", ...}, ...]}`.
    """
    cameras = {}
    for entry in need(read_json(path), "KRT", list, path.name):
        if not isinstance(entry, dict):
            raise UserError(f"a camera as {type(entry).__name__} in {path.name}", "an object", "download it again")
        name = check_name(need(entry, "cameraId", str, path.name), "a camera's")
        if name in cameras:
            raise UserError(f"camera {name} twice in {path.name}", "every camera once", "download it again")
        intrinsics = to_numbers(entry.get("K"), (3, 3), f"K of camera {name}").T
        matrix = to_numbers(entry.get("T"), (4, 4), f"T of camera {name}").T
        cameras[name] = (intrinsics, matrix)
    if not cameras:
        raise UserError(f"no cameras in {path.name}", "a list of cameras under 'KRT'", "download it again")
    return cameras


def read_frame_list(path: Path) -> dict[str, list[int]]:
    """Segment name to its frame numbers, ascending.

    Raises:
        UserError: missing, not a table with the columns `seg_id` and `frame_id`, or no frames.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"no readable {path.name} ({error})", "seg_id,frame_id rows", "download it again") from None
    segments: dict[str, set[int]] = {}
    for row in rows:
        segment, frame = row.get("seg_id"), row.get("frame_id")
        if not segment or not frame or not re.fullmatch(r"\d{1,9}", frame, re.ASCII):
            raise UserError(f"a row {str(row)[:80]} in {path.name}", "seg_id,frame_id", "download it again")
        segments.setdefault(check_name(segment, "a segment's"), set()).add(int(frame))
    if not segments:
        raise UserError(f"no frames in {path.name}", "seg_id,frame_id rows", "download it again")
    return {segment: sorted(frames) for segment, frames in segments.items()}


def _members(archive: Path) -> dict[int, str]:
    """Frame number to the name of its picture in the archive. Nothing is ever extracted to a path it names."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{archive.name}, which is no zip archive ({error})", "pictures", "download it again") from None
    pictures = {}
    for name in names:
        place = PurePosixPath(name)
        if place.suffix.lower() in PICTURES and re.fullmatch(r"\d{1,9}", place.stem, re.ASCII):
            pictures[int(place.stem)] = name
    if not pictures:
        raise UserError(f"no pictures in {archive.name}", f"{archive.stem}/000123.avif …", "download it again")
    return pictures


def _stored_size(decoder: Path, pictures: dict[str, dict[int, str]]) -> tuple[int, int]:
    """Width and height of the first picture of the first camera; the calibration does not say."""
    name = min(pictures)
    archive = decoder / "image" / f"cam{name}.zip"
    member = pictures[name][min(pictures[name])]
    image = next(iter(ZippedFrames(archive, (member,), 1.0)))
    height, width = image.shape[:2]
    if abs(width / height - SENSOR[0] / SENSOR[1]) > 0.02:
        raise UserError(
            f"pictures of {width}x{height}", f"the shape of the {SENSOR[0]}x{SENSOR[1]} sensor", "do not crop them"
        )
    return width, height


def _whole_runs(frames: list[int], pictures: list[dict[int, str]], min_frames: int) -> tuple[list[list[int]], int, int]:
    """Runs of equally spaced frames that every camera has, their spacing, and how many frames were left out."""
    seen = [frame for frame in frames if all(frame in one for one in pictures)]
    gaps = [b - a for a, b in pairwise(frames)]
    step = Counter(gaps).most_common(1)[0][0] if gaps else 1
    runs: list[list[int]] = []
    for frame in seen:
        if runs and frame - runs[-1][-1] == step:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    kept = [run for run in runs if len(run) >= min_frames]
    return kept, step, len(frames) - sum(map(len, kept))
