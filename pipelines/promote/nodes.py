"""Make one bundle of the trained model and, when the gate lets it pass, the champion of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def promote(
    base: Path,
    trained: Path,
    scores: dict[str, Any],
    evaluation: Path,
    shards: Path,
    model: Path,
    protocol: dict[str, Any],
    probes: dict[str, Any],
    *,
    frames: int,
    floors: dict[str, Any],
    slice_floors: dict[str, float],
    min_slice_clips: int,
    limits: dict[str, float],
    against_champion: dict[str, float],
    clean_tree: bool,
    smoke: bool,
) -> dict[str, Any]:
    """Register the bundle as the next version; refusals state every reason, and then nothing is registered."""
    from fportrait.atomic_io import atomic_folder
    from fportrait.bundle import assemble
    from fportrait.errors import UserError
    from fportrait.ops import headline, runs
    from fportrait.ops.chain import CHAIN
    from fportrait.ops.evidence import Inputs
    from fportrait.ops.gate import GateSettings
    from fportrait.ops.promotion import Candidate, Proof
    from fportrait.ops.promotion import promote as promote_bundle
    from fportrait.ops.rescoring import rescorer
    from fportrait.ops.smoke import smoke_animation

    settings = GateSettings(
        *(headline.flatten(floors), slice_floors, min_slice_clips, headline.flatten(limits), against_champion),
        *(clean_tree, smoke),
    )
    if "settings" not in scores:
        raise UserError(
            "an evaluation without its settings",
            "the report of a present `evaluate`",
            "run `kedro run --pipelines=evaluate` again: this one is of an older version",
        )
    records = runs.current_records()
    candidate = Candidate(
        scores,
        json.loads((evaluation / "scores.json").read_text(encoding="utf-8")),
        CHAIN[: CHAIN.index("promote")],
        Proof(Inputs(trained, base, shards), evaluation, records.parent / "evaluate.json", records),
    )
    with atomic_folder(model) as folder:  # stays away when the gate refuses
        keys = ("size", "shift", "steps", "scheduler", "guidance", "guidance_below")
        sampling = {key: scores["settings"][key] for key in keys if key in scores["settings"]}  # as it was scored
        sampling |= further_pictures(shards, base)
        bundle = assemble(trained / "transformer", base, folder / "bundle", frames=frames, **sampling)
        rescore = rescorer(shards, protocol, probes, scores)
        return promote_bundle(bundle, candidate, settings, rescore=rescore, smoke=smoke_animation)


def further_pictures(shards: Path, base: Path) -> dict[str, list[Any]]:
    """`sizes` and `shapes` of a bundle: what training saw beside the square, in the shards' buckets or before."""
    from fportrait.bundle import stated_settings
    from fportrait.dataset.shards import trained_buckets
    from fportrait.pixels import Picture

    before, further = stated_settings(base), [Picture(*sides) for sides in trained_buckets(shards)]
    sizes = {one.height for one in further if one.square} | set(before.sizes if before else ())
    shapes = {str(one) for one in further if not one.square} | set(before.shapes if before else ())
    return {"sizes": sorted(sizes), "shapes": sorted(shapes)}
