"""Colours for the whole surface of a head of which a portrait shows one side.

Ours. What a portrait does not see has to look like something. Filled in the picture from whatever is seen around it,
a temple takes the colour of the wall and a cheek that of the hair beside it, and both swim as the head turns. Here
every vertex of the mesh has a colour, found once: that of the portrait where it sees the vertex well, less surely that
of its mirror image on the other side, and elsewhere what Laplace's equation over the mesh makes of those. Hair, face,
ears, neck and clothes hardly exchange colours, so the side of a head whose crown is dark has dark hair.
"""

from __future__ import annotations

from typing import Any

import cv2
import numba
import numpy as np

from fportrait.body.hair import Cover, sampled
from fportrait.body.mesh import parted, spread_over

KINDS = {"face": 0, "scalp": 0, "neck": 0, "ears": 1, "torso": 3}  # the body's parts, by what shares a colour
HAIR_KIND = 2
SOFT = 0.012  # of the picture's short side: deviation of the Gaussian a vertex takes its colour through
SURE = 30.0  # weight of what is seen straight on, beside an edge's
MIRROR = 0.1  # and of the mirror image beside that
SMOOTHED = 2  # steps of diffusion over all edges alike, at the end: a hairline is not as jagged as the triangles
HAIR = 0.02  # of the colour of all hair, where there is hair
UNKNOWN = 1e-5  # of the mean of all that is seen


def surface_colours(
    body: Any,
    portrait: np.ndarray,
    places: np.ndarray,
    sight: np.ndarray,
    mirror: np.ndarray,
    cover: Cover,
    hair: np.ndarray | None = None,
) -> np.ndarray:
    """Colours `V 3` of a body's vertices, float32.

    Args:
        portrait: `H W 3` uint8. places: `V 2`, where the vertices are in it, pixels. sight: `V`, how well it sees them,
            cosines; 0 for hidden ones. mirror: `V`, the vertex that each one mirrors. cover: of `body.hair`.
        hair: `H W`, where the portrait shows hair.
    """
    soft = cv2.GaussianBlur(portrait, (0, 0), max(SOFT * min(portrait.shape[:2]), 0.3)).astype(np.float32)
    seen, beside = sampled(soft, places), sampled(soft, cover.beside)
    own = SURE * sight.astype(np.float64) ** 2
    other = MIRROR * own[mirror] * (1 - np.abs(cover.hair - cover.hair[mirror]))
    tied, usual = HAIR * cover.hair * (hair is not None), np.zeros(3)
    if hair is not None:
        usual = np.median(portrait[hair > 0.8], 0) if (hair > 0.8).any() else usual
    known = own + other + tied + cover.weight
    mean = (own @ seen) / max(own.sum(), 1e-9)
    wanted = own[:, None] * seen + other[:, None] * seen[mirror] + cover.weight[:, None] * beside
    wanted += tied[:, None] * usual + UNKNOWN * mean
    kind = np.array([KINDS.get(name, 9 + number) for number, name in enumerate(body.part_names)])[body.part]
    edges = parted(body, np.where(cover.hair > 0.5, HAIR_KIND, kind))
    return np.asarray(np.clip(spread_over(body, known + UNKNOWN, wanted, edges, SMOOTHED), 0, 255), np.float32)


def well_inside(opacity: np.ndarray, soft: float = SOFT) -> np.ndarray:
    """How far from the wall each pixel of a person's `opacity` `H W` lies, 0 to 1: at the edge colours are mixed. The
    edge is as wide as a Gaussian of deviation `soft`, of the short side."""
    wide = cv2.GaussianBlur(opacity, (0, 0), max(soft * min(opacity.shape), 0.3))
    return np.asarray(np.clip((wide - 0.75) / 0.2, 0, 1))


@numba.njit(cache=True, nogil=True)
def doubted(facing, best, places, sound, ramps):
    """How much of what a portrait shows of points is left to their surface, `N` in 0..1.

    Args:
        facing, best: cosines `N` that they are drawn with, and the portrait sees them with. places: `N 2`, where it
            does, pixels. sound: of `well_inside`. ramps: `2 2`, of their difference, and of what it sees them with.
    """
    height, width = sound.shape
    found = np.zeros(len(best), np.float32)
    for n in range(len(best)):
        turned = min((facing[n] - best[n] - ramps[0, 0]) / (ramps[0, 1] - ramps[0, 0]), 1)
        if turned > 0:
            x, y = min(max(int(places[n, 0]), 0), width - 1), min(max(int(places[n, 1]), 0), height - 1)
            sure = min(max((best[n] - ramps[1, 0]) / (ramps[1, 1] - ramps[1, 0]), 0), 1)
            found[n] = turned * (1 - sound[y, x] * sure)
    return found
