"""What files and folders of a project say, for `ops.forget`: nothing, where they are broken or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fportrait.atomic_io import OURS, file_hash

UNIT = re.compile(r"[0-9a-f]{16}")


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def below(folder: Path) -> Iterator[Path]:
    """Files and links below a folder; folders behind links are not entered."""
    for place, folders, names in os.walk(folder):
        yield from (
            Path(place, name) for name in sorted((*names, *(one for one in folders if Path(place, one).is_symlink())))
        )


def size_of(path: Path) -> int:
    found = [path] if path.is_file() or path.is_symlink() else below(path)
    return sum(one.lstat().st_size for one in found)


def read_value(path: Path) -> Any:
    """A JSON file's value; None of one that is broken, nested without end or not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    found = read_value(path)
    return found if isinstance(found, dict) else {}


def read_list(path: Path) -> list[Any]:
    found = read_value(path)
    return found if isinstance(found, list) else []


def clips_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The clips that an adapter's record tells of."""
    clips = record.get("clips")
    return [one for one in clips if isinstance(one, dict)] if isinstance(clips, list) else []


def avatar_hash(folder: Path) -> str | None:
    """The hash of an avatar's weights."""
    path = folder / "avatar.safetensors"
    return file_hash(path) if path.is_file() else None


def column_of(path: Path, name: str, column: str) -> Iterable[str]:
    """A column of a Parquet table, of the rows whose `identity` is `name`."""
    import pandas as pd
    import pyarrow as pa

    try:
        return map(str, pd.read_parquet(path, columns=[column], filters=[("identity", "==", name)])[column])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return ()


def units_in(kind: Path) -> list[Path]:
    return [path for path in entries(kind) if UNIT.fullmatch(path.name) and path.is_dir()]


def half_written(folder: Path) -> Iterator[Path]:
    """Temporary files and folders that a killed process left below a folder (`atomic_io`)."""
    for place, folders, names in os.walk(folder):
        yield from (Path(place, one) for one in sorted((*folders, *names)) if OURS.fullmatch(one))
        folders[:] = [one for one in folders if not OURS.fullmatch(one)]


def is_report(folder: Path) -> bool:
    """Whether `evaluate` wrote a folder."""
    return (folder / "metrics.json").is_file() and (folder / "scores.json").is_file()
