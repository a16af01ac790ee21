"""A student that samples in one call, without guidance, what its teacher samples in many with guidance.

The teacher samples clips once, from noises that are kept: pairs of noise and result, bound by a straight line each
(rectified flow's "reflow": Liu et al. 2022, arXiv 2209.03003; InstaFlow: Liu et al. 2023, arXiv 2309.06380). The
student, of the same architecture and begun from the teacher's weights, learns the velocity noise - result along these
lines, mostly at their noisy end, where one Euler step of it is the whole way. So one student samples in 1, 2 or 4 calls
by the sampler that there is, and guidance is in its weights: scales are those that the teacher had.

What a squared error blurs is asked for by a second term: the energy of the picture's Laplacian, cell by cell, is to be
the teacher's. Some clips are given their first latents clean, at noise level 0, as a stream that goes on from what it
has shown gives them (`animate.stream`).

    python -m fportrait.training.distill --clips FOLDER --work FOLDER --output BUNDLE
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor

from fportrait.atomic_io import value_hash, write_json, write_safetensors
from fportrait.bundle import SHIPPED_BASE, assemble, bundle_hashes, read_settings
from fportrait.devices import device_of
from fportrait.diffusion.codec import BlockCodec, denormalise
from fportrait.diffusion.conditions import CONDITIONS, Conditions, Reads
from fportrait.diffusion.flow import bridged_noise, flow_loss, noise_latents, spread_sigmas
from fportrait.diffusion.shapes import latent_frames
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from fportrait.training.base import BaseTraining, keep, make_optimizers, rate_factor, restore

Source = Callable[[np.random.Generator, int, int], Mapping[str, Any]]
"""Draws clips: (random numbers, how many, frames) to `conditions`, and `weights` `B 1 l h w` where it knows them."""
Log = Callable[[dict[str, float], int], None]
CELL = 8  # pixels: the Laplacian's energy is compared over squares of this side


@dataclass(frozen=True)
class Distillation:
    """Settings. `units` of `clips` clips each are sampled by the teacher, then the student takes `steps` steps."""

    units: int = 60
    clips: int = 8
    lengths: dict[int, float] = field(default_factory=lambda: {5: 0.5, 9: 0.15, 17: 0.35})  # frames: share of the units
    steps: int = 1000
    tokens: int = 2048  # of a step
    learning_rate: float = 4e-4
    matrix_learning_rate: float = 0.005
    controller_learning_rate: float = 4e-4
    warmup: int = 20
    decay_from: float = 0.3  # fraction of the steps after which the rates fall to zero
    ema: float = 0.99
    one_call: float = 0.7  # share of the clips that begin from noise alone; the others anywhere on the line
    known: float = 0.2  # share of the clips whose first latents are given
    known_noise: float = 0.2  # greatest noise on those, so that a stream's own errors do not add up
    contrast: float = 3.0  # weight of the error in what differs between the frames of a clip (`flow_loss`)
    sharpness: float = 0.3  # weight of the Laplacian's energy
    focus_weight: float = 8.0  # extra weight on eyes and mouth
    seed: int = 0

    @property
    def rates(self) -> BaseTraining:
        """The same, as the base's optimisers read it."""
        names = ("learning_rate", "matrix_learning_rate", "controller_learning_rate", "warmup", "decay_from", "seed")
        return BaseTraining(steps=self.steps, minutes=1e9, **{name: getattr(self, name) for name in names})

    @property
    def taught(self) -> list[Any]:
        """What the teacher's clips depend on, for their name; more units of the same are further files."""
        return [self.clips, sorted(self.lengths.items()), self.focus_weight, self.seed]


