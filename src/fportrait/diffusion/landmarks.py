"""The ablation C3: 238 face landmarks in place of expression codes (FactorPortrait, section 8).

Two spatial and two temporal self-attention layers, alternating, encode the points `B T P 2`; groups of four frames, as
the video VAE groups them, give `B l P D`; cross-attention layers in the blocks read them (`blocks.LandmarkAttention`).
What the paper leaves open: width D/4 as in the controller, a learned embedding per point, groups as channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fportrait.diffusion.controller import SelfAttention, group_frames
from fportrait.diffusion.shapes import TEMPORAL_STRIDE
from fportrait.errors import UserError


def landmark_codes(landmarks: np.ndarray, size: int) -> np.ndarray:
    """478 landmarks `T 478 2` in pixels of the model's picture, `size` wide, to `T 476`: the 238 that C3 reads.

    x and y of each point in turn, -1 to 1 from edge to edge of the picture.
    """
    from fportrait.tracking.points import SUBSET_238

    points = np.asarray(landmarks, np.float64)[:, SUBSET_238]
    return (2 * points / size - 1).reshape(len(points), -1).astype(np.float32)


def expression_of(window: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> torch.Tensor:
    """What a record's window tells a model of `config` about the expression: codes `T 128`, or points `T 476`.

    Raises:
        UserError: the shards were encoded before they held landmarks.
    """
    name = "landmark_codes" if config.get("expression") == "landmarks" else "codes"
    if name not in window:
        raise UserError(
            "shards without landmarks, and a model that reads them",
            "shards with landmark_codes in every record",
            "run `kedro run --pipelines=encode` again",
        )
    return window[name].float()


class LandmarkEncoder(nn.Module):
    """Points `B T 2P` (x and y in turn, T = 4k+1) to features `B l P D`."""

    def __init__(self, points: int, width: int, dim: int, layers: int = 4):
        super().__init__()
        self.input = nn.Linear(2, width)
        self.point = nn.Embedding(points, width)
        self.layers = nn.ModuleList([SelfAttention(width, over_time=index % 2 == 1) for index in range(layers)])
        self.output = nn.Linear(TEMPORAL_STRIDE * width, dim)

    def forward(self, codes_BTE: torch.Tensor) -> torch.Tensor:
        batch, points = len(codes_BTE), self.point.num_embeddings
        features = self.input(codes_BTE.unflatten(2, (points, 2))) + self.point.weight  # B T P C
        for layer in self.layers:
            if layer.over_time:
                moved = layer(features.transpose(1, 2).flatten(0, 1))
                features = moved.unflatten(0, (batch, points)).transpose(1, 2)
            else:
                features = layer(features.flatten(0, 1)).unflatten(0, (batch, -1))
        grouped = group_frames(features.transpose(1, 2).flatten(0, 1))  # B*P l 4C
        return self.output(grouped).unflatten(0, (batch, points)).transpose(1, 2)
