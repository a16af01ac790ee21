"""The recipe of the small base, from nothing but the embedded world: clips, encoder, codec, transformer, scores.

    python -m fportrait.training.base_recipe --work /big/disk --output src/fportrait/assets/base

Two cores need about two and a half hours. Every part found in the work folder is kept, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend

from fportrait.atomic_io import value_hash, write_json, write_safetensors
from fportrait.body.model import load_body
from fportrait.bundle import BundleSettings, bundle_hashes
from fportrait.diffusion.codec import BlockCodec, decode_latents, encode_video, load_vae
from fportrait.diffusion.codec_training import train_refiner
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.pixels import to_model_range, to_uint8
from fportrait.scale.map_engine import map_units
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.expression import readout_correlations, train_expression_encoder
from fportrait.tracking.making.talking_head.embedded import embedded_talking_heads
from fportrait.tracking.making.talking_head.training import TalkingHeadTraining, train_talking_heads
from fportrait.training.base import CLIPS, PICTURES, BaseTraining, ClipBatches, train_base
from fportrait.training.base_clips import ClipRecipe, load_clips, render_chunk
from fportrait.training.widen import adopt_codes, widen_codec, widen_transformer

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "ffn_dim": 768,
    "num_layers": 8,
    "text_dim": 32,
    "prompt_tokens": 2,
    "controller_init_std": 0.02,
    "latent_channels": 48,  # 16 hide most of an eyelid's movement at 64 pixels (docs/small-base.md)
}


# Found on unseen people: a small model knows the direction of a change and shrinks it. Guidance restores its size, and
# the two of five steps at little noise are enough for it (benchmarks/sampling_steps.py).
SAMPLING: dict[str, Any] = {
    "steps": 5,
    "scheduler": "unipc",
    "guidance": {"expression": 2.0, "pose": 1.4, "view": 1.4, "identity": 1.3},
    "guidance_below": 0.8,
}


# As far and as fast as `capture.world.sample_training_clip` moves its cameras.
CAMERAS: dict[str, Any] = {"trained_yaw": 55.0, "trained_elevation": 18.0, "trained_turn": 2.8, "moving_yaw": 50.0}


class Log:
    """Prints, and keeps every line in `log.jsonl` beside the results."""

    def __init__(self, folder: Path):
        self.path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, values: dict[str, float], step: int) -> None:
        line = json.dumps({"step": step, **{key: round(value, 6) for key, value in values.items()}})
        print(line, flush=True)
        with open(self.path, "a", encoding="utf-8") as sink:
            sink.write(line + "\n")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * math.log10(255**2 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def make_encoder(
    clips: dict[str, np.ndarray], work: Path, steps: int, held_out: int, log: Log
) -> tuple[ExpressionEncoder, dict]:
    """Crops to actions for `steps`, then end to end with a talking-head decoder, which frees codes of pose.

    The second part takes two steps for every five of the first, on four frames of at most 700 clips.
    """
    folder = work / "expression_encoder"
    if not (folder / "config.json").exists():
        crops, actions = clips["crops"], clips["actions"]
        kept, size = len(crops) - held_out, crops.shape[2]
        start, _, _ = train_expression_encoder(
            crops.reshape(-1, size, size, 3),
            actions.reshape(-1, actions.shape[-1]),
            load_body().action_names,
            steps,
            width=16,
            held_out=held_out * crops.shape[1],
            log=log,
        )
        heads = embedded_talking_heads({name: value[:kept] for name, value in clips.items()}, per_clip=4, limit=700)
        training = TalkingHeadTraining(
            steps=max(1, 2 * steps // 5), minutes=60.0, batch=min(40, len(heads.crops)), agreement_weight=5.0
        )
        result = train_talking_heads(heads, training, start=start, log=log)
        assert result.readout is not None
        scores = readout_correlations(
            result.expression,
            result.readout,
            crops[kept:].reshape(-1, size, size, 3),
            actions[kept:].reshape(-1, actions.shape[-1]),
            load_body().action_names,
        )
        result.expression.save_pretrained(folder)
        write_safetensors(folder / "readout.safetensors", result.readout.state_dict())
        write_json(work / "expression_scores.json", scores)
    return ExpressionEncoder.from_pretrained(folder), json.loads((work / "expression_scores.json").read_text())


def codec_batches(clips: dict[str, np.ndarray], batch: int, seed: int, held_out: int):
    """Endless mixed batches for the codec: three of four clips are pictures, the fourth normal maps."""
    rng = np.random.default_rng(seed)
    train, frames = len(clips["video"]) - held_out, clips["video"].shape[1]
    while True:
        picks, start = rng.choice(train, batch, replace=False), int(rng.integers(0, frames - 8))
        window = slice(start, start + 9)
        parts = [clips["normals" if i % 4 == 3 else "video"][p, window] for i, p in enumerate(picks)]
        yield to_model_range(np.stack(parts))


def make_codec(
    clips: dict[str, np.ndarray],
    work: Path,
    steps: int,
    whitening: float,
    held_out: int,
    log: Log,
    channels: int = TRANSFORMER["latent_channels"],
    parent: Path | None = None,
) -> tuple[Any, dict[str, float]]:
    """Fit the block codec. `whitening` 1 scales every channel to unit variance; below it, strong ones stay strong."""
    folder = work / "vae"
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        source = codec_batches(clips, min(32, len(clips["video"]) - held_out), 1, held_out)
        videos = [next(source) for _ in range(60)]
        if parent:
            codec = widen_codec(load_vae(parent / "vae"), channels, videos, whitening)
        else:
            codec = BlockCodec(z_dim=channels).fit_pca(videos)
            std = np.array(codec.config.latents_std)
            softened = std**whitening
            softened *= np.sqrt(np.mean((std / softened) ** 2))
            codec.register_to_config(latents_std=softened.tolist())
        train_refiner(
            codec,
            codec_batches(clips, 8, 2, held_out),
            steps,
            noise=0.3,
            on_step=lambda step, loss: log({"codec_loss": loss}, step) if step % 100 == 0 else None,
        )
        codec.eval().save_pretrained(folder)
    vae = load_vae(folder)
    scores = {}
    for name in ("video", "normals"):
        truth = clips[name][-held_out:]
        with torch.no_grad():
            decoded = decode_latents(vae, encode_video(vae, to_model_range(truth)))
        scores[f"codec_psnr_{name}"] = psnr(to_uint8(decoded), truth)
    return vae, scores


def make_transformer(
    transformer: Mapping[str, Any], clips: dict[str, np.ndarray], codes: np.ndarray, parent: Path | None
) -> FactorPortraitTransformer:
    """A new transformer, or the parent's: widened to the codec, and with its controller taking the new codes."""
    torch.manual_seed(0)
    if parent is None:
        return FactorPortraitTransformer(**transformer)
    old = FactorPortraitTransformer.from_pretrained(parent / "transformer", torch_dtype=torch.float32)
    model = widen_transformer(old, transformer["latent_channels"])
    some = np.random.default_rng(0).choice(len(codes), min(2000, len(codes)), replace=False)
    crops = clips["crops"][some]
    known = ExpressionEncoder.from_pretrained(parent / "expression_encoder").encode(crops.reshape(-1, *crops.shape[2:]))
    adopt_codes(model, codes[some].astype(np.float32).reshape(len(known), -1), known)
    return model


