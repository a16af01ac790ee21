"""The expression encoder: a roll-normalised face crop to a 128-d code (section 8.1 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fportrait.atomic_io import write_safetensors
from fportrait.tracking.actions import READOUT, ActionReadout
from fportrait.tracking.backbone import ResNet34Encoder

CODE_DIM = 128
WEIGHTS = "expression_encoder.safetensors"


class ExpressionEncoder(ResNet34Encoder):
    """Face crops to codes. `encode` gives them standardised: zero mean, unit variance over the training set.

    Attributes:
        readout: what its codes tell of the body's actions; None where its folder has none.
    """

    outputs = CODE_DIM
    weights_name = WEIGHTS
    kind = "expression encoder"
    crop_function = "use crops.face_crop"
    code_mean: Tensor
    code_std: Tensor
    readout: ActionReadout | None = None

    def __init__(self, width: int = 64, crop_size: int = 96):
        super().__init__(width, crop_size)
        self.register_buffer("code_mean", torch.zeros(CODE_DIM))
        self.register_buffer("code_std", torch.ones(CODE_DIM))

    def finish(self, raw: Tensor) -> Tensor:
        return (raw - self.code_mean) / self.code_std

    def save_pretrained(self, folder: str | Path) -> None:
        """As every encoder's, and the readout beside it, where there is one."""
        super().save_pretrained(folder)
        if self.readout is not None:
            tensors = {"weight": self.readout.weight, "bias": self.readout.bias}
            write_safetensors(
                Path(folder) / READOUT, {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote; errors as every encoder's and `ActionReadout.beside`'s."""
        encoder = super().from_pretrained(folder)
        encoder.readout = ActionReadout.beside(folder)
        return encoder
