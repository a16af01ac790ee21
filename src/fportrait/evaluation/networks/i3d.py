"""I3D (Carreira & Zisserman, 2017): Inception-v1 inflated to three dimensions; Kinetics-400 logits for FVD."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# name, then channels of the branches: 1×1; 1×1 and 3×3×3; 1×1 and 3×3×3; pooled 1×1 (Szegedy et al., 2015, table 1)
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's `SAME` zero padding."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit3D(nn.Module):
    """Convolution, batch norm, ReLU; the last one has a bias instead of both."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1, last: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=last)
        if not last:
            self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return F.relu(self.bn(x)) if hasattr(self, "bn") else x


class Pool(nn.Module):
    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(
            _same(x, self.kernel, self.stride), self.kernel, self.stride
        )  # after ReLU, zeros are neutral


class Mixed(nn.Module):
    def __init__(self, channels: int, out: tuple[int, ...]):
        super().__init__()
        self.b0 = Unit3D(channels, out[0])
        self.b1a, self.b1b = Unit3D(channels, out[1]), Unit3D(out[1], out[2], 3)
        self.b2a, self.b2b = Unit3D(channels, out[3]), Unit3D(out[3], out[4], 3)
        self.b3a = Pool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(channels, out[5])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class InceptionI3D(nn.Module):
    """Clips `N 3 T 224 224` in [−1, 1], T ≥ 9, to logits `N 400`, averaged over time. Names as in `rgb_imagenet.pt`."""

    ignored: tuple[str, ...] = ()
    min_frames = 9
    Mixed_3b: nn.Module
    Mixed_3c: nn.Module
    Mixed_5b: nn.Module
    Mixed_5c: nn.Module

    def __init__(self, classes: int = 400, divide: int = 1):
        super().__init__()

        def of(count: int) -> int:
            return max(count // divide, 1)

        self.Conv3d_1a_7x7 = Unit3D(3, of(64), 7, 2)
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(of(64), of(64))
        self.Conv3d_2c_3x3 = Unit3D(of(64), of(192), 3)
        self.MaxPool3d_3a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        channels = of(192)
        for name, counts in MIXED.items():
            out = tuple(of(count) for count in counts)
            setattr(self, name, Mixed(channels, out))
            channels = out[0] + out[2] + out[4] + out[5]
        self.MaxPool3d_4a_3x3 = Pool((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = Pool((2, 2, 2), (2, 2, 2))
        self.logits = Unit3D(channels, classes, last=True)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(self.MaxPool3d_2a_3x3(self.Conv3d_1a_7x7(clips))))
        x = self.Mixed_3c(self.Mixed_3b(self.MaxPool3d_3a_3x3(x)))
        x = self.MaxPool3d_4a_3x3(x)
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = getattr(self, f"Mixed_{name}")(x)
        x = self.Mixed_5c(self.Mixed_5b(self.MaxPool3d_5a_2x2(x)))
        x = F.avg_pool3d(x, (min(2, x.shape[2]), 7, 7), 1)
        return self.logits(x).flatten(3).squeeze(3).mean(2) if x.shape[3:] == (1, 1) else self.logits(x).mean((2, 3, 4))
