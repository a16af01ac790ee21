"""The ablation C3: 238 face landmarks in place of expression codes (FactorPortrait, section 8).

Two spatial and two temporal self-attention layers, alternating, encode the points `B T P 2`; groups of four frames, as
the video VAE groups them, give `B l P D`; cross-attention layers in the blocks read them (`blocks.LandmarkAttention`).
What the paper leaves open: width D/4 as in the controller, a learned embedding per point, groups as channels.
"""

from __future__ import annotations

import torch
from torch import nn

from fportrait.diffusion.controller import SelfAttention, group_frames
from fportrait.diffusion.shapes import TEMPORAL_STRIDE


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
