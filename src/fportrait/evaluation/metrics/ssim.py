"""Structural similarity (Wang et al., 2004) on RGB: 11×11 Gaussian window of σ 1.5, data range 255, K 0.01 and 0.03.

Weighted moments without bias correction, means over the pixels whose window lies inside the picture, then over
channels: scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
"""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.errors import UserError
from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.metrics import Formula

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SSIM per frame `T`, at most 1. Both videos `T H W 3` uint8.

    Raises:
        UserError: sizes, lengths or types differ, or the picture is smaller than the window.
    """
    check_videos(produced, truth)
    if min(truth.shape[1:3]) < WINDOW:
        raise UserError(f"pictures of {truth.shape[1]}x{truth.shape[2]}", "at least 11x11", "score larger pictures")
    return np.array([_frame(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(produced, truth, strict=True)])


def _frame(a: np.ndarray, b: np.ndarray) -> float:
    offsets = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    inside = slice(WINDOW // 2, -(WINDOW // 2))

    def local_mean(image: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[inside, inside]

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    similarity /= (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    return float(similarity.mean())


def make() -> Formula:
    return Formula("SSIM, 11×11 Gaussian σ 1.5", ssim)
