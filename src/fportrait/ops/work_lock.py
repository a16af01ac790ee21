"""Stages work side by side in a project's data; what takes a person out of all of it works alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fportrait.errors import UserError

LOCK = Path("data/.units/.at_work")
DVC_LOCK = Path(".dvc/tmp/rwlock")  # DVC's: which process reads or writes what


def share(home: str | Path = ".") -> IO[str] | None:
    """Say that a stage is at work, until the file that is returned is closed or the process ends.

    None on a file system without locks.

    Raises:
        UserError: somebody is being forgotten here.
    """
    return _take(Path(home), fcntl.LOCK_SH, "`fportrait forget` at work here", "its end")


@contextlib.contextmanager
def alone(home: str | Path = ".") -> Iterator[None]:
    """No stage is at work here, and none begins.

    Raises:
        UserError: one is, or DVC is.
    """
    handle = _take(Path(home), fcntl.LOCK_EX, "a stage at work in this project", "no running stage")
    try:
        for pid in _of_dvc(Path(home) / DVC_LOCK):
            raise UserError(
                f"DVC at work here (process {pid})", "no running stage", "wait until it is done, or stop it"
            )
        yield
    finally:
        if handle is not None:
            handle.close()


def _take(home: Path, how: int, found: str, expected: str) -> IO[str] | None:
    path = home / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a", encoding="utf-8")  # closed by whoever asked
    except OSError:  # whatever wants to write will say so
        return None
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise UserError(found, expected, "wait until it is done, or stop it") from None
    except OSError:
        handle.close()
        return None
    return handle


def _of_dvc(path: Path) -> set[int]:
    """Living processes of DVC that read or write data here."""
    import psutil

    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        holders = [one for entry in noted.values() for key in ("write", "read") for one in _listed(entry.get(key))]
        return {int(one["pid"]) for one in holders if psutil.pid_exists(int(one["pid"]))}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return set()


def _listed(entry: object) -> list[dict[str, int]]:
    return entry if isinstance(entry, list) else [entry] if isinstance(entry, dict) and entry else []
