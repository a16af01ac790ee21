"""The camera's own marks: exposure, white balance, contrast, vignette, blur, noise, sharpening, compression, print.

One draw holds for a whole clip and its portraits, which is what makes a portrait tell how the clip will look.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class CameraMarks:
    """`curve` (256, 3) float32 is what each grey level becomes; lengths in 1/64 of the picture's side."""

    curve: np.ndarray
    saturation: float
    tone: np.ndarray | None  # one hue for the whole picture, as old prints have
    vignette: float
    blur: float
    noise: float
    sharpen: float
    quality: int  # of JPEG; 100 leaves it out
    paint: float  # how far small detail is smoothed away between edges, as brushes do

    def __call__(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The picture `H W 3` uint8 as this camera shows it; `rng` draws the grain."""
        side = picture.shape[1]
        if self.paint > 0:
            picture = cv2.bilateralFilter(picture, 5, 20 + 60 * self.paint, side / 64)
        values = np.stack([self.curve[:, c][picture[..., c]] for c in range(3)], axis=-1)
        grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
        values = grey[..., None] + (values - grey[..., None]) * self.saturation
        if self.tone is not None:
            values = grey[..., None] * self.tone.astype(np.float32)
        if self.vignette:
            y, x = np.mgrid[-1 : 1 : 1j * picture.shape[0], -1 : 1 : 1j * side]
            values *= (1 - self.vignette * (x * x + y * y) / 2)[..., None].astype(np.float32)
        if self.blur > 0:
            values = cv2.GaussianBlur(values, (0, 0), self.blur * side / 64)
        if self.sharpen > 0:
            soft = cv2.GaussianBlur(values, (0, 0), 0.7 * side / 64)
            values = values + self.sharpen * (values - soft)
        if self.noise > 0:
            values = values + self.noise * (side / 64) * rng.standard_normal(values.shape, np.float32)
        result = np.clip(values + 0.5, 0, 255).astype(np.uint8)
        if self.quality < 100:
            stored = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
            result = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
        return np.ascontiguousarray(result)


def sample_marks(rng: np.random.Generator, amount: float, example: np.ndarray | None = None) -> CameraMarks:
    """One camera; at amount 0 it changes nothing. With an `example` picture it mostly exposes for that."""
    level = np.arange(256, dtype=np.float64)[:, None] / 255
    gamma = np.exp(amount * (rng.normal(0, 0.22) + rng.normal(0, 0.10, 3)))
    gain, offset = np.exp(amount * (rng.normal(0, 0.10) + rng.normal(0, 0.07, 3))), amount * rng.normal(0, 0.03)
    if example is not None and rng.random() < 0.85 * amount:  # in linear light, as a shutter works
        height, width = example.shape[:2]
        middle = (example[height // 5 : 4 * height // 5, width // 4 : 3 * width // 4] / 255.0) ** 2.2
        gain = gain * np.clip(np.exp(rng.normal(np.log(0.22), 0.5)) / max(middle.mean(), 0.01), 0.4, 5) ** 0.4545
    curve = level**gamma * gain + offset
    bend = amount * rng.uniform(-0.5, 0.6)  # contrast, around the middle
    curve = curve + bend * np.sin(2 * np.pi * (curve - 0.5)) / (2 * np.pi)
    some = rng.random(8) < amount * np.array([0.09, 0.25, 0.35, 0.20, 0.25, 0.45, 0.10, 0.6])
    tone = np.array([1.0, 1.0, 1.0])
    if rng.random() < 0.5:  # sepia, cyanotype and others
        tone = tone * np.exp(rng.normal(0, 0.12, 3))
    return CameraMarks(
        (255 * curve).astype(np.float32),
        float(rng.uniform(0.3, 1.5)) if some[7] else 1.0,
        tone if some[0] else None,
        float(rng.uniform(0.1, 0.6)) if some[1] else 0.0,
        float(rng.uniform(0.1, 0.8)) if some[2] else 0.0,
        float(rng.uniform(0.5, 6)) if some[3] else 0.0,
        float(rng.uniform(0.2, 1.2)) if some[4] else 0.0,
        int(rng.integers(15, 90)) if some[5] else 100,
        float(rng.uniform(0.2, 1.0)) if some[6] else 0.0,
    )
