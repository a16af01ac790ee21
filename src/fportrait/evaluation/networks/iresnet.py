"""The improved ResNet of ArcFace (Deng et al., 2019): 112×112 aligned faces in [−1, 1] to 512 numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """`layers` blocks per stage; stages are `width` times 1, 2, 4 and 8 channels wide."""

    ignored: tuple[str, ...] = ()
    size = 112
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, layers: Sequence[int] = DEPTHS[50], width: int = 64, features: int = 512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        channels = width
        for stage, count in enumerate(layers):
            out = width * 2**stage
            blocks = [_Block(channels if i == 0 else out, out, 2 if i == 0 else 1) for i in range(count)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            channels = out
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * 49, features)
        self.features = nn.BatchNorm1d(features)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


def depth_of(state: dict[str, Tensor]) -> tuple[int, int, int, int]:
    """Blocks per stage of a checkpoint, by its names."""
    counts = [0, 0, 0, 0]
    for name in state:
        parts = name.split(".")
        if parts[0] in ("layer1", "layer2", "layer3", "layer4") and parts[1].isdigit():
            stage = int(parts[0][-1]) - 1
            counts[stage] = max(counts[stage], int(parts[1]) + 1)
    return counts[0], counts[1], counts[2], counts[3]
