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


def with_detail(result: torch.Tensor, painted: torch.Tensor, coded: torch.Tensor) -> torch.Tensor:
    """The result with the detail of the painted portrait.

    Args:
        result: x. painted: p. coded: D(E(p)). All `B 3 T H W` in [-1, 1].
    """
    difference = result - coded
    flat = difference.transpose(1, 2).flatten(0, 1)  # B T, 3, H, W
    for _ in range(2):  # two boxes of three pixels: nearly a Gaussian of 1.2
        flat = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    away = flat.square().mean(1).unflatten(0, (len(result), -1))[:, None]  # B 1 T H W
    return (result + (-away / (2 * AGREEMENT**2)).exp() * (painted - coded)).clamp(-1, 1)
