"""Smooth random fields and strokes, from which skin, cloth and scenery are made."""

from __future__ import annotations

import cv2
import numpy as np


def smooth(rng: np.random.Generator, rows: int, columns: int, shape: tuple[int, int], ring: bool = False) -> np.ndarray:
    """Cubic noise `H W` of about unit size with `rows` by `columns` cells; with `ring` it closes from right to left."""
    grid = rng.standard_normal((max(rows, 2), max(columns, 2))).astype(np.float32)
    if ring:
        grid[:, -1] = grid[:, 0]
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def coloured(rng: np.random.Generator, rows: int, columns: int, shape: tuple[int, int], hue: float = 0.3) -> np.ndarray:
    """Noise `H W 3`: mostly light and dark, `hue` of it colour."""
    grey = smooth(rng, rows, columns, shape, ring=True)[..., None]
    colour = np.stack([smooth(rng, rows, columns, shape, ring=True) for _ in range(3)], axis=-1)
    return np.asarray((1 - hue) * grey + hue * colour)


def stroke(mask: np.ndarray, points: np.ndarray, width: int, strength: int = 255) -> None:
    """A polyline `N 2` (x, y) drawn into a uint8 mask with fractions of pixels."""
    cv2.polylines(mask, [np.round(points * 16).astype(np.int32)], False, strength, max(1, width), cv2.LINE_AA, 4)


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A uint8 mask as float32 in [0, 1], blurred."""
    blurred = cv2.GaussianBlur(mask, (0, 0), sigma) if sigma > 0.3 else mask
    return blurred.astype(np.float32) / 255


def blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Mix `colour` (3,) or `H W 3` into `picture` in place by `alpha` `H W`, where that is not nothing."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    paint = np.asarray(colour, np.float32)
    part = picture[window]
    part += ((paint[window] if paint.ndim == 3 else paint) - part) * alpha[window][..., None]


def any_colour(rng: np.random.Generator, low: float = 0.02, high: float = 1.0) -> np.ndarray:
    """A colour in linear light; dark, pale and saturated ones alike."""
    hue, saturation = rng.uniform(), rng.beta(1.0, 2.2)
    value = low + (high - low) * rng.uniform() ** 1.3
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return np.asarray((value * (1 - saturation + saturation * wheel)) ** 2.2)
