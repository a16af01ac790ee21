"""From folders of captures to a manifest: every video probed, every calibration checked, every fault set aside.

A fault never stops the run: the smallest unit that cannot be used (a phone clip, a studio segment, or an identity
whose calibration is wrong) goes to `quarantine.json` with its reason, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash, write_json
from fportrait.capture.calibration import Camera, check_name, phone_field_of_view, read_calibration
from fportrait.capture.features import SUFFIX as FEATURES_SUFFIX
from fportrait.capture.features import read_features
from fportrait.capture.manifest import PHONE, STUDIO, write_manifest
from fportrait.capture.video_io import VIDEO_SUFFIXES, probe
from fportrait.capture.withdrawn import AGAIN, LIST, withdrawn
from fportrait.errors import UserError

FOLDERS = {PHONE: "phone", STUDIO: "studio"}  # under the raw folder
FPS_RANGE = (1.0, 1000.0)
CONSENT = ("consent.txt", "consent.md", "consent.pdf", "consent.json")  # in a person's folder: what they agreed to
RATE_DIFFERENCE = 0.01  # relative, between the cameras of one segment


@dataclass(frozen=True)
class IngestResult:
    """Row counts, the quarantined units, and how many files had to be read (the rest came from the cache).

    `held_out`: people of the test split by dataset. `own`: phone people of one's own who are trained on, of whom a clip
    is to be held out. `notes`: what came out otherwise than it was asked for.
    """

    videos: int
    identities: dict[str, int]
    files_read: int
    quarantine: list[dict[str, str]]
    held_out: dict[str, int]
    own: list[str]
    notes: list[str]


@dataclass
class _Scan:
    """What the walk over the folders has found so far."""

    raw: Path
    facts: Mapping[str, dict[str, Any]]
    min_frames: int
    require_consent: bool = False
    nobody_real: frozenset[str] = frozenset()
    rows: list[dict[str, Any]] = field(default_factory=list)
    cameras: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # content hash -> the first place that holds it
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # dataset, name without case -> identity

    def refuse(self, dataset: str, identity: str, path: Path, reason: str | UserError) -> None:
        entry = {"dataset": dataset, "identity": identity, "path": _relative(path, self.raw), "reason": str(reason)}
        self.quarantine.append(entry)


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
    require_consent: bool = False,
    nobody_real: Iterable[str] = (),
    hold_out_clips: bool = False,
) -> IngestResult:
    """Scan `raw/phone` and `raw/studio`; write `manifest.parquet`, `cameras.parquet`, `quarantine.json` to `target`.

    With `hold_out_clips`, `own_people.json` there lists the real phone people of the training split, if there are any.
    People who withdrew (`capture.withdrawn`) are passed over, and named nowhere.

    Args:
        test_identities: dataset name to the number of identities held out of it.
        default_fov_degrees: horizontal field of view of phone clips without a `capture.json`.
        min_frames: shorter clips are quarantined; five is the shortest window of two latent frames.
        cache: JSON file of what is known about files of unchanged size and time, so they are not read again.
        map_function: applied to `(read_facts, paths)`; an engine's map runs the reads in parallel.
        require_consent: set people aside whose folder holds no `consent.txt` (or .md, .pdf, .json).
        nobody_real: `phone/PERSON` and `studio/PERSON` of embedded people, who need not agree.
        hold_out_clips: a clip of every real phone person who is trained on is to be held out (`dataset.held_clips`).

    Raises:
        UserError: nothing usable was found, or `test_identities` of an unknown dataset.
    """
    raw, project_root = Path(raw).resolve(), Path(project_root).resolve()
    if not raw.is_dir() or not any((raw / name).is_dir() for name in FOLDERS.values()):
        raise UserError(
            f"no captures under {raw}", "folders phone/ or studio/ in it", "put captures there, or set source: embedded"
        )
    aside = withdrawn(raw)
    found = {dataset: _folders(raw / name) for dataset, name in FOLDERS.items()}
    people = {dataset: [one for one in folders if one.name not in aside] for dataset, folders in found.items()}
    passed = {one.name for folders in found.values() for one in folders} & aside.keys()
    parents = people[PHONE] + [segment for person in people[STUDIO] for segment in _folders(person)]
    files = [path for parent in parents for path in _entries(parent) if _is_video_name(path) and not path.is_dir()]
    facts, files_read = _all_facts(files, raw, cache, map_function)
    scan = _Scan(raw, facts, min_frames, require_consent, frozenset(nobody_real))
    for dataset, name in FOLDERS.items():
        _refuse_strays(dataset, "", raw / name, scan)
    for person in people[PHONE]:
        _scan_phone(person, scan, default_fov_degrees)
    for person in people[STUDIO]:
        _scan_studio(person, scan)
    if not scan.rows:
        first = scan.quarantine[0] if scan.quarantine else None
        reason = f"; the first fault: {first['path']}: {first['reason']}" if first else ""
        reason += f"; {len(passed)} of {LIST} passed over" if passed else ""
        raise UserError(f"no usable capture under {raw}{reason}", "at least one whole video", "mend or add captures")
    for row in (*scan.rows, *scan.quarantine):
        row["path"] = _relative(raw / row["path"], project_root)
    identities = {name: sorted({r["identity"] for r in scan.rows if r["dataset"] == name}) for name in FOLDERS}
    notes = [f"{len(passed)} of {LIST} in {raw.name} passed over: consent was withdrawn; {AGAIN}"] if passed else []
    test = split_identities(identities, test_identities, seed, notes)
    for row in scan.rows:
        row["split"] = "test" if row["identity"] in test[row["dataset"]] else "train"
    phone = {row["identity"] for row in scan.rows if row["dataset"] == PHONE and row["split"] == "train"}
    real = {name for name in phone if f"{FOLDERS[PHONE]}/{name}" not in scan.nobody_real}
    own = sorted(real) if hold_out_clips else []
    write_manifest(target, scan.rows, scan.cameras, scan.quarantine, own)
    counts = {name: len(members) for name, members in identities.items()}
    held_out = {name: len(members) for name, members in test.items()}
    return IngestResult(len(scan.rows), counts, files_read, scan.quarantine, held_out, own, notes)


def split_identities(
    identities: Mapping[str, Iterable[str]],
    test_identities: Mapping[str, int],
    seed: int = 0,
    notes: list[str] | None = None,
) -> dict[str, set[str]]:
    """Dataset to its test identities: the lowest hashes of (seed, name), so order and machine do not matter.

    A person held out of one dataset is held out of every other one that knows the same name. Where fewer people are
    there than are to be held out, fewer are, and a sentence goes to `notes`: every dataset keeps somebody to train on.

    Raises:
        UserError: an unknown dataset.
    """
    for dataset in test_identities:
        if dataset not in identities:
            raise UserError(f"test identities for '{dataset}'", f"one of {', '.join(identities)}", "correct the name")
    people = {dataset: set(members) for dataset, members in identities.items()}
    chosen: set[str] = set()
    for dataset, members in people.items():
        wanted = min(int(test_identities.get(dataset, 0)), len(members))
        for name in sorted(members, key=lambda name: (name not in chosen, _hash(seed, name))):
            emptied = any(others and others <= chosen | {name} for others in people.values())
            if len(chosen & members) < wanted and not emptied:
                chosen.add(name)
        held = len(chosen & members)
        if notes is not None and members and held < int(test_identities.get(dataset, 0)):
            notes.append(
                f"of {len(members)} people in {dataset} {held} {'is' if held == 1 else 'are'} held out, not "
                f"{test_identities[dataset]} as ingest.test_identities asks: somebody must be left to train on"
            )
    return {dataset: chosen & members for dataset, members in people.items()}


def read_facts(path: str | Path) -> dict[str, Any]:
    """All that ingest keeps of one video: hash, frames, rate, size; or `error`, why it cannot be used."""
    try:
        info = asdict(probe(path))
        keys = ("frames", "fps", "width", "height", "variable_rate", "notes")
        return {"sha256": file_hash(path), **{key: info[key] for key in keys}}
    except UserError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"Found {path} unreadable ({error.strerror})."}


def _check_identity(dataset: str, name: str, scan: _Scan) -> None:
    check_name(name, "an identity's")
    other = scan.names.setdefault((dataset, unicodedata.normalize("NFKC", name).casefold()), name)
    if other != name:  # one folder on some systems, and hardly two people
        raise UserError(f"the identity {name} beside {other}", "names that differ in more than case", "rename one")


def has_consent(folder: Path) -> bool:
    """Whether a person's folder holds a consent file that is not empty."""
    return any(path.stat().st_size > 0 for path in consent_files(folder))


