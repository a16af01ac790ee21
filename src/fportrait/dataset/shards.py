"""Latent shards: one immutable safetensors file per identity, an index, a checksum per record.

```
SHARDS/DATASET/IDENTITY.safetensors    NAME.latents, NAME.normals, … and reference.latents, … (docs/data-contracts.md)
SHARDS/DATASET/HxW/IDENTITY.safetensors    the same of a further bucket (`dataset.buckets`)
SHARDS/index.parquet                   one row per record, with the record's SHA-256
SHARDS/encode.json                     hash of the VAE and of the parameters that made the latents
```
Reading is by memory map and random access, or by byte ranges from an object store (`fportrait.dataset.remote`). A
record (and an identity's references) is checked against its checksum the first time a process touches it, and every
time it is fetched from a store: a flipped byte is refused by name, never trained on.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import tensors_hash, value_hash, write_json, write_parquet, write_safetensors
from fportrait.dataset.crops import is_sound
from fportrait.dataset.remote import RemoteShard, file_system, is_url
from fportrait.diffusion.shapes import SPATIAL_STRIDE
from fportrait.errors import UserError

INDEX, PARAMETERS = "index.parquet", "encode.json"
REFERENCE = "reference"
TIME_AXIS = {"latents": 1, "normals": 1, "warped": 2}  # of a record's tensors; all others begin with it
OPEN_SHARDS = 128
AGAIN = "run `kedro run --pipelines=encode` again"


@dataclass(frozen=True)
class Record:
    """Where one window of a clip is: row of the index. `item` counts the records of its dataset and split."""

    dataset: str
    identity: str
    split: str
    record: str
    clip: str
    first_frame: int
    frames: int
    shard: str
    checksum: str
    references_checksum: str
    height: int = 0  # pixels of the picture, in shards of several buckets; 0 where all are of one
    width: int = 0

    @property
    def id(self) -> str:
        return f"{self.dataset}/{self.identity}/{self.record}"


def write_shard(
    target: str | Path,
    *,
    dataset: str,
    identity: str,
    split: str,
    records: list[tuple[str, str, int, dict[str, Tensor]]],
    references: dict[str, Tensor],
) -> list[dict[str, Any]]:
    """Write one identity's shard and return its rows of the index (without `shard`).

    Args:
        records: `(record, clip, first_frame, tensors)`; tensors named as in the contract, without the record's prefix.
        references: `latents`, `normals`, `world_to_camera`, `intrinsics`, `images`.

    Raises:
        UserError: a tensor holds a number that is not finite (the clip is named), a window is not 4k+1 frames long, or
            the tensors of a record disagree about its length.
    """
    everything = {f"{REFERENCE}.{name}": tensor for name, tensor in references.items()}
    _refuse_not_finite(references, f"the references of {dataset}/{identity}")
    references_checksum = tensors_hash(references)
    rows = []
    for record, clip, first_frame, tensors in records:
        where = f"{dataset}/{clip} from frame {first_frame}"
        _refuse_not_finite(tensors, where)
        frames = _check_lengths(tensors, where)
        everything |= {f"{record}.{name}": tensor for name, tensor in tensors.items()}
        row: dict[str, Any] = {"dataset": dataset, "identity": identity, "split": split, "record": record, "clip": clip}
        row |= {"first_frame": first_frame, "frames": frames, "checksum": tensors_hash(tensors)}
        rows.append(row | {"references_checksum": references_checksum})
    write_safetensors(target, everything, {"dataset": dataset, "identity": identity, "split": split})
    return rows


def _refuse_not_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"a number that is not finite in {name} of {where}",
                "finite numbers",
                "look at that clip and its annotations; quarantine it, or track it again",
            )


def _check_lengths(tensors: dict[str, Tensor], where: str) -> int:
    frames = len(tensors["codes"])
    latent_frames = (frames + 3) // 4
    wrong: list[str] = [
        name
        for name in ("world_to_camera", "landmark_codes", "video", "painted")
        if name in tensors and len(tensors[name]) != frames
    ]
    wrong += [name for name in ("latents", "normals") if tensors[name].shape[1] != latent_frames]
    if frames % 4 != 1 or wrong:
        differing = f" whose {', '.join(wrong)} differ in length" if wrong else ""
        raise UserError(
            f"a window of {frames} frames in {where}{differing}",
            "windows of T = 4k+1 frames, the same for every tensor",
            "set `window` to 5, 9, 13, 17 …",
        )
    return frames


class ShardWriter:
    """Collects shards into a folder; `finish` writes the index, without which a folder is no shard folder."""

    def __init__(self, folder: str | Path, vae_hash: str, parameters: dict[str, Any]):
        self.folder, self.vae_hash, self.parameters = Path(folder), vae_hash, parameters
        self.rows: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / INDEX).unlink(missing_ok=True)

    def add(self, shard: str | Path, rows: list[dict[str, Any]], folder: str = "") -> None:
        """Publish a shard written by `write_shard`: a hard link where the disk allows, else a copy.

        Args:
            folder: of a bucket, inside the dataset's; empty for the first.
        """
        names = [_plain_name(rows[0]["dataset"]), *([_plain_name(folder)] if folder else [])]
        relative = "/".join([*names, f"{_plain_name(rows[0]['identity'])}.safetensors"])
        target = self.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".tmp-{target.name}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(shard, temporary)
        except OSError:
            shutil.copyfile(shard, temporary)
        os.replace(temporary, target)
        self.rows += [row | {"shard": relative} for row in rows]

    def finish(self) -> dict[str, Any]:
        import pandas as pd

        columns = ["dataset", "identity", "split", "record", "clip", "first_frame", "frames", "shard", "checksum"]
        shapes = [name for name in ("height", "width") if any(name in row for row in self.rows)]
        table = pd.DataFrame(self.rows, columns=[*columns, "references_checksum", *shapes])
        table = table.sort_values(["dataset", "identity", "record"], ignore_index=True)
        table = table.astype(dict.fromkeys(["first_frame", "frames", *shapes], "int32"))
        info = {
            "vae_hash": self.vae_hash,
            "parameters": self.parameters,
            "parameters_hash": value_hash(self.parameters),
            "records": len(table),
        }
        write_json(self.folder / PARAMETERS, info)
        write_parquet(self.folder / INDEX, table)
        return info


def _plain_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(f"the name '{name}'", "a plain folder name", "rename that capture")
    return name


class ShardReader:
    """Random access to a folder of shards: a local one, or the URL of one in an object store (`s3://bucket/shards`).

    `records(split)[dataset]` lists the records in the order of the index: item i of `mixing.sample_at` is entry i.

    Raises:
        UserError: the folder is not a complete shard folder, or its store cannot be opened.
    """

    def __init__(self, folder: str | Path):
        import pandas as pd

        self.folder: str | Path = str(folder) if is_url(folder) else Path(folder)
        self._store: Any = None
        if isinstance(self.folder, Path):
            complete = (self.folder / INDEX).is_file() and (self.folder / PARAMETERS).is_file()
        else:
            self._store, self._root = file_system(self.folder)
            complete = all(self._store.exists(f"{self._root}/{name}") for name in (INDEX, PARAMETERS))
        if not complete:
            raise UserError(
                f"no {INDEX} in {self.folder}", "a folder of latent shards", "run `kedro run --pipelines=encode`"
            )
        info, index = (self.whole_file(name) for name in (PARAMETERS, INDEX))
        self.info = json.loads(info)
        table = pd.read_parquet(io.BytesIO(index))
        self._records: dict[str, dict[str, list[Record]]] = {}
        for row in table.to_dict("records"):
            record = Record(**row)
            self._records.setdefault(record.split, {}).setdefault(record.dataset, []).append(record)
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._verified: set[str] = set()
        self._fetched: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def whole_file(self, name: str) -> bytes:
        """The bytes of a file of the folder."""
        if isinstance(self.folder, Path):
            return (self.folder / name).read_bytes()
        return self._store.cat_file(f"{self._root}/{name}")

    @property
    def vae_hash(self) -> str:
        return self.info["vae_hash"]

    @functools.cached_property
    def hash(self) -> str:
        """Names the content: checksums of every record, VAE and parameters."""
        checksums = [
            [record.id, record.checksum, record.references_checksum]
            for split in sorted(self._records)
            for dataset in sorted(self._records[split])
            for record in self._records[split][dataset]
        ]
        return value_hash([self.vae_hash, self.info["parameters"], checksums])

    def records(self, split: str = "train") -> dict[str, list[Record]]:
        return self._records.get(split, {})

    def sizes(self, split: str = "train") -> dict[str, int]:
        return {dataset: len(records) for dataset, records in self.records(split).items()}

    def shapes(self, split: str = "train") -> dict[str, list[tuple[int, int]]]:
        """Height and width of every record's picture; zeros in shards of one shape, which do not say."""
        records = self.records(split)
        return {dataset: [(record.height, record.width) for record in some] for dataset, some in records.items()}

    def read(self, record: Record, frames: int | None = None) -> dict[str, Tensor]:
        """Tensors of a record, cut to its first `frames` frames (T = 4k+1; None keeps all).

        Raises:
            UserError: more frames asked than the record has, its bytes do not match the checksum, or it says of no part
                of its picture that it was filmed.
        """
        frames = record.frames if frames is None else frames
        if frames > record.frames or frames % 4 != 1:
            raise UserError(
                f"{frames} frames asked of {record.id}, which has {record.frames}",
                "T = 4k+1 frames, at most the window",
                f"lower `frames`, or raise `window` of encode and {AGAIN}",
            )
        names = self._tensor_names(record.shard, record.record)
        parts = self._parts(record.shard, record.record, names, record.checksum, record.id)
        latents = (frames + 3) // 4
        lengths = {"latents": latents, "normals": latents, "warped": latents, "intrinsics": None, "inside": None}
        tensors = {}
        for name, part in parts.items():
            length = lengths.get(name, frames)
            if length is None:
                tensors[name] = part[:]
            else:
                tensors[name] = part[(*[slice(None)] * TIME_AXIS.get(name, 0), slice(length))]
        if "inside" in tensors:  # a mask that is none would train on nothing without a word
            told = tensors["inside"].flatten().tolist()
            height, width = (SPATIAL_STRIDE * side for side in tensors["latents"].shape[-2:])
            if not is_sound(told, height, width):
                raise UserError(
                    f"{told} as what was filmed of {record.id}",
                    f"left, top, right and bottom within {width}×{height} pixels",
                    f"delete {Path(self.folder) / record.shard} and {AGAIN}",
                )
        return tensors

    def references(self, record: Record) -> dict[str, Tensor]:
        """The identity's portraits: `latents` `R 16 1 h w`, `world_to_camera`, `intrinsics`, `images` `R H W 3`."""
        names = self._tensor_names(record.shard, REFERENCE)
        where = f"the references of {record.dataset}/{record.identity}"
        parts = self._parts(record.shard, REFERENCE, names, record.references_checksum, where)
        return {name: part[:] for name, part in parts.items()}

    def _parts(self, shard: str, prefix: str, names: list[str], checksum: str, where: str) -> dict[str, Any]:
        """Checked tensors of a record, or of the references: slices of the memory map, or fetched from the store."""
        handle = self._handle(shard)
        if self._store is None:
            self._verify(shard, prefix, names, checksum, where)
            return {name: handle.get_slice(f"{prefix}.{name}") for name in names}
        key = f"{shard}#{prefix}"
        if prefix == REFERENCE and key in self._fetched:
            return self._fetched[key]  # every record of a person asks for them
        fetched = handle.get_tensors([f"{prefix}.{name}" for name in names])
        tensors = {name: fetched[f"{prefix}.{name}"] for name in names}
        if tensors_hash(tensors) != checksum:
            raise _wrong_bytes(shard, where, f"copy {shard} to {self.folder} again")
        if prefix == REFERENCE:
            self._fetched[key] = tensors
            if len(self._fetched) > OPEN_SHARDS:
                self._fetched.popitem(last=False)
        return tensors

    def _handle(self, shard: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            if self._store is not None:
                handle: Any = RemoteShard(self._store, f"{self._root}/{shard}")
            else:
                handle = safe_open(str(Path(self.folder) / shard), framework="pt")
        except (FileNotFoundError, SafetensorError) as error:
            raise UserError(f"an unreadable shard {shard} ({error})", "the file that the index lists", AGAIN) from None
        self._open[shard] = handle
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return handle

    def _tensor_names(self, shard: str, prefix: str) -> list[str]:
        start = prefix + "."
        names = [key.removeprefix(start) for key in self._handle(shard).keys() if key.startswith(start)]  # noqa: SIM118
        if not names:
            raise UserError(f"no {prefix} in {shard}", "every record that the index lists", AGAIN)
        return names

    def _verify(self, shard: str, prefix: str, names: list[str], checksum: str, where: str) -> None:
        key = f"{shard}#{prefix}"
        if key in self._verified:
            return
        handle = self._handle(shard)
        if tensors_hash({name: handle.get_tensor(f"{prefix}.{name}") for name in names}) != checksum:
            raise _wrong_bytes(shard, where, f"delete {Path(self.folder) / shard} and {AGAIN}")
        self._verified.add(key)


def trained_buckets(folder: str | Path) -> list[tuple[int, int]]:
    """Height and width of the further pictures that shards hold beside the square (`dataset.buckets`)."""
    from fportrait.dataset.buckets import parse_bucket

    file = Path(folder) / PARAMETERS
    parameters = json.loads(file.read_text())["parameters"] if file.is_file() else {}
    return [tuple(parse_bucket(text)) for text in parameters.get("buckets", ())]  # type: ignore[misc]


def _wrong_bytes(shard: str, where: str, fix: str) -> UserError:
    found = f"bytes in {shard} that do not match the checksum of {where}"
    return UserError(found, "the shard as it was written", fix)