@torch.no_grad()
def teach(pipeline: Any, source: Source, settings: Distillation, folder: Path, report: Log | None = None) -> list[Path]:
    """Let the teacher sample every unit into `folder`, where it is not there yet; returns the files.

    A file holds conditions, `weights`, `noise` and `result` `B C l h w` (float16) of clips of one length.
    """
    files = [folder / f"unit-{number:04d}.safetensors" for number in range(settings.units)]
    reads, lengths = Reads.of(pipeline.transformer.config), list(settings.lengths)
    shares = np.array(list(settings.lengths.values()))
    for number, file in enumerate(files):
        if file.exists():
            continue
        started = time.process_time()
        rng = np.random.default_rng([settings.seed, number])
        frames = int(rng.choice(lengths, p=shares / shares.sum()))
        drawn = source(rng, settings.clips, frames)
        conditions: Conditions = drawn["conditions"]
        h, w = conditions.reference.shape[-2:]
        shape = (len(conditions), reads.latent_channels, latent_frames(frames), h, w)
        seeds = rng.integers(0, 2**62, len(conditions))
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        result = pipeline(
            **conditions.inputs(),
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            output_type="latent",
        ).frames
        noise = torch.cat([torch.randn(1, *shape[1:], generator=generator) for generator in generators])
        weights = drawn.get("weights")
        kept = {"noise": noise, "result": result, "weights": torch.ones(1) if weights is None else weights}
        kept |= {f"conditions.{name}": value for name, value in conditions.inputs().items() if value is not None}
        write_safetensors(file, {name: value.half().cpu().contiguous() for name, value in kept.items()})
        if report is not None:
            report({"frames": frames, "cpu_seconds": time.process_time() - started}, number + 1)
    return files


