"""Scores on people held out of training, and whether every control moves what it should and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def evaluate(
    shards: Path,
    base: Path,
    model: Path,
    validated: Path,
    sweeps: Path,
    evaluation: Path,
    *,
    protocol: dict[str, Any],
    probes: dict[str, Any],
    modes: dict[str, int],
    cross: dict[str, int],
    seed: int,
) -> dict[str, Any]:
    """Write the generated videos and the report; return the scores."""
    from fportrait.atomic_io import atomic_folder
    from fportrait.evaluation.run import evaluate as score
    from fportrait.ops.chain import CHAIN
    from fportrait.ops.evidence import Inputs, seal, take
    from fportrait.ops.runs import log_artifact

    inputs = Inputs(model, base, shards)
    taken = take(inputs)
    with atomic_folder(evaluation) as folder:
        metrics = score(
            model / "transformer",
            base,
            shards,
            folder,
            protocol,
            seed,
            probes=probes,
            modes=modes,
            cross=cross,
            annotations=[validated, sweeps],
        )
        seal(taken, inputs, folder, metrics, CHAIN[: CHAIN.index("evaluate")])
        log_artifact(folder, "evaluation")
    return metrics
