"""HyperIQA (Su et al., 2020): a ResNet-50 whose features make the weights of a small network that rates the picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fportrait.evaluation.networks.resnet import LAYERS, ResNet50

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Backbone(ResNet50):
    """The hyper network reads the last stage; the rated vector is one local average of every stage."""

    def __init__(self, width: int, local: int, rated: int, layers: tuple[int, ...]):
        super().__init__(width, 2, layers)
        for index, (factor, reduced) in enumerate(zip((4, 8, 16), (local, 2 * local, 4 * local), strict=True)):
            pool = nn.Sequential(nn.Conv2d(width * factor, reduced, 1, bias=False), nn.AvgPool2d(7, 7))
            setattr(self, f"lda{index + 1}_pool", pool)
        self.lda4_pool = nn.AvgPool2d(7, 7)
        cells = (64, 16, 4)  # of a 224×224 picture
        for index, (reduced, count) in enumerate(zip((local, 2 * local, 4 * local), cells, strict=True)):
            setattr(self, f"lda{index + 1}_fc", nn.Linear(reduced * count, local))
        self.lda4_fc = nn.Linear(self.channels, rated - 3 * local)

    def both(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.stages(pictures)
        parts = [
            getattr(self, f"lda{i + 1}_fc")(getattr(self, f"lda{i + 1}_pool")(m).flatten(1)) for i, m in enumerate(maps)
        ]
        return maps[-1], torch.cat(parts, 1)


class HyperIQA(nn.Module):
    """Pictures `N 3 224 224`, ImageNet-normalised, to scores `N`, 0 (worst) to 100."""

    ignored: tuple[str, ...] = ("res.fc.",)
    size = 224

    def __init__(
        self,
        width: int = 64,
        local: int = 16,
        hyper: int = 112,
        rated: int = 224,
        widths: tuple[int, ...] = (112, 56, 28, 14),
        layers: tuple[int, ...] = LAYERS,
    ):
        super().__init__()
        self.res = _Backbone(width, local, rated, layers)
        deep = self.res.channels
        self.conv1 = nn.Sequential(
            *(nn.Conv2d(deep, deep // 2, 1), nn.ReLU(), nn.Conv2d(deep // 2, deep // 4, 1), nn.ReLU()),
            *(nn.Conv2d(deep // 4, hyper, 1), nn.ReLU()),
        )
        self.sizes = (rated, *widths)
        for index in range(len(widths)):
            weights = self.sizes[index] * self.sizes[index + 1] // 49
            setattr(self, f"fc{index + 1}w_conv", nn.Conv2d(hyper, weights, 3, padding=1))
            setattr(self, f"fc{index + 1}b_fc", nn.Linear(hyper, self.sizes[index + 1]))
        self.fc5w_fc = nn.Linear(hyper, self.sizes[-1])
        self.fc5b_fc = nn.Linear(hyper, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        deep, rated = self.res.both(pictures)
        hyper = self.conv1(deep)
        pooled = hyper.mean((2, 3))
        for index in range(4):
            weights = getattr(self, f"fc{index + 1}w_conv")(hyper)
            weights = weights.reshape(len(pictures), self.sizes[index + 1], self.sizes[index])
            bias = getattr(self, f"fc{index + 1}b_fc")(pooled)
            rated = torch.sigmoid(torch.einsum("noi,ni->no", weights, rated) + bias)
        return (self.fc5w_fc(pooled) * rated).sum(1) + self.fc5b_fc(pooled)[:, 0]