def consent_files(folder: Path) -> list[Path]:
    """The files of a person's folder that are named as consent."""
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if path.name.lower() in CONSENT and path.is_file()]


def _check_consent(folder: Path, scan: _Scan) -> None:
    needed = scan.require_consent and _relative(folder, scan.raw) not in scan.nobody_real
    if needed and not has_consent(folder):
        raise UserError(
            f"no consent file for {folder.name}, and ingest.require_consent is on",
            f"one of {', '.join(CONSENT)} in {folder.name}'s folder, not empty",
            "write down what the person agreed to, or leave them out",
        )


def _scan_phone(folder: Path, scan: _Scan, default_fov: float) -> None:
    identity = folder.name
    try:
        _check_identity(PHONE, identity, scan)
        _check_consent(folder, scan)
        fov = phone_field_of_view(folder / "capture.json", default_fov)
    except UserError as error:
        scan.refuse(PHONE, identity, folder, error)
        return
    clips = [path for path in _entries(folder) if path.name.lower() not in ("capture.json", *CONSENT)]
    videos = [path for path in clips if not path.name.endswith(FEATURES_SUFFIX)]
    if not videos:
        scan.refuse(PHONE, identity, folder, UserError("an empty folder", "clips", "add clips or remove the folder"))
    stems: set[str] = set()
    for path in videos:
        try:
            _check_suffix(path)
            check_name(path.stem, "a clip's")
            if path.stem in stems:
                raise UserError(f"two clips named {path.stem}", "names that differ before the dot", "rename one")
            row = _row(PHONE, identity, path.stem, "phone", path, scan, fov)
            _refuse_copy(row, path, scan)
            stems.add(path.stem)
            scan.rows.append(row)
        except UserError as error:
            scan.refuse(PHONE, identity, path, error)
            continue
        try:  # a video is good without its features
            read_features(path, row["frames"])
        except UserError as error:
            scan.refuse(PHONE, identity, path.with_suffix(FEATURES_SUFFIX), error)
    for path in clips:
        stem = path.name.removesuffix(FEATURES_SUFFIX)
        if path not in videos and stem not in {video.stem for video in videos}:
            reason = UserError(f"features {path.name} without a video", f"{stem}.mp4 beside them", "add the video")
            scan.refuse(PHONE, identity, path, reason)


