"""What went in, what came out: hashes, sizes and the record that is kept beside every result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash, write_json

FOLDER = Path("data/08_reporting/lineage")


def files_of(path: str | Path) -> list[Path]:
    """The files at or below `path`, in a fixed order; temporary files are left out."""
    path = Path(path)
    if path.is_file():
        return [path]
    found, been = [], set()
    for folder, below, names in os.walk(path, followlinks=True):  # what lies behind a link is read, so it is hashed
        real = os.path.realpath(folder)
        if real in been:
            below.clear()  # a link to a folder above
            continue
        been.add(real)
        below[:] = [name for name in below if not name.startswith(".tmp-")]
        found += [Path(folder, name) for name in names if not name.startswith(".tmp-")]
    return sorted(file for file in found if file.is_file())


def describe(path: str | Path) -> dict[str, Any]:
    """`hash` (sixteen hexadecimal digits over names and bytes), `bytes` and `files` of a file or folder."""
    digest, size, files = hashlib.sha256(), 0, files_of(path)
    for file in files:
        name = file.name if file == Path(path) else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file_hash(file)}\n".encode())
        size += file.stat().st_size
    return {"hash": digest.hexdigest()[:16], "bytes": size, "files": len(files)}


def git_commit() -> str:
    """The commit checked out here, with `+` after it when the running code differs; empty outside a repository."""
    from fportrait.ops.code import changed_files, head

    commit = head()
    return commit + ("+" if commit and changed_files() else "")


def dvc_keys() -> dict[str, str]:
    """`DVC_STAGE` and `DVC_EXP_NAME` when DVC started this process."""
    return {name: os.environ[name] for name in ("DVC_STAGE", "DVC_EXP_NAME") if os.environ.get(name)}


def write_record(stage: str, record: dict[str, Any], folder: Path = FOLDER) -> Path:
    return write_json(folder / f"{stage}.json", record)


def read_record(stage: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    path = folder / f"{stage}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def gaps(stages: list[str], folder: Path = FOLDER) -> list[str]:
    """Why the chain of records is not whole: a missing record, or an input that is not what the stage before wrote."""
    reasons: list[str] = []
    written: dict[str, tuple[str, str]] = {}
    for stage in stages:
        record = read_record(stage, folder)
        if record is None:
            reasons.append(f"there is no record of '{stage}'")
            continue
        for path, entry in record["inputs"].items():
            if path in written and written[path][1] != entry["hash"]:
                maker = written[path][0]
                reasons.append(f"'{stage}' used another {path} than the one '{maker}' made; run '{stage}' again")
        written.update({path: (stage, entry["hash"]) for path, entry in record["outputs"].items()})
    return reasons


def collect(stages: Sequence[str], folder: Path = FOLDER) -> dict[str, Any]:
    """Everything a model was made from, in one document: the stages' records and the captures they began with."""
    records = {stage: read_record(stage, folder) for stage in stages}
    return {"stages": {stage: record for stage, record in records.items() if record}, "captures": captures(records)}


def captures(records: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Clips per identity with one hash over their SHA-256, from the manifest that the records name."""
    outputs = (records.get("ingest") or {}).get("outputs", {})
    manifest = next(
        (Path(path) / "manifest.parquet" for path in outputs if (Path(path) / "manifest.parquet").is_file()), None
    )
    if manifest is None:
        return {}
    import pandas as pd

    table = pd.read_parquet(manifest, columns=["dataset", "identity", "split", "clip", "frames", "sha256"])
    found: dict[str, Any] = {}
    for (dataset, identity), rows in table.sort_values("clip").groupby(["dataset", "identity"], sort=True):
        digest = hashlib.sha256("\n".join(rows["sha256"]).encode()).hexdigest()[:16]
        found[f"{dataset}/{identity}"] = {
            "clips": len(rows),
            "frames": int(rows["frames"].sum()),
            "split": str(rows["split"].iloc[0]),
            "hash": digest,
        }
    return found


def story_lines(story: dict[str, Any]) -> list[str]:
    """The document of `collect` as lines for people: newest stage first, back to the captures."""
    lines: list[str] = []
    stages = story.get("stages", {})
    makers = {path: name for name, record in stages.items() for path in record.get("outputs", {})}
    for name in reversed(stages):
        record = stages[name]
        commit = record.get("git_commit") or "no commit"
        seconds, memory = record.get("seconds", 0.0), record.get("peak_memory_mib", 0.0)
        lines.append(
            f"{name}  run {record.get('run_id', '?')[:8]}  code {commit[:12]}{'+' if commit.endswith('+') else ''}"
            f"  {seconds:.1f} s  {memory:.0f} MiB"
        )
        for path, entry in record.get("inputs", {}).items():
            origin = f"  made by {makers[path]}" if path in makers and makers[path] != name else ""
            lines.append(f"    from {path}  {entry['hash']}  {entry.get('bytes', 0) / 2**20:.1f} MiB{origin}")
        for key, value in sorted(_flat(record.get("parameters", {})).items()):
            lines.append(f"    {key} = {value}")
    for name, entry in story.get("captures", {}).items():
        lines.append(
            f"capture {name}  {entry['clips']} clips, {entry['frames']} frames, {entry['split']}, {entry['hash']}"
        )
    return lines


def registered_metrics(server: Any, version: Any) -> dict[str, float]:
    """Metrics of a registered version: those of its run, and over them those it was registered with.

    Raises:
        UserError: the version's files are not there.
    """
    from fportrait.ops.registry import metadata_of

    metrics = dict(server.get_run(version.run_id).data.metrics) if version.run_id else {}
    return metrics | metadata_of(str(version.version)).get("metrics", {})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
