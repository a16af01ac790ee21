"""The one place that writes files: to a temporary name, fsynced, then renamed, so nothing is ever half-written.

A writer that is killed leaves its temporary file or folder (`.tmp-…`) behind. Writers lock theirs for as long as they
live, so whoever next writes into the same folder knows which ones nobody will finish, and removes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch


PREFIX = ".tmp-"
OURS = re.compile(r"\.tmp-[a-z0-9_]{8}(\.\w+)?")  # as `tempfile` completes the prefix
STALE_SECONDS = 60.0  # between the making of a temporary file and its lock lie microseconds
_swept: set[tuple[int, str]] = set()
logger = logging.getLogger(__name__)


def is_full_disk(error: Exception) -> bool:
    """The system's own error, or that of the safetensors library, which only words it."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error)


def _full_disk(target: Path) -> UserError:
    error = UserError(
        f"a full disk while writing {target}", "free space", f"free some space on {target.parent} and run again"
    )
    error.errno = errno.ENOSPC  # type: ignore[attr-defined]  # an `atomic_folder` around it names its own target instead
    return error


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` (same suffix); rename it onto `target` when the block succeeds.

    On any error the temporary file is removed and `target` keeps its old content.

    Raises:
        UserError: the disk is full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(target.parent)
    handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=target.suffix, dir=target.parent)
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except Exception as error:
        if is_full_disk(error):
            raise _full_disk(target) from None
        raise
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it replaces `target` as a whole."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(target.parent)
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
    os.chmod(temporary, 0o755)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        _lock(handle)
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except Exception as error:
        if is_full_disk(error):
            raise _full_disk(target) from None
        raise
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _lock(handle: int) -> bool:
    """Lock an open file or folder for this process; it is free again when the process ends, however it ends.

    Returns:
        False where another process holds it, or where the file system knows no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sweep_once(folder: Path) -> None:
    """`sweep` the first time that this process writes into `folder`."""
    key = (os.getpid(), os.path.abspath(folder))
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def sweep(folder: str | Path) -> list[Path]:
    """Remove the temporary files and folders directly in `folder` that a killed writer left; returns them.

    Only names that this module gives are looked at, and only those that nobody holds and nothing has touched for
    `STALE_SECONDS`. On a file system without locks, or one shared with machines that lock apart, age alone would not
    tell, so nothing is removed where the lock cannot be had.
    """
    removed = []
    try:
        found = [Path(entry.path) for entry in os.scandir(folder) if OURS.fullmatch(entry.name)]
    except OSError:
        return []
    for path in found:
        with contextlib.suppress(OSError):  # finished, or swept by another, meanwhile
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode) or time.time() - max(state.st_mtime, state.st_ctime) < STALE_SECONDS:
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                if not _lock(handle):
                    continue
                shutil.rmtree(path) if stat.S_ISDIR(state.st_mode) else path.unlink()
                removed.append(path)
            finally:
                os.close(handle)
    if removed:
        logger.info("removed what a killed run left in %s: %s", folder, ", ".join(path.name for path in removed))
    return removed


def write_text(target: str | Path, text: str) -> Path:
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
    return Path(target)


def write_json(target: str | Path, value: Any) -> Path:
    return write_text(target, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_parquet(target: str | Path, table: pd.DataFrame) -> Path:
    with atomic_path(target) as path:
        table.to_parquet(path, index=False)
    return Path(target)


def write_safetensors(
    target: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """The same tensors and metadata always give the same bytes, which is what DVC asks whether to run a stage again."""
    from safetensors.torch import save_file

    with atomic_path(target) as path:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata)
        if metadata and len(metadata) > 1:
            _sort_metadata(path)
    return Path(target)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in a safetensors file's header in the order of its keys: the library's is another one in every
    process."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # written otherwise than here, it stays as it is
            file.seek(8)
            file.write(text.ljust(size))


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-like value (parameters, an input's description)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names; the tensors lie on the CPU."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_hash(*parts: str) -> str:
    """Sixteen hexadecimal digits over parts of this package, which name the code version in the names of results.

    Args:
        parts: a subpackage, of which all Python files count ("avatar"), or a single file ("assets/body.npz").
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for part in parts:
        for file in [root / part] if (root / part).is_file() else sorted((root / part).rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
