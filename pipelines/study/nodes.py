"""Search the settings of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def study(
    shards: Path,
    base: Path,
    study: Path,
    stage1: dict[str, Any],
    stage2: dict[str, Any],
    stage3: dict[str, Any],
    stage4: dict[str, Any],
    parent2: Path,
    parent3: Path,
    parent4: Path,
    *,
    stage: int,
    trials: int,
    iterations: int,
    report_every: int,
    held_out: int,
    space: dict[str, Any],
    seed: int,
    storage: str,
    heartbeat: int,
    follow_up: dict[str, Any],
) -> dict[str, Any]:
    """Run trials until `trials` are done (those of an earlier, stopped run count) and write `best_parameters.yml`.

    Stage 1 starts from the base, the others from the stage before them. Seconds per step stay out of the report, which
    two equal runs must repeat: they are in `pareto.yml` and in MLflow.
    """
    from fportrait.errors import UserError
    from fportrait.ops.study import FollowUp, Search, run_study
    from fportrait.parameters import settings_from

    settings = {1: stage1, 2: stage2, 3: stage3, 4: stage4}
    if stage not in settings:
        raise UserError(f"study.stage {stage}", "1, 2, 3 or 4", "choose the stage to search")
    start = {1: base, 2: parent2, 3: parent3, 4: parent4}[stage] / "transformer"
    if not start.is_dir():
        raise UserError(
            f"no {start}", f"the result of stage {stage - 1}", f"run `kedro run --pipelines=train_stage{stage - 1}`"
        )
    search = Search(
        trials,
        iterations,
        report_every,
        held_out,
        space,
        seed,
        stage,
        storage,
        heartbeat,
        settings_from(FollowUp, follow_up, "study.follow_up"),
    )
    report = run_study(search, settings[stage], shards, start, study)
    front = report.pop("pareto", [])
    return report | {"pareto_settings": len(front)}
