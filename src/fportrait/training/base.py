"""Pretraining of the small base's transformer: what a user with Wan weights downloads, made in small.

Batches are cut from pre-rendered clips (`base_clips`): any start, any length 4k+1 up to the clip's, any reference of
the same person. Latents are computed on the fly; the small codec's encoder is one matrix product.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fportrait.camera.rays import fold_rays, plucker_rays
from fportrait.diffusion.codec import encode_video
from fportrait.diffusion.flow import drop_conditions, flow_loss, noise_latents, sample_sigmas


@dataclass(frozen=True)
class BaseTraining:
    """Settings of one phase of pretraining.

    What taught expression, where 1,000 steps without these had taught none: single pictures (more expressions per
    second than clips), noise levels near one (at lower ones the noisy mouth already tells), a strong weight on eyes and
    mouth, and a faster controller.
    """

    minutes: float = 40.0
    steps: int = 1_000_000
    tokens: int = 2048  # per step, so that short clips come in larger batches
    lengths: dict[int, float] = field(default_factory=lambda: {1: 0.2, 5: 0.2, 9: 0.3, 13: 0.1, 17: 0.2})
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    controller_learning_rate: float = 2e-3  # of everything between a code and the blocks' modulation; 5e-3 was unstable
    warmup: int = 50
    decay_from: float = 0.4  # fraction of the phase after which the rate falls linearly to zero; 1 keeps it
    shift: float = 5.0
    focus_weight: float = 8.0
    dropout: float = 0.05
    ema: float = 0.998
    seed: int = 1


PICTURES = BaseTraining(minutes=60.0, lengths={1: 0.7, 5: 0.3}, decay_from=1.0, focus_weight=10.0, dropout=0.03, seed=0)
CLIPS = BaseTraining()


def to_video(frames_uint8: np.ndarray) -> Tensor:
    """`B T H W 3` uint8 to `B 3 T H W` in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames_uint8)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def focus_weights(focus: np.ndarray, size: int, gain: float) -> Tensor:
    """Loss weight `B 1 l h w`: 1 plus `gain` times a bump on each eye and the mouth (`focus` `B T 3 2`, pixels)."""
    cells = size // 8
    grid = (np.arange(cells) + 0.5) * 8
    dx = grid[None, None, None, None, :] - focus[..., 0][..., None, None]
    dy = grid[None, None, None, :, None] - focus[..., 1][..., None, None]
    bumps = np.exp(-(dx**2 + dy**2) / (2 * 6.0**2)).max(2)  # B T h w
    first = np.repeat(bumps[:, :1], 4, axis=1)
    grouped = np.concatenate([first, bumps[:, 1:]], axis=1)
    grouped = grouped.reshape(len(bumps), -1, 4, cells, cells).max(2)
    return torch.from_numpy(1 + gain * grouped).float()[:, None]


class ClipBatches:
    """Random batches from rendered clips; batch `i` is a pure function of (seed, i)."""

    def __init__(self, clips: dict[str, np.ndarray], codes: np.ndarray, vae, settings: BaseTraining):
        self.clips, self.codes, self.vae, self.settings = clips, codes, vae, settings
        self.size = clips["video"].shape[2]

    def __call__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.settings.seed, index])
        lengths = list(self.settings.lengths)
        frames = int(rng.choice(lengths, p=np.array(list(self.settings.lengths.values()))))
        latent_frames = (frames + 3) // 4 + 1
        batch = max(1, self.settings.tokens // (latent_frames * (self.size // 8) ** 2))
        picks = rng.choice(len(self.codes), batch, replace=False)
        starts = rng.integers(0, self.clips["video"].shape[1] - frames + 1, batch)
        return self.cut(picks, starts, frames, rng)

    def cut(self, picks, starts, frames: int, rng: np.random.Generator) -> dict[str, Tensor]:
        clips = self.clips
        window = starts[:, None] + np.arange(frames)
        take = (picks[:, None], window)
        own = rng.random(len(picks)) < 0.5
        extra = rng.integers(0, clips["references"].shape[1], len(picks))
        inside = rng.integers(0, clips["video"].shape[1], len(picks))
        reference = np.where(own[:, None, None, None], clips["video"][picks, inside], clips["references"][picks, extra])
        camera = np.where(
            own[:, None, None],
            clips["world_to_camera"][picks, inside],
            clips["reference_world_to_camera"][picks, extra],
        )
        rays = np.stack(
            [
                fold_rays(plucker_rays(clips["world_to_camera"][i, w], clips["intrinsics"][i], c, self.size, self.size))
                for i, w, c in zip(picks, window, camera, strict=True)
            ]
        )
        with torch.no_grad():
            return {
                "latents": encode_video(self.vae, to_video(clips["video"][take])),
                "normals": encode_video(self.vae, to_video(clips["normals"][take])),
                "reference": encode_video(self.vae, to_video(reference[:, None])),
                "rays": torch.from_numpy(rays).float(),
                "codes": torch.from_numpy(self.codes[take].astype(np.float32)),
                "weights": focus_weights(clips["focus"][take], self.size, self.settings.focus_weight),
            }


def make_optimizers(model: torch.nn.Module, settings: BaseTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (about twice the progress per step here), AdamW for everything else."""
    matrices, controller, others = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("controller.") or "time_proj" in name:
            controller.append(parameter)
        elif name.startswith("blocks.") and parameter.ndim == 2:
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups: list[dict] = [{"params": others}, {"params": controller, "lr": settings.controller_learning_rate}]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def rate_factor(progress: float, step: int, settings: BaseTraining) -> float:
    warm = min(1.0, (step + 1) / settings.warmup)
    cool = min(1.0, (1 - progress) / (1 - settings.decay_from)) if settings.decay_from < 1 else 1.0
    return warm * max(cool, 0.02)


def train_base(
    model: torch.nn.Module,
    batches: Callable[[int], dict[str, Tensor]],
    settings: BaseTraining,
    log: Callable[[dict[str, float], int], None],
    every: int = 100,
    on_log: Callable[[torch.nn.Module, int], None] | None = None,
) -> torch.nn.Module:
    """Train until `minutes` or `steps` are used up; returns the exponential moving average of the weights.

    The learning rate follows whichever of the two limits is nearer, so that a run always ends cooled down.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = make_optimizers(model, settings)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    started, running, step = time.time(), [], 0
    while True:
        progress = max(step / settings.steps, (time.time() - started) / (60 * settings.minutes))
        if progress >= 1:
            break
        factor = rate_factor(progress, step, settings)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = batches(step)
        conditions = drop_conditions(
            {key: batch[key] for key in ("reference", "rays", "normals", "codes")}, settings.dropout, generator
        )
        sigmas = sample_sigmas(len(batch["latents"]), shift=settings.shift, generator=generator)
        noise = torch.randn(batch["latents"].shape, generator=generator)
        noisy = noise_latents(batch["latents"], noise, sigmas)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(noisy, sigmas * 1000, **conditions)
        loss = flow_loss(velocity.float(), batch["latents"], noise, batch["weights"])
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss {loss.item()} at step {step}: lower learning_rate")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.dtype.is_floating_point:
                    average[name].lerp_(value, 1 - decay)
        running.append(loss.item())
        step += 1
        if step % every == 0:
            seconds = time.time() - started
            log({"loss": float(np.mean(running[-every:])), "grad_norm": float(norm), "seconds": seconds}, step)
            if on_log:
                on_log(model, step)
    model.load_state_dict(average)
    return model
