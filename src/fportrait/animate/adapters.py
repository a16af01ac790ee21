"""The adapters of a project: where they lie, how a name finds one, and what goes when consent is withdrawn."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fportrait.animate.adapt import NAME, at_work, check_adapter_name, named_before, read_record
from fportrait.atomic_io import tensors_hash
from fportrait.diffusion.lora import CONFIG, adapter_name, read_adapter
from fportrait.errors import UserError, nearest_name
from fportrait.provenance import TAG, read_provenance

FOLDER = Path("data/06_models/adapters")  # under the project
WORK = Path("data/.units/adapt")
MADE = (Path("data/07_model_output"), Path("data/08_reporting"))  # where the project's own videos and reports lie


def adapters(home: str | Path = ".") -> dict[str, Path]:
    """Name to folder of every adapter of a project."""
    found = sorted((Path(home) / FOLDER).glob(f"*/{CONFIG}"))
    return {path.parent.name: path.parent for path in found}


def resolve(source: str | Path, home: str | Path = ".") -> Path:
    """The folder of an adapter by its name in the project, else `source` as a path.

    Raises:
        UserError: a name that the project does not have, and no such path.
    """
    known = adapters(home)
    if str(source) in known:
        return known[str(source)]
    if Path(source).exists() or not NAME.fullmatch(str(source)):
        return Path(source)
    near = nearest_name(str(source), list(known))
    listed = ", ".join(known) or "none yet: `fportrait adapt CLIPS --name NAME` makes one"
    raise UserError(
        f"no adapter '{source}'", f"one of this project ({listed}), or a path", f"use '{near}'" if near else "check it"
    )


def base_of(model: str | Path) -> str:
    """What an adapter calls its `base`: the hash of the weights of a bundle's transformer, or empty without a file of
    them."""
    files = sorted((Path(model) / "transformer").glob("*.safetensors"))
    if len(files) != 1:
        return ""
    stat = files[0].stat()
    return _hash_of(files[0], stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _hash_of(path: Path, size: int, time: int) -> str:
    from safetensors.torch import load_file

    # In single precision, as a model is loaded that an adapter is trained over or added to.
    return tensors_hash({name: value.float() for name, value in load_file(path).items()})


def fitting(model: str | Path, home: str | Path = ".") -> dict[str, Path]:
    """The project's adapters that belong to a bundle; broken ones and those of another base are left out."""
    base, found = base_of(model), {}
    for name, folder in adapters(home).items():
        try:
            fits = read_adapter(folder).base == base
        except UserError:
            continue
        if fits:
            found[name] = folder
    return found


# What lies beside a file that names the adapter and goes with it, by patterns; whatever else is there is the user's.
_RESULT = ("settings.json", "thumbnail.png", "*-animated.mp4", "*-over-time.png", "*-conditions.zip")  # of the studio
_REPORT = ("metrics.json", "scores.json", "quarantine.json", "evidence.json", "report.html")
_REPORT_FOLDERS = ("videos", "players", "strips")
_REPORT_TABLES = ("*.csv", "*.md", "*.tex", "probes.png")


def made_with(hashes: Collection[str], folders: Iterable[Path]) -> list[Path]:
    """What below `folders` (or is one) was made with an adapter of these hashes, or from an input of this SHA-256, as
    files and folders to remove: videos and pictures that name it in their provenance, folders of conditions, results of
    the studio, reports of `evaluate`."""
    from fportrait.animate.writing import CONDITIONS

    found: dict[Path, None] = {}
    for path in (path for folder in folders for path in (sorted(folder.rglob("*")) if folder.is_dir() else [folder])):
        if found.keys() & {path, *path.parents} or path.is_symlink() or not path.is_file():
            continue
        if not any(one in hashes for one in _named_in(path)):
            continue
        patterns: tuple[str, ...] = (path.name,)
        if path.name == "provenance.json":
            patterns = CONDITIONS
        elif path.name == "metrics.json":
            found |= dict.fromkeys(report_in(path.parent))
            continue
        elif all((path.parent / name).is_file() for name in _RESULT[:2]):
            patterns = _RESULT
        found |= dict.fromkeys(_beside(path.parent, patterns))
    return list(found)


