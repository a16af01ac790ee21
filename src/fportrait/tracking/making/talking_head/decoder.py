"""The decoder that teaches the encoders: a reference picture, a code and two alignments to the target picture.

The reference's features are warped by a predicted flow and pass through convolutions whose normalised channels are
scaled and shifted by code and alignments (AdaIN, Huang and Belongie 2017; flow as in Siarohin et al. 2019). It is only
used in training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fportrait.tracking.expression import CODE_DIM
from fportrait.tracking.making.alignment import ALIGNMENT_NAMES


class Modulated(nn.Module):
    """3×3 convolution, instance normalisation, and a scale and shift per channel from the condition `N D`."""

    def __init__(self, channels_in: int, channels: int, condition: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, 1, 1)
        self.norm = nn.GroupNorm(channels // 4, channels, affine=False)
        self.scale_shift = nn.Linear(condition, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale_shift(condition)[:, :, None, None].chunk(2, 1)
        return F.silu(self.norm(self.conv(x)) * (1 + scale) + shift)


class TalkingHeadDecoder(nn.Module):
    """Pictures of 64 pixels (any multiple of 16 works).

    Args:
        width: channels at full resolution; 2, 3 and 4 times as many at a half, a quarter and an eighth.
    """

    def __init__(self, width: int = 16, condition: int = 160):
        super().__init__()
        self.condition = nn.Sequential(
            nn.Linear(CODE_DIM + 2 * len(ALIGNMENT_NAMES), condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        channels = [width, 2 * width, 3 * width, 4 * width]
        self.down = nn.ModuleList(
            nn.Conv2d(c_in, c, 3, 1 if i == 0 else 2, 1)
            for i, (c_in, c) in enumerate(zip([5, *channels], channels, strict=False))
        )
        self.flow_blocks = nn.ModuleList(Modulated(c, channels[3], condition) for c in (channels[3] + 2, channels[3]))
        self.flow = nn.Conv2d(channels[3], 2, 3, 1, 1)
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]
        self.bottom = Modulated(channels[3] + 2, channels[3], condition)
        self.up = nn.ModuleList(Modulated(channels[i + 1] + channels[i], channels[i], condition) for i in (2, 1, 0))
        self.out = nn.Conv2d(channels[0], 3, 3, 1, 1)

    def forward(self, reference: Tensor, codes: Tensor, alignment: Tensor, reference_alignment: Tensor) -> Tensor:
        """`N 3 H W` in about [−1, 1], codes `N 128`, alignments `N 9` of the target and of the reference."""
        condition = self.condition(torch.cat([codes, alignment, reference_alignment], 1))
        features, x = [], torch.cat([reference, _grid(reference)], 1)
        for layer in self.down:
            x = F.silu(layer(x))
            features.append(x)
        deep = torch.cat([features[3], _grid(features[3])], 1)
        for block in self.flow_blocks:
            deep = block(deep, condition)
        flow = self.flow(deep).float().permute(0, 2, 3, 1)
        warped = [_warp(feature, flow) for feature in features]
        x = self.bottom(torch.cat([warped[3], _grid(warped[3])], 1), condition)
        for level, block in zip((2, 1, 0), self.up, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, warped[level]], 1), condition)
        return self.out(x)


def _grid(x: Tensor) -> Tensor:
    """Sampling places `N 2 H W` in [−1, 1], x first."""
    n, _, h, w = x.shape
    identity = torch.eye(2, 3, device=x.device).expand(n, 2, 3)
    return F.affine_grid(identity, [n, 1, h, w], align_corners=False).permute(0, 3, 1, 2).to(x.dtype)


def _warp(x: Tensor, flow: Tensor) -> Tensor:
    """Features `N C H W` moved by a flow `N h w 2` in half widths."""
    flow = F.interpolate(flow.permute(0, 3, 1, 2), size=x.shape[2:], mode="bilinear", align_corners=False)
    places = (_grid(x).float() + flow).permute(0, 2, 3, 1)
    return F.grid_sample(x.float(), places, padding_mode="border", align_corners=False).to(x.dtype)
