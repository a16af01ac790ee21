"""The gate of a student: no worse than its teacher on the same held-out people, and as many times faster as asked.

A student that passes becomes a version of the registered model with the alias `student`; `champion` stays where it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fportrait.ops.gate import Check, comparison_checks

ROUNDS = 3  # of both in turn, of which the fastest counts


def seconds_per_frame(teacher: Path, student: Path, frames: int) -> dict[str, float]:
    """Processor seconds that a frame of a clip costs each of them, measured in turn on random conditions."""
    import torch

    from fportrait.diffusion.conditions import Conditions, Reads
    from fportrait.diffusion.pipeline import FactorPortraitPipeline
    from fportrait.diffusion.shapes import SPATIAL_STRIDE, latent_frames

    pipelines = {}
    for name, bundle in (("teacher", teacher), ("student", student)):
        pipelines[name] = FactorPortraitPipeline.from_bundle(bundle, device=None)
        pipelines[name].set_progress_bar_config(disable=True)
    settings = json.loads((student / "bundle.json").read_text())
    cells = settings["size"] // SPATIAL_STRIDE
    reads = Reads.of(pipelines["student"].transformer.config)
    given = Conditions.zeros(reads, 1, latent_frames(frames), cells, cells)
    best = dict.fromkeys(pipelines, float("inf"))
    for _ in range(ROUNDS):
        for name, pipeline in pipelines.items():
            begun = time.process_time()
            pipeline(**given.inputs(), generator=torch.Generator().manual_seed(0), output_type="latent")
            best[name] = min(best[name], (time.process_time() - begun) / frames)
    return best


def judge(
    teacher: Path, student: Path, speed: Mapping[str, float], tolerances: Mapping[str, float], min_speedup: float
) -> list[Check]:
    """Every check; `teacher` and `student` are folders of evaluations (`scores.json`) of one holdout."""
    ours, theirs = (json.loads((folder / "scores.json").read_text()) for folder in (student, teacher))
    checks = comparison_checks(ours, theirs, tolerances, "teacher")
    times = speed["teacher"] / max(speed["student"], 1e-9)
    words = (
        f"{1000 * speed['student']:.2f} ms of processor time a frame, the teacher {1000 * speed['teacher']:.2f}: "
        f"{times:.1f} times faster, asked for are {min_speedup:g}"
    )
    return [*checks, Check("speed", times >= min_speedup, words)]


def register_student(bundle: Path, checks: Sequence[Check]) -> int | None:
    """The number of the new version, or None for a student that did not pass: then nothing is registered."""
    import mlflow

    from fportrait.ops import runs
    from fportrait.ops.promotion import log_model
    from fportrait.ops.registry import MODEL, STUDENT
    from fportrait.ops.store import store_errors

    if not all(check.passed for check in checks):
        return None
    with store_errors():
        server, run_id = runs.client(), runs.current_run_id()
        if run_id is None:
            raise RuntimeError("a student is registered inside a stage, which owns the MLflow run it belongs to")
        uri = log_model(bundle, run_id)
        made = mlflow.register_model(uri, MODEL, tags={"kind": "student"})
        server.set_registered_model_alias(MODEL, STUDENT, str(made.version))
        return int(made.version)