def report_in(folder: Path) -> list[Path]:
    """What `evaluate` wrote into a folder, as files and folders; whatever else lies there is the user's. Last come the
    files that tell that it is a report: one whose removal was stopped is found again."""
    found = _beside(folder, (*_REPORT, *_REPORT_FOLDERS, *_REPORT_TABLES))
    return sorted(found, key=lambda path: path.name in _REPORT[:2])


def _beside(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(one for one in folder.iterdir() if any(fnmatch(one.name, each) for each in patterns))


def _named_in(path: Path) -> Iterator[str]:
    """The hash of the adapter that a file says it was made with, and the SHA-256 of its inputs."""
    try:
        if path.suffix.lower() in (".mp4", ".png"):
            stated = read_provenance(path)
        elif path.name == "provenance.json":
            stated = json.loads(json.loads(path.read_text(encoding="utf-8"))["tags"][TAG])
        elif path.name == "metrics.json":
            stated = json.loads(path.read_text(encoding="utf-8"))
        else:
            return
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return
    stated = stated if isinstance(stated, dict) else {}
    inputs = stated.get("inputs")
    for entry in (stated.get("adapter"), *(inputs.values() if isinstance(inputs, dict) else ())):
        if isinstance(entry, dict):
            yield from (str(entry[key]) for key in ("hash", "sha256") if key in entry)


def delete(
    name: str, home: str | Path = ".", videos: Collection[Path] = (), known: Iterable[str] = ()
) -> dict[str, Any]:
    """Remove an adapter and everything that was made for it and with it; the user's own clips stay.

    Gone are the adapter with its report, the tracks, shards, cut clips and checkpoints, and, below the project's
    outputs (`MADE`) and the folders `videos`, every video, picture, folder of conditions, result of the studio and
    report whose provenance names it, as it is or as it was before it was trained again.

    Args:
        known: further hashes that it had, as the registry knows them.

    Returns:
        `hash` of the adapter (None without weights), `hashes` that it ever had, and `removed`, what is gone.

    Raises:
        UserError: the project has nothing of that name, it is being trained, or there is no such folder of `videos`:
            then nothing is removed.
    """
    home = Path(home)
    check_adapter_name(name)
    for place in videos:
        if not place.exists():  # passed over, what it made would lie on where the user meant
            raise UserError(f"no folder {place}", "a folder of videos, or a video", "check --videos")
    folder, work, hashes = home / FOLDER / name, home / WORK / "adapters" / name, set(known)
    if not (folder.is_dir() or work.is_dir() or hashes):
        listed = ", ".join(adapters(home)) or "none"
        raise UserError(f"no adapter '{name}'", f"one of this project: {listed}", "check the name")
    with at_work(home / WORK, name):
        return remove(name, home, [*(home / place for place in MADE), *videos], hashes, videos)


def remove(
    name: str, home: Path, places: Iterable[Path], known: Iterable[str] = (), kept: Collection[Path] = ()
) -> dict[str, Any]:
    """`delete` for whom nobody else is at work on the adapter (`at_work`).

    Args:
        places: folders, or videos, to search for what it made. kept: those that stay, even empty.
    """
    folder, work, hashes = home / FOLDER / name, home / WORK / "adapters" / name, set(known)
    digest = None
    if (folder / CONFIG).is_file():
        with contextlib.suppress(UserError, OSError):  # a broken one goes, too
            digest = adapter_name(folder)["hash"]
    hashes |= {*([digest] if digest else []), *named_before(read_record(folder))}
    removed = made_with(hashes, places) if hashes else []
    for path in removed:
        remove_path(path)
        if not any(path.parent.iterdir()) and not {path.parent, path} & set(kept):
            path.parent.rmdir()
    for place in (folder, work):
        if place.is_symlink() or place.is_dir():
            remove_path(place)
            removed.append(place)
    return {"hash": digest, "hashes": sorted(hashes), "removed": removed}


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with what is in it; of a link the link alone, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
