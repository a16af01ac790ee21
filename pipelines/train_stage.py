"""One training stage, whichever of the four: start from the one before, train, keep the weights and their origin."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from fportrait.pipelines.wiring import stage
from fportrait.training.config import StageConfig

CURVE = ("loss", "grad_norm", "learning_rate")  # what an equal run repeats; timings go to MLflow alone
CURVES = Path("data/08_reporting/curves")
SETTINGS = [field.name for field in fields(StageConfig) if field.name not in ("name", "parent")]


def training_stage(number: int) -> Pipeline:
    """Stage `number` (1 to 4); the first one starts from the base."""
    name, parent = f"stage{number}", f"stage{number - 1}" if number > 1 else None

    def train_stage(
        start: Path, base: Path, shards: Path, trained: Path, units: Path, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """A function rather than a partial: Kedro-Viz shows its source."""
        return train(name, parent, start, base, shards, trained, units, settings)

    return stage(
        f"train_{name}",
        train_stage,
        reads={"start": parent or "base", "base": "base", "shards": "shards"},
        writes={"trained": name},
        uses={"units": "folders.units"},
        settings=SETTINGS,
    )


def train(
    name: str,
    parent: str | None,
    start: Path,
    base: Path,
    shards: Path,
    trained: Path,
    units: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train from `start/transformer`; `trained` gets `transformer/`, `training.json` and `samples/` before and after.

    A stage that was stopped resumes from its last checkpoint, under `units`.
    """
    import pandas as pd

    from fportrait.atomic_io import atomic_folder, write_text
    from fportrait.dataset.shards import ShardReader
    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.transformer import FactorPortraitTransformer
    from fportrait.ops.runs import log_artifact, log_metrics
    from fportrait.training.loop import train as train_loop
    from fportrait.training.stages import check_stage, check_start, sample_videos

    config, reader = StageConfig.from_dict({"name": name, "parent": parent, **settings}), ShardReader(shards)
    check_start(config, start, reader)
    check_stage(config, reader)
    vae = load_vae(base / "vae")
    transformer = FactorPortraitTransformer.from_pretrained(start / "transformer")
    curve: list[dict[str, float]] = []

    def log(metrics: dict[str, float], step: int) -> None:
        log_metrics(metrics, step)
        curve.append({"step": step, **{key: metrics[key] for key in CURVE if key in metrics}})

    with atomic_folder(trained) as folder:
        sample_videos(config, transformer, vae, reader, folder / "samples", "before")
        summary = train_loop(config, transformer, reader, folder, log, checkpoint_folder=units / "checkpoints")
        sample_videos(config, transformer, vae, reader, folder / "samples", "after")
        log_artifact(folder / "samples")
    table = pd.DataFrame(curve).dropna()
    write_text(CURVES / f"{name}.csv", table.to_csv(index=False))
    return {key: summary[key] for key in ("steps", "parameters", "final_loss")}
