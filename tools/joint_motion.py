"""What DynamicSweep is worth to a model that has never seen head, face and camera move at once.

    python tools/joint_motion.py --work FOLDER [--output docs/results/joint.json]

The ablation's C1 starts from a base that has seen joint motion, so it cannot ask this. Here two transformers start from
nothing and learn equally many clips for equally many steps: one in the last stage's mixture, one in C1's, where what
DynamicSweep had goes to StudioCapture and ViewSweep. Both are scored on people neither saw, by kind of clip, each clip
under the same noise, so that the difference has a standard error. The folder is that of the base's recipe
(`python -m fportrait.training.base_recipe`), whose clips are rendered where they are missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend

from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.flow import noise_latents, velocity_target
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.base import BaseTraining, ClipBatches, train_base
from fportrait.training.base_clips import ClipRecipe, load_clips
from fportrait.training.base_recipe import TRANSFORMER, Log, render_all, sample_clips

MIXTURES = {  # clips of each kind
    "with_joint_motion": {"phone": 400, "studio": 400, "view_sweep": 600, "dynamic_sweep": 600},
    "without": {"phone": 400, "studio": 800, "view_sweep": 800, "dynamic_sweep": 0},
}
FRAMES, HELD_OUT = 9, 400
SIGMAS = (0.95, 0.8)  # where conditions decide, and where details do


def pick(kinds: np.ndarray, names: list[str], mixture: dict[str, int]) -> np.ndarray:
    """The first clips of each kind, as many as the mixture asks for."""
    chosen = [np.flatnonzero(kinds == names.index(name))[:count] for name, count in mixture.items()]
    for (name, count), indices in zip(mixture.items(), chosen, strict=True):
        if len(indices) < count:
            raise SystemExit(f"{len(indices)} clips of kind {name}, expected {count}: give a recipe with more clips")
    return np.sort(np.concatenate(chosen))


@torch.no_grad()
def score(model: torch.nn.Module, vae: Any, batch: dict[str, torch.Tensor], video: np.ndarray) -> dict[str, np.ndarray]:
    """Per clip: the flow loss, its part that differs between frames (on eyes and mouth), and the PSNR of a sample."""
    conditions = {name: batch[name] for name in ("reference", "rays", "normals", "codes")}
    focus = batch["weights"] - 1
    losses, motions = [], []
    for number, sigma in enumerate(SIGMAS):
        noise = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(number))
        sigmas = torch.full((len(noise),), sigma)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(noise_latents(batch["latents"], noise, sigmas), sigmas * 1000, **conditions)
        error = velocity.float() - velocity_target(batch["latents"], noise)
        losses.append(error.square().flatten(1).mean(1))
        moving = focus * (error - error.mean(2, keepdim=True)).square()
        motions.append(moving.flatten(1).sum(1) / (focus.flatten(1).sum(1) * error.shape[1]))
    sampled = sample_clips(model, vae, batch, shift=5.0, steps=12).astype(np.float64)
    psnr = 10 * np.log10(255**2 / np.square(sampled - video).mean((1, 2, 3, 4)))
    return {
        "loss": torch.stack(losses).mean(0).numpy(),
        "loss_of_motion_in_the_face": torch.stack(motions).mean(0).numpy(),
        "psnr": psnr,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the base's recipe; holds the clips")
    parser.add_argument("--output", type=Path, default=Path("docs/results/joint.json"))
    parser.add_argument("--steps", type=int, default=1500, help="of each of the two trainings")
    parser.add_argument("--workers", type=int, default=2, help="processes that render clips")
    arguments = parser.parse_args()

    recipe = ClipRecipe()
    names = list(recipe.kinds)
    clips = load_clips(render_all(recipe, arguments.work, arguments.workers))
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    vae = load_vae(SHIPPED_BASE / "vae")
    kinds = clips["kind"]
    held = np.arange(len(kinds) - HELD_OUT, len(kinds))
    chosen = {name: pick(kinds[: held[0]], names, mixture) for name, mixture in MIXTURES.items()}
    needed = np.unique(np.concatenate([*chosen.values(), held]))
    clips = {name: values[needed] for name, values in clips.items()}
    crops = clips.pop("crops")
    codes = encoder.encode(crops.reshape(-1, *crops.shape[2:])).reshape(*crops.shape[:2], -1)
    settings = BaseTraining(minutes=1e9, steps=arguments.steps, lengths={1: 0.5, 5: 0.2, FRAMES: 0.3})
    tested = np.searchsorted(needed, held)
    batches = ClipBatches(clips, codes, vae, settings)
    parts = np.array_split(tested, HELD_OUT // 25)

    scores: dict[str, dict[str, np.ndarray]] = {}
    with attention_backend("_native_math"):
        for name, indices in chosen.items():
            mine = np.searchsorted(needed, indices)
            torch.manual_seed(0)
            model: torch.nn.Module = FactorPortraitTransformer(**TRANSFORMER)
            source = ClipBatches({key: values[mine] for key, values in clips.items()}, codes[mine], vae, settings)
            model = train_base(model, source, settings, Log(arguments.work / "joint_motion" / name)).eval()
            rows = []
            for part in parts:
                batch = batches.cut(part, np.zeros(len(part), int), FRAMES, np.random.default_rng(int(part[0])))
                rows.append(score(model, vae, batch, clips["video"][part, :FRAMES]))
            scores[name] = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}

    table: dict[str, dict[str, Any]] = {}
    for number, kind in enumerate(names):
        mask = clips["kind"][tested] == number
        table[kind] = {"clips": int(mask.sum())}
        for metric in next(iter(scores.values())):
            first, second = (scores[name][metric][mask] for name in MIXTURES)
            change = second - first
            table[kind][metric] = {
                **{name: round(float(scores[name][metric][mask].mean()), 4) for name in MIXTURES},
                "difference": round(float(change.mean()), 4),
                "standard_error": round(float(change.std(ddof=1) / np.sqrt(len(change))), 4),
            }
    command = f"python tools/joint_motion.py --work FOLDER --steps {arguments.steps}"
    write_json(arguments.output, {"command": command, "mixtures": MIXTURES, "scores": table})
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
