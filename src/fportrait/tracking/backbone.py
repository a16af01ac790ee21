"""ResNet-34 with a linear head: the shape of both encoders (section 8.1 of the paper), and their files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fportrait.atomic_io import atomic_folder, write_json, write_safetensors
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.pixels import to_model_range


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet34Encoder(nn.Module):
    """ResNet-34 and a linear head of `outputs` numbers.

    Args:
        width: channels of the first layer; 64 is ResNet-34 as published, the shipped encoders are narrower.
        crop_size: pixels of the square crops it was trained on.
    """

    outputs: ClassVar[int]
    weights_name: ClassVar[str]
    kind: ClassVar[str]  # for messages
    crop_function: ClassVar[str]

    def __init__(self, width: int = 64, crop_size: int = 96):
        super().__init__()
        self.width, self.crop_size = width, crop_size
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        channels_in = width
        for stage, count in enumerate((3, 4, 6, 3)):
            channels = width * 2**stage
            for index in range(count):
                blocks.append(BasicBlock(channels_in, channels, 2 if stage and not index else 1))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels_in, self.outputs)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops `N 3 S S` in [−1, 1] to `N outputs`."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(crops))))
        return self.head(self.blocks(x).mean((2, 3)))

    def finish(self, raw: Tensor) -> Tensor:
        """What `encode` does to the network's outputs."""
        return raw

    @torch.no_grad()
    def encode(self, crops: np.ndarray, batch: int = 64) -> np.ndarray:
        """Crops `N S S 3` uint8 to `N outputs` float32.

        Raises:
            UserError: crops of another size or type.
        """
        size = self.crop_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise UserError(f"crops {crops.dtype} {crops.shape}", f"uint8 N {size} {size} 3", self.crop_function)
        if self.training:  # telling every layer costs as much as a tenth of tracking, a frame at a time
            self.eval()
        device = self.head.weight.device
        parts = [
            self.finish(self(to_model_range(crops[start : start + batch]).to(device))).float().cpu()
            for start in range(0, len(crops), batch)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.outputs), np.float32)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and safetensors (half precision, which changes codes by about 0.1% of their spread)."""
        with atomic_folder(folder) as target:
            tensors = {
                name: value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
                for name, value in self.state_dict().items()
            }
            write_safetensors(target / self.weights_name, tensors)
            write_json(target / "config.json", {"width": self.width, "crop_size": self.crop_size})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: files missing, unknown configuration keys, or tensors missing, extra or misshapen (all listed).
        """
        folder = Path(folder)
        for name in ("config.json", cls.weights_name):
            if not (folder / name).is_file():
                raise UserError(
                    f"no {name} in {folder}",
                    f"an {cls.kind}'s folder",
                    "run `kedro run --pipelines=pretrain`; pickled weights (.pt, .pth) are refused, export safetensors",
                )
        config = json.loads((folder / "config.json").read_text())
        refuse_unknown_keys(config, ("width", "crop_size"), str(folder / "config.json"))
        model = cls(**config)
        state, wanted = load_file(folder / cls.weights_name), model.state_dict()
        problems = [f"missing {name}" for name in wanted if name not in state]
        problems += [f"unknown {name}" for name in state if name not in wanted]
        problems += [
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ]
        if problems:
            raise UserError(f"{'; '.join(problems)} in {folder}", "the encoder's tensors", "export the checkpoint anew")
        model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()})
        return model.eval()


Encoder = TypeVar("Encoder", bound=ResNet34Encoder)


def folded(encoder: Encoder) -> Encoder:
    """A copy for one crop at a time on a CPU, in half the time: normalisations are folded into the convolutions before
    them, and channels lie last. Its outputs differ by rounding (tested), so what is stored is read by the original."""
    made = copy.deepcopy(encoder).eval()
    for part in (made, *made.blocks):
        for number in (1, 2) if isinstance(part, BasicBlock) else (1,):
            conv, norm = getattr(part, f"conv{number}"), getattr(part, f"bn{number}")
            setattr(part, f"conv{number}", fuse_conv_bn_eval(conv, norm))
            setattr(part, f"bn{number}", nn.Identity())
        if isinstance(part, BasicBlock) and part.downsample is not None:
            conv, norm = part.downsample
            part.downsample = nn.Sequential(fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
