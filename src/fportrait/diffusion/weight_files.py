"""Weight files as people bring them: which of a folder's files are meant, what they hold, and under which names.

Nothing is read but headers until a tensor is asked for, and nothing in a file is ever run.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fportrait.errors import UserError

Shapes = dict[str, tuple[int, ...]]
logger = logging.getLogger(__name__)

MAX_HEADER = 100_000_000  # bytes, as safetensors itself
STANDARD_NAMES = ("diffusion_pytorch_model", "model")  # what diffusers and transformers write and look for
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
UNFINISHED = (".incomplete", ".aria2", ".part", ".crdownload")
SHARD_NAME = re.compile(r"^(?P<stem>.+?)-(?P<number>\d{5})(-of-(?P<count>\d{5}))?\.safetensors$")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.")  # DDP; what ComfyUI's files call the model
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch.compile, FSDP; anywhere


@dataclass(frozen=True)
class Stored:
    """One tensor of a file; `read()` loads it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


def weight_files(location: Path) -> list[Path]:
    """The safetensors files of a model folder: those its index names, else the one of the standard name, else the only
    set there is. Variants (`.fp16`) and adapters beside them are left alone.

    Raises:
        UserError: there is none, some are missing, or it is not clear which are meant; a pickle is named and refused.
    """
    for name in STANDARD_NAMES:
        index = location / f"{name}.safetensors.index.json"
        if index.is_file():
            return _indexed(index)
        if (location / f"{name}.safetensors").is_file():
            return [location / f"{name}.safetensors"]
    sets: dict[str, list[Path]] = {}
    for path in sorted(location.glob("*.safetensors")):
        shard = SHARD_NAME.match(path.name)
        sets.setdefault(shard["stem"] if shard else path.stem, []).append(path)
    if len(sets) > 1:
        raise UserError(
            f"{len(sets)} sets of weights in {location} ({listed(sorted(sets))})",
            f"one, or one called {STANDARD_NAMES[0]}.safetensors",
            "move the others away",
        )
    for paths in sets.values():
        _check_count(paths)
        return paths
    raise _no_weights(location)


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"a broken {index} ({error})", "an index of safetensors", "download it again") from None
    odd = [name for name in names if Path(str(name)).name != name]
    if odd:
        raise UserError(f"{odd[0]!r} in {index}", "names of files beside it", "download the index again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{len(names) - len(missing)} of the {len(names)} files that {index} names; missing: {listed(missing)}",
            "all of them",
            "let the download finish",
        )
    return [index.parent / name for name in names]


def _check_count(paths: list[Path]) -> None:
    shard = SHARD_NAME.match(paths[0].name)
    if shard and shard["count"] and len(paths) != int(shard["count"]):
        raise UserError(
            f"{len(paths)} of {int(shard['count'])} files {shard['stem']}-… in {paths[0].parent}",
            "all of them",
            "let the download finish",
        )


def _no_weights(location: Path) -> UserError:
    there = sorted(path.name for path in location.iterdir() if path.is_file())
    started = [name for name in there if name.endswith(UNFINISHED)]
    pickles = [name for name in there if name.endswith(PICKLES)]
    quantised = [name for name in there if name.endswith(".gguf")]
    if started:
        return UserError(f"an unfinished download in {location} ({listed(started)})", "*.safetensors", "let it finish")
    if pickles:
        return UserError(
            f"only pickled weights ({listed(pickles)}) in {location}",
            "safetensors (a pickle can run code)",
            "download that format; `fportrait weights import-wan` converts Wan's own .pth files",
        )
    if quantised:
        return UserError(
            f"quantised weights ({listed(quantised)}) in {location}",
            "*.safetensors in bf16, fp16 or fp32",
            "download those",
        )
    return UserError(f"no weights in {location}", "*.safetensors", "train or download the model again")


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header, without mapping its numbers into memory (56 GB for 14B in float32).

    Raises:
        UserError: the header is broken, the file is not as long as the header says, or it is a Git LFS pointer.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = file.read(8)
            refuse_pointer(path, start)
            length = int.from_bytes(start, "little")
            if not 0 < length <= min(size - 8, MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"{size} bytes instead of {end}: an unfinished download?")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"a broken file {path} ({error})", "safetensors", "write or download it again") from None
    return header


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise `UserError` when a file that begins with `start` is Git LFS's note of where the file lies."""
    if start.startswith(b"version "):
        raise UserError(f"a Git LFS pointer in place of {path}", "the file itself", "run `git lfs pull` in its folder")


