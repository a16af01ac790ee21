"""AlexNet (Krizhevsky, 2014) and VGG-16 (Simonyan & Zisserman, 2015) as LPIPS taps them, and LPIPS' distance itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# What LPIPS (Zhang et al., 2018) subtracts and divides by, for pictures in [−1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class TappedFeatures(nn.Module):
    """A stack of layers named `features.N`; the outputs of `taps` are what a picture is compared by."""

    ignored = ("classifier.",)  # of the published checkpoints: not needed here

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int], min_side: int):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.taps, self.min_side = tuple(taps), min_side

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures `N 3 H W`, normalised, to the maps at the taps, `N C h w` each."""
        maps = []
        for index, layer in enumerate(list(self.features)[: self.taps[-1] + 1]):
            pictures = layer(pictures)
            if index in self.taps:
                maps.append(pictures)
        return maps


def alexnet(width: int = 64) -> TappedFeatures:
    """The one-column AlexNet; `width` 64 is the published one."""
    w = width
    layers = [
        *(nn.Conv2d(3, w, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(w, 3 * w, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(3 * w, 6 * w, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(6 * w, 4 * w, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(4 * w, 4 * w, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]
    return TappedFeatures(layers, (1, 4, 7, 9, 11), min_side=35)


def vgg16(width: int = 64) -> TappedFeatures:
    """The thirteen convolutions of VGG-16; `width` 64 is the published one."""
    layers: list[nn.Module] = []
    channels, taps = 3, []
    for block, (factor, count) in enumerate([(1, 2), (2, 2), (4, 3), (8, 3), (8, 3)]):
        if block:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            layers += [nn.Conv2d(channels, width * factor, 3, padding=1), nn.ReLU()]
            channels = width * factor
        taps.append(len(layers) - 1)
    layers.append(nn.MaxPool2d(2))
    return TappedFeatures(layers, taps, min_side=16)


def unit_distance(a: Sequence[Tensor], b: Sequence[Tensor], heads: Sequence[Tensor] | None) -> Tensor:
    """LPIPS' distance `N` between two lists of maps: unit length over channels, squared difference, weights, means.

    Args:
        heads: `C` learned weights per map; None averages the channels of every map alike, and then the maps.
    """
    total = torch.zeros(len(a[0]))
    for index, (one, two) in enumerate(zip(a, b, strict=True)):
        one, two = (m / (m.square().sum(1, keepdim=True).sqrt() + 1e-10) for m in (one, two))
        weights = torch.full((one.shape[1],), 1 / len(a)) if heads is None else heads[index].reshape(-1)
        total = total + ((one - two).square() * weights[None, :, None, None]).sum(1).mean((1, 2))
    return total
