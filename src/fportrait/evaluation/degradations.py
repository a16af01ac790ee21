"""The degradation ladder: what every metric has to put in order. All take and give `T H W 3` uint8."""

from __future__ import annotations

import cv2
import numpy as np


def blurred(video: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian, `sigma` pixels."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in video])


def noisy(video: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian noise of `sigma` grey levels, the same every time."""
    noise = np.random.default_rng(1).normal(0, sigma, video.shape)
    return np.clip(video + noise, 0, 255).round().astype(np.uint8)


def compressed(video: np.ndarray, quality: int) -> np.ndarray:
    """JPEG and back, frame by frame."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    # OpenCV takes the channels for blue, green, red both ways, so that they come back in their places.
    return np.stack([np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame, options)[1], 1)) for frame in video])


def late(video: np.ndarray, frames: int) -> np.ndarray:
    """The same video, `frames` frames behind."""
    return video[np.maximum(np.arange(len(video)) - frames, 0)]


def frozen(video: np.ndarray) -> np.ndarray:
    """The first frame for all."""
    return np.repeat(video[:1], len(video), 0)
