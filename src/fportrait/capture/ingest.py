"""From folders of captures to a manifest: every video probed, every calibration checked, every fault set aside.

A fault never stops the run: the smallest unit that cannot be used (a phone clip, a studio segment, or an identity
whose calibration is wrong) goes to `quarantine.json` with its reason, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import atomic_folder, file_hash, write_json, write_parquet
from fportrait.camera.cameras import check_world_to_camera
from fportrait.capture.video_io import VIDEO_SUFFIXES, probe
from fportrait.errors import UserError

PHONE, STUDIO = "PhoneCapture", "StudioCapture"
MAX_METRES_FROM_ORIGIN = 50.0  # no studio is larger; millimetres always exceed it
MANIFEST_COLUMNS = [
    *("dataset", "identity", "segment", "camera", "clip", "path", "frames", "fps", "width", "height"),
    *("sha256", "horizontal_fov_degrees", "split"),
]
CAMERA_COLUMNS = ["dataset", "identity", "camera", "width", "height", "intrinsics", "world_to_camera"]


@dataclass(frozen=True)
class IngestResult:
    """Row counts, the quarantined units, and how many files had to be read (the rest came from the cache)."""

    videos: int
    identities: dict[str, int]
    files_read: int
    quarantine: list[dict[str, str]]


@dataclass
class _Scan:
    rows: list[dict[str, Any]] = field(default_factory=list)
    cameras: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, dataset: str, identity: str, path: str, reason: str) -> None:
        self.quarantine.append({"dataset": dataset, "identity": identity, "path": path, "reason": reason})


def ingest_captures(
    raw: str | Path,
    target: str | Path,
    project_root: str | Path,
    test_identities: Mapping[str, int],
    default_fov_degrees: float = 60.0,
    min_frames: int = 5,
    seed: int = 0,
    cache: str | Path | None = None,
    map_function: Callable[..., Iterable[Any]] = map,
) -> IngestResult:
    """Scan `raw/phone` and `raw/studio`; write `manifest.parquet`, `cameras.parquet`, `quarantine.json` to `target`.

    Args:
        test_identities: dataset name to the number of identities held out of it.
        default_fov_degrees: horizontal field of view of phone clips without a `capture.json`.
        min_frames: shorter clips are quarantined; five is the shortest window of two latent frames.
        cache: JSON file of what is known about files of unchanged size and time, so they are not read again.
        map_function: applied to `(read_facts, paths)`; an engine's map runs the reads in parallel.

    Raises:
        UserError: nothing usable was found, or a split would leave no identity to train on.
    """
    raw, project_root = Path(raw).resolve(), Path(project_root).resolve()
    if not raw.is_dir() or not ((raw / "phone").is_dir() or (raw / "studio").is_dir()):
        raise UserError(
            f"no captures under {raw}", "folders phone/ or studio/ in it", "put captures there, or set source: embedded"
        )
    files = [path for folder in _folders(raw / "phone") for path in _video_files(folder)]
    segments = [segment for folder in _folders(raw / "studio") for segment in _folders(folder)]
    files += [path for segment in segments for path in _video_files(segment)]
    facts, files_read = _all_facts(files, raw, cache, map_function)
    scan = _Scan()
    for folder in _folders(raw / "phone"):
        _scan_phone(folder, raw, facts, scan, default_fov_degrees, min_frames)
    for folder in _folders(raw / "studio"):
        _scan_studio(folder, raw, facts, scan, min_frames)
    if not scan.rows:
        reason = (
            f"; the first fault: {scan.quarantine[0]['path']}: {scan.quarantine[0]['reason']}"
            if scan.quarantine
            else ""
        )
        raise UserError(f"no usable capture under {raw}{reason}", "at least one whole video", "mend or add captures")
    for row in scan.rows:
        row["path"] = _relative(raw / row["path"], project_root)
    for entry in scan.quarantine:
        entry["path"] = _relative(raw / entry["path"], project_root)
    identities = {name: sorted({r["identity"] for r in scan.rows if r["dataset"] == name}) for name in (PHONE, STUDIO)}
    test = split_identities(identities, test_identities, seed)
    for row in scan.rows:
        row["split"] = "test" if row["identity"] in test[row["dataset"]] else "train"
    _write(scan, Path(target))
    counts = {name: len(members) for name, members in identities.items()}
    return IngestResult(len(scan.rows), counts, files_read, scan.quarantine)


def split_identities(
    identities: Mapping[str, Iterable[str]], test_identities: Mapping[str, int], seed: int = 0
) -> dict[str, set[str]]:
    """Dataset to its test identities: the lowest hashes of (seed, name), so order and machine do not matter.

    A person held out of one dataset is held out of every other one that knows the same name.

    Raises:
        UserError: an unknown dataset, or nobody left to train on.
    """
    for dataset in test_identities:
        if dataset not in identities:
            raise UserError(f"test identities for '{dataset}'", f"one of {', '.join(identities)}", "correct the name")
    test: dict[str, set[str]] = {}
    chosen: set[str] = set()
    for dataset, members in identities.items():
        names = sorted(members, key=lambda name: (name not in chosen, _hash(seed, name)))
        count = int(test_identities.get(dataset, 0))
        if names and count >= len(names):
            raise UserError(
                f"{len(names)} identities in {dataset} and {count} asked for the test split",
                "fewer test identities than identities",
                f"lower test_identities.{dataset} below {len(names)} or add captures",
            )
        chosen |= set(names[:count])
    for dataset, members in identities.items():
        test[dataset] = chosen & set(members)
    return test


def read_facts(path: str | Path) -> dict[str, Any]:
    """All that ingest keeps of one video: hash, frames, rate, size; or `error`, why it cannot be used."""
    try:
        info = asdict(probe(path))
        return {"sha256": file_hash(path), **{key: info[key] for key in ("frames", "fps", "width", "height")}}
    except UserError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"Found {path} unreadable ({error.strerror})."}


def check_calibration(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read and check a `calibration.json`; camera name to width, height, intrinsics (3, 3), world_to_camera (4, 4).

    Raises:
        UserError: missing or not JSON, no cameras, missing keys, units other than metres, a matrix that is not finite
            or not a rotation, an impossible focal length.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent.name}", "the calibration of all cameras", f"write {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path.name} that is not JSON ({error})", "a JSON object", "export the calibration again"
        ) from None
    cameras = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(cameras, dict) or not cameras:
        raise UserError(f"no cameras in {path.name}", 'an object {"units": "m", "cameras": {...}}', "add the cameras")
    if content.get("units", "m") != "m":
        raise UserError(
            f"the units '{content['units']}' in {path.name}", "metres ('m')", "scale the translations and write 'm'"
        )
    return {name: _check_camera(name, camera) for name, camera in cameras.items()}


def _check_camera(name: str, camera: Any) -> dict[str, Any]:
    if not isinstance(camera, dict):
        raise UserError(f"camera {name} as {type(camera).__name__}", "an object", "write its four fields")
    missing = [key for key in ("width", "height", "intrinsics", "world_to_camera") if key not in camera]
    if missing:
        raise UserError(f"camera {name} without {', '.join(missing)}", "all four fields", "add what is missing")
    try:
        intrinsics = np.array(camera["intrinsics"], dtype=np.float64).reshape(3, 3)
        matrix = np.array(camera["world_to_camera"], dtype=np.float64).reshape(4, 4)
        width, height = int(camera["width"]), int(camera["height"])
    except (TypeError, ValueError) as error:
        raise UserError(f"camera {name} with bad numbers ({error})", "3x3 and 4x4 numbers", "export it again") from None
    if not (np.isfinite(intrinsics).all() and np.isfinite(matrix).all()):
        raise UserError(f"NaN or infinity in camera {name}", "finite matrices", "calibrate this camera again")
    check_world_to_camera(matrix, f"camera {name}")
    away = float(np.linalg.norm(matrix[:3, :3].T @ matrix[:3, 3]))
    if away > MAX_METRES_FROM_ORIGIN:
        raise UserError(
            f"camera {name} {away:.0f} units from the origin",
            f"metres, at most {MAX_METRES_FROM_ORIGIN:.0f}",
            "these are probably millimetres: divide the translations by 1000",
        )
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0 or not np.allclose(intrinsics[2], [0, 0, 1]):
        raise UserError(
            f"intrinsics {intrinsics.tolist()} of camera {name}",
            "[[fx,s,cx],[0,fy,cy],[0,0,1]], fx,fy > 0",
            "export them again",
        )
    return {"width": width, "height": height, "intrinsics": intrinsics, "world_to_camera": matrix}


def _scan_phone(
    folder: Path, raw: Path, facts: Mapping[str, dict[str, Any]], scan: _Scan, default_fov: float, min_frames: int
) -> None:
    identity, place = folder.name, _relative(folder, raw)
    try:
        fov = _phone_fov(folder / "capture.json", default_fov)
    except UserError as error:
        scan.refuse(PHONE, identity, place, str(error))
        return
    clips = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name != "capture.json"]
    if not clips:
        scan.refuse(
            PHONE, identity, place, str(UserError("an empty folder", "clips", "add clips or remove the folder"))
        )
    seen: set[str] = set()
    for path in clips:
        try:
            _check_suffix(path)
            if path.stem in seen:
                raise UserError(f"two clips named {path.stem}", "names that differ before the dot", "rename one")
            row = _row(PHONE, identity, path.stem, "phone", path, raw, facts, fov, min_frames)
            seen.add(path.stem)
            scan.rows.append(row)
        except UserError as error:
            scan.refuse(PHONE, identity, _relative(path, raw), str(error))


def _scan_studio(folder: Path, raw: Path, facts: Mapping[str, dict[str, Any]], scan: _Scan, min_frames: int) -> None:
    identity, place = folder.name, _relative(folder, raw)
    try:
        cameras = check_calibration(folder / "calibration.json")
        segments = _folders(folder)
        if not segments:
            raise UserError(f"no segments in {identity}", "folders of synchronised videos", "add videos")
    except UserError as error:
        scan.refuse(STUDIO, identity, place, str(error))
        return
    kept = 0
    for segment in segments:
        try:
            rows = _segment_rows(identity, segment, raw, facts, cameras, min_frames)
            scan.rows.extend(rows)
            kept += len(rows)
        except UserError as error:
            scan.refuse(STUDIO, identity, _relative(segment, raw), str(error))
    if kept:
        for name, camera in cameras.items():
            flat = {key: camera[key].ravel().tolist() for key in ("intrinsics", "world_to_camera")}
            size = {"width": camera["width"], "height": camera["height"]}
            scan.cameras.append({"dataset": STUDIO, "identity": identity, "camera": name, **size, **flat})


def _segment_rows(
    identity: str,
    segment: Path,
    raw: Path,
    facts: Mapping[str, dict[str, Any]],
    cameras: Mapping[str, dict[str, Any]],
    min_frames: int,
) -> list[dict[str, Any]]:
    """The rows of one synchronised segment; all its cameras or none, for half a segment is not synchronised."""
    paths = [path for path in sorted(segment.iterdir()) if not path.name.startswith(".")]
    for path in paths:
        _check_suffix(path)
    found, known = {path.stem for path in paths}, set(cameras)
    if len(found) < len(paths):
        raise UserError("two videos of one camera", "one video per camera", "remove one of them")
    if found != known:
        raise UserError(
            f"videos of {', '.join(sorted(found)) or 'no camera'}"
            + (f"; missing {', '.join(sorted(known - found))}" if known - found else "")
            + (f"; not in calibration.json {', '.join(sorted(found - known))}" if found - known else ""),
            "one video for every calibrated camera",
            "add the missing files, or correct calibration.json",
        )
    rows = []
    for path in paths:
        row = _row(STUDIO, identity, segment.name, path.stem, path, raw, facts, float("nan"), min_frames)
        camera = cameras[path.stem]
        if (row["width"], row["height"]) != (camera["width"], camera["height"]):
            raise UserError(
                f"{row['width']}x{row['height']} pixels in {path.name}",
                f"{camera['width']}x{camera['height']} as calibrated",
                "calibrate at the recorded size or record at the calibrated one",
            )
        rows.append(row)
    counts = {row["camera"]: row["frames"] for row in rows}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise UserError(f"different frame counts ({listed})", "synchronised cameras", "cut the videos to common frames")
    return rows


def _row(
    dataset: str,
    identity: str,
    segment: str,
    camera: str,
    path: Path,
    raw: Path,
    facts: Mapping[str, dict[str, Any]],
    fov: float,
    min_frames: int,
) -> dict[str, Any]:
    place = _relative(path, raw)
    fact = facts[place]
    if "error" in fact:
        raise UserErrorText(fact["error"])
    if fact["frames"] < min_frames:
        raise UserError(
            f"{fact['frames']} frame{'s' * (fact['frames'] != 1)} in {path.name}",
            f"at least {min_frames}",
            "record a longer clip",
        )
    names = {"dataset": dataset, "identity": identity, "segment": segment, "camera": camera}
    clip = f"{identity}/{segment}/{camera}"
    return {**names, "clip": clip, "path": place, **fact, "horizontal_fov_degrees": fov}


class UserErrorText(UserError):
    """A `UserError` that was already put into words, for example in another process or an earlier run."""

    def __init__(self, text: str):
        ValueError.__init__(self, text)


def _all_facts(
    files: list[Path], raw: Path, cache: str | Path | None, map_function: Callable[..., Iterable[Any]]
) -> tuple[dict[str, dict[str, Any]], int]:
    known: dict[str, Any] = {}
    if cache is not None and Path(cache).is_file():
        try:
            known = json.loads(Path(cache).read_text(encoding="utf-8"))
        except ValueError:
            known = {}  # a damaged cache only costs time
    stamps = {}
    for path in files:
        status = path.stat()
        stamps[_relative(path, raw)] = [str(path), status.st_size, status.st_mtime_ns]
    stale = [place for place, stamp in stamps.items() if known.get(place, {}).get("stamp") != stamp]
    read = map_function(read_facts, [str(raw / place) for place in stale])
    for place, fact in zip(stale, read, strict=True):
        known[place] = {"stamp": stamps[place], "facts": fact}
    if cache is not None:
        write_json(cache, {place: known[place] for place in stamps})
    return {place: known[place]["facts"] for place in stamps}, len(stale)


def _phone_fov(path: Path, default: float) -> float:
    if not path.exists():
        return float(default)
    try:
        fov = float(json.loads(path.read_text(encoding="utf-8")).get("horizontal_fov_degrees", default))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(
            f"a bad {path.name} ({error})", '{"horizontal_fov_degrees": 60}', "correct or remove it"
        ) from None
    if not 5.0 <= fov <= 150.0:
        raise UserError(f"a field of view of {fov} degrees in {path.name}", "5 to 150 degrees", "correct the number")
    return fov


def _write(scan: _Scan, target: Path) -> None:
    import pandas as pd

    manifest = pd.DataFrame(scan.rows, columns=MANIFEST_COLUMNS).sort_values(["dataset", "clip"], ignore_index=True)
    manifest = manifest.astype({"frames": "int32", "width": "int32", "height": "int32", "fps": "float64"})
    cameras = pd.DataFrame(scan.cameras, columns=CAMERA_COLUMNS).astype({"width": "int32", "height": "int32"})
    order = sorted(scan.quarantine, key=lambda entry: (entry["dataset"], entry["path"]))
    with atomic_folder(target) as folder:
        write_parquet(folder / "manifest.parquet", manifest)
        write_parquet(folder / "cameras.parquet", cameras)
        write_json(folder / "quarantine.json", order)


def _video_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
            yield path


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _check_suffix(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"a folder {path.name} where a video belongs", "a video file", "move its videos up")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES)
        raise UserError(
            f"{path.name}, which is not named as a video", f"a name ending in {known}", "rename or remove it"
        )


def _relative(path: Path, root: Path) -> str:
    """`path` relative to `root` with forward slashes, unresolved; an outside path stays absolute."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
