"""Train and score the variants, and write the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def ablate(
    shards: Path,
    base: Path,
    validated: Path,
    sweeps: Path,
    ablation: Path,
    units: Path,
    stage1: dict[str, Any],
    stage2: dict[str, Any],
    stage3: dict[str, Any],
    stage4: dict[str, Any],
    *,
    variants: list[str],
    seeds: list[int],
    protocol: dict[str, Any],
    probes: dict[str, Any],
    modes: dict[str, int],
    seed: int,
    results: str,
    workers: int,
) -> dict[str, Any]:
    """Write `results.json`, and tables and figures into the folder `results`; runs that are done are not trained again.

    The report says what two equal ablations repeat: how much was done, and the full model's scores.
    """
    import time

    from fportrait.atomic_io import atomic_folder, write_json
    from fportrait.ops.ablation import Plan, log_runs, run_ablation
    from fportrait.ops.ablation_report import write_results
    from fportrait.ops.runs import log_artifact

    started = time.perf_counter()
    plan = Plan(
        base.as_posix(),
        shards.as_posix(),
        (validated.as_posix(), sweeps.as_posix()),
        {1: stage1, 2: stage2, 3: stage3, 4: stage4},
        {"protocol": protocol, "probes": probes, "modes": modes, "seed": seed},
        (units / "ablation").as_posix(),
    )
    found = run_ablation(plan, variants, seeds, units / "ablation", workers)
    found["seconds"] = time.perf_counter() - started
    found["workers"] = workers
    log_runs(found)
    with atomic_folder(ablation) as folder:
        write_json(folder / "results.json", found)
        write_results(found, plan, Path(results))
        log_artifact(folder / "results.json", "ablation")
        log_artifact(Path(results), "ablation")
    full = [run["scores"]["DynamicSweep"]["ours"]["psnr"]["mean"] for run in found["runs"] if run["variant"] == "full"]
    return {"runs": len(found["runs"]), "failures": len(found["failures"]), "full_psnr": sum(full) / len(full)}
