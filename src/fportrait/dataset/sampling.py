"""Held-out records in, the model's videos out: what samples in training and every protocol of evaluation begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fportrait.dataset.batches import record_conditions
from fportrait.dataset.mixing import draw_integer
from fportrait.dataset.shards import Record, ShardReader
from fportrait.devices import device_of
from fportrait.diffusion.codec import decode_latents
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.errors import UserError
from fportrait.pixels import to_model_range, to_uint8


@dataclass(frozen=True)
class Sampler:
    """A model and how it is sampled. `guidance`: scale per factor; None takes the pipeline's own."""

    pipeline: FactorPortraitPipeline
    steps: int
    seed: int = 0
    guidance: Mapping[str, float] | None = None

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def reads(self) -> Reads:
        return Reads.of(self.pipeline.transformer.config)

    def __call__(
        self, conditions: Conditions, noises: Sequence[int], painted: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Videos `T H W 3` uint8 of a batch.

        Args:
            noises: the seeds of its clips' noise. painted: `T H W 3` uint8 of every clip, the pictures that the painted
                portraits' latents were made of: their detail comes back into the result.
        """
        inputs = dict(conditions.inputs())
        if painted is not None and inputs.get("warped") is not None:
            inputs["warped"] = to_model_range(np.stack(painted))
        output = self.pipeline(
            **inputs,
            num_inference_steps=self.steps,
            guidance=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in noises],
        )
        return list(output.frames)


def held_out(reader: ShardReader, dataset: str, count: int, frames: int | None) -> list[Record]:
    """Up to `count` test records of a dataset, the first of every identity before the second of any.

    Raises:
        UserError: a record is shorter than `frames`.
    """
    by_identity: dict[str, list[Record]] = {}
    for record in reader.records("test").get(dataset, []):
        by_identity.setdefault(record.identity, []).append(record)
    rounds = max(map(len, by_identity.values()), default=0)
    turns = [records[turn] for turn in range(rounds) for records in by_identity.values() if turn < len(records)]
    for record in turns[:count]:
        if frames and record.frames < frames:
            raise UserError(
                f"{frames} frames asked of {record.id}, which has {record.frames}",
                "at most the window of the shards",
                "lower evaluate's frames, or raise encode's window and encode again",
            )
    return turns[:count]


def make_pipeline(
    transformer: torch.nn.Module,
    vae: Any,
    shift: float,
    guidance_below: float = 1.0,
    scheduler: str = "euler",
) -> FactorPortraitPipeline:
    """A sampler of clips as long as they were trained, without a progress bar; see `fportrait.diffusion.schedule`."""
    pipeline = FactorPortraitPipeline.of(transformer, vae, shift, scheduler, guidance_below=guidance_below)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_records(sampler: Sampler, reader: ShardReader, records: Sequence[Record], frames: int) -> list[np.ndarray]:
    """`T H W 3` uint8 for each record, from the identity's first portrait; a record's id names its noise."""
    if not records:
        return []
    windows = [reader.read(record, frames) for record in records]
    conditions = Conditions.cat(
        record_conditions(window, reader.references(record), sampler.reads)
        for window, record in zip(windows, records, strict=True)
    )
    painted = [window["painted"].numpy() for window in windows if "painted" in window]
    noises = [noise_of(sampler.seed, record.id) for record in records]
    return sampler(conditions, noises, painted if len(painted) == len(records) else None)


def noise_of(seed: int, name: str) -> int:
    """The seed of the noise of a clip called `name`."""
    return draw_integer(seed, 0, name, 2**63)


def decode(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """Normalised latents `16 l h w` to `T H W 3` uint8."""
    return to_uint8(decode_latents(vae, latents[None].to(device_of(vae)).float()))[0]
