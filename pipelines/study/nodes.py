"""Search settings of stage 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def study(
    shards: Path,
    base: Path,
    study: Path,
    stage1: dict[str, Any],
    *,
    trials: int,
    iterations: int,
    report_every: int,
    held_out: int,
    space: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Run trials until `trials` are done (those of an earlier, stopped run count) and write `best_parameters.yml`."""
    from fportrait.ops.study import Search, run_study

    search = Search(trials, iterations, report_every, held_out, space, seed)
    return run_study(search, stage1, shards, base / "transformer", study)
