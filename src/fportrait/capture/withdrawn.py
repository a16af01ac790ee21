"""People who withdrew their consent, and whose captures still lie in the raw folder: no run takes them in again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json
from fportrait.errors import UserError

LIST = "withdrawn.json"  # in the raw folder, beside phone/ and studio/


def withdrawn(raw: str | Path) -> dict[str, dict[str, Any]]:
    """By person: `time` (seconds since 1970); `trained`, whether models of before then were trained on them; `done`,
    whether everything else that held them went.

    Raises:
        UserError: the list is broken. It is not passed over: everybody on it would come back.
    """
    path = Path(raw) / LIST
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"a broken {path}", "what `fportrait forget` wrote", "restore it, or forget these people again")
    return found


def of_withdrawn(path: str | Path) -> bool:
    """Whether a file lies in the folder of somebody who withdrew, `RAW/phone/PERSON` or `RAW/studio/PERSON`."""
    above = Path(path).absolute().parents
    kinds = [(one.name, one.parent) for one in above if one.parent.name in ("phone", "studio")]
    return any(person in withdrawn(kind.parent) for person, kind in kinds)


def withdraw(raw: str | Path, person: str, trained: bool, done: bool) -> None:
    """Put a person on the list; the time is that of the first withdrawal."""
    found = withdrawn(raw)
    entry = {"time": found.get(person, {}).get("time", round(time.time(), 3)), "trained": trained, "done": done}
    _write(raw, found | {person: entry})


def take_off(raw: str | Path, person: str) -> None:
    """Take a person off the list; an empty one goes."""
    _write(raw, {name: entry for name, entry in withdrawn(raw).items() if name != person})


def _write(raw: str | Path, found: Mapping[str, Any]) -> None:
    path = Path(raw) / LIST
    if found:
        write_json(path, dict(found))
    else:
        path.unlink(missing_ok=True)