class TaughtClips:
    """Batches of what the teacher sampled; step n's is a function of (seed, n)."""

    def __init__(self, files: Sequence[Path], settings: Distillation):
        from safetensors.torch import load_file

        self.settings = settings
        self.units = [load_file(file) for file in files]

    def __call__(self, step: int) -> dict[str, Any]:
        """`noise`, `result` `B C l h w`, `conditions`, `weights` `B 1 l h w`: clips of one length, of several units."""
        rng = np.random.default_rng([self.settings.seed, step, 1])
        first = self.units[int(rng.integers(len(self.units)))]
        shape = first["result"].shape
        alike = [unit for unit in self.units if unit["result"].shape[1:] == shape[1:]]
        count = max(1, self.settings.tokens // ((1 + shape[2]) * math.prod(shape[3:])))
        picks = [(int(rng.integers(len(alike))), int(rng.integers(shape[0]))) for _ in range(count)]

        def rows(name: str) -> Tensor:
            return torch.stack([alike[unit][name][row] for unit, row in picks]).float()

        conditions = {
            one.name: rows(f"conditions.{one.name}") for one in CONDITIONS if f"conditions.{one.name}" in first
        }
        weights = rows("weights") if first["weights"].ndim == 5 else torch.ones(count, 1, 1, 1, 1)
        given = Conditions(**{"normals": None, **conditions})  # type: ignore[arg-type]
        return {"noise": rows("noise"), "result": rows("result"), "conditions": given, "weights": weights}


def student_inputs(
    batch: Mapping[str, Any], settings: Distillation, shift: float, generator: torch.Generator, level: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents `B C l h w`, their noise levels `B l`, and which latents count in the loss `B 1 l 1 1`.

    Most clips begin where sampling does, at noise alone or at the model's `bridge_level`. The first latents of some are
    given at level 0, with a little noise that the student is not told of.
    """
    result, noise = batch["result"], batch["noise"]
    count, frames = len(result), result.shape[2]
    draw = torch.rand(4, count, generator=generator)
    between = spread_sigmas(1 - draw[1], level, shift)
    sigmas = torch.where(draw[0] < settings.one_call, torch.full((count,), level), between)
    known = torch.where(draw[2] < settings.known, (draw[3] * (frames - 1)).long() + 1, 0) * (frames > 1)
    given = torch.arange(frames)[None] < known[:, None]  # B l
    levels = torch.where(given, torch.zeros(1), sigmas[:, None])
    noisy = noise_latents(result, noise, sigmas)
    small = settings.known_noise * torch.rand(count, 1, 1, 1, 1, generator=generator)
    noisy = torch.where(
        given[:, None, :, None, None], result + small * torch.randn(result.shape, generator=generator), noisy
    )
    return noisy, levels, (~given).float()[:, None, :, None, None]


def energy(vae: Any, latents: Tensor) -> Tensor:
    """Root of the Laplacian's mean square over cells, `B T H/8 W/8`, of the grey pictures of normalised latents.

    Of a `BlockCodec` without its refinement, whose gradient would cost more than the student's own.
    """
    video = vae.decode_blocks(denormalise(vae, latents))
    grey = video.mean(1).flatten(0, 1)[:, None]
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], device=grey.device)[None, None]
    return (F.avg_pool2d(F.conv2d(grey, kernel, padding=1).square(), CELL) + 1e-4).sqrt()


def student_loss(
    model: Any, vae: Any, batch: Mapping[str, Any], settings: Distillation, shift: float, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The flow's loss along the line from noise to the teacher's result, and the sharpness asked for beside it."""
    level = float(model.config.bridge_level)
    if level < 1:
        everywhere = torch.full((len(batch["result"]),), level)
        painted = batch["conditions"].warped
        batch = {**batch, "noise": bridged_noise(batch["noise"], batch["result"], painted, level, everywhere)}
    noisy, levels, counted = student_inputs(batch, settings, shift, generator, level)
    device = device_of(model)
    noisy, levels, counted = (value.to(device) for value in (noisy, levels, counted))
    result, noise, weights = (batch[name].to(device) for name in ("result", "noise", "weights"))
    with torch.autocast(device.type, torch.bfloat16):
        velocity = model(noisy, levels * 1000, **batch["conditions"].to(device).inputs())
    velocity = velocity.float()
    flow = flow_loss(velocity, result, noise, weights * counted, settings.contrast)
    told = {"flow_loss": float(flow.detach())}
    if not settings.sharpness or not isinstance(vae, BlockCodec):
        return flow, told
    reached = noisy - levels[:, None, :, None, None] * velocity
    reached = torch.where(counted > 0, reached, result)
    found, asked = energy(vae, reached), energy(vae, result).detach()
    sharp = (found - asked).square().mean() / asked.square().mean()
    told |= {
        "sharpness_loss": float(sharp.detach()),
        "sharpness": float((found.square().mean() / asked.square().mean()).detach()),
    }
    return flow + settings.sharpness * sharp, told


def train_student(
    model: Any,
    vae: Any,
    clips: TaughtClips,
    settings: Distillation,
    shift: float,
    log: Log,
    state: Path | None = None,
    every: int = 20,
    save_every: int = 50,
) -> Any:
    """Train in place to the average of its weights. A run that finds `state` goes on from it, to the same end."""
    rates = settings.rates
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = make_optimizers(model, rates)
    asked = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step, spent = 0, 0.0
    if state is not None and state.exists():
        step, spent = restore(state, model, average, optimizers, generator)
    started, recent = time.process_time(), []
    while step < settings.steps:
        factor = rate_factor(step / settings.steps, step, rates)
        for optimizer, of_groups in zip(optimizers, asked, strict=True):
            for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
                group["lr"] = rate * factor
        loss, told = student_loss(model, vae, clips(step), settings, shift, generator)
        if not math.isfinite(loss.item()):
            raise UserError(f"a loss of {loss.item()} at step {step}", "a finite number", "lower the learning rates")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.dtype.is_floating_point:
                    average[name].lerp_(value, 1 - decay)
        recent.append(told)
        step += 1
        seconds = spent + time.process_time() - started
        if step % every == 0 or step == settings.steps:
            means = {name: float(np.mean([one[name] for one in recent])) for name in recent[-1]}
            log({**means, "cpu_seconds": seconds}, step)
            recent = []
        if state is not None and (step % save_every == 0 or step == settings.steps):
            keep(state, model, average, optimizers, generator, step, seconds)
    model.load_state_dict(average)
    return model


def distil(
    teacher: Path, source: Source, work: Path, target: Path, settings: Distillation, log: Log, calls: int = 1
) -> dict[str, Any]:
    """Teach, train, and write the student's bundle to `target`; every part found in `work` is kept.

    Returns:
        `cpu_seconds` of the training, the teacher's hash and the settings.

    Raises:
        UserError: `teacher` is no bundle.
    """
    from fportrait.diffusion.pipeline import FactorPortraitPipeline

    stated = read_settings(teacher)
    of_teacher = value_hash(bundle_hashes(teacher))
    told: dict[str, float] = {}

    def heard(values: dict[str, float], step: int) -> None:
        told.update(values)
        log(values, step)

    with attention_backend("_native_math"):  # a tenth faster than the fused one on a CPU, at this size
        pipeline = FactorPortraitPipeline.from_bundle(teacher, device=None)
        pipeline.set_progress_bar_config(disable=True)
        files = teach(pipeline, source, settings, work / f"taught-{value_hash([of_teacher, *settings.taught])}", log)
        vae = pipeline.vae
        del pipeline
        model = FactorPortraitTransformer.from_pretrained(teacher / "transformer", torch_dtype=torch.float32)
        model.to(device_of(vae)).train()
        state = work / f"student-{value_hash([of_teacher, asdict(settings)])}.pt"
        train_student(model, vae, TaughtClips(files, settings), settings, stated.shift, heard, state)
    model.eval().to(torch.bfloat16).save_pretrained(work / "transformer")
    config = json.loads((work / "transformer/config.json").read_text())
    write_json(work / "transformer/config.json", {k: v for k, v in config.items() if k != "_name_or_path"})
    sampling = {"steps": calls, "scheduler": "euler", "guidance": {}, "guidance_below": 1.0}
    assemble(work / "transformer", teacher, target, **sampling, teacher=of_teacher)
    return {"teacher": of_teacher, "settings": asdict(settings), **told}


def shard_source(shards: str | Path, trained: Path, mixture: Mapping[str, int], settings: Distillation) -> Source:
    """What a trained model's own shards ask for: records of the training split, any of an identity's portraits.

    Raises:
        UserError: no such shards, a data set of the mixture without records, or records shorter than the lengths asked.
    """
    from fportrait.dataset.batches import Batches
    from fportrait.dataset.shards import ShardReader

    reader = ShardReader(shards)
    reads = Reads.of(json.loads((trained / "transformer/config.json").read_text()))
    for dataset, share in mixture.items():
        records = reader.records("train").get(dataset, [])
        if share and (not records or min(record.frames for record in records) < max(settings.lengths)):
            raise UserError(
                f"{len(records)} records of {dataset} for clips of {max(settings.lengths)} frames",
                "records as long, of every data set with a share",
                "change distill.mixture or distill.training.lengths, or raise encode's window and encode again",
            )

    def draw(rng: np.random.Generator, count: int, frames: int) -> Mapping[str, Any]:
        seed = int(rng.integers(2**31))
        return Batches(reader, mixture, frames, seed, reads=reads, focus_gain=settings.focus_weight)(range(count))

    return draw


def clip_source(folders: Sequence[Path], teacher: Path, focus_weight: float) -> Source:
    """Clips of people of the embedded world, rendered for pretraining (`base_clips`): any start, any portrait.

    Raises:
        UserError: no clips in the folders.
    """
    from fportrait.diffusion.codec import load_vae
    from fportrait.tracking.expression import ExpressionEncoder
    from fportrait.training.base import ClipBatches
    from fportrait.training.wide_base import GrowingClips

    encoder = ExpressionEncoder.from_pretrained(teacher / "expression_encoder")
    reads = Reads.of(json.loads((teacher / "transformer/config.json").read_text()))
    batches = []
    for folder in folders:
        clips = GrowingClips(folder, encoder)
        if not clips.refresh():
            raise UserError(f"no clips in {folder}", "clips-*.npz of training/base_clips", "render some: wide_base")
        whole, codes = clips.joined()
        batches.append(
            ClipBatches(whole, codes, load_vae(teacher / "vae"), BaseTraining(focus_weight=focus_weight), reads)
        )

    def draw(rng: np.random.Generator, count: int, frames: int) -> Mapping[str, Any]:
        one = batches[int(rng.integers(len(batches)))]
        # Those of kind "faces" change expression from frame to frame and give nothing longer than a picture.
        picks = rng.choice(one.videos, min(count, len(one.videos)), replace=False)
        starts = rng.integers(0, one.clips["video"].shape[1] - frames + 1, len(picks))
        return one.cut(picks, starts, frames, rng)

    return draw


def main() -> None:
    from fportrait.training.base_recipe import Log as FileLog

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=SHIPPED_BASE, help="the bundle to learn from")
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="folders with clips-*.npz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teacher's clips and the state")
    parser.add_argument("--output", type=Path, required=True, help="the bundle to write")
    parser.add_argument("--units", type=int, default=Distillation.units, help="of clips that the teacher samples")
    parser.add_argument("--steps", type=int, default=Distillation.steps, help="of the student's training")
    parser.add_argument("--tokens", type=int, default=Distillation.tokens, help="of a step")
    parser.add_argument("--longest", type=int, default=17, help="frames of the teacher's longest clips: 5, 9 or 17")
    arguments = parser.parse_args()
    lengths = {frames: share for frames, share in Distillation().lengths.items() if frames <= arguments.longest}
    settings = Distillation(units=arguments.units, steps=arguments.steps, tokens=arguments.tokens, lengths=lengths)
    source = clip_source(arguments.clips, arguments.teacher, settings.focus_weight)
    result = distil(
        arguments.teacher, source, arguments.work, arguments.output, settings, FileLog(arguments.work / "log")
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
