"""Pictures as people keep them, uint8 with the channels last, and as models read them: [−1, 1], channels second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def to_model_range(pictures: np.ndarray) -> torch.Tensor:
    """`B ... 3` uint8 to `B 3 ...` float32 in [−1, 1]: pictures `B H W 3`, videos `B T H W 3`."""
    import torch

    return torch.from_numpy(np.require(pictures, requirements=("C", "W"))).movedim(-1, 1).float() / 127.5 - 1


def to_uint8(pictures: torch.Tensor) -> np.ndarray:
    """`B 3 ...` in [−1, 1], on any device, to `B ... 3` uint8; what lies outside is clipped."""
    import torch

    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
