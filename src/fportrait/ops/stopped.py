"""Why a stage stopped, for `fportrait status`: kept beside the records of those that are done, until it is done."""

from __future__ import annotations

import json
from pathlib import Path

from fportrait.atomic_io import write_json


def write(stage: str, records: Path, error: Exception) -> None:
    """Note what stopped a stage, whose record would lie in the folder `records`."""
    write_json(_path(stage, records), {"stage": stage, "error": str(error)[:4000]})


def forget(stage: str, records: Path) -> None:
    _path(stage, records).unlink(missing_ok=True)


def read(stage: str, records: Path) -> str | None:
    """What stopped a stage; None where nothing did, it is done since, or the note is broken."""
    try:
        return str(json.loads(_path(stage, records).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(stage: str, records: Path) -> Path:
    return records.parent / "stopped" / f"{stage}.json"
