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


def enlarged(video: np.ndarray, height: int) -> np.ndarray:
    """A video `T H W 3` uint8, at least `height` pixels high by a whole factor: players blur small ones, and hide them
    behind their buttons. It adds no detail."""
    import cv2

    factor = max(1, -(-height // video.shape[1]))
    if factor == 1:
        return video
    size = (video.shape[2] * factor, video.shape[1] * factor)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in video])


def to_uint8(pictures: torch.Tensor) -> np.ndarray:
    """`B 3 ...` in [−1, 1], on any device, to `B ... 3` uint8; what lies outside is clipped."""
    import torch

    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