def stored_tensors(files: Iterable[Path], say: bool = True) -> dict[str, Stored]:
    """What safetensors files hold, by plain name: what a wrapper put before names is taken off, and said.

    Raises:
        UserError: a broken file, numbers of 8 bits or fewer, or two tensors of one name.
    """
    found: dict[str, Stored] = {}
    for path in files:
        for name, entry in read_header(path).items():
            if entry["dtype"] not in DTYPES:
                raise UserError(
                    f"numbers of type {entry['dtype']} in {path} ({name})",
                    f"weights in {', '.join(DTYPES)}: what 8 bits or fewer cut off cannot be trained back",
                    "download the model in bf16, fp16 or fp32",
                )
            if name in found:
                raise UserError(f"{name} twice in {path.parent}", "each tensor once", "keep one set of files")
            found[name] = Stored(tuple(entry["shape"]), DTYPES[entry["dtype"]], _reader(path, name))
    return plain_names(found, str(path.parent) if found else "", say)


def _reader(path: Path, name: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        with safe_open(str(path), framework="pt") as file:
            return file.get_tensor(name)

    return read


def pickled_tensors(path: Path) -> dict[str, Stored]:
    """What a `.pth` file holds, by plain name, read without running code and mapped rather than loaded.

    Raises:
        UserError: it is no state dictionary, it would run code, or it is broken.
    """
    with path.open("rb") as file:
        refuse_pointer(path, file.read(8))
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            state = torch.load(path, mmap=True, **options)
        except RuntimeError as error:
            if "mmap" not in str(error):  # files of torch before 1.6 cannot be mapped
                raise
            state = torch.load(path, **options)
    except Exception as error:
        unsafe = zipfile.is_zipfile(path) and "Unsupported" in str(error)
        what = "a pickle that holds more than numbers" if unsafe else "a broken file, or an unfinished download"
        raise UserError(f"{what}: {path}", "a state dictionary of tensors", "download it again") from None
    while isinstance(state, Mapping) and len(state) == 1 and isinstance(next(iter(state.values())), Mapping):
        state = next(iter(state.values()))  # {"state_dict": {...}}
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"no state dictionary in {path}", "tensors by name", "give the file of the weights themselves")
    for name, value in state.items():
        if value.dtype not in DTYPES.values():
            raise UserError(f"numbers of type {value.dtype} in {path} ({name})", "bf16, fp16 or fp32", "download those")
    return plain_names(
        {str(name): Stored(tuple(value.shape), value.dtype, value.detach) for name, value in state.items()},
        str(path),
    )


def plain_names(found: Mapping[str, Stored], where: str, say: bool = True) -> dict[str, Stored]:
    """`found` without the names that DDP, FSDP, torch.compile or ComfyUI put before each tensor's own."""
    removed: list[str] = []
    names = {name: name for name in found}  # plain to stored
    for wrapper in WRAPPERS:
        if any(wrapper in name for name in names):
            names = {name.replace(wrapper, ""): stored for name, stored in names.items()}
            removed.append(wrapper)
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): stored for name, stored in names.items()}
                removed.append(prefix)
                again = True
    if len(names) != len(found):
        raise UserError(f"names in {where} that differ by {listed(removed)} alone", "each tensor once", "keep one set")
    if removed and say:
        logger.warning("%s: the names' prefix %s is taken off", where, " and ".join(map(repr, removed)))
    return {name: found[stored] for name, stored in names.items()}


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a sentence: the first few, and how many more.

    >>> listed("abcdefgh", 3)
    'a, b, c and 5 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
