"""Pretraining of the small base's transformer: what a user with Wan weights downloads, made in small.

Batches are cut from pre-rendered clips (`base_clips`): any start, any length 4k+1 up to the clip's, any reference of
the same person. Latents are computed on the fly; the small codec's encoder is one matrix product.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fportrait.atomic_io import atomic_path
from fportrait.dataset.focus import focus_weights
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import encode_video
from fportrait.diffusion.conditions import BY_NAME, Conditions, Reads
from fportrait.diffusion.flow import bridge_sigmas, bridged_noise, flow_loss, noise_latents
from fportrait.errors import UserError
from fportrait.pixels import to_model_range


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
    own_reference: float = 0.5  # the portrait is another frame of the clip itself; else a picture taken elsewhere
    contrast: float = 5.0  # weight of the error in what differs between two pictures of one person
    clip_contrast: float = 3.0  # and between the frames of a clip
    ema: float = 0.998
    seed: int = 1


SAVE_SECONDS = 240.0
PICTURES = BaseTraining(minutes=60.0, lengths={1: 0.7, 5: 0.3}, decay_from=1.0, focus_weight=10.0, dropout=0.03, seed=0)
CLIPS = BaseTraining()


class ClipBatches:
    """Random batches (`latents`, `conditions`, `weights`) from rendered clips; number i is a function of (seed, i).

    Single pictures come in pairs of one person with one reference, the first of all pairs before the second of all:
    half of the pairs from clips of kind "faces", if there are any, which give nothing longer than a picture.
    """

    def __init__(
        self, clips: dict[str, np.ndarray], codes: np.ndarray, vae, settings: BaseTraining, reads: Reads | None = None
    ):
        self.clips, self.codes, self.vae, self.settings, self.reads = clips, codes, vae, settings, reads or Reads()
        self.size = clips["video"].shape[2]
        still = (np.ptp(clips["pose"], axis=1).max(-1) == 0) & (np.ptp(clips["actions"], axis=1).max(-1) > 0)
        self.faces, self.videos = np.flatnonzero(still), np.flatnonzero(~still)

    def __call__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.settings.seed, index])
        lengths = list(self.settings.lengths)
        frames = int(rng.choice(lengths, p=np.array(list(self.settings.lengths.values()))))
        latent_frames = (frames + 3) // 4 + 1
        batch = max(1, self.settings.tokens // (latent_frames * (self.size // 8) ** 2))
        total = self.clips["video"].shape[1]
        if frames > 1:
            picks = rng.choice(self.videos, batch, replace=batch > len(self.videos))  # few are there at first
            return self.cut(picks, rng.integers(0, total - frames + 1, batch), frames, rng)
        pairs = max(1, batch // 2)
        still = min(pairs // 2, len(self.faces))
        picks = np.concatenate([rng.choice(self.faces, still), rng.choice(self.videos, pairs - still)]).astype(int)
        first = rng.integers(0, total, pairs)
        second = (first + rng.integers(1, total, pairs)) % total
        return self.cut(np.tile(picks, 2), np.concatenate([first, second]), 1, rng, pairs=True)

    def cut(self, picks, starts, frames: int, rng: np.random.Generator, pairs: bool = False) -> dict[str, Any]:
        """The batch of `frames` from `starts` of the clips `picks`; with `pairs` the two halves share references."""
        clips = self.clips
        window = starts[:, None] + np.arange(frames)
        take = (picks[:, None], window)
        count, copies = (len(picks) // 2, 2) if pairs else (len(picks), 1)
        own = np.tile(rng.random(count) < self.settings.own_reference, copies)
        extra = np.tile(rng.integers(0, clips["references"].shape[1], count), copies)
        inside = np.tile(rng.integers(0, clips["video"].shape[1], count), copies)
        if BY_NAME["warped"].read(self.reads):
            inside = clips["own_frame"][picks]  # the one that was painted on the mesh

        def portrait(of_clip: str, of_extra: str) -> np.ndarray:
            return np.where(own[:, None, None, None], clips[of_clip][picks, inside], clips[of_extra][picks, extra])

        given = {
            "latents": clips["video"][take],
            "normals": clips["normals"][take],
            "reference": portrait("video", "references")[:, None],
        }
        if BY_NAME["reference_normals"].read(self.reads):
            given["reference_normals"] = portrait("normals", "reference_normals")[:, None]
        if BY_NAME["warped"].read(self.reads):
            which = np.where(own, clips["warped"].shape[1] - 1, extra)
            given["warped"] = clips["warped"][picks[:, None], which[:, None], window]
        camera = np.where(
            own[:, None, None],
            clips["world_to_camera"][picks, inside],
            clips["reference_world_to_camera"][picks, extra],
        )
        with torch.no_grad():
            encoded = {name: encode_video(self.vae, to_model_range(video)) for name, video in given.items()}
        latents = encoded.pop("latents")
        codes = torch.from_numpy(self.codes[take].astype(np.float32))
        clip_conditions = [
            Conditions.of_clip(
                self.reads,
                cameras=Cameras(clips["world_to_camera"][i, w], clips["intrinsics"][i], camera[row]),
                codes=codes[row],
                **{name: value[row] for name, value in encoded.items()},
            )
            for row, (i, w) in enumerate(zip(picks, window, strict=True))
        ]
        return {
            "latents": latents,
            "conditions": Conditions.cat(clip_conditions),
            "weights": focus_weights(clips["focus"][take], self.size, self.settings.focus_weight),
        }


def contrast_loss(
    velocity: Tensor, latents: Tensor, noise: Tensor, weights: Tensor, contrast: float
) -> tuple[Tensor, Tensor]:
    """The flow loss of pairs of pictures, with the error in what differs inside a pair counted `contrast` times.

    As `flow_loss` does between the frames of a clip. Pairs that differ little count more, up to four times, or a jaw
    would drown a brow: with d the pair's true difference and D the batch's mean of it, 1 / (d / D + 1/4), normalised.

    Args:
        velocity, latents, noise: `B C l h w`; the second half of the batch are other pictures of the first half's
            people, under the same noise.
        weights: `B 1 l h w`.

    Returns:
        The loss, and the share of the flow loss that (e − m)² is.
    """
    error = velocity.float() - (noise - latents)
    mean = torch.stack(error.chunk(2)).mean(0).repeat(2, 1, 1, 1, 1)
    weights = weights.expand_as(error) / weights.expand_as(error).sum()
    first, second = latents.chunk(2)
    asked = (weights[: len(first)] * (first - second).square()).flatten(1).sum(1)
    level = 1 / (asked / asked.mean().clamp(min=1e-12) + 0.25)
    level = (level / level.mean()).repeat(2)
    by_picture = (weights * (error - mean).square()).flatten(1).sum(1)
    whole, different = (weights * error.square()).sum(), by_picture.sum()
    return whole + (contrast - 1) * (level * by_picture).sum(), (different / whole).detach()


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


def keep(
    path: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    step: int,
    seconds: float,
) -> None:
    """Write a phase's whole state, so that it can be stopped at any time."""
    state = {
        "model": model.state_dict(),
        "average": average,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "step": step,
        "seconds": seconds,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def restore(
    path: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> tuple[int, float]:
    """Take up what `keep` wrote; returns the steps made and the seconds spent.

    Raises:
        UserError: the file is of another model.
    """
    state = torch.load(path, weights_only=True)
    if {name: value.shape for name, value in state["model"].items()} != {k: v.shape for k, v in average.items()}:
        raise UserError(f"the kept state {path}", "one of this transformer", "remove it, or choose another work folder")
    model.load_state_dict(state["model"])
    average.update(state["average"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    generator.set_state(state["generator"])
    return int(state["step"]), float(state["seconds"])


def train_base(
    model: torch.nn.Module,
    batches: Callable[[int], dict[str, Any]],
    settings: BaseTraining,
    log: Callable[[dict[str, float], int], None],
    every: int = 100,
    on_log: Callable[[torch.nn.Module, int], None] | None = None,
    state: Path | None = None,
) -> torch.nn.Module:
    """Train until `minutes` or `steps` are used up; returns the exponential moving average of the weights.

    The learning rate follows whichever of the two limits is nearer, so that a run always ends cooled down.

    Args:
        state: a file that keeps everything every four minutes and at the end; a run that finds it goes on from there.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = make_optimizers(model, settings)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step, spent = 0, 0.0
    if state is not None and state.exists():
        step, spent = restore(state, model, average, optimizers, generator)
    started = saved = time.time()
    config: Any = model.config
    bridge = float(config.bridge_level)
    running: list[float] = []
    shares: list[float] = []
    while True:
        seconds = spent + time.time() - started
        progress = max(step / settings.steps, seconds / (60 * settings.minutes))
        if state is not None and (progress >= 1 or time.time() - saved > SAVE_SECONDS):
            keep(state, model, average, optimizers, generator, step, seconds)
            saved = time.time()
        if progress >= 1:
            break
        factor = rate_factor(progress, step, settings)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = batches(step)
        # The two of a pair share noise, its level and what is dropped: only what was asked for tells them apart.
        copies = 2 if batch["latents"].shape[2] == 1 else 1
        conditions = batch["conditions"].dropped(settings.dropout, generator, copies)
        count = len(batch["latents"]) // copies
        sigmas = bridge_sigmas(count, bridge, settings.shift, generator).repeat(copies)
        noise = torch.randn(count, *batch["latents"].shape[1:], generator=generator).repeat(copies, 1, 1, 1, 1)
        if bridge < 1:
            noise = bridged_noise(noise, batch["latents"], batch["conditions"].warped, bridge, sigmas)
        noisy = noise_latents(batch["latents"], noise, sigmas)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(noisy, sigmas * 1000, **conditions.inputs())
        if copies == 2:
            loss, share = contrast_loss(velocity, batch["latents"], noise, batch["weights"], settings.contrast)
            shares.append(float(share))
        else:
            loss = flow_loss(velocity, batch["latents"], noise, batch["weights"], settings.clip_contrast)
            running.append(loss.item())
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
        step += 1
        if step % every == 0:
            values = {"loss": running, "share_that_differs": shares}
            means = {name: float(np.mean(recent[-every:])) for name, recent in values.items() if recent}
            log({**means, "grad_norm": float(norm), "seconds": seconds}, step)
            if on_log:
                on_log(model, step)
    model.load_state_dict(average)
    return model
