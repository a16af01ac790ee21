"""The small base on the wide world: goes on from a bundle, on people whom it can only look at, at two picture sizes.

    python -m fportrait.training.wide_base --work FOLDER --output BUNDLE

Clips are rendered in chunks by processes of their own, and training takes up chunks as they come: it can begin with the
first and be stopped and started at any time. Two phases: constant rates for as long as there is time, then rates that
fall to zero, which is when most of what was learned shows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend

from fportrait.atomic_io import atomic_path, write_json
from fportrait.bundle import SHIPPED_BASE, bundle_hashes, read_settings
from fportrait.diffusion.architectures import change_architecture, whole_config
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.conditions import Reads
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.base import BaseTraining, ClipBatches, train_base
from fportrait.training.base_clips import ClipRecipe
from fportrait.training.base_recipe import Log, render_all

KINDS = {"phone": 0.2, "studio": 0.15, "view_sweep": 0.1, "dynamic_sweep": 0.25, "faces": 0.3}
# A third are plain people under exact conditions, so that the demo's world and its control are not forgotten.
SMALL = ClipRecipe(
    clips=2500,
    held_out=0,
    chunk=20,
    seed=44_000_000,
    kinds=KINDS,
    variety=1.0,
    disturbance=1.0,
    plain=0.35,
    driver=0.8,
    acting=True,
)
LARGE = replace(SMALL, clips=300, frames=9, size=128, render_scale=2, chunk=10, seed=45_000_000)
BRIDGE_LEVEL = 0.6
LARGE_SHARE = 0.05  # of the batches; a picture of 128 pixels costs four of 64

HOLD = BaseTraining(
    minutes=1e6,
    steps=6000,
    tokens=3072,
    lengths={1: 0.5, 5: 0.2, 9: 0.15, 17: 0.15},
    learning_rate=5e-4,
    matrix_learning_rate=0.005,  # at .014 control was forgotten (docs/small-base.md)
    controller_learning_rate=2e-4,  # what codes mean is known; it shall stay known
    decay_from=1.0,
    focus_weight=10.0,
    own_reference=0.35,  # a portrait in the very pose of what is asked for teaches copying
)
COOL = replace(HOLD, steps=1500, decay_from=0.0, warmup=1, seed=2)
LARGE_LENGTHS = {1: 0.8, 5: 0.2}


class GrowingClips:
    """The chunks of one recipe that lie in a folder so far, joined; crops become codes, once, beside each chunk."""

    def __init__(self, folder: Path, encoder: ExpressionEncoder):
        self.folder, self.encoder = folder, encoder
        self.parts: list[dict[str, np.ndarray]] = []
        self._seen: set[Path] = set()

    def refresh(self) -> bool:
        """Take up new chunks; whether there were any."""
        fresh = sorted(set(self.folder.glob("clips-*.npz")) - self._seen)
        for file in fresh:
            part = dict(np.load(file, allow_pickle=False))
            crops, cache = part.pop("crops"), file.with_suffix(".codes.npy")
            if not cache.exists():
                codes = self.encoder.encode(crops.reshape(-1, *crops.shape[2:]))
                with atomic_path(cache) as path, open(path, "wb") as sink:
                    np.save(sink, codes.reshape(*crops.shape[:2], -1).astype(np.float16), allow_pickle=False)
            part["codes"] = np.load(cache, allow_pickle=False)
            self.parts.append(part)
            self._seen.add(file)
        return bool(fresh)

    def joined(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All clips, and their codes `N T 128`."""
        whole = {key: np.concatenate([part[key] for part in self.parts]) for key in self.parts[0]}
        return whole, whole.pop("codes")


class MixedBatches:
    """Batches of several picture sizes; each is drawn for its share of the steps.

    Args:
        sources: clips and settings of each size, the main one first. shares: of the others. every: seconds after which
            the folders are looked into for new chunks.
    """

    def __init__(
        self,
        sources: Sequence[tuple[GrowingClips, BaseTraining]],
        shares: Sequence[float],
        vae: Any,
        every: float = 120.0,
        reads: Reads | None = None,
    ):
        self.sources, self.shares, self.vae = list(sources), list(shares), vae
        self.every, self.reads = every, reads
        self.batches: list[ClipBatches | None] = [None] * len(self.sources)
        self._looked = 0.0

    def refresh(self) -> None:
        for index, (clips, settings) in enumerate(self.sources):
            if clips.refresh() or (clips.parts and self.batches[index] is None):
                self.batches[index] = ClipBatches(*clips.joined(), self.vae, settings, self.reads)
        self._looked = time.time()

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        if time.time() - self._looked > self.every:
            self.refresh()
        while self.batches[0] is None:  # the first chunk is still being rendered
            time.sleep(5)
            self.refresh()
        draw, index = np.random.default_rng([7, step]).random(), 0
        for other, share in enumerate(self.shares, start=1):
            if draw < share and self.batches[other] is not None:
                index = other
                break
            draw -= share
        chosen = self.batches[index]
        assert chosen is not None
        return chosen(step)


