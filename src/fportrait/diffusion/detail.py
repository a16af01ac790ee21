"""What a codec loses of the painted portrait, given back to the result where the two agree.

Ours. A result can be no finer than the codec, and at 64 pixels that is what a stranger misses first. But the portrait
painted on the body shows most of what the result shows, and its pixels are known: with p the painted pictures, D and E
the codec and x the result, x + w (p - D(E(p))). The weight w is near 1 where x is what the codec makes of p, and falls
to 0 where the model changed it: a mouth that opened, what the portrait hid.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

AGREEMENT = 40 / 255  # in [-1, 1]: a difference of 20 grey levels takes w to exp(-1/2)


def with_detail(
    result: torch.Tensor, painted: torch.Tensor, coded: torch.Tensor, larger: torch.Tensor | None = None
) -> torch.Tensor:
    """The result with the detail of the painted portrait.

    Args:
        result: x. painted: p. coded: D(E(p)). All `B 3 T H W` in [-1, 1]. larger: p drawn at a multiple of that size,
            `B 3 T kH kW`; the result then has it, too: where nothing changed it is as sharp as the portrait's file.
    """
    difference = result - coded
    flat = by_frame(difference)
    for _ in range(2):  # two boxes of three pixels: nearly a Gaussian of 1.2
        flat = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    weight = (-flat.square().mean(1, keepdim=True) / (2 * AGREEMENT**2)).exp()  # B T, 1, H, W
    count = len(result)
    if larger is None:
        return (result + by_clip(weight, count) * (painted - coded)).clamp(-1, 1)
    size = larger.shape[-2:]
    result, coded, weight = (
        F.interpolate(part, size, mode="bicubic", align_corners=False)
        for part in (by_frame(result), by_frame(coded), weight)
    )
    return by_clip(result + weight.clamp(0, 1) * (by_frame(larger) - coded), count).clamp(-1, 1)


def by_frame(video: torch.Tensor) -> torch.Tensor:
    """`B C T H W` to `B T, C, H, W`."""
    return video.transpose(1, 2).flatten(0, 1)


def by_clip(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`B T, C, H, W` of `count` clips to `B C T H W`."""
    return frames.unflatten(0, (count, -1)).transpose(1, 2)