def make_codes(encoder: ExpressionEncoder, clips: dict[str, np.ndarray], work: Path) -> np.ndarray:
    target = work / f"codes-{len(clips['crops'])}.npy"
    if not target.exists():
        crops = clips["crops"]
        flat = encoder.encode(crops.reshape(-1, *crops.shape[2:]))
        np.save(target, flat.reshape(*crops.shape[:2], -1).astype(np.float16))
    return np.load(target)


@torch.no_grad()
def sample_clips(
    model, vae, shape: torch.Size, conditions: Conditions, shift: float, steps: int, seed: int = 0
) -> np.ndarray:
    """Sample latents of `shape` by Euler steps over the shifted schedule; `B T H W 3` uint8."""
    from fportrait.diffusion.flow import shift_sigma

    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(shape, generator=generator)
    sigmas = shift_sigma(torch.linspace(1, 0, steps + 1), shift)
    for high, low in itertools.pairwise(sigmas):
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(latents, (high * 1000).expand(len(latents)), **conditions.inputs())
        latents = latents + (low - high) * velocity.float()
    return to_uint8(decode_latents(vae, latents))


def score_base(model, vae, batches: ClipBatches, settings: BundleSettings, picks: np.ndarray) -> dict[str, Any]:
    """Scores on the clips `picks`, of people never trained on: PSNR beside its limits, and with frozen codes."""
    clips = batches.clips
    rng = np.random.default_rng(5)
    batch = batches.cut(picks, np.zeros(len(picks), int), settings.frames, rng)
    truth = clips["video"][picks][:, : settings.frames]
    limit = to_uint8(decode_latents(vae, batch["latents"]))
    conditions: Conditions = batch["conditions"]
    neutral = replace(conditions, codes=conditions.codes[:, :1].expand_as(conditions.codes).contiguous())
    sampled, frozen = (
        sample_clips(model, vae, batch["latents"].shape, given, settings.shift, settings.steps)
        for given in (conditions, neutral)
    )
    portrait = to_uint8(decode_latents(vae, conditions.reference))
    scores: dict[str, Any] = {
        "psnr": psnr(sampled, truth),
        "psnr_codec_limit": psnr(limit, truth),
        "psnr_repeated_portrait": psnr(np.broadcast_to(portrait, truth.shape), truth),
        "sharpness": float(laplacian(sampled) / laplacian(truth)),
        "frozen_codes_psnr": psnr(frozen, truth),
    }
    return scores


