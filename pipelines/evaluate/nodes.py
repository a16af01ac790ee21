"""PSNR, SSIM and expression gain on people held out of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def evaluate(
    shards: Path, base: Path, model: Path, evaluation: Path, *, protocol: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write the generated videos and return the scores per dataset."""
    from fportrait.atomic_io import atomic_folder
    from fportrait.evaluation.protocol import evaluate as score
    from fportrait.ops.runs import log_artifact

    with atomic_folder(evaluation) as folder:
        metrics = score(model / "transformer", base, shards, folder, protocol, seed)
        log_artifact(folder, "evaluation")
    return metrics
