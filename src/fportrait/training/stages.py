"""What must be true before a stage's first step, and the batches it draws."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.variants import VARIANTS
from fportrait.errors import UserError
from fportrait.training.config import StageConfig

if TYPE_CHECKING:
    import torch

    from fportrait.diffusion.transformer import FactorPortraitTransformer

logger = logging.getLogger(__name__)


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


def check_noise_levels(stage: StageConfig, bridge_level: float) -> None:
    """Tell of settings that a model whose paths start at the painted portrait does not read (`flow.bridge_sigmas`).

    Such a model learns at level sqrt(u), or at the level alone (`sigmas: start`): no other distribution has a meaning,
    and `shift` only spaces the levels of sample videos, of which a warning tells.

    Raises:
        UserError: `sigmas` other than uniform or start.
    """
    if bridge_level >= 1:
        return
    learns = f"this model's paths start at noise level {bridge_level:g}, and its levels are drawn from there"
    if stage.sigmas not in ("uniform", "start"):
        raise UserError(
            f"sigmas = {stage.sigmas} in {stage.name}, which is not read: {learns}",
            "sigmas: uniform or start",
            "set it so, or begin with a model of bridge_level 1",
        )
    if stage.shift != StageConfig.shift:
        logger.warning("shift = %g in %s spaces its sample videos alone: %s", stage.shift, stage.name, learns)


def check_start(
    stage: StageConfig, start_folder: str | Path, reader: ShardReader, base_folder: str | Path | None = None
) -> None:
    """Refuse a start that is not there, that is of another architecture than the base, or that learned latents of
    another VAE than the shards hold.

    `start_folder` is the parent stage's (`transformer/`, `training.json`) or the base's (`transformer/`, `vae/`).

    Raises:
        UserError: the parent has not been trained (the command is named), or the architectures or VAEs differ.
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
    if base_folder is not None:
        _check_architecture(stage, start / "transformer", Path(base_folder) / "transformer")
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


def _check_architecture(stage: StageConfig, start: Path, base: Path) -> None:
    from fportrait.diffusion.architectures import whole_config

    found, of_base = whole_config(start), whole_config(base)
    expected = of_base | dict(VARIANTS[stage.variant].config)
    if found in (expected, of_base):  # of the base, it becomes the variant as the stage begins
        return
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            variant = "" if stage.variant == "full" else f" as variant {stage.variant}"
            raise UserError(
                f"{key} {found.get(key)} in {start}, from which {stage.name} starts, "
                f"and {expected.get(key)} in {base}{variant}",
                "one architecture from the base through all stages",
                "run the stages before this one again, from the base that is there now, with this stage's variant",
            )


def load_start(stage: StageConfig, start_folder: str | Path) -> FactorPortraitTransformer:
    """The transformer with which the stage begins: of `start_folder/transformer`, as the stage's variant."""
    from fportrait.diffusion.architectures import variant_of

    return variant_of(Path(start_folder) / "transformer", stage.variant, stage.seed)


def batches_of(stage: StageConfig, transformer: torch.nn.Module, reader: ShardReader, split: str = "train") -> Any:
    """The batches of a stage, shaped for the transformer's configuration."""
    from fportrait.dataset.batches import Batches
    from fportrait.diffusion.conditions import Reads

    config: Mapping[str, Any] = getattr(transformer, "config", {})
    return Batches(
        reader,
        stage.mixture,
        stage.frames,
        stage.seed,
        split,
        reads=Reads.of(config),
        focus_gain=stage.focus_gain,
        batch_size=stage.batch_size,
    )
