"""Batches for training: global indices in, tensors out, with no state in between.

Index n decides everything about its sample: dataset and record (`mixing.sample_at`), the portrait among the identity's
references, and, in the loop, noise and dropped conditions. A record starts anywhere in a clip, so a shorter clip
is a record's prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fportrait.camera.rays import fold_rays, plucker_rays
from fportrait.dataset.mixing import draw_integer, sample_at
from fportrait.dataset.shards import Record, ShardReader
from fportrait.diffusion.landmarks import expression_of

PIXELS_PER_LATENT = 8


class Batches:
    """`batches(indices)` gives the batch of docs/data-contracts.md for these global indices.

    Args:
        mixture: integer share of each dataset.
        frames: T = 4k+1 video frames, at most the shards' window.
        ray_channels: 24 folds four frames, 6 takes every fourth.
        identity_rays: add `reference_rays` `B 24|6 1 h w`, the portrait camera's own rays.
        expression: `codes`, or `landmarks`: `codes` then holds the points `B T 476` that the ablation C3 reads.
        focus_gain: add `weights` `B 1 l h w`, one plus this much on eyes and mouth; 0 for none.
    """

    def __init__(
        self,
        reader: ShardReader,
        mixture: Mapping[str, int],
        frames: int,
        seed: int,
        split: str = "train",
        ray_channels: int = 24,
        identity_rays: bool = False,
        focus_gain: float = 0.0,
        expression: str = "codes",
    ):
        self.reader, self.mixture, self.frames, self.seed = reader, dict(mixture), frames, seed
        self.ray_channels, self.identity_rays, self.focus_gain = ray_channels, identity_rays, focus_gain
        self.expression = expression
        self.records = reader.records(split)
        self.sizes = reader.sizes(split)

    def like(self, split: str, mixture: Mapping[str, int], seed: int) -> Batches:
        """Batches of the same shape from another split, mixture and seed."""
        return Batches(
            self.reader,
            mixture,
            self.frames,
            seed,
            split,
            self.ray_channels,
            self.identity_rays,
            self.focus_gain,
            self.expression,
        )

    def record(self, index: int) -> Record:
        """The record of a global index."""
        sample = sample_at(self.seed, index, self.mixture, self.sizes)
        return self.records[sample.dataset][sample.item]

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        samples = [self._sample(index) for index in indices]
        batch: dict[str, Any] = {
            key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key not in ("id", "dataset")
        }
        batch["ids"] = [sample["id"] for sample in samples]
        batch["datasets"] = [sample["dataset"] for sample in samples]
        return batch

    def _sample(self, index: int) -> dict[str, Any]:
        record = self.record(index)
        window, portraits = self.reader.read(record, self.frames), self.reader.references(record)
        which = draw_integer(self.seed, index, "reference", len(portraits["latents"]))
        sample = {
            "id": record.id,
            "dataset": record.dataset,
            "latents": window["latents"].float(),
            "normals": window["normals"].float(),
            "codes": expression_of(window, {"expression": self.expression}),
            "reference": portraits["latents"][which].float(),
            "rays": folded_rays(window, portraits["world_to_camera"][which], self.ray_channels),
        }
        if self.identity_rays:
            camera = portraits["world_to_camera"][which]
            own = {"latents": window["latents"], "intrinsics": portraits["intrinsics"][which]}
            sample["reference_rays"] = folded_rays({**own, "world_to_camera": camera[None]}, camera, self.ray_channels)
        if self.focus_gain and "focus" in window:
            from fportrait.training.base import focus_weights

            size = window["latents"].shape[-1] * PIXELS_PER_LATENT
            sample["weights"] = focus_weights(window["focus"].numpy()[None], size, self.focus_gain)[0]
        return sample


def folded_rays(window: Mapping[str, Tensor], reference_world_to_camera: Tensor, channels: int = 24) -> Tensor:
    """Rays `24|6 l h w` of a window's cameras, in the frame of the portrait's camera."""
    height, width = (side * PIXELS_PER_LATENT for side in window["latents"].shape[-2:])
    rays = plucker_rays(
        window["world_to_camera"].double().numpy(),
        window["intrinsics"].double().numpy(),
        reference_world_to_camera.double().numpy(),
        height,
        width,
    )
    return torch.from_numpy(np.ascontiguousarray(fold_rays(rays, channels), dtype=np.float32))
