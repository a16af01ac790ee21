"""Shards in an object store (`s3://…`, `memory://…`): single tensors by byte range, through fsspec.

A safetensors file begins with the length of its header and the header, which says where each tensor's bytes are; so a
record is fetched by one request for its ranges, and the file as a whole never travels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fportrait.errors import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FIRST_BYTES = 64 * 1024  # most headers fit; a longer one costs a second request
LARGEST_HEADER = 100_000_000  # as in the safetensors library


def is_url(folder: Any) -> bool:
    return isinstance(folder, str) and "://" in folder


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path within it.

    Raises:
        UserError: the protocol is unknown or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"no way to open {url} ({error})",
            "a protocol of fsspec, with its package",
            "for s3:// pip install 's3fs', for gs:// 'gcsfs'",
        ) from None


class RemoteShard:
    """Tensors of one safetensors file in a store, with the methods of `safetensors.safe_open` that reading needs.

    Raises:
        UserError: the file is not there or its header is broken.
    """

    def __init__(self, store: Any, path: str):
        self.store, self.path = store, path
        try:
            start = store.cat_file(path, start=0, end=min(FIRST_BYTES, store.size(path)))
            length = int.from_bytes(start[:8], "little")
            if len(start) < 8 or length > LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            if 8 + length > len(start):
                start = store.cat_file(path, start=0, end=8 + length)
            header = json.loads(start[8 : 8 + length])
            self.begin = 8 + length
            self.entries: dict[str, Any] = {name: entry for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError) as error:
            raise UserError(
                f"an unreadable shard {path} ({error})", "the file that the index lists", "copy it there again"
            ) from None

    def keys(self) -> list[str]:
        return list(self.entries)

    def get_tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """All of `names` in one round of requests."""
        spans = [self.entries[name]["data_offsets"] for name in names]
        starts, ends = ([self.begin + span[side] for span in spans] for side in (0, 1))
        try:
            parts = self.store.cat_ranges([self.path] * len(names), starts, ends, on_error="raise")
        except (OSError, ValueError) as error:
            raise UserError(f"an unreadable shard {self.path} ({error})", "its bytes", "check the store") from None
        return {name: self._tensor(name, part) for name, part in zip(names, parts, strict=True)}

    def _tensor(self, name: str, data: bytes) -> Tensor:
        entry = self.entries[name]
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        expected = dtype.itemsize * int(torch.Size(shape).numel())
        if len(data) != expected:
            raise UserError(f"{len(data)} bytes of {name} in {self.path}", str(expected), "copy the file there again")
        return (
            torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
        )


def upload(folder: Any, url: str) -> None:
    """Copy a finished shard folder to a store; the index goes last, so that an interrupted copy is no shard folder."""
    from pathlib import Path

    from fportrait.dataset.shards import INDEX

    store, target = file_system(url)
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == INDEX):
        name = f"{target}/{path.relative_to(folder).as_posix()}"
        store.makedirs(name.rpartition("/")[0], exist_ok=True)
        store.put_file(str(path), name)
