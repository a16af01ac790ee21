"""The expression encoder: a roll-normalised face crop to a 128-d code (section 8.1 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from fportrait.tracking.backbone import ResNet34Encoder

CODE_DIM = 128
WEIGHTS = "expression_encoder.safetensors"


class ExpressionEncoder(ResNet34Encoder):
    """Face crops to codes. `encode` gives them standardised: zero mean, unit variance over the training set."""

    outputs = CODE_DIM
    weights_name = WEIGHTS
    kind = "expression encoder"
    crop_function = "use crops.face_crop"
    code_mean: Tensor
    code_std: Tensor

    def __init__(self, width: int = 64, crop_size: int = 96):
        super().__init__(width, crop_size)
        self.register_buffer("code_mean", torch.zeros(CODE_DIM))
        self.register_buffer("code_std", torch.ones(CODE_DIM))

    def finish(self, raw: Tensor) -> Tensor:
        return (raw - self.code_mean) / self.code_std
