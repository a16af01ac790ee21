"""What went in, what came out: hashes, sizes and the record that is kept beside every result."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash, write_json

FOLDER = Path("data/08_reporting/lineage")


def files_of(path: str | Path) -> list[Path]:
    """The files at or below `path`, in a fixed order; temporary files are left out."""
    path = Path(path)
    if path.is_file():
        return [path]
    return sorted(
        file for file in path.rglob("*") if file.is_file() and not any(part.startswith(".tmp-") for part in file.parts)
    )


def describe(path: str | Path) -> dict[str, Any]:
    """`hash` (sixteen hexadecimal digits over names and bytes), `bytes` and `files` of a file or folder."""
    digest, size, files = hashlib.sha256(), 0, files_of(path)
    for file in files:
        name = file.name if file == Path(path) else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file_hash(file)}\n".encode())
        size += file.stat().st_size
    return {"hash": digest.hexdigest()[:16], "bytes": size, "files": len(files)}


def code_hash(*packages: str) -> str:
    """Sixteen hexadecimal digits over the Python files of `fportrait`'s subpackages: the code version in unit names."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            digest.update(f"{package}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """The commit checked out here, with `+` after it when tracked files differ; empty outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "pipelines", "conf"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if dirty.returncode else "")


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
