"""Put the base in place: the shipped one, the user's own, or one trained anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder
from fportrait.errors import UserError


def pretrain(base: Path, units: Path, *, source: str, rebuild: dict[str, Any]) -> dict[str, Any]:
    """Put a bundle into `06_models/base` after checking it.

    `source` is `shipped` (the small base in the package, checked against its provenance), `rebuild` (trained anew by
    the recipe, with the settings in `rebuild`) or the path of a bundle. What stage 1 would refuse is refused here.
    """
    from fportrait.bundle import SHIPPED_BASE, bundle_hashes, read_settings
    from fportrait.diffusion.base_check import check_base

    if source == "rebuild":
        folder = units / "base" / "bundle"
        train_anew(folder, units / "base", **rebuild)
    else:
        folder = SHIPPED_BASE if source == "shipped" else Path(source)
    check_base(folder)
    settings = read_settings(folder)
    hashes = bundle_hashes(folder)
    if source == "shipped":
        recorded = json.loads((folder / "provenance.json").read_text())["files"]
        changed = sorted(name for name in hashes.keys() | recorded.keys() if hashes.get(name) != recorded.get(name))
        if changed:
            raise UserError(
                f"{changed[0]} in {folder} differs from provenance.json",
                "the base as it was made",
                "restore it with `git checkout`, or rebuild it and its provenance",
            )
    with atomic_folder(base) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    return {"size": settings.size, "frames": settings.frames, "hashes": hashes}


def train_anew(
    folder: Path,
    work: Path,
    *,
    clips: int,
    faces: int,
    held_out: int,
    minutes: float,
    encoder_steps: int,
    codec_steps: int,
    whitening: float,
    workers: int,
) -> None:
    """Run the recipe of the small base; parts already made in `work` are kept, so a stopped run goes on."""
    from fportrait.training.base_clips import ClipRecipe
    from fportrait.training.base_recipe import build_base, two_phases

    recipe = ClipRecipe(clips=clips, held_out=held_out)
    build_base(
        work, folder, recipe, two_phases(minutes), encoder_steps, codec_steps, whitening, workers=workers, faces=faces
    )
