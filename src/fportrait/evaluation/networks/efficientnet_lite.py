"""EfficientNet-Lite0 (Google, 2020): EfficientNet-B0 without squeeze-and-excitation, ReLU6 for swish."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# expansion, kernel, stride, channels out, repeats (Tan & Le, 2019, table 1)
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
          (6, 3, 1, 320, 1))  # fmt: skip
TAPS = (0, 2, 4, 10, 15)  # blocks after which the picture has halved or the channels grown: one map per scale
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _same(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """TensorFlow's `SAME` padding: what is left over goes to the right and below."""
    pads = []
    for size, kernel, stride in zip(x.shape[:1:-1], convolution.kernel_size, convolution.stride, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return convolution(F.pad(x, pads))


class _Block(nn.Module):
    def __init__(self, channels: int, expansion: int, kernel: int, stride: int, out: int):
        super().__init__()
        wide = channels * expansion
        self.adds = stride == 1 and channels == out
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        start = x
        if hasattr(self, "_expand_conv"):
            x = F.relu6(self._bn0(self._expand_conv(x)))
        x = F.relu6(self._bn1(_same(x, self._depthwise_conv)))
        x = self._bn2(self._project_conv(x))
        return x + start if self.adds else x


class EfficientNetLite0(nn.Module):
    """Features of pictures `N 3 H W` in [0, 1]; ImageNet weights are those of the published checkpoint."""

    ignored = ("_fc.",)
    min_side = 32
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, channels = [], 32
        for expansion, kernel, stride, out, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, expansion, kernel, stride if repeat == 0 else 1, out))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self.register_buffer("mean", torch.tensor(MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[None, :, None, None], persistent=False)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """The maps after blocks `TAPS`."""
        x = F.relu6(self._bn0(_same((pictures - self.mean) / self.std, self._conv_stem)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in TAPS:
                maps.append(x)
        return maps

    def forward(self, pictures: Tensor) -> Tensor:
        """Pooled features `N 1280`."""
        return F.relu6(self._bn1(self._conv_head(self.maps(pictures)[-1]))).mean((2, 3))