def _scan_studio(folder: Path, scan: _Scan) -> None:
    identity = folder.name
    try:
        _check_identity(STUDIO, identity, scan)
        _check_consent(folder, scan)
        cameras = read_calibration(folder / "calibration.json")
        segments = _folders(folder)
        if not segments:
            raise UserError(f"no segments in {identity}", "folders of synchronised videos", "add videos")
    except UserError as error:
        scan.refuse(STUDIO, identity, folder, error)
        return
    _refuse_strays(STUDIO, identity, folder, scan)
    kept = 0
    for segment in segments:
        try:
            check_name(segment.name, "a segment's")
            rows = _segment_rows(identity, segment, scan, cameras)
            scan.rows.extend(rows)
            kept += len(rows)
        except UserError as error:
            scan.refuse(STUDIO, identity, segment, error)
    if kept:
        for name, camera in cameras.items():
            matrices = {key: getattr(camera, key).ravel().tolist() for key in ("intrinsics", "world_to_camera")}
            size = {"width": camera.width, "height": camera.height}
            scan.cameras.append({"dataset": STUDIO, "identity": identity, "camera": name, **size, **matrices})


def _segment_rows(identity: str, segment: Path, scan: _Scan, cameras: Mapping[str, Camera]) -> list[dict[str, Any]]:
    """The rows of one synchronised segment; all its cameras or none, for half a segment is not synchronised."""
    paths = _entries(segment)
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
        row = _row(STUDIO, identity, segment.name, path.stem, path, scan, float("nan"))
        camera = cameras[path.stem]
        if (row["width"], row["height"]) != (camera.width, camera.height):
            raise UserError(
                f"{row['width']}x{row['height']} pixels in {path.name}",
                f"{camera.width}x{camera.height} as calibrated",
                "calibrate at the recorded size or record at the calibrated one",
            )
        rows.append(row)
    counts = {row["camera"]: row["frames"] for row in rows}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise UserError(f"different frame counts ({listed})", "synchronised cameras", "cut the videos to common frames")
    rates = {row["camera"]: row["fps"] for row in rows}
    if max(rates.values()) > (1 + RATE_DIFFERENCE) * min(rates.values()):
        listed = ", ".join(f"{name} {rate:.4g}" for name, rate in sorted(rates.items()))
        raise UserError(f"different frame rates ({listed})", "synchronised cameras", "resample the videos to one rate")
    for row, path in zip(rows, paths, strict=True):
        _refuse_copy(row, path, scan)
    return rows


