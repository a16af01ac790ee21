"""Fine detail for what a portrait does not see: strands of hair and the grain of skin.

Ours, for what a surface of smooth colours lacks. The widest square of hair (of skin) that a portrait shows gives its
detail, and a field of any size is made of it as "by-example noise by histogram-preserving blending" has it (Heitz and
Neyret 2018, without their histograms): crops from anywhere in the square, blended where they overlap, divided by the
root of the sum of their squared weights so that the field is as rough as the square. Laid there and back instead, as a
mirror would, a square is seen again and again, and so are the diamonds that it makes with its mirror image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from fportrait.body.mesh import of_part
from fportrait.body.warping import of_corners

LEAST = 0.02  # of the short side: half of the smallest square whose detail is used
ROUGH = {"hair": 11.0, "skin": 4.0}  # levels, deviation of the detail at most: a square that holds an edge has more
WIDE = 0.12  # of the square: deviation of the Gaussian above which it is no detail
CROP, CROPS = 0.5, 8  # of the square, the side of what is taken out of it; and how many sides a field is wide
EDGES = 4.0  # times as rough as skin is in its middle: lips, brows, frames of spectacles and wrinkles


class Grain(NamedTuple):
    """Detail, a square `field` `S S 3` of signed levels that goes on at its other side where it ends; and of every
    vertex where in it, x and y, pixels, and how much of it: `places` `V 3`."""

    field: np.ndarray
    places: np.ndarray

    def add(self, colours: np.ndarray, faces: np.ndarray, triangles: np.ndarray, weights: np.ndarray) -> None:
        """To colours `N 3` of points by their triangles `N` and weights `N 3` of the corners."""
        place = of_corners(self.places, faces, triangles, weights)
        grained = np.flatnonzero(place[:, 2])
        x, y, share = place[grained].T
        side = len(self.field)
        detail = self.field[np.floor(y).astype(int) % side, np.floor(x).astype(int) % side]
        colours[grained] += detail * share[:, None]


def grain_of(
    body: Any, portrait: np.ndarray, shown: np.ndarray, shares: np.ndarray, pixels_per_metre: float, kind: str
) -> Grain | None:
    """Detail for hair or skin that the portrait does not see, out of the widest square of it; None of too little.

    Args:
        portrait: `H W 3` uint8. shown: where it shows what is asked for, `H W` bool. shares: `V`, of every vertex, how
            much of it is that. pixels_per_metre: of the portrait, where the head is. kind: `hair` or `skin`.
    """
    if kind == "skin":
        shown = shown & _even(portrait, shown)
    room = cv2.distanceTransform(np.pad(shown.astype(np.uint8), 1), cv2.DIST_C, 3)[1:-1, 1:-1]
    half = int(room.max() * 0.95)
    if half < max(LEAST * min(portrait.shape[:2]), 2):
        return None
    y, x = np.unravel_index(room.argmax(), room.shape)
    patch = portrait[max(y - half, 0) : y + half, max(x - half, 0) : x + half].astype(np.float32)
    side = min(patch.shape[:2])
    patch = patch - cv2.GaussianBlur(patch, (0, 0), max(WIDE * side, 1.0))
    patch *= min(1.0, ROUGH[kind] / max(float(patch.std()), 1e-6))
    template = np.asarray(body.template)
    radius = np.hypot(*template[of_part(body, "scalp")][:, [0, 2]].T).mean()
    around = np.arctan2(template[:, 0], template[:, 2]) * radius
    across, down = np.array([around, template[:, 1]]) * pixels_per_metre
    return Grain(blended(patch[:side, :side]), np.stack([across, down, shares], 1).astype(np.float32))


def blended(patch: np.ndarray) -> np.ndarray:
    """A field `S S 3` that looks like a square `s s 3` of detail around zero all over, and can be laid endlessly."""
    step = max(int(CROP * len(patch)) // 2, 1)
    side, size = 2 * step, CROPS * 2 * step
    patch = patch if len(patch) >= side else np.resize(patch, (side, side, patch.shape[-1]))
    window = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    weight = np.outer(window, window)
    field, squares = np.zeros((size, size, patch.shape[-1])), np.zeros((size, size))
    random = np.random.default_rng(0)  # the same portrait has the same detail
    across = np.arange(side)
    for top in range(0, size, step):
        for left in range(0, size, step):
            y, x = random.integers(0, len(patch) - side + 1, 2)
            crop = patch[y : y + side, x : x + side][:: random.choice((-1, 1)), :: random.choice((-1, 1))]
            at = np.ix_((top + across) % size, (left + across) % size)
            field[at] += weight[..., None] * crop
            squares[at] += weight**2
    return np.asarray(field / np.sqrt(squares)[..., None], np.float32)


def _even(portrait: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Where a portrait's skin, `shown` `H W`, has no edges in it, `H W`."""
    short = min(portrait.shape[:2])
    grey = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY).astype(np.float32)
    rough = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), max(0.008 * short, 0.5)))
    rough = cv2.GaussianBlur(rough, (0, 0), max(0.004 * short, 0.3))
    return np.asarray(rough <= EDGES * max(float(np.median(rough[shown])) if shown.any() else 0.0, 0.25))
