"""Folds and outlines of a mesh without the staircase that one sample a pixel leaves of them.

A large picture is drawn with one sample a pixel. Where a cheek ends before hair, a nose before the other cheek, a chin
before the neck, and where lips meet and lids close, what one pixel shows lies far from what its neighbour shows, and
their border is a staircase. There, and only there, the mesh is looked up at several places of each pixel. Each of them
takes the colour of that pixel around it which shows what lies nearest on the surface: what is seen is found finely,
what it looks like is not drawn again (Chajdas, McGuire and Luebke 2011).
"""

from __future__ import annotations

import numba
import numpy as np

from fportrait.body.rasterizer import rasterize_at
from fportrait.body.warping import Target, of_corners

JUMP = 3.0  # times the width of a pixel at the body that points of the portrait's lie apart: a fold
COUNT, STEP = 13, 8  # Fibonacci numbers: so many places in a pixel, no two of which share a row or a column
PLACES = (np.stack([np.arange(COUNT), np.arange(COUNT) * STEP % COUNT], 1) + 0.5) / COUNT  # x and y


def smooth_folds(drawn: np.ndarray, target: Target, vertices: np.ndarray) -> np.ndarray:
    """A picture `H W 3` uint8 of a target of one sample a pixel, smooth where a pixel shows two parts of the mesh, or
    the mesh and what is beside it.

    Args:
        vertices: `V 3` of the portrait's own pose and face, metres: what lies together there is one part.
    """
    points = of_corners(np.asarray(vertices, np.float32), target.faces, target.triangles, target.weights)
    seen = np.full(target.covered.shape, -1, np.int32)
    seen.reshape(-1)[target.places] = np.arange(len(points))
    width = float(np.median(target.vertices[:, 2])) / target.intrinsics[0, 0]
    at = np.flatnonzero(_folded(seen, points, JUMP * width))
    ids, weights = rasterize_at(target.vertices, target.faces, target.intrinsics, seen.shape, at, PLACES)
    fine = of_corners(np.asarray(vertices, np.float32), target.faces, ids.reshape(-1), weights.reshape(-1, 3))
    smooth = drawn.copy()
    _mix(drawn, seen, points, at, ids, fine.reshape(*ids.shape, 3), PLACES, smooth)
    return smooth


@numba.njit(cache=True, nogil=True)
def _folded(seen, points, jump):
    """Which pixels show something else than one of their four neighbours, `H W`. `seen`: `H W`, which of the points
    `N 3` each of them shows, -1 beside the mesh."""
    found = np.zeros(seen.shape, np.bool_)
    for y in range(seen.shape[0]):
        for x in range(seen.shape[1]):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v == seen.shape[0] or u == seen.shape[1]:
                    continue
                here, there = seen[y, x], seen[v, u]
                if here < 0 and there < 0:
                    continue
                if here < 0 or there < 0 or _squared(points[here], points[there]) > jump * jump:
                    found[y, x] = found[v, u] = True
    return found


@numba.njit(cache=True, inline="always")
def _squared(one, other):
    x, y, z = one[0] - other[0], one[1] - other[1], one[2] - other[2]
    return x * x + y * y + z * z


@numba.njit(cache=True, nogil=True)
def _mix(drawn, seen, points, at, ids, fine, places, smooth):
    """Put into `smooth` `H W 3`, for the pixels `at` `M`, the mean of what their places `K 2` show: triangles `ids`
    `M K`, -1 beside the mesh, at points `fine` `M K 3`."""
    height, width = seen.shape
    for n in range(len(at)):
        y, x = at[n] // width, at[n] % width
        red = green = blue = 0
        for k in range(len(places)):
            best, row, column = np.inf, y, x
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    there = seen[v, u]
                    if (there < 0) != (ids[n, k] < 0):
                        continue
                    if there < 0:  # beside the mesh all is one: the nearest pixel
                        away = (u + 0.5 - x - places[k, 0]) ** 2 + (v + 0.5 - y - places[k, 1]) ** 2
                    else:
                        away = _squared(points[there], fine[n, k])
                    if away < best:
                        best, row, column = away, v, u
            red += drawn[row, column, 0]
            green += drawn[row, column, 1]
            blue += drawn[row, column, 2]
        half = len(places) // 2
        smooth[y, x, 0] = (red + half) // len(places)
        smooth[y, x, 1] = (green + half) // len(places)
        smooth[y, x, 2] = (blue + half) // len(places)
