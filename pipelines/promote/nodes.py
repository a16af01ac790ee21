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
    from fportrait.ops.gate import GateSettings
    from fportrait.ops.registry import promote as promote_bundle
    from fportrait.ops.runs import flatten
    from fportrait.ops.smoke import smoke_animation
    from fportrait.pipeline_registry import CHAIN

    settings = GateSettings(
        flatten(floors), slice_floors, min_slice_clips, flatten(limits), against_champion, clean_tree, smoke
    )
    metrics = {name: value for name, value in flatten(scores).items() if isinstance(value, int | float)}

    def rescore(champion: Path) -> dict[str, Any]:
        return score_bundle(champion, shards, protocol, scores)

    if "settings" not in scores:
        raise UserError(
            "an evaluation without its settings",
            "the report of a present `evaluate`",
            "run `kedro run --pipelines=evaluate` again: this one is of an older version",
        )
    with atomic_folder(model) as folder:  # stays away when the gate refuses
        keys = ("shift", "steps", "scheduler", "guidance", "guidance_below")
        sampling = {key: scores["settings"][key] for key in keys if key in scores["settings"]}  # as it was scored
        bundle = assemble(trained / "transformer", base, folder / "bundle", frames=frames, **sampling)
        return promote_bundle(
            bundle,
            metrics,
            settings,
            CHAIN[: CHAIN.index("promote")],
            scores=json.loads((evaluation / "scores.json").read_text(encoding="utf-8")),
            slices=scores.get("slices"),
            rescore=rescore,
            smoke=smoke_animation,
        )


def score_bundle(champion: Path, shards: Path, protocol: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    """The champion's per-clip scores on today's holdout, with the settings that the candidate was scored with."""
    import tempfile

    from fportrait.evaluation.run import evaluate

    with tempfile.TemporaryDirectory() as folder:
        evaluate(
            champion / "transformer",
            champion,
            shards,
            folder,
            {**protocol, **scores["settings"]["same"]},
            scores["settings"]["seed"],
        )
        return json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
