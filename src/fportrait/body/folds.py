"""Folds and outlines of a mesh without the staircase that one sample a pixel leaves of them.

A large picture is drawn with one sample a pixel. Where a cheek ends before hair, a nose before the other cheek, a chin
before the neck, and where lips meet and lids close, what one pixel shows lies far from what its neighbour shows, and
their border is a staircase. There, and only there, the mesh is looked up at several places of each pixel. Each of them
takes the colour of that pixel around it which shows what lies nearest on the surface: what is seen is found finely,
what it looks like is not drawn again (Chajdas, McGuire and Luebke 2011). An edge that the portrait shows itself is
smooth there, as filmed ones are, and stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from fportrait.body.rasterizer import EDGE, NEAR, _project, _weights
from fportrait.body.warping import Target, of_corners, project

if TYPE_CHECKING:
    from fportrait.body.painting import PortraitPainter

DEEP = 2.0  # widths of a pixel at the body that two points of the portrait's body lie apart: two parts of it
JUMP = 1.0  # pixels of the portrait that they lie apart there, beyond the way between them: new, and no edge of its own
COUNT, STEP = 13, 8  # Fibonacci numbers: so many places in a pixel, no two of which share a row or a column
PLACES = (np.stack([np.arange(COUNT), np.arange(COUNT) * STEP % COUNT], 1) + 0.5) / COUNT  # x and y


def smooth_folds(drawn: np.ndarray, target: Target, painter: PortraitPainter) -> np.ndarray:
    """A picture `H W 3` uint8 of a target of one sample a pixel, smooth where a pixel shows two parts of the mesh, or
    the mesh and what is beside it. `painter`: of a portrait with a matte."""
    assert painter.backdrop is not None
    vertices = np.asarray(painter.vertices, np.float32)
    points = of_corners(vertices, target.faces, target.triangles, target.weights)
    places = project(points, painter.intrinsics)
    x, y = np.clip(places.astype(int), 0, np.array(painter.portrait.shape[1::-1]) - 1).T
    within = -painter.backdrop.outside[y, x, 0]
    seen = np.full(target.covered.shape, -1, np.int32)
    seen.reshape(-1)[target.places] = np.arange(len(points))
    width = float(np.median(target.vertices[:, 2])) / target.intrinsics[0, 0]
    at = np.flatnonzero(_folded(seen, points, places, within, DEEP * width))
    ids, weights = rasterize_at(target.vertices, target.faces, target.intrinsics, seen.shape, at, PLACES)
    fine = of_corners(vertices, target.faces, ids.reshape(-1), weights.reshape(-1, 3))
    smooth = drawn.copy()
    _mix(drawn, seen, points, at, ids, fine.reshape(*ids.shape, 3), PLACES, smooth)
    return smooth


def rasterize_at(
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, ...],
    at: np.ndarray,
    places: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`body.rasterizer.rasterize` at several places of some pixels alone.

    Args:
        size: height and width of the picture. at: `M` of its pixels, counted row by row. places: `K 2` in each of
            them, x and y in 0..1.

    Returns:
        triangle ids `M K` int32 and weights `M K 3` float32.
    """
    pixels, depth_in = _project(vertices_cam, intrinsics)
    faces = np.ascontiguousarray(faces, np.int32)
    number = np.full(size, -1, np.int32)
    number.reshape(-1)[at] = np.arange(len(at))
    shape = len(at), len(places)
    ids, nearness, bary = np.full(shape, -1, np.int32), np.zeros(shape), np.zeros((*shape, 3), np.float32)
    _fill_at(pixels, depth_in, faces, number, places, ids, nearness)
    _resolve_at(pixels, depth_in, faces, at, number.shape[1], places, ids, bary)
    return ids, bary


@numba.njit(cache=True, nogil=True)
def _fill_at(pixels, depth_in, faces, number, places, ids, nearness):
    """`rasterizer._fill` at places `K 2` of some pixels alone: `number` `H W`, their rows in `ids`, -1 of others."""
    height, width = number.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth_in[a] < NEAR or depth_in[b] < NEAR or depth_in[c] < NEAR:
            continue
        ax, ay = pixels[a, 0], pixels[a, 1]
        bx, by = pixels[b, 0], pixels[b, 1]
        cx, cy = pixels[c, 0], pixels[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        inverse, ic = 1.0 / area, 1.0 / depth_in[c]
        ia, ib = 1.0 / depth_in[a] - ic, 1.0 / depth_in[b] - ic
        for y in range(max(0, int(np.floor(min(ay, by, cy)))), min(height, int(np.floor(max(ay, by, cy))) + 1)):
            for x in range(max(0, int(np.floor(min(ax, bx, cx)))), min(width, int(np.floor(max(ax, bx, cx))) + 1)):
                n = number[y, x]
                if n < 0:
                    continue
                for k in range(places.shape[0]):
                    px, py = x + places[k, 0], y + places[k, 1]
                    wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
                    wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
                    near = ic + wa * ia + wb * ib
                    if near > nearness[n, k] and wa >= -EDGE and wb >= -EDGE and wa + wb <= 1.0 + EDGE:
                        nearness[n, k] = near
                        ids[n, k] = f


@numba.njit(cache=True, nogil=True)
def _resolve_at(pixels, depth_in, faces, at, width, places, ids, bary):
    for n in range(ids.shape[0]):
        for k in range(ids.shape[1]):
            f = ids[n, k]
            if f >= 0:
                px, py = at[n] % width + places[k, 0], at[n] // width + places[k, 1]
                wa, wb, wc, _ = _weights(pixels, depth_in, faces[f, 0], faces[f, 1], faces[f, 2], px, py)
                bary[n, k, 0], bary[n, k, 1], bary[n, k, 2] = wa, wb, wc


@numba.njit(cache=True, nogil=True)
def _folded(seen, points, places, within, deep):
    """Which pixels show something else than one of their four neighbours, `H W`, that the portrait does not show there.

    Args:
        seen: `H W`, which of the points `N 3` each pixel shows, -1 beside the mesh. places: where the portrait has
            them, `N 2` pixels. within: and how far within the silhouette there, `N` pixels. deep: metres.
    """
    found = np.zeros(seen.shape, np.bool_)
    for y in range(seen.shape[0]):
        for x in range(seen.shape[1]):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v == seen.shape[0] or u == seen.shape[1]:
                    continue
                one, other = seen[y, x], seen[v, u]
                if one >= 0 and other >= 0:
                    if _squared(points[one], points[other]) < deep * deep:
                        continue
                    across = abs(places[other, 0] - places[one, 0] - (u - x))
                    jump = max(across, abs(places[other, 1] - places[one, 1] - (v - y)))
                elif one >= 0 or other >= 0:
                    jump = within[max(one, other)] - 0.5  # to the pixel beside
                else:
                    continue
                if jump > JUMP:
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
