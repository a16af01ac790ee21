"""Fill `01_raw` from the embedded world when asked to, and list every usable video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json
from fportrait.errors import UserError
from fportrait.scale.process_map import process_map

EMBEDDED_LIST = "embedded.json"  # under 01_raw: the folders that the embedded world made
RAW_NAMES = {"PhoneCapture": "phone", "StudioCapture": "studio"}


def ingest(
    captures: Path,
    manifest: Path,
    truth: Path,
    units: Path,
    *,
    source: str,
    world: dict[str, Any],
    default_fov_degrees: float,
    test_identities: dict[str, int],
    min_frames: int,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Write the manifest of `captures`; with `source: embedded`, film the embedded world into it first.

    What is known of unchanged files is kept in `units`, so that they are not read again.
    """
    from fportrait.capture.ingest import ingest_captures

    if source == "embedded":
        film(captures, truth, world, seed, workers)
    elif source != "folder":
        raise UserError(f"ingest.source '{source}'", "'embedded' or 'folder'", "set one of them")
    result = ingest_captures(
        captures,
        manifest,
        ".",
        test_identities,
        default_fov_degrees,
        min_frames,
        seed,
        cache=units / "ingest" / "facts.json",
        map_function=process_map(workers) if source == "folder" else map,  # filmed files are few and small
    )
    return {"videos": result.videos, "identities": result.identities, "quarantined": len(result.quarantine)}


def film(captures: Path, truth: Path, world: dict[str, Any], seed: int, workers: int) -> None:
    """Film the embedded world afresh; captures that it did not make itself, by its own list, are never touched."""
    from fportrait.capture.world import world_units, write_embedded_world

    ours = captures / EMBEDDED_LIST
    made = set(json.loads(ours.read_text())) if ours.is_file() else set()
    found = {f"{name}/{folder.name}" for name in RAW_NAMES.values() for folder in (captures / name).glob("*/")}
    if found - made:
        raise UserError(
            f"captures of your own in {captures}/{min(found - made)} with ingest.source: embedded",
            "a folder that only the embedded world fills",
            "set ingest.source: folder to use them, or move them away",
        )
    units = world_units(captures, truth, world, seed)
    write_json(ours, sorted(made | {f"{RAW_NAMES[unit.dataset]}/{unit.identity}" for unit in units}))
    for name in found:
        shutil.rmtree(captures / name)
    shutil.rmtree(truth, ignore_errors=True)
    write_embedded_world(captures, truth, world, seed, process_map(workers))
