"""One training stage, whichever of the four: start from the one before, train, keep the weights and their origin."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from fportrait.pipelines.wiring import stage
from fportrait.training.config import StageConfig

CURVE = ("loss", "held_out_loss", "grad_norm", "learning_rate")  # what an equal run repeats; timings go to MLflow alone
SETTINGS = [field.name for field in fields(StageConfig) if field.name not in ("name", "parent")]


def training_stage(number: int) -> Pipeline:
    """Stage `number` (1 to 4); the first one starts from the base."""
    name, parent = f"stage{number}", f"stage{number - 1}" if number > 1 else None

    def train_stage(
        start: Path, base: Path, shards: Path, trained: Path, units: Path, curves: Path, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """A function rather than a partial: Kedro-Viz shows its source."""
        return train(name, parent, start, base, shards, trained, units, curves, settings)

    return stage(
        f"train_{name}",
        train_stage,
        reads={"start": parent or "base", "base": "base", "shards": "shards"},
        writes={"trained": name},
        uses={"units": "folders.units", "curves": "folders.curves"},
        settings=SETTINGS,
        steps=(
            f"weights of {parent or 'the base'}",
            "records drawn by the mixture, in an order that a restart repeats",
            "noise added; conditions dropped now and then",
            "the velocity predicted; loss with more weight on eyes and mouth",
            "held-out loss and sample videos at checkpoints",
            "averaged weights, samples, the curve of losses",
        ),
    )


def train(
    name: str,
    parent: str | None,
    start: Path,
    base: Path,
    shards: Path,
    trained: Path,
    units: Path,
    curves: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train from `start/transformer`; `trained` gets `transformer/`, `training.json`, `samples/`, `curves` the losses.

    One process trains here; more train in children, and only their first one writes. A stage that was stopped resumes
    from its last checkpoint, under `units`.
    """
    from fportrait.atomic_io import atomic_folder
    from fportrait.ops.runs import log_artifact, log_metrics
    from fportrait.training.launch import launch
    from fportrait.training.run import Job, run_stage

    curve: dict[int, dict[str, float]] = {}

    def log(metrics: dict[str, float], step: int) -> None:
        log_metrics(metrics, step)
        curve.setdefault(step, {}).update({key: metrics[key] for key in CURVE if key in metrics})

    with atomic_folder(trained) as folder:
        job = Job(
            {"name": name, "parent": parent, **settings},
            str(start),
            str(base),
            str(shards),
            str(folder),
            str(units / "checkpoints"),
        )
        if job.stage.processes * job.stage.nodes > 1:
            summary = launch(job, units / "launch" / name, log)
        else:
            summary = run_stage(job, log)
        log_artifact(folder / "samples")
    write_curve(curves / f"{name}.csv", curve)
    return {key: summary[key] for key in ("steps", "parameters", "final_loss")}


def write_curve(path: Path, curve: dict[int, dict[str, float]]) -> None:
    """One row per step that logged a loss; `held_out_loss` is empty between checkpoints."""
    import pandas as pd

    from fportrait.atomic_io import write_text

    rows = [{"step": step, **values} for step, values in sorted(curve.items()) if "loss" in values]
    write_text(path, pd.DataFrame(rows, columns=["step", *CURVE]).to_csv(index=False))
