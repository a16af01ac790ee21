"""A plain folder of clips, and our own PhoneCapture and StudioCapture trees from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fportrait.capture.calibration import phone_field_of_view, read_calibration
from fportrait.capture.importers.align import draw_cameras
from fportrait.capture.importers.plan import ClipPlan, Options, Plan, Refusal, StudioPlan, folders, refusal, videos
from fportrait.errors import UserError

METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
DEFAULT_FOV = float("nan")  # stands for "no capture.json": ingest then takes its configured default


def is_folder(source: Path) -> bool:
    return bool(videos(source))


def plan_folder(source: Path, options: Options) -> Plan:
    """`SOURCE/CLIP.mp4 …` (and maybe `capture.json`): the clips of one person, named after the folder."""
    identity = options.identity or source.resolve().name
    yield from _person(source, identity)


def is_phone(source: Path) -> bool:
    return any(videos(folder) for folder in folders(source))


def plan_phone(source: Path, options: Options) -> Plan:
    """`SOURCE/IDENTITY/CLIP.mp4 …`, each folder maybe with `capture.json`."""
    for folder in folders(source):
        yield from _person(folder, folder.name)
    for path in videos(source):
        yield refusal("", path, f"the video {path.name} in {source.name}", "a folder per identity", "move it")


def _person(folder: Path, identity: str) -> Plan:
    found = videos(folder)
    if not found:
        yield refusal(identity, folder, f"no videos in {folder.name}", "clips", "add clips or remove it")
    try:
        fov = phone_field_of_view(folder / "capture.json", DEFAULT_FOV)
    except UserError as error:
        yield Refusal(identity, folder / "capture.json", str(error))
        return
    for path in found:
        yield ClipPlan(identity, path.stem, path, fov if fov == fov else None, consent_in=folder)


def is_studio(source: Path) -> bool:
    return any((folder / "calibration.json").exists() for folder in folders(source))


def plan_studio(source: Path, options: Options) -> Plan:
    """`SOURCE/IDENTITY/calibration.json`, `SOURCE/IDENTITY/SEGMENT/CAMERA.mp4`; the file says m, cm or mm."""
    for folder in folders(source):
        try:
            cameras = read_calibration(folder / "calibration.json", METRES)
            drawn = draw_cameras(cameras, options.cameras, options.seed, folder.name)
        except UserError as error:
            yield Refusal(folder.name, folder, str(error))
            continue
        segments: dict = {}
        for segment in folders(folder):
            files = {path.stem: path for path in videos(segment)}
            missing = [name for name in drawn if name not in files]
            unknown = sorted(set(files) - set(cameras))
            if missing or unknown:
                what = f"no video of {', '.join(missing)}" if missing else f"videos of {', '.join(unknown)}"
                yield refusal(
                    folder.name,
                    segment,
                    f"{what} in {segment.name}",
                    "one video for every calibrated camera",
                    "add the missing files, or correct calibration.json",
                )
            else:
                segments[segment.name] = {name: files[name] for name in drawn}
        if segments:
            yield StudioPlan(folder.name, {name: cameras[name] for name in drawn}, segments, folder)
        elif not folders(folder):
            yield refusal(
                folder.name, folder, f"no segments in {folder.name}", "folders of synchronised videos", "add videos"
            )
