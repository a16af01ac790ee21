"""Distil the trained model, score student and teacher alike, and let the gate decide about the alias `student`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def distill(
    shards: Path,
    base: Path,
    trained: Path,
    student: Path,
    units: Path,
    protocol: dict[str, Any],
    probes: dict[str, Any],
    *,
    frames: int,
    calls: int,
    mixture: dict[str, int],
    training: dict[str, Any],
    against_teacher: dict[str, float],
    min_speedup: float,
    seed: int,
) -> dict[str, Any]:
    """Write the student's bundle and both evaluations; register it when it is no worse than asked, and as fast.

    A stopped run goes on: the teacher's clips and the training's state lie under `units`.
    """
    from fportrait.atomic_io import atomic_folder
    from fportrait.bundle import assemble
    from fportrait.errors import UserError
    from fportrait.evaluation.run import evaluate
    from fportrait.ops.runs import log_metrics
    from fportrait.ops.student_gate import judge, register_student, seconds_per_frame
    from fportrait.parameters import settings_from
    from fportrait.training.distill import Distillation, distil, shard_source

    if not 1 <= calls <= 4:
        raise UserError(f"{calls} calls of a student", "1 to 4", "change distill.calls")
    lengths = {int(length): float(share) for length, share in training.get("lengths", [])}
    settings = settings_from(Distillation, {**training, "lengths": lengths, "seed": seed}, "distill.training")
    work = units / "distill"
    teacher = work / "teacher"
    source = shard_source(shards, trained, mixture, settings)
    with atomic_folder(student) as folder:
        assemble(trained / "transformer", base, teacher, frames=frames)
        report = distil(teacher, source, work, folder / "bundle", settings, log_metrics, calls)
        scored = {}
        for name, bundle in (("teacher", teacher), ("student", folder / "bundle")):
            scored[name] = evaluate(
                bundle / "transformer", bundle, shards, folder / name, protocol, seed, probes=probes
            )
        speed = seconds_per_frame(teacher, folder / "bundle", frames)
        checks = judge(folder / "teacher", folder / "student", speed, against_teacher, min_speedup)
        version = register_student(folder / "bundle", checks)
    return {
        "teacher": report["teacher"],
        "calls": calls,
        "version": version,
        "checks": [check.as_dict() for check in checks],
        "scores": {name: entry.get("control", {}) for name, entry in scored.items()},
    }
