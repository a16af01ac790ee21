"""The adapters of a project: where they lie, how a name finds one, and what goes when consent is withdrawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fportrait.animate.adapt import NAME, RECORD
from fportrait.diffusion.lora import CONFIG, adapter_name
from fportrait.errors import UserError, nearest_name
from fportrait.provenance import read_provenance

FOLDER = Path("data/06_models/adapters")  # under the project
WORK = Path("data/.units/adapt")


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


def read_record(folder: Path) -> dict[str, Any]:
    """What `adapt` wrote beside an adapter; empty for one that came otherwise."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def videos_of(adapter: str, folders: Iterable[Path]) -> list[Path]:
    """Videos and pictures below `folders` whose provenance names the adapter with that hash."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in (".mp4", ".png") or not path.is_file():
                continue
            try:
                made_by = read_provenance(path).get("adapter") or {}
            except (UserError, OSError, ValueError):
                continue
            if made_by.get("hash") == adapter:
                found.append(path)
    return found


def delete(name: str, home: str | Path = ".", videos: Iterable[Path] = ()) -> dict[str, Any]:
    """Remove an adapter and everything that was made for it and with it; the user's own clips stay.

    Gone are the adapter with its report, the tracks, shards, cut clips and checkpoints, and, below the folders
    `videos`, every video and picture whose provenance names it.

    Returns:
        `hash` of the adapter (None without weights), and `removed`, what is gone.

    Raises:
        UserError: the project has nothing of that name.
    """
    home = Path(home)
    folder, work = home / FOLDER / name, home / WORK / "adapters" / name
    if not NAME.fullmatch(name) or not (folder.is_dir() or work.is_dir()):
        known = ", ".join(adapters(home)) or "none"
        raise UserError(f"no adapter '{name}'", f"one of this project: {known}", "check the name")
    digest = adapter_name(folder)["hash"] if (folder / CONFIG).is_file() else None
    removed = videos_of(digest, videos) if digest else []
    for path in removed:
        path.unlink()
    for place in (folder, work):
        if place.is_dir():
            shutil.rmtree(place)
            removed.append(place)
    return {"hash": digest, "removed": removed}
