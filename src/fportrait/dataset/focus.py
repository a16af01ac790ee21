"""Loss weights on eyes and mouth, where expression is seen (ours: FactorPortrait weighs all pixels alike)."""

from __future__ import annotations

import numpy as np
import torch

from fportrait.diffusion.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE

FOCUS_LANDMARKS = ((362, 263), (33, 133), (13, 14, 61, 291))  # corners of left eye, right eye, mouth
WIDTH = 6.0  # pixels, standard deviation of a bump


def focus_weights(focus: np.ndarray, size: int | tuple[int, int], gain: float) -> torch.Tensor:
    """Loss weight `B 1 l h w`: 1 plus `gain` times a bump on each eye and the mouth (`focus` `B T 3 2`, pixels).

    Args:
        size: pixels of a square picture, or its height and width.
    """
    sides = (size, size) if isinstance(size, int) else size
    rows, columns = (side // SPATIAL_STRIDE for side in sides)
    across, down = ((np.arange(cells) + 0.5) * SPATIAL_STRIDE for cells in (columns, rows))
    dx = across[None, None, None, None, :] - focus[..., 0][..., None, None]
    dy = down[None, None, None, :, None] - focus[..., 1][..., None, None]
    bumps = np.exp(-(dx**2 + dy**2) / (2 * WIDTH**2)).max(2)  # B T h w
    first = np.repeat(bumps[:, :1], TEMPORAL_STRIDE, axis=1)
    grouped = np.concatenate([first, bumps[:, 1:]], axis=1)
    grouped = grouped.reshape(len(bumps), -1, TEMPORAL_STRIDE, rows, columns).max(2)
    return torch.from_numpy(1 + gain * grouped).float()[:, None]
