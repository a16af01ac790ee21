"""Lips and lids, where one fold of a face ends before another, drawn finer than the rest of a picture.

A large picture is drawn with one sample a pixel. Where lips meet and lids close, what one pixel shows lies millimetres
from what its neighbour shows, and their border is a staircase. There, and only there, pixels are the mean of several
samples, as a small picture's are everywhere.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.body.mesh import of_part
from fportrait.body.warping import Target, project

if TYPE_CHECKING:
    from fportrait.body.painting import PortraitPainter

FINER = 3  # samples of a pixel's side
JUMP = 1.0  # pixels of the portrait that a pixel's samples come from apart, beyond the way between them: a fold
FEWEST = 4  # samples in the portrait's own colours that a pixel's mean is taken of
NEITHER, OWN, INSIDE = range(3)
MARGIN = 0.15  # of a mouth's or an eye's longer side, that is looked at around it


def smooth_folds(painter: PortraitPainter, target: Target, drawn: np.ndarray, source: np.ndarray) -> None:
    """Draw the folds of a person's mouth and eyes finer into a picture `H W 3` uint8 of one sample a pixel, each of
    which comes from `source` `H W 2` in the portrait."""
    for vertices in folded(painter.body):
        corners = project(target.vertices[vertices], target.intrinsics)
        low, high = corners.min(0), corners.max(0)
        reach = MARGIN * (high - low).max()
        left, top = np.clip(np.floor(low - reach), 0, drawn.shape[1::-1]).astype(int)
        right, bottom = np.clip(np.ceil(high + reach), 0, drawn.shape[1::-1]).astype(int)
        if right - left < 2 or bottom - top < 2:
            continue
        ways = source[top:bottom, left:right] - target.grid[top:bottom, left:right]
        across, down = (abs(np.diff(ways, axis=axis)).max(-1) > JUMP for axis in (1, 0))
        rows = np.flatnonzero(across.any(1) | np.append(down.any(1), False))
        columns = np.flatnonzero(down.any(0) | np.append(across.any(0), False))
        if len(rows):  # a jump lies before or behind its first pixel
            top, bottom = max(top + rows[0] - 1, 0), top + rows[-1] + 3
            left, right = max(left + columns[0] - 1, 0), left + columns[-1] + 3
            _smooth(painter, target, drawn[top:bottom, left:right], left, top)


def _smooth(painter: PortraitPainter, target: Target, drawn: np.ndarray, left: int, top: int) -> None:
    """`smooth_folds` in a part of the picture that begins at those pixels."""
    tall, wide = drawn.shape[:2]
    intrinsics = target.intrinsics.copy()
    intrinsics[:2, 2] -= left, top
    fine = Target(target.vertices, intrinsics, target.faces, (tall, wide), FINER)
    places, own, inside = painter.own(fine)
    told = np.full(fine.covered.size, NEITHER)
    told[fine.places[own]], told[fine.places[inside]] = OWN, INSIDE
    kinds = told.reshape(tall, FINER, wide, FINER).transpose(0, 2, 1, 3).reshape(tall * wide, -1)
    moved = np.zeros((fine.covered.size, 2), np.float32)
    moved[fine.places] = places - fine.grid.reshape(-1, 2)[fine.places]
    ways = moved.reshape(tall, FINER, wide, FINER, 2).transpose(0, 2, 1, 3, 4).reshape(*kinds.shape, 2)
    one = (kinds == OWN)[..., None]
    apart = np.where(one, ways, -np.inf).max(1) - np.where(one, ways, np.inf).min(1)
    # What is inside a mouth has soft edges of its own.
    folds = (apart > JUMP).any(-1) & (one.sum((1, 2)) >= FEWEST) & ~(kinds == INSIDE).any(1)
    if not folds.any():
        return
    colours, share = np.zeros((fine.covered.size, 3), np.float32), one[folds]
    wanted = own & np.repeat(np.repeat(folds.reshape(tall, wide), FINER, 0), FINER, 1).reshape(-1)[fine.places]
    colours[fine.places[wanted]] = painter.colours(places[wanted])
    colours = colours.reshape(tall, FINER, wide, FINER, 3).transpose(0, 2, 1, 3, 4).reshape(*kinds.shape, 3)[folds]
    mean = (colours * share).sum(1) / share.sum(1)
    drawn[folds.reshape(tall, wide)] = np.clip(mean + 0.5, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def folded(body: Any) -> list[np.ndarray]:
    """Vertices of the mouth and of each eye; none of a body that does not tell."""
    if "eyes" not in getattr(body, "part_names", []) or "lips" not in getattr(body, "masks", {}):
        return []
    eyes, side = of_part(body, "eyes"), np.asarray(body.template)[:, 0]
    return [np.flatnonzero(one) for one in (np.asarray(body.masks["lips"]) > 0.5, eyes & (side > 0), eyes & (side < 0))]
