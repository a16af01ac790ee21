"""BRISQUE (Mittal, Moorthy & Bovik, 2012): statistics of normalised luminance, rated by a support vector machine.

The machine is the authors' own (LIVE, University of Texas at Austin), stored as arrays. 0 is best, 100 worst.
"""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
from scipy.special import gamma as gamma_function

from fportrait.errors import UserError

ASSET = Path(__file__).parents[2] / "assets" / "brisque.npz"
SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # neighbours to the right, below, on both diagonals
MIN_SIDE = 24  # pixels: the half-size picture needs its 7×7 windows


def score(picture: np.ndarray) -> float:
    """BRISQUE of `H W 3` uint8.

    Raises:
        UserError: another type or shape, a picture too small, or one without any structure.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or min(picture.shape[:2]) < MIN_SIDE:
        raise UserError(
            f"a picture {picture.dtype} {picture.shape}", f"uint8 H W 3 of at least {MIN_SIDE} pixels", "enlarge it"
        )
    low, high, vectors, coefficients, rho, gamma = _machine()
    scaled = -1 + 2 * (features(picture) - low) / (high - low)
    return float(coefficients @ np.exp(-gamma * ((vectors - scaled) ** 2).sum(1)) - rho)


def features(picture: np.ndarray) -> np.ndarray:
    """The 36 statistics: 18 at full and 18 at half size."""
    import torch

    grey = np.round(picture.astype(np.float64) @ [0.2989, 0.5870, 0.1140])
    half = torch.nn.functional.interpolate(
        torch.from_numpy(grey)[None, None], scale_factor=0.5, mode="bicubic", antialias=True
    )[0, 0]
    return np.concatenate([_scale(grey), _scale(half.numpy())])


def _scale(grey: np.ndarray) -> np.ndarray:
    offsets = np.arange(7) - 3
    kernel = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    kernel /= kernel.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)

    mean = blur(grey)
    normal = (grey - mean) / (np.sqrt(np.abs(blur(grey * grey) - mean * mean)) + 1)
    alpha, left, right = _fit(normal)
    values = [alpha, (left**2 + right**2) / 2]
    for down, across in SHIFTS:
        alpha, left, right = _fit(normal * np.roll(normal, (down, across), (0, 1)))
        spread = np.sqrt(gamma_function(1 / alpha) / gamma_function(3 / alpha))
        mean_value = (right - left) * gamma_function(2 / alpha) / gamma_function(1 / alpha) * spread
        values += [alpha, mean_value, left**2, right**2]
    return np.array(values)


def _fit(values: np.ndarray) -> tuple[float, float, float]:
    """Asymmetric generalised Gaussian by moments (Lasmar et al., 2009): shape, left and right spread."""
    flat = values.ravel()
    negative, positive = flat[flat < 0], flat[flat > 0]
    if not len(negative) or not len(positive):
        raise UserError(
            "a picture without structure (all pixels alike)", "a picture with some texture", "look at that frame"
        )
    left, right = np.sqrt((negative**2).mean()), np.sqrt((positive**2).mean())
    ratio = left / right
    r = np.abs(flat).mean() ** 2 / (flat**2).mean() * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, table = _shapes()
    return float(shapes[np.argmin((table - r) ** 2)]), float(left), float(right)


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, gamma_function(2 / shapes) ** 2 / (gamma_function(1 / shapes) * gamma_function(3 / shapes))


@functools.cache
def _machine() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]:
    with np.load(ASSET, allow_pickle=False) as data:
        arrays = {name: data[name].astype(np.float64) for name in data.files}
    return (
        arrays["low"],
        arrays["high"],
        arrays["vectors"],
        arrays["coefficients"],
        float(arrays["rho"]),
        float(arrays["gamma"]),
    )
