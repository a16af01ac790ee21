"""From a batch to the loss of each of its samples; every random number comes from a counter keyed by the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fportrait.dataset.batches import Batches
from fportrait.dataset.crops import EVERYWHERE
from fportrait.dataset.mixing import draw_integer
from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.flow import bridge_sigmas, bridged_noise, flow_loss, noise_latents
from fportrait.training.config import StageConfig


def prepare(batch: dict[str, Any], indices: Iterable[int], stage: StageConfig, bridge: float = 1.0) -> dict[str, Any]:
    """Add noise levels, noise and dropped conditions, each sample from its own counter, so that no split matters.

    Args:
        bridge: the model's `bridge_level`.
    """
    prepared = []
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed(draw_integer(stage.seed, index, "noise", 2**63))
        sigma = bridge_sigmas(1, bridge, stage.shift, generator, stage.sigmas)
        latents, conditions = batch["latents"][row : row + 1], batch["conditions"][row : row + 1]
        noise = torch.randn(latents.shape, generator=generator)
        if bridge < 1:
            noise = bridged_noise(noise, latents, conditions.warped, bridge, sigma)
        prepared.append((sigma, noise, conditions.dropped(stage.dropout, generator)))
    sigmas, noises, conditions = zip(*prepared, strict=True)
    return batch | {"sigmas": torch.cat(sigmas), "noise": torch.cat(noises), "conditions": Conditions.cat(conditions)}


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor | Conditions) else value for key, value in batch.items()}


def sample_losses(model: Callable[..., Tensor], batch: dict[str, Any], precision: str, contrast: float = 1.0) -> Tensor:
    """Flow-matching loss of each sample, `B`, where it was filmed; 0 of one that nowhere was. `contrast` as in
    `flow_loss`."""
    latents, noise, conditions = batch["latents"], batch["noise"], batch["conditions"].inputs()
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=precision == "bf16"):
        velocity = model(noise_latents(latents, noise, batch["sigmas"]), batch["sigmas"] * 1000, **conditions)
    weights, losses = batch.get("weights"), []
    for row, (down, across) in enumerate(batch.get("filmed", [EVERYWHERE] * len(latents))):
        at = (slice(row, row + 1), slice(None), slice(None), down, across)
        if velocity[at].numel():
            weight = None if weights is None else weights[at]
            losses.append(flow_loss(velocity[at], latents[at], noise[at], weight, contrast))
        else:
            losses.append(velocity[row].float().sum() * 0)
    return torch.stack(losses)


class HeldOut:
    """The loss on people who are not trained on, with the same samples, noise and noise levels at every reading.

    Datasets without held-out records are left out of the mixture. Each of `processes` scores its part of `count`
    samples (rounded up to a multiple of `processes`).
    """

    def __init__(self, batches: Batches, stage: StageConfig, count: int, process: int = 0, processes: int = 1):
        self.stage = replace(stage, dropout=0.0, seed=0)
        sizes = batches.reader.sizes("test")
        shares = {name: share for name, share in stage.mixture.items() if sizes.get(name)}
        self.batches = batches.like("test", shares, seed=0)
        each = -(-count // processes) if any(shares.values()) else 0
        self.indices = range(process * each, (process + 1) * each)

    def __len__(self) -> int:
        return len(self.indices)

    @torch.no_grad()
    def losses(self, model: torch.nn.Module, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Loss of each of this process's samples."""
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        size = max(1, self.stage.micro_batch(1))
        losses = []
        for first in range(0, len(self.indices), size):
            part = self.indices[first : first + size]
            batch = to_device(prepare(self.batches(part), part, self.stage, self.batches.reads.bridge_level), device)
            losses.append(sample_losses(forward or model, batch, self.stage.precision))
        model.train(was_training)
        return torch.cat(losses)
