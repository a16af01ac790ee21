"""Fill `01_raw` from the embedded world when asked to, and list every usable video."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json
from fportrait.errors import UserError
from fportrait.scale.process_map import process_map

EMBEDDED_LIST = "embedded.json"  # under 01_raw: the folders that the embedded world made
FILLED_LIST = "filled.json"  # under 01_raw: those of them that stand in for people whom the user does not have
RAW_NAMES = {"PhoneCapture": "phone", "StudioCapture": "studio"}
log = logging.getLogger(__name__)


def ingest(
    captures: Path,
    manifest: Path,
    truth: Path,
    units: Path,
    *,
    source: str,
    fill: bool,
    require_consent: bool,
    world: dict[str, Any],
    default_fov_degrees: float,
    test_identities: dict[str, int],
    hold_out_clips: bool,
    min_frames: int,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Write the manifest of `captures`; with `source: embedded`, film the embedded world into it first.

    With `source: folder` and `fill`, embedded people stand in where there is nobody of a kind. What is known of
    unchanged files is kept in `units`, so that they are not read again.
    """
    from fportrait.capture.ingest import ingest_captures

    filled: list[str] = []
    if source == "embedded":
        film(captures, truth, world, seed, workers)
    elif source == "folder":
        filled = film_missing(captures, truth, world if fill else {}, seed, workers)
    else:
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
        require_consent=require_consent,
        nobody_real=listed_in(captures / EMBEDDED_LIST) | listed_in(captures / FILLED_LIST),
        hold_out_clips=hold_out_clips,
    )
    for note in result.notes:
        log.warning(note)
    people = {"identities": result.identities, "held_out": result.held_out, "filled": len(filled)}
    return {"videos": result.videos, **people, "quarantined": len(result.quarantine)}


def film(captures: Path, truth: Path, world: dict[str, Any], seed: int, workers: int) -> None:
    """Film the embedded world afresh; captures that it did not make itself, by its own list, are never touched."""
    from fportrait.capture.withdrawn import withdrawn
    from fportrait.capture.world import world_units, write_embedded_world

    ours = captures / EMBEDDED_LIST
    made = listed_in(ours) | listed_in(captures / FILLED_LIST)
    found = {f"{name}/{folder.name}" for name in RAW_NAMES.values() for folder in (captures / name).glob("*/")}
    if found - made:
        raise UserError(
            f"captures of your own in {captures}/{min(found - made)} with ingest.source: embedded",
            "a folder that only the embedded world fills",
            "set ingest.source: folder to use them, or move them away",
        )
    (captures / FILLED_LIST).unlink(missing_ok=True)
    units = world_units(captures, truth, world, seed)
    write_json(ours, sorted(made | {f"{RAW_NAMES[unit.dataset]}/{unit.identity}" for unit in units}))
    for name in found:
        shutil.rmtree(captures / name)
    shutil.rmtree(truth, ignore_errors=True)
    write_embedded_world(captures, truth, world, seed, process_map(workers))
    for dataset, name in RAW_NAMES.items():  # whom the project was told to forget
        for person in withdrawn(captures):
            shutil.rmtree(captures / name / person, ignore_errors=True)
            shutil.rmtree(truth / dataset / person, ignore_errors=True)


def listed_in(path: Path) -> set[str]:
    """`phone/PERSON` and `studio/PERSON` of a list that this stage wrote; nothing else is ever removed by it."""
    places = json.loads(path.read_text()) if path.is_file() else []
    return {place for place in places if re.fullmatch(r"(phone|studio)/(phone|studio)\d{4}", place)}


def film_missing(captures: Path, truth: Path, world: dict[str, Any], seed: int, workers: int) -> list[str]:
    """Film the kind of capture, phone or studio, that the user has nobody of; returns who was filmed.

    The chain trains on both kinds (avatars are fitted to studio people): phone clips alone would train nothing. Those
    who stood in for somebody before go first, so that what is there never depends on an earlier run. Captures of the
    user are never touched, and truth of people who are gone goes.
    """
    from fportrait.capture.withdrawn import withdrawn
    from fportrait.capture.world import write_embedded_world

    aside = withdrawn(captures)
    listed = captures / FILLED_LIST
    before = listed_in(listed)
    found = {name: [path.name for path in sorted((captures / name).glob("*/"))] for name in RAW_NAMES.values()}
    own = {name: [one for one in found[name] if f"{name}/{one}" not in before and one not in aside] for name in found}
    missing = [name for name in found if not own[name]] if any(own.values()) and world else []
    wanted = {f"{name}_identities": world[f"{name}_identities"] if name in missing else 0 for name in own if world}
    filmed: list[str] = []
    if any(wanted.values()):
        filmed = [
            f"{name}/{name}{index:04d}" for name in missing for index in range(world[f"{name}_identities"])
        ]  # as `film_identity` names them
    for place in before:
        shutil.rmtree(captures / place, ignore_errors=True)
    write_json(listed, filmed)  # before they are there: a stopped run knows whom it made
    for dataset, name in RAW_NAMES.items():
        for folder in (truth / dataset).glob("*/"):
            if not (captures / name / folder.name).is_dir():
                shutil.rmtree(folder)
    if filmed:
        log.info(
            "no %s captures: %d embedded people stand in for them (ingest.fill: false leaves them out)",
            *(" and no ".join(missing), len(filmed)),
        )
        write_embedded_world(captures, truth, {**world, **wanted}, seed, process_map(workers))
    else:
        listed.unlink()
    if truth.is_dir() and not any(truth.glob("*/*/")):
        shutil.rmtree(truth)
    return filmed