def _row(dataset: str, identity: str, segment: str, camera: str, path: Path, scan: _Scan, fov: float) -> dict[str, Any]:
    place = _relative(path, scan.raw)
    fact = dict(scan.facts[place])
    if "error" in fact:
        raise UserErrorText(fact["error"])
    if fact.pop("variable_rate"):
        raise UserError(
            f"a variable frame rate in {path.name}",
            "frames at equal distances in time",
            "bring it in with `fportrait import`, which resamples it, or record at a constant rate",
        )
    if not FPS_RANGE[0] <= fact["fps"] <= FPS_RANGE[1]:
        raise UserError(
            f"{fact['fps']:.4g} frames per second in {path.name}", "1 to 1000", "write the file again with its rate"
        )
    if fact["frames"] < scan.min_frames:
        raise UserError(
            f"{fact['frames']} frame{'s' * (fact['frames'] != 1)} in {path.name}",
            f"at least {scan.min_frames}",
            "record a longer clip",
        )
    names = {"dataset": dataset, "identity": identity, "segment": segment, "camera": camera}
    clip = f"{identity}/{segment}/{camera}"
    fact["notes"] = "; ".join(fact["notes"])
    return {**names, "clip": clip, "path": place, **fact, "horizontal_fov_degrees": fov}


def _refuse_copy(row: dict[str, Any], path: Path, scan: _Scan) -> None:
    """One file under two names would put a person on both sides of the split, or count a view twice."""
    place = _relative(path, scan.raw)
    first = scan.seen.setdefault(row["sha256"], place)
    if first != place:
        raise UserError(f"{path.name} with the same content as {first}", "every video once", "remove one of the two")


class UserErrorText(UserError):
    """A `UserError` that was already put into words, for example in another process or an earlier run."""

    def __init__(self, text: str):
        ValueError.__init__(self, text)


def _all_facts(
    files: list[Path], raw: Path, cache: str | Path | None, map_function: Callable[..., Iterable[Any]]
) -> tuple[dict[str, dict[str, Any]], int]:
    known = _read_cache(cache)
    stamps: dict[str, list[Any] | None] = {}
    for path in files:
        try:
            status = path.stat()
            stamps[_relative(path, raw)] = [str(path), status.st_size, status.st_mtime_ns]
        except OSError:  # a link that leads nowhere: `read_facts` says so
            stamps[_relative(path, raw)] = None
    stale = [place for place, stamp in stamps.items() if stamp is None or known.get(place, {}).get("stamp") != stamp]
    read = map_function(read_facts, [str(raw / place) for place in stale])
    for place, fact in zip(stale, read, strict=True):
        known[place] = {"stamp": stamps[place], "facts": fact}
    if cache is not None:  # faults are not kept: a disk may be mounted, a permission given
        write_json(cache, {place: known[place] for place in stamps if "error" not in known[place]["facts"]})
    return {place: known[place]["facts"] for place in stamps}, len(stale)


def _read_cache(cache: str | Path | None) -> dict[str, Any]:
    """What an earlier run knew; a damaged cache, or one of an older version, only costs time."""
    keys = {"sha256", "frames", "fps", "width", "height", "variable_rate", "notes"}
    try:
        entries = json.loads(Path(cache).read_text(encoding="utf-8")) if cache is not None else {}
        return {place: entry for place, entry in entries.items() if set(entry["facts"]) == keys and "stamp" in entry}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return {}


def _refuse_strays(dataset: str, identity: str, folder: Path, scan: _Scan) -> None:
    """Videos that lie one folder too high would otherwise be lost without a word."""
    for path in _entries(folder) if folder.is_dir() else ():
        if not path.is_dir() and _is_video_name(path):
            wanted = "a folder per segment" if identity else "a folder per identity"
            scan.refuse(
                dataset, identity, path, UserError(f"the video {path.name} in {folder.name}", wanted, "move it")
            )


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()] if folder.is_dir() else []


def _is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _check_suffix(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"a folder {path.name} where a video belongs", "a video file", "move its videos up")
    if not _is_video_name(path):
        known = ", ".join(VIDEO_SUFFIXES)
        raise UserError(
            f"{path.name}, which is not named as a video", f"a name ending in {known}", "rename or remove it"
        )


def _relative(path: Path, root: Path) -> str:
    """`path` relative to `root` with forward slashes, unresolved; an outside path stays absolute."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
