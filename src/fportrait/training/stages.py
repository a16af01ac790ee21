"""What must be true before a stage's first step, what it will cost, and what its model makes of held-out people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError
from fportrait.training.config import StageConfig

if TYPE_CHECKING:
    import torch

GIB = 1024**3


def check_stage(stage: StageConfig, reader: ShardReader) -> None:
    """Refuse a stage that these shards cannot feed.

    Raises:
        UserError: a dataset with a share has no records, or records shorter than the stage's clips.
    """
    for dataset, share in stage.mixture.items():
        records = reader.records("train").get(dataset, [])
        if share and not records:
            raise UserError(
                f"no records of {dataset}, which has {share}% of {stage.name}",
                "at least one record of every dataset with a share",
                f"run `kedro run --pipelines=encode` with {dataset} in it, or set its share to 0 and raise the others",
            )
        shortest = min((record.frames for record in records), default=stage.frames)
        if share and shortest < stage.frames:
            raise UserError(
                f"clips of {stage.frames} frames in {stage.name}, and records of {shortest} frames of {dataset}",
                "frames of at most the window of the shards",
                f"set frames of {stage.name} to {shortest} or less, or raise encode's window and encode again",
            )


def check_start(stage: StageConfig, start_folder: str | Path, reader: ShardReader) -> None:
    """Refuse a start that is not there, or that learned latents of another VAE than the shards hold.

    `start_folder` is the parent stage's (`transformer/`, `training.json`) or the base's (`transformer/`, `vae/`).

    Raises:
        UserError: the parent has not been trained (the command is named), or the VAEs differ.
    """
    from fportrait.dataset.encode import vae_hash

    start = Path(start_folder)
    if not (start / "transformer" / "config.json").is_file():
        pipeline = f"train_{stage.parent}" if stage.parent else "pretrain"
        raise UserError(
            f"no {start / 'transformer'}, from which {stage.name} starts",
            f"the weights that {pipeline} leaves there",
            f"run `kedro run --pipelines={pipeline}` first",
        )
    learned = None
    if (start / "training.json").is_file():
        learned = json.loads((start / "training.json").read_text()).get("vae_hash")
    elif (start / "vae").is_dir():
        learned = vae_hash(start / "vae")
    if learned is not None and learned != reader.vae_hash:
        raise UserError(
            f"shards of the VAE {reader.vae_hash} for {stage.name}, whose start learned the VAE {learned}",
            "shards of the VAE that the start learned",
            "run `kedro run --pipelines=encode` and the stages before this one again",
        )


def plan(stage: StageConfig, transformer: torch.nn.Module, reader: ShardReader) -> dict[str, Any]:
    """What a stage will cost, without training: parameters, tokens and operations per step, bytes, records.

    Operations are counted on one forward pass of one sample; a step is three times that (forward and backward).
    Memory is weights, gradients, two moments and the average in float32; activations come on top.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fportrait.training.loop import prepare, sample_losses

    check_stage(stage, reader)
    batch = prepare(batches_of(stage, transformer, reader)([0]), range(1), stage)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sample_losses(transformer, batch, stage.precision)
    parameters = sum(parameter.numel() for parameter in transformer.parameters() if parameter.requires_grad)
    flops = 3 * counter.get_total_flops() * stage.batch_size
    return {
        "stage": stage.name,
        "parameters": parameters,
        "tokens_per_step": tokens_per_sample(transformer, batch["latents"].shape) * stage.batch_size,
        "flops_per_step": flops,
        "flops_of_stage": flops * stage.iterations,
        "state_gib": round(5 * 4 * parameters / GIB, 3),
        "records": {dataset: count for dataset, count in reader.sizes().items() if stage.mixture.get(dataset)},
        "epochs": {
            dataset: round(stage.iterations * stage.batch_size * stage.mixture[dataset] / 100 / count, 2)
            for dataset, count in reader.sizes().items()
            if stage.mixture.get(dataset)
        },
    }


def tokens_per_sample(transformer: torch.nn.Module, latents_shape: tuple[int, ...]) -> int:
    """Tokens of one sample, the portrait's latent frame included; `latents_shape` ends with `l h w`."""
    config: Mapping[str, Any] = getattr(transformer, "config", {})
    frames, height, width = latents_shape[-3:]
    return (1 + frames) * height * width // math.prod(config.get("patch_size", (1, 1, 1)))


def batches_of(stage: StageConfig, transformer: torch.nn.Module, reader: ShardReader, split: str = "train") -> Any:
    """The batches of a stage, shaped for the transformer's configuration."""
    from fportrait.dataset.batches import Batches

    config: Mapping[str, Any] = getattr(transformer, "config", {})
    return Batches(
        reader, stage.mixture, stage.frames, stage.seed, split, ray_channels=config.get("ray_channels", 24),
        identity_rays=config.get("reference_rays") == "identity", focus_gain=stage.focus_gain,
    )  # fmt: skip


def sample_videos(
    stage: StageConfig,
    transformer: torch.nn.Module,
    vae: Any,
    reader: ShardReader,
    out_folder: str | Path,
    label: str,
    steps: int = 8,
) -> list[Path]:
    """One MP4 per dataset of the mixture: portrait, truth and sample side by side, of the first held-out record.

    The same noise is used at every call, so that `label` `before` and `after` compare. A dataset without held-out
    records is left out.
    """
    import numpy as np

    from fportrait.capture.video_io import write_video
    from fportrait.evaluation.protocol import held_out, make_pipeline, sample_records

    was_training = transformer.training
    transformer.eval()
    pipeline = make_pipeline(transformer, vae, stage.shift)
    written = []
    for dataset, share in sorted(stage.mixture.items()):
        records = held_out(reader, dataset, 1, stage.frames) if share else []
        for record, sample in zip(records, sample_records(pipeline, reader, records, stage.frames, steps, stage.seed),
                                  strict=True):  # fmt: skip
            truth = reader.read(record, stage.frames)["video"].numpy()
            portrait = np.broadcast_to(reader.references(record)["images"][0].numpy(), truth.shape)
            joined = np.concatenate([portrait, truth, sample], axis=2)
            written.append(write_video(Path(out_folder) / f"{label}-{dataset}.mp4", joined))
    transformer.train(was_training)
    return written