def train_wide(
    work: Path,
    output: Path,
    parent: Path = SHIPPED_BASE,
    phases: Sequence[BaseTraining] = (HOLD, COOL),
    small: ClipRecipe = SMALL,
    large: ClipRecipe = LARGE,
    large_share: float = LARGE_SHARE,
    compiled: bool = False,
) -> Path:
    """Train on from `parent` with the chunks that lie in `work`, and write a bundle.

    Every phase keeps its state in `work` and goes on from it.
    """
    log = Log(work)
    vae = load_vae(parent / "vae")
    encoder = ExpressionEncoder.from_pretrained(parent / "expression_encoder")
    begun = FactorPortraitTransformer.from_pretrained(parent / "transformer", torch_dtype=torch.float32)
    ours = {"reference_normals": "portrait", "warped_reference": True, "bridge_level": BRIDGE_LEVEL}
    model: Any = change_architecture(begun, whole_config(parent / "transformer") | ours)
    if compiled:
        model.compile_repeated_blocks(dynamic=False)
    clips = [GrowingClips(work / recipe.name, encoder) for recipe in (small, large)]
    reads = Reads.of(model.config)
    started = time.time()
    with attention_backend("_native_math"):
        for number, phase in enumerate(phases):
            settings = (phase, replace(phase, lengths=LARGE_LENGTHS, tokens=phase.tokens * 3 // 2))
            batches = MixedBatches(list(zip(clips, settings, strict=True)), [large_share], vae, reads=reads)
            model = train_base(model, batches, phase, log, every=25, state=work / f"phase-{number}.pt")
    return publish_wide(model, parent, output, [small, large], phases, time.time() - started)


def publish_wide(
    model: Any,
    parent: Path,
    output: Path,
    recipes: Sequence[ClipRecipe],
    phases: Sequence[BaseTraining],
    seconds: float,
) -> Path:
    """The parent's bundle with the new transformer, and the parent's provenance with the new phases."""
    output.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(output / "transformer")
    config = json.loads((output / "transformer/config.json").read_text())
    write_json(output / "transformer/config.json", {k: v for k, v in config.items() if k != "_name_or_path"})
    for part in ("vae", "expression_encoder"):
        shutil.copytree(parent / part, output / part, dirs_exist_ok=True)
    settings = read_settings(parent)
    sizes = sorted({recipe.size for recipe in recipes} - {settings.size})
    write_json(output / "bundle.json", asdict(replace(settings, sizes=sizes)))
    record = json.loads((parent / "provenance.json").read_text())
    record["training"] = [
        *record.get("training", []),
        *({**asdict(phase), "wide": [asdict(recipe) for recipe in recipes]} for phase in phases),
    ]
    record |= {
        "command": "python -m fportrait.training.wide_base --work FOLDER --output src/fportrait/assets/base",
        "parent": bundle_hashes(parent),
        "seconds": round(seconds),
        "files": bundle_hashes(output),
    }
    write_json(output / "provenance.json", record)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and state, about 4 GB")
    parser.add_argument("--output", type=Path, help="the bundle to write")
    parser.add_argument("--parent", type=Path, default=SHIPPED_BASE, help="the bundle to go on from")
    parser.add_argument("--steps", type=int, default=HOLD.steps, help="at constant rates")
    parser.add_argument("--cool-steps", type=int, default=COOL.steps, help="while the rates fall to zero")
    parser.add_argument("--clips", type=int, default=SMALL.clips, help="of 64 pixels")
    parser.add_argument("--large-clips", type=int, default=LARGE.clips, help="of 128 pixels")
    parser.add_argument("--large-share", type=float, default=LARGE_SHARE, help="of the batches")
    parser.add_argument("--workers", type=int, default=1, help="processes that render; 0 renders in this one")
    parser.add_argument("--only", choices=("render", "train"), help="one half, to run both side by side")
    parser.add_argument("--compile", action="store_true", help="compile the blocks: a sixth faster, a minute per shape")
    arguments = parser.parse_args()
    small, large = replace(SMALL, clips=arguments.clips), replace(LARGE, clips=arguments.large_clips)
    if arguments.only != "train":
        for recipe in (small, large):
            if recipe.clips:
                render_all(recipe, arguments.work, arguments.workers)
    if arguments.only != "render":
        if arguments.output is None:
            parser.error("--output is needed for training")
        phases = (replace(HOLD, steps=arguments.steps), replace(COOL, steps=arguments.cool_steps))
        sizes = (small, large, arguments.large_share)
        train_wide(arguments.work, arguments.output, arguments.parent, phases, *sizes, arguments.compile)
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
