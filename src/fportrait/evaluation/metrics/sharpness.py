"""Sharpness against the truth: PSNR rewards blur, so this stands beside it."""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.metrics import Formula


def sharpness(produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Per frame `T`: variance of the grey picture's Laplacian over the true frame's. 1 is as sharp; 0 is flat.

    A measure of Pech-Pacheco et al. (2000); noise also raises it. NaN where the true frame is flat.

    Raises:
        UserError: sizes, lengths or types differ.
    """
    check_videos(produced, truth)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.array([_laplacian_variance(a) for a in produced]) / np.array([_laplacian_variance(b) for b in truth])
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _laplacian_variance(frame: np.ndarray) -> float:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def make() -> Formula:
    return Formula("variance of the Laplacian", sharpness)
