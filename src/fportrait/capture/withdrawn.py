"""People who withdrew their consent, and whose captures still lie in the raw folder: no run takes them in again."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json
from fportrait.capture.calibration import check_name
from fportrait.errors import UserError

LIST = "withdrawn.json"  # in the raw folder, beside phone/ and studio/
AGAIN = f"who agrees again is taken out of {LIST}"


def withdrawn(raw: str | Path) -> dict[str, dict[str, Any]]:
    """By person: `time` (seconds since 1970); `trained`, whether models of before then were trained on them; `done`,
    whether everything else that held them went.

    Raises:
        UserError: the list is broken. It is not passed over: everybody on it would come back.
    """
    path = Path(raw) / LIST
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # a link that leads nowhere, or a folder, among them
        found = None
    if not isinstance(found, dict) or not all(_is_sound(*one) for one in found.items()):
        raise UserError(
            f"a broken {path}",
            "what `fportrait forget` wrote",
            "restore it, or remove it and forget everybody again who withdrew",
        )
    return found


def _is_sound(name: str, entry: object) -> bool:
    """Whether an entry is one, of a name that can be a folder's: `ingest` removes folders by it. What is missing of the
    entry is made up for by whoever reads it."""
    try:
        check_name(name, "a person's")
    except UserError:
        return False
    when = entry.get("time", 0) if isinstance(entry, dict) else None
    return isinstance(when, int | float) and not isinstance(when, bool) and math.isfinite(when)


def of_withdrawn(path: str | Path) -> bool:
    """Whether a file lies in the folder of somebody who withdrew, `RAW/phone/PERSON` or `RAW/studio/PERSON`, by name or
    by where a link leads."""
    path = Path(path).absolute()
    above = {*path.parents, path.parent.resolve(), *path.parent.resolve().parents, *path.resolve().parents}
    folders = [one for one in above if one.parent.name in ("phone", "studio")]
    return any(one.name in withdrawn(one.parent.parent) for one in folders)


def refuse_withdrawn(paths: Iterable[str | Path | None]) -> None:
    """Raises `UserError` for a file `of_withdrawn`; nobody is named."""
    if any(of_withdrawn(path) for path in paths if path is not None):
        raise UserError(f"files of people who withdrew ({LIST} beside them)", "those of somebody who agreed", AGAIN)


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
