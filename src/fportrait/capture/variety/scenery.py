"""Pictures behind people and on their clothes: drawn scenes, patterns, and photographs that scikit-image ships.

A background stands still in the picture, as the plain world's does. The photographs are listed in `PHOTOGRAPHS` with
their licences; none shows a face.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from fportrait.capture.variety.fields import any_colour, smooth
from fportrait.errors import UserError

# File in skimage.data's folder: its source and licence as scikit-image states them.
PHOTOGRAPHS = {
    "brick.png": "CC0, from a texture collection",
    "chelsea.png": "CC0, Stefan van der Walt",
    "coffee.png": "CC0, Rachel Michetti",
    "grass.png": "CC0, from a texture collection",
    "gravel.png": "CC0, from a texture collection",
    "hubble_deep_field.jpg": "public domain, NASA",
    "motorcycle_left.png": "CC0, D. Scharstein et al. as given to scikit-image",
    "rocket.jpg": "CC0, SpaceX",
}


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """The photographs, `H W 3` uint8, longer side 256.

    Raises:
        UserError: scikit-image is not installed, or has lost one of them.
    """
    try:
        import skimage
    except ImportError:
        raise UserError(
            "no scikit-image, whose photographs stand behind people of the wide world",
            "scikit-image",
            "pip install scikit-image, or set the variety's photographs to 0",
        ) from None
    from pathlib import Path

    loaded = []
    for name in PHOTOGRAPHS:
        picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise UserError(f"no {name} in scikit-image", "its data folder as installed", "install scikit-image again")
        scale = 256 / max(picture.shape[:2])
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        loaded.append(np.ascontiguousarray(picture[..., ::-1]))
    return tuple(loaded)


def _crop(rng: np.random.Generator, picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A random part of a picture, mirrored or not, as float32 in [0, 1]."""
    height, width = picture.shape[:2]
    side = int(rng.uniform(0.35, 1.0) * min(height, width))
    y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    part = cv2.resize(picture[y : y + side, x : x + side], (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    if rng.random() < 0.3:
        part = part[::-1]
    return np.ascontiguousarray(part, np.float32) / 255


def _recolour(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    grey = picture.mean(-1, keepdims=True)
    bent = grey + (picture - grey) * rng.uniform(0, 1.5)
    return np.asarray(np.clip(bent, 0, 1) ** np.exp(rng.normal(0, 0.4)) * np.exp(rng.normal(0, 0.2, 3)), np.float32)


def _shapes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Boxes, discs and lines over a gradient: walls, windows, shelves, lamps, leaves."""
    height, width = shape
    first, second = any_colour(rng) ** 0.4545, any_colour(rng) ** 0.4545
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.clip(
        0.5 + ((x / width - 0.5) * np.cos(turn) + (y / height - 0.5) * np.sin(turn)) * rng.uniform(0.3, 2), 0, 1
    )
    scene = (first + (second - first) * ramp[..., None]).astype(np.float32)
    upright = rng.random() < 0.6
    for _ in range(int(rng.integers(0, 28))):
        colour = (any_colour(rng) ** 0.4545).tolist()
        place = rng.uniform(-0.1, 1.1, 2) * [width, height]
        size = np.exp(rng.uniform(np.log(0.02), np.log(0.6), 2)) * [width, height]
        kind = rng.random()
        if kind < 0.5:
            box = cv2.boxPoints((tuple(place), tuple(size), 0.0 if upright else rng.uniform(0, 90)))
            cv2.fillConvexPoly(scene, np.round(box * 8).astype(np.int32), colour, cv2.LINE_AA, 3)
        elif kind < 0.75:
            axes = tuple(np.maximum(size / 2, 1).astype(int).tolist())
            cv2.ellipse(
                scene, tuple(place.astype(int).tolist()), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA
            )
        else:
            end = place + rng.normal(0, 0.5, 2) * [width, height]
            cv2.line(
                scene,
                tuple(place.astype(int).tolist()),
                tuple(end.astype(int).tolist()),
                colour,
                int(rng.integers(1, 8)),
                cv2.LINE_AA,
            )
    return scene


def scene_picture(rng: np.random.Generator, side: int, photograph_share: float = 0.25) -> np.ndarray:
    """A background `S S 3` float32 in display space, [0, 1]."""
    shape = (side, side)
    if photograph_share > 0 and rng.random() < photograph_share:
        choices = photographs()
        scene = _recolour(rng, _crop(rng, choices[int(rng.integers(0, len(choices)))], shape))
    else:
        scene = _shapes(rng, shape)
    if rng.random() < 0.6:
        level, cells = rng.uniform(0.02, 0.25), int(np.exp(rng.uniform(np.log(2), np.log(48))))
        texture = np.stack([smooth(rng, cells, cells, shape) for _ in range(3)], -1)
        grey = texture[..., :1]
        scene = scene + level * (grey + (texture - grey) * rng.uniform(0, 0.5))
    if rng.random() < 0.65:
        scene = cv2.GaussianBlur(scene, (0, 0), float(np.exp(rng.uniform(np.log(0.5), np.log(side / 12)))))
    return np.ascontiguousarray(np.clip(scene, 0, 1), np.float32)


def cloth_picture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Cloth `H W 3` float32, linear light: plain, striped, checked, dotted, flowered or printed."""
    height, width = shape
    first, second = any_colour(rng), any_colour(rng)
    y, x = np.mgrid[0:height, 0:width]
    period = width * np.exp(rng.uniform(np.log(0.04), np.log(0.4)))
    turn = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    along, across = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    duty = rng.uniform(0.15, 0.6)
    kind = rng.choice(["plain", "stripes", "checks", "dots", "blotches", "print"], p=[0.4, 0.15, 0.1, 0.1, 0.15, 0.1])
    share = np.zeros(shape)
    if kind == "stripes":
        share = (along / period % 1 < duty).astype(float)
    elif kind == "checks":
        share = 0.5 * ((along / period % 1 < duty).astype(float) + (across / period % 1 < duty))
    elif kind == "dots":
        share = (np.hypot(along / period % 1 - 0.5, across / period % 1 - 0.5) < 0.6 * duty).astype(float)
    elif kind == "blotches":
        cells = int(rng.integers(4, 24))
        share = np.clip(3 * (smooth(rng, cells, cells, shape) - rng.uniform(-0.3, 0.8)), 0, 1)
    cloth = first + (second - first) * share[..., None]
    if kind == "print":
        cloth = np.clip(_shapes(rng, shape), 0, 1) ** 2.2
    folds = smooth(rng, int(rng.integers(2, 5)), int(rng.integers(3, 16)), shape) * rng.uniform(0, 0.35)
    return np.asarray(np.clip(cloth * np.exp(folds)[..., None], 0, 1), np.float32)
