"""The one place that writes files: to a temporary name, fsynced, then renamed, so nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch


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
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
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
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it replaces `target` as a whole."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except Exception as error:
        if is_full_disk(error):
            raise _full_disk(target) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    from safetensors.torch import save_file

    with atomic_path(target) as path:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata)
    return Path(target)


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
