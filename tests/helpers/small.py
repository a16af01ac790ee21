"""A tiny transformer, tiny shards and a stage, for tests of the loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.training.config import StageConfig

SIDE = 4


SHAPES = ((SIDE, SIDE), (SIDE, SIDE), (SIDE + 2, SIDE))  # of a person's three records, with buckets: one is upright


def record(
    seed: int, frames: int, video: bool = False, shape: tuple[int, int] = (SIDE, SIDE)
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent_frames = (frames + 3) // 4
    camera = torch.eye(4).repeat(frames, 1, 1)
    camera[:, 0, 3] = torch.linspace(0, 0.1, frames)
    camera[:, 2, 3] = 0.5
    tensors = {
        "latents": torch.randn(16, latent_frames, *shape, generator=generator),
        "normals": torch.randn(16, latent_frames, *shape, generator=generator),
        "codes": torch.randn(frames, 128, generator=generator),
        "world_to_camera": camera,
        "intrinsics": torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]),
        "focus": torch.full((frames, 3, 2), 16.0),
        "landmark_codes": torch.rand(frames, 476, generator=generator).half(),
    }
    painted = torch.Generator().manual_seed(2000 + seed)  # drawn apart: what was there before stays as it was
    tensors["warped"] = torch.randn(2, 16, latent_frames, *shape, generator=painted).half()
    if video:
        tensors["video"] = torch.randint(0, 256, (frames, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return tensors


def moving_picture(seed: int, frames: int = 9) -> np.ndarray:
    """A picture of 32 pixels that rolls sideways, `T 32 32 3` uint8."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([np.roll(picture, t, axis=1) for t in range(frames)])


def references(seed: int, count: int = 2, shape: tuple[int, int] = (SIDE, SIDE)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        "latents": torch.randn(count, 16, 1, *shape, generator=generator),
        "normals": torch.randn(count, 16, 1, *shape, generator=generator),
        "world_to_camera": torch.eye(4).repeat(count, 1, 1),
        "intrinsics": torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]).repeat(count, 1, 1),
        "images": torch.zeros(count, 32, 32, 3, dtype=torch.uint8),
    }


def shards(
    folder: Path,
    datasets=("PhoneCapture", "ViewSweep"),
    frames: int = 9,
    vae_hash="vae0",
    splits=("train", "train"),
    **changes,
) -> ShardReader:
    """Three records of every person and dataset; `splits` of the people, by their number."""
    writer = ShardWriter(folder, vae_hash, {"window": frames})
    for d, dataset in enumerate(datasets):
        for i, split in enumerate(splits):
            unit = folder / "unit.safetensors"
            records = [(f"r{r}", f"p{i}/s/cam", r, record(100 * d + 10 * i + r, frames)) for r in range(3)]
            for name, change in changes.items():
                for entry in records:
                    change(dataset, i, entry, name)
            rows = write_shard(
                unit, dataset=dataset, identity=f"p{i}", split=split, records=records, references=references(10 * d + i)
            )
            writer.add(unit, rows)
            unit.unlink()
    writer.finish()
    return ShardReader(folder)


def bucket_shards(
    folder: Path, datasets=("PhoneCapture", "ViewSweep"), frames: int = 9, splits=("train", "train", "test")
) -> ShardReader:
    """As `shards`, with one in three records of training of another shape (`SHAPES`)."""
    writer = ShardWriter(folder, "vae0", {"window": frames, "buckets": ["48x32"]})
    for d, dataset in enumerate(datasets):
        for i, split in enumerate(splits):
            shapes = SHAPES if split == "train" else (SHAPES[0],) * 3
            for shape in sorted(set(shapes)):
                unit = folder / "unit.safetensors"
                records = [
                    (f"r{r}", f"p{i}/s/cam", r, record(100 * d + 10 * i + r, frames, split == "test", shape))
                    for r in range(3)
                    if shapes[r] == shape
                ]
                portraits = references(10 * d + i, shape=shape)
                names = {"dataset": dataset, "identity": f"p{i}", "split": split}
                rows = write_shard(unit, **names, records=records, references=portraits)
                size = {"height": 8 * shape[0], "width": 8 * shape[1]}
                writer.add(unit, [row | size for row in rows], "" if shape == SHAPES[0] else "48x32")
                unit.unlink()
    writer.finish()
    return ShardReader(folder)


def transformer(seed: int = 0, **changes) -> FactorPortraitTransformer:
    torch.manual_seed(seed)
    return FactorPortraitTransformer(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        prompt_tokens=4,
        controller_init_std=0.02,
        **changes,
    )


def stage(**changes) -> StageConfig:
    values = {
        "name": "stage3",
        "frames": 5,
        "iterations": 8,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "precision": "fp32",
        "mixture": {"PhoneCapture": 50, "ViewSweep": 50},
        "log_every": 1,
        "checkpoint_every": 3,
        "held_out": 4,
        "warmup": 2,
    }
    return StageConfig.from_dict({**values, **changes})


class Journal(list):
    """Collects what the loop logs, and stops the run after a given step as a crash would."""

    def __init__(self, crash_after: int | None = None):
        super().__init__()
        self.crash_after = crash_after

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        self.append((step, metrics))
        if step == self.crash_after:
            raise KeyboardInterrupt

    @property
    def losses(self) -> dict[int, float]:
        return {step: metrics["loss"] for step, metrics in self if "loss" in metrics}


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    others = two.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())
