"""The painted portrait's own pixels, kept where the result agrees with them.

Ours. A result can be no finer than the codec, and at 64 pixels that is what a stranger misses first. But the portrait
painted on the body shows most of what the result shows, and its pixels are known. With p the painted pictures, D and E
the codec, x the result and d the smoothed difference of x and D(E(p)):

- what the codec loses comes back, y = x + w (p - D(E(p))), w = exp(-d^2 / 2), d in units of 12 grey levels: near 1
  where x is what the codec makes of p, 0 where the model changed it, a mouth that opened or what the portrait hid;
- and there p itself is kept, y + w (p - y): a model trained on other faces makes photographs a little paler than they
  are. (In units of 20, an old silhouette's contour shone through beyond 30 degrees.)

Pictures that are made for people to look at say more (`trusted`): on a face, in a mouth and beside both, the painted
picture is right more often than a model of 64 pixels that differs from it, which smoothed faces, filled opened mouths
with the colour of lips and blurred hats, hair and what stands behind them. There the unit is up to 13 times as wide.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

AGREEMENT = 24 / 255  # in [-1, 1]: a difference of 12 grey levels
TRUST = 13.0  # how many times wider it is where the painted picture is trusted wholly


def with_detail(
    result: torch.Tensor,
    painted: torch.Tensor,
    coded: torch.Tensor,
    larger: torch.Tensor | None = None,
    trusted: torch.Tensor | None = None,
) -> torch.Tensor:
    """The result with the detail of the painted portrait.

    Args:
        result: x. painted: p. coded: D(E(p)). All `B 3 T H W` in [-1, 1]. larger: p drawn at a multiple of that size,
            `B 3 T kH kW`; the result then has it, too: where nothing changed it is as sharp as the portrait's file.
        trusted: how far the painted picture is trusted, `B 1 T H W` in 0 to 1 (`body.painting`); nowhere when None.
    """
    difference = result - coded
    flat = by_frame(difference)
    for _ in range(2):  # two boxes of three pixels: nearly a Gaussian of 1.2
        flat = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    away = flat.square().mean(1, keepdim=True)  # B T, 1, H, W
    unit = AGREEMENT if trusted is None else AGREEMENT * (1 + (TRUST - 1) * by_frame(trusted))
    agrees = (-away / (2 * unit**2)).exp()
    parts, shown = [by_frame(result), by_frame(coded), agrees], painted
    if larger is not None:
        shown, size = larger, larger.shape[-2:]
        parts = [F.interpolate(part, size, mode="bicubic", align_corners=False) for part in parts]
    made, coded, agrees = parts
    shown, agrees = by_frame(shown), agrees.clamp(0, 1)  # the cubic's overshoots
    made = made + agrees * (shown - coded)
    return by_clip(made + agrees * (shown - made), len(result)).clamp(-1, 1)


def by_frame(video: torch.Tensor) -> torch.Tensor:
    """`B C T H W` to `B T, C, H, W`."""
    return video.transpose(1, 2).flatten(0, 1)


def by_clip(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`B T, C, H, W` of `count` clips to `B C T H W`."""
    return frames.unflatten(0, (count, -1)).transpose(1, 2)
