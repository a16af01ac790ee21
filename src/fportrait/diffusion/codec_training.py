"""Training of the block codec's refiner; its bases are fitted in closed form and stay as they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch

from fportrait.diffusion.codec import BlockCodec, normalise
from fportrait.errors import UserError


def train_refiner(
    codec: BlockCodec,
    clips_iterator: Iterable[torch.Tensor],
    steps: int,
    lr: float = 2e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
    autocast: bool = True,
    noise: float = 0.0,
) -> list[float]:
    """Teach the refiner to undo what the projection lost.

    The loss is mean squared error plus absolute error: the first is what PSNR counts, the second keeps edges.

    Args:
        clips_iterator: batches `B 3 T H W` in [-1, 1]; it is stopped after `steps`, and must last that long.
        lr: peak of a one-cycle cosine schedule for AdamW.
        seed: of torch; the same clips and seed give the same weights.
        on_step: called with (step, loss).
        autocast: run the refiner in bfloat16 (2.3 times as fast on a CPU core that has it); the loss stays in float32.
        noise: latents are disturbed by up to this many standard deviations, drawn per clip, as sampled latents are.

    Returns:
        the loss of every step.

    Raises:
        UserError: the codec has no refiner, or too few clips were given.
    """
    if codec.refiner is None:
        raise UserError("a codec without refiner", "refiner_blocks > 0", "build the codec with a refiner")
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(codec.refiner.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-4)
    warmup = max(1, min(50, steps // 10))
    losses: list[float] = []
    codec.train()
    for step, video in enumerate(itertools.islice(clips_iterator, steps)):
        rate = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * max(rate, 0.01)
        with torch.no_grad():
            latents = codec.encode(video).latent_dist.mode()
            if noise:
                strength = noise * torch.rand(len(latents), 1, 1, 1, 1).to(latents)
                std = torch.tensor(codec.config.latents_std).to(latents)[:, None, None, None]
                latents = latents + strength * std * torch.randn_like(latents)
            decoded = codec.decode_blocks(latents)
        with torch.autocast(video.device.type, torch.bfloat16, enabled=autocast):
            correction = codec.refiner(decoded, normalise(codec, latents))
        error = decoded + correction.float() - video
        loss = error.square().mean() + 0.05 * error.abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.refiner.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if on_step:
            on_step(step, losses[-1])
    codec.eval()
    if len(losses) < steps:
        raise UserError(f"{len(losses)} batches of clips", f"{steps}", "give an iterator that does not end")
    return losses
