"""Batches for training: global indices in, tensors out, with no state in between.

Index n decides everything about its sample: dataset and record (`mixing.sample_at`), the portrait among the identity's
references, and, in the loop, noise and dropped conditions. A record starts anywhere in a clip, so a shorter clip
is a record's prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fportrait.dataset.buckets import BucketOrder, shares
from fportrait.dataset.crops import EVERYWHERE, filmed_cells
from fportrait.dataset.focus import focus_weights
from fportrait.dataset.mixing import draw_integer, sample_at
from fportrait.dataset.shards import Record, ShardReader
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.diffusion.shapes import SPATIAL_STRIDE
from fportrait.errors import UserError


class Batches:
    """`batches(indices)` gives the batch of docs/data-contracts.md for these global indices.

    Args:
        mixture: integer share of each dataset.
        frames: T = 4k+1 video frames, at most the shards' window.
        reads: what the model reads of the conditions; None: what one of the default configuration does.
        focus_gain: add `weights` `B 1 l h w`, one plus this much on eyes and mouth; 0 for none.
        batch_size: samples of a global batch. Where the records have several shapes (`buckets`), every batch of this
            many consecutive indices, counted from 0, is of one.
    """

    def __init__(
        self,
        reader: ShardReader,
        mixture: Mapping[str, int],
        frames: int,
        seed: int,
        split: str = "train",
        reads: Reads | None = None,
        focus_gain: float = 0.0,
        batch_size: int = 1,
    ):
        self.reader, self.mixture, self.frames, self.seed = reader, dict(mixture), frames, seed
        self.reads, self.focus_gain = reads or Reads(), focus_gain
        self.records = reader.records(split)
        self.sizes = reader.sizes(split)
        self.buckets = {name: reader.shapes(split).get(name, []) for name, share in self.mixture.items() if share}
        several = len({shape for some in self.buckets.values() for shape in some}) > 1
        self.order = BucketOrder(seed, self.mixture, self.buckets, batch_size) if several else None

    def like(self, split: str, mixture: Mapping[str, int], seed: int) -> Batches:
        """Batches of the same shape from another split, mixture and seed."""
        return Batches(self.reader, mixture, self.frames, seed, split, self.reads, self.focus_gain)

    def shapes(self) -> dict[tuple[int, int], float]:
        """Latent height and width of the samples, and their shares; one shape unless the shards have buckets."""
        if self.order is None:
            height, width = self([0])["latents"].shape[-2:]
            return {(height, width): 1.0}
        found = shares(self.mixture, self.buckets)
        return {(height // SPATIAL_STRIDE, width // SPATIAL_STRIDE): share for (height, width), share in found.items()}

    def record(self, index: int) -> Record:
        """The record of a global index."""
        draw = index if self.order is None else self.order(index)
        sample = sample_at(self.seed, draw, self.mixture, self.sizes)
        return self.records[sample.dataset][sample.item]

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        samples = [self._sample(index) for index in indices]
        batch: dict[str, Any] = {
            "latents": torch.stack([sample["latents"] for sample in samples]),
            "conditions": Conditions.cat(sample["conditions"] for sample in samples),
            "ids": [sample["id"] for sample in samples],
            "datasets": [sample["dataset"] for sample in samples],
        }
        if "weights" in samples[0]:
            batch["weights"] = torch.stack([sample["weights"] for sample in samples])
        if any("filmed" in sample for sample in samples):
            batch["filmed"] = [sample.get("filmed", EVERYWHERE) for sample in samples]
        return batch

    def _sample(self, index: int) -> dict[str, Any]:
        record = self.record(index)
        window, portraits = self.reader.read(record, self.frames), self.reader.references(record)
        which = draw_integer(self.seed, index, "reference", len(portraits["latents"]))
        sample = {
            "id": record.id,
            "dataset": record.dataset,
            "latents": window["latents"].float(),
            "conditions": record_conditions(window, portraits, self.reads, which),
        }
        if self.focus_gain and "focus" in window:
            height, width = (SPATIAL_STRIDE * side for side in window["latents"].shape[-2:])
            sample["weights"] = focus_weights(window["focus"].numpy()[None], (height, width), self.focus_gain)[0]
        if "inside" in window:
            sample["filmed"] = filmed_cells(window["inside"].tolist())
        return sample


def record_conditions(
    window: Mapping[str, Tensor], portraits: Mapping[str, Tensor], reads: Reads, which: int = 0
) -> Conditions:
    """What a record asks of a model (`B` = 1): its window's views, normal maps and expression, and one portrait.

    Args:
        window: of `ShardReader.read`. portraits: of `ShardReader.references`. which: number of the portrait.

    Raises:
        UserError: see `expression_of`.
    """
    cameras = Cameras(
        window["world_to_camera"].double().numpy(),
        window["intrinsics"].double().numpy(),
        portraits["world_to_camera"][which].double().numpy(),
        portraits["intrinsics"][which].double().numpy(),
    )
    return Conditions.of_clip(
        reads,
        portraits["latents"][which],
        cameras,
        window["normals"],
        expression_of(window, reads),
        portraits["normals"][which] if "normals" in portraits else None,  # shards of before have none
        window["warped"][which] if "warped" in window else None,
    )


def expression_of(window: Mapping[str, Tensor], reads: Reads) -> Tensor:
    """What a record's window tells a model about the expression: codes `T 128`, or points `T 476`.

    Raises:
        UserError: the shards were encoded before they held landmarks.
    """
    name = "landmark_codes" if reads.expression == "landmarks" else "codes"
    if name not in window:
        raise UserError(
            "shards without landmarks, and a model that reads them",
            "shards with landmark_codes in every record",
            "run `kedro run --pipelines=encode` again",
        )
    return window[name].float()