def laplacian(video: np.ndarray) -> float:
    """Mean energy of the Laplacian: a measure of sharpness to be compared between videos of the same scenes."""
    grey = video.astype(np.float32).mean(-1)
    inner = 4 * grey[..., 1:-1, 1:-1] - grey[..., :-2, 1:-1] - grey[..., 2:, 1:-1] - grey[..., 1:-1, :-2]
    return float(np.mean((inner - grey[..., 1:-1, 2:]) ** 2))


def build_base(
    work: Path,
    output: Path,
    recipe: ClipRecipe,
    phases: Sequence[BaseTraining],
    encoder_steps: int,
    codec_steps: int,
    whitening: float,
    transformer: Mapping[str, Any] = TRANSFORMER,
    workers: int = 0,
    parent: Path | None = None,
    faces: int = 0,
) -> dict[str, Any]:
    """Run the whole recipe and write a bundle with its `provenance.json`; returns the scores.

    With a `parent` bundle its codec and transformer are widened and trained on, instead of new ones. The transformer
    learns from `faces` further clips of kind "faces", which are no videos and teach nothing to codec and encoder.
    """
    films, started = work, time.time()
    work = films / f"parts-{parts_key(recipe, faces, encoder_steps, codec_steps, whitening, transformer, parent)}"
    work.mkdir(parents=True, exist_ok=True)
    log = Log(work)
    settings = BundleSettings(size=recipe.size, frames=recipe.frames, shift=phases[-1].shift, **SAMPLING, **CAMERAS)
    files = render_all(recipe, films, workers)
    videos = load_clips(files)
    encoder, expression_scores = make_encoder(videos, work, encoder_steps, recipe.held_out, log)
    vae, scores = make_codec(
        videos, work, codec_steps, whitening, recipe.held_out, log, transformer["latent_channels"], parent
    )
    if faces:  # in front, so that the held-out clips stay the last
        still = replace(recipe, clips=faces, kinds={"faces": 1.0}, seed=recipe.seed + 20_000_000)
        files = render_all(still, films, workers) + files
    clips = load_clips(files)
    codes = make_codes(encoder, clips, work)
    kept = len(codes) - recipe.held_out
    train_clips = {key: value[:kept] for key, value in clips.items()}
    model: torch.nn.Module = make_transformer(transformer, train_clips, codes[:kept], parent)
    reads = Reads.of(transformer)
    with attention_backend("_native_math"):  # a tenth faster than the fused one on a CPU, at this size
        for phase in phases:
            model = train_base(model, ClipBatches(train_clips, codes[:kept], vae, phase, reads), phase, log)
    everything = ClipBatches(clips, codes, vae, phases[-1], reads)
    picks = np.arange(kept, len(codes))[:24]
    scores |= score_base(model, vae, everything, settings, picks) | {
        "expression_correlation": expression_scores["mean"]
    }
    publish(
        model,
        work,
        output,
        settings,
        scores,
        asdict(recipe) | {"faces": faces},
        [asdict(phase) for phase in phases],
        time.time() - started,
    )
    return scores


