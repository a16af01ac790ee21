"""ResNet-50 (He et al., 2016) in two and three dimensions, and the two heads that metrics put on the former."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1, 3, 1; the stride sits on the 3 (as torchvision's and the Kinetics checkpoints have it)."""

    def __init__(self, channels_in: int, channels: int, stride: int, dimensions: int = 2):
        super().__init__()
        convolution = nn.Conv3d if dimensions == 3 else nn.Conv2d
        norm = nn.BatchNorm3d if dimensions == 3 else nn.BatchNorm2d
        self.conv1, self.bn1 = convolution(channels_in, channels, 1, bias=False), norm(channels)
        self.conv2, self.bn2 = convolution(channels, channels, 3, stride, 1, bias=False), norm(channels)
        self.conv3, self.bn3 = convolution(channels, 4 * channels, 1, bias=False), norm(4 * channels)
        self.downsample = None
        if stride != 1 or channels_in != 4 * channels:
            self.downsample = nn.Sequential(
                convolution(channels_in, 4 * channels, 1, stride, bias=False), norm(4 * channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """Maps of the four stages. `dimensions` 3 is Hara et al.'s (2018): 7×7×7 stem, stride 1 in time."""

    ignored: tuple[str, ...] = ("fc.",)
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, width: int = 64, dimensions: int = 2, layers: tuple[int, ...] = LAYERS):
        super().__init__()
        if dimensions == 3:
            self.conv1: nn.Module = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
            self.bn1: nn.Module = nn.BatchNorm3d(width)
            self.maxpool: nn.Module = nn.MaxPool3d(3, 2, 1)
        else:
            self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, count in enumerate(layers):
            out, blocks = width * 2**stage, []
            for index in range(count):
                blocks.append(Bottleneck(channels, out, 2 if stage and not index else 1, dimensions))
                channels = 4 * out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = channels

    def stages(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features `N C`."""
        return self.stages(x)[-1].flatten(2).mean(2)


class KineticsResNet50(ResNet50):
    """3D-ResNet-50: clips `N 3 16 112 112`, RGB 0–255 less the Kinetics mean, to 2,048 features (FID-VID)."""

    mean = (114.7748, 107.7354, 99.4750)

    def __init__(self, width: int = 64, layers: tuple[int, ...] = LAYERS):
        super().__init__(width, 3, layers)


class FaceReconstruction(nn.Module):
    """Deep3DFaceRecon (Deng et al., 2019): faces `N 3 224 224` in [0, 1] to 257 numbers; 80:144 are expression.

    In their order: identity 80, expression 64, texture 80, angles 3, light 27, translation 2 and 1.
    """

    ignored: tuple[str, ...] = ("backbone.fc.",)
    heads = (80, 64, 80, 3, 27, 2, 1)
    expression = slice(80, 144)

    def __init__(self, width: int = 64, layers: tuple[int, ...] = LAYERS):
        super().__init__()
        self.backbone = ResNet50(width, 2, layers)
        self.final_layers = nn.ModuleList(nn.Conv2d(self.backbone.channels, count, 1) for count in self.heads)

    def forward(self, faces: Tensor) -> Tensor:
        pooled = self.backbone(faces)[:, :, None, None]
        return torch.cat([head(pooled) for head in self.final_layers], 1).flatten(1)
