"""Peak signal-to-noise ratio: 10 log10(255² / mean squared error) of each frame, in decibels."""

from __future__ import annotations

import numpy as np

from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.metrics import Formula


def psnr(produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR per frame `T`; infinite where a frame is exact. Both videos `T H W 3` uint8.

    Raises:
        UserError: sizes, lengths or types differ.
    """
    check_videos(produced, truth)
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(produced, truth, strict=True)]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / np.array(errors))


def make() -> Formula:
    return Formula("PSNR", psnr)