def parts_key(
    recipe: ClipRecipe,
    faces: int,
    encoder_steps: int,
    codec_steps: int,
    whitening: float,
    transformer: Mapping[str, Any],
    parent: Path | None,
) -> str:
    """Names the settings that encoder, codec and codes are made by: parts of others are never taken up again."""
    of_parent = bundle_hashes(parent) if parent else None
    channels = transformer["latent_channels"]
    return value_hash([recipe.name, faces, encoder_steps, codec_steps, whitening, channels, of_parent])


def render_all(recipe: ClipRecipe, work: Path, workers: int) -> list[Path]:
    """The files of all clips, rendered by `workers` processes where they are not there yet."""
    report = map_units(
        functools.partial(render_unit, recipe=recipe, clips_folder=work),
        list(range(math.ceil(recipe.clips / recipe.chunk))),
        workers=workers,
        cache_folder=work / "units",
        key=lambda chunk: [recipe.name, chunk],
        progress="people",
    )
    return [work / str(result.value) for result in report.results]


def render_unit(chunk: int, folder: Path, recipe: ClipRecipe, clips_folder: Path) -> str:
    """One chunk of clips as a unit of the map engine; the clips lie in `clips_folder`, named by the recipe."""
    return render_chunk(chunk, recipe, clips_folder).relative_to(clips_folder).as_posix()


def two_phases(minutes: float) -> tuple[BaseTraining, BaseTraining]:
    """Pictures for three fifths of the time, clips for the rest."""
    return replace(PICTURES, minutes=0.6 * minutes), replace(CLIPS, minutes=0.4 * minutes)


def publish(model, work: Path, output: Path, settings: BundleSettings, scores, recipe, training, seconds) -> None:
    """Write the bundle: weights in bfloat16, which halves the file and is what training computes in."""
    output.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(output / "transformer")
    for part in ("vae", "expression_encoder"):
        shutil.copytree(work / part, output / part, dirs_exist_ok=True)
    for config in output.glob("*/config.json"):  # diffusers notes where a model was loaded from: not for others to see
        write_json(config, {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"})
    write_json(output / "bundle.json", asdict(settings))
    write_json(
        output / "provenance.json",
        {
            "command": "python -m fportrait.training.base_recipe --work FOLDER --output src/fportrait/assets/base",
            "licence": "Apache-2.0",
            "data": "people rendered by fportrait's own embedded world (body data CC0)",
            "recipe": recipe,
            "training": training,
            "scores": scores,
            "seconds": round(seconds),
            "files": bundle_hashes(output),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and parts, about 10 GB")
    parser.add_argument("--output", type=Path, required=True, help="the bundle to write")
    parser.add_argument("--clips", type=int, default=ClipRecipe.clips)
    parser.add_argument("--faces", type=int, default=2400, help="clips of one pose under many faces")
    parser.add_argument("--minutes", type=float, default=100.0, help="of the transformer's training")
    parser.add_argument("--encoder-steps", type=int, default=2400)
    parser.add_argument("--codec-steps", type=int, default=1600)
    parser.add_argument("--workers", type=int, default=2, help="processes that render clips")
    parser.add_argument("--whitening", type=float, default=0.5)
    parser.add_argument("--parent", type=Path, help="bundle to go on from: its codec and transformer are widened")
    arguments = parser.parse_args()
    scores = build_base(
        arguments.work,
        arguments.output,
        ClipRecipe(clips=arguments.clips),
        two_phases(arguments.minutes),
        arguments.encoder_steps,
        arguments.codec_steps,
        arguments.whitening,
        workers=arguments.workers,
        parent=arguments.parent,
        faces=arguments.faces,
    )
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
