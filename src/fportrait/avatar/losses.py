"""How far a drawn picture is from a true one: what fitting and the prior's training minimise."""

from __future__ import annotations

import functools

import torch


def structural_similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Map of SSIM over 7×7 boxes of two (H, W, 3) pictures: (3, H-6, W-6). Cheap, for a loss; scores are computed
    elsewhere.
    """
    x, y = (picture.permute(2, 0, 1) for picture in (one, other))
    rows, columns = _box(x.shape[1]).to(x), _box(x.shape[2]).to(x)
    # a product with banded matrices: many times faster on a CPU than pooling windows of three channels
    mean_x, mean_y, square_x, square_y, product = rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns.T
    variance_x, variance_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    top = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    return top / ((mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2))


@functools.cache
def _box(length: int, window: int = 7) -> torch.Tensor:
    """(length − 6, length): each row averages seven neighbours."""
    starts, columns = torch.arange(length - window + 1)[:, None], torch.arange(length)[None, :]
    return ((columns >= starts) & (columns < starts + window)).float() / window


def picture_loss(
    drawn: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, similarity_weight: float
) -> torch.Tensor:
    """Weighted L1 plus `similarity_weight` × (1 − SSIM) of (H, W, 3) pictures; weight (H, W, 1)."""
    loss = (weight * (drawn - truth).abs()).mean()
    if similarity_weight:
        gap = (1 - structural_similarity(drawn, truth)) * weight[3:-3, 3:-3].permute(2, 0, 1)
        loss = loss + similarity_weight * gap.mean()
    return loss
