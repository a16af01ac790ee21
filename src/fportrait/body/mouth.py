"""What the inside of a mouth looks like that the portrait keeps closed: usual teeth, gums, tongue and depth.

Ours. The body's teeth are two smooth bands. A flat colour on them is a white bar, and grey in warm light; so single
teeth and their gums are drawn by the place on the template, dim towards the back as rendered mouths are
(`capture.shading`), and all of it stands in the light that the portrait's skin tells of.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np

INSIDE = {"teeth": (183, 176, 162), "tongue": (101, 57, 60), "mouth_cavity": (73, 44, 42)}  # sRGB, of rendered people
GUMS = (140, 84, 80)
USUAL_SKIN = (182.0, 138.0, 108.0)  # medians of rendered faces, sRGB, that INSIDE goes with
# How much of what sets a face apart from the usual one is light, and not skin: of its grey level, and of its tint.
LIGHT_SHARE, TINT_SHARE = 0.5, 0.6
EYES, BRIGHTEST = 215.0, 90  # grey level of eyes in usual light: the percentile of what is seen of them
ARCH = 0.045, 0.041  # metres: the teeth's arch is about a circle around that depth behind their front, of that radius
# Widths from the middle to the side, metres, about those of adults (Wheeler's Dental Anatomy): upper and lower.
WIDTHS = (0.0085, 0.0065, 0.0075, 0.007, 0.007, 0.01), (0.005, 0.0055, 0.007, 0.007, 0.007, 0.011)
CROWN = 0.0095, 0.0085  # height of a crown, metres: upper and lower
GAP, GAP_DEPTH = 0.0006, 0.4  # deviation of the dark line between two teeth, metres, and how dark it is
NOTCH = 0.0016  # metres: how far up the edge two neighbours are parted
BACK = 0.028, 0.010  # metres behind the front teeth: darkest there, and as bright as the front here
DEEPEST = 0.5  # grey level of the back teeth beside the front ones (a quarter of their light)
EDGE = 0.006  # of the picture's short side: deviation of the Gaussian along the lips' shadow
SHADOW = 0.3  # what the lips' shadow takes of what lies right behind them
FREE = 0.035  # metres behind the front teeth to where a band has vertices of its own
ROW = 0.001  # metres that vertices of one row may lie beside a line
SOFT = 0.7  # samples: deviation of the Gaussian that the edges of what is drawn are softened with


class Inside(NamedTuple):
    """The parts of a body's mouth: `part` of each triangle `F` (0 none, 1 upper teeth, 2 lower, 3 tongue, 4 cavity),
    how far forward the front teeth stand, and the edges of the upper and the lower ones as lines `(slope, height)` over
    depth; metres on the template. The arch rises towards its back, by 6 mm over its length."""

    part: np.ndarray
    front: float
    edges: tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=4)
def inside_of(body: Any) -> Inside | None:
    """None of a body that has no such parts."""
    names = list(getattr(body, "part_names", []))
    if not set(INSIDE) <= set(names) or not hasattr(body, "template"):
        return None
    template, faces = np.asarray(body.template), np.asarray(body.faces)
    named = np.asarray(body.part)[faces[:, 0]]
    height = template[faces, 1].mean(1)
    teeth = named == names.index("teeth")
    between = (height[teeth].min() + height[teeth].max()) / 2
    part = np.zeros(len(faces), np.int8)
    part[teeth] = np.where(height[teeth] > between, 1, 2)
    part[named == names.index("tongue")], part[named == names.index("mouth_cavity")] = 3, 4
    upper, lower = (template[np.unique(faces[part == number])] for number in (1, 2))
    return Inside(part, float(upper[:, 2].max()), (_edge(upper, -1), _edge(lower, 1)))


def _edge(teeth: np.ndarray, side: int) -> np.ndarray:
    """The line through the outermost row of a band's vertices `N 3`: its topmost (`side` 1) or lowest (-1) ones."""
    row = teeth[teeth[:, 2] > teeth[:, 2].max() - FREE]  # behind it upper and lower band share vertices
    while True:
        line = np.polyfit(row[:, 2], row[:, 1], 1)
        above = side * (row[:, 1] - np.polyval(line, row[:, 2]))
        if above.min() > -ROW or len(row) <= 4:
            return np.asarray(line)
        row = row[above > above.min() + 1e-9]


def mouth_weights(body: Any) -> np.ndarray | None:
    """For every vertex `V` whether it belongs to the lips or to what is behind them, 0 to 1; None of a body that does
    not tell."""
    inside, lips = inside_of(body), getattr(body, "masks", {}).get("lips")
    if inside is None or lips is None:
        return None
    weights = np.clip(1.5 * np.asarray(lips, np.float32), 0, 1)
    weights[np.unique(np.asarray(body.faces)[inside.part > 0])] = 1
    return weights


def light_of(skin: np.ndarray, eyes: float = 0.0) -> np.ndarray:
    """By channel, how much brighter than usual what is inside the mouth of a face stands, whose median is `skin` `3`.

    A dark face is dark skin or little light. Half of it is taken for light, unless the whites of its eyes are brighter
    than that.

    Args:
        eyes: of `brightest_of_eyes`; lids, lashes and lenses darken them, so dark ones tell nothing.
    """
    usual, own = np.asarray(USUAL_SKIN), np.maximum(np.asarray(skin, np.float64), 1)
    grey = own.mean() / usual.mean()
    tint = (own / own.mean()) / (usual / usual.mean())
    return np.asarray(max(grey**LIGHT_SHARE, eyes / EYES) * np.clip(tint, 0.5, 2) ** TINT_SHARE, np.float32)


def brightest_of_eyes(body: Any, picture: np.ndarray, triangles: np.ndarray) -> float:
    """Grey level of the whites of the eyes in a picture `H W 3` whose pixels see `triangles` `H W`, -1 for none; 0 of
    eyes that are not seen, and of bodies that have none."""
    names = list(getattr(body, "part_names", []))
    if "eyes" not in names:
        return 0.0
    eyes = np.asarray(body.part)[np.asarray(body.faces)[triangles, 0]] == names.index("eyes")
    grey = picture[eyes & (triangles >= 0)].mean(1)
    return float(np.percentile(grey, BRIGHTEST)) if len(grey) else 0.0


def inside_colours(inside: Inside, triangles: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Colours `N 3` in usual light of points inside the mouth. Args: triangles: `N`. places: `N 3`, on the template."""
    part, across, height, depth = inside.part[triangles], np.abs(places[:, 0]), places[:, 1], places[:, 2]
    usual = np.asarray([(0, 0, 0), INSIDE["teeth"], INSIDE["teeth"], INSIDE["tongue"], INSIDE["mouth_cavity"]])
    colours = usual.astype(np.float32)[part]
    back, near = inside.front - BACK[0], inside.front - BACK[1]
    near_front = _step(back, near, depth)
    dark, red = (np.asarray(colour, np.float32) for colour in (INSIDE["mouth_cavity"], GUMS))
    for number, (widths, crown, edge) in enumerate(zip(WIDTHS, CROWN, inside.edges, strict=True), start=1):
        own = part == number
        along = np.arctan2(across[own], depth[own] - (inside.front - ARCH[0])) * ARCH[1]
        borders = np.concatenate([[0.0], np.cumsum(widths)])
        from_border = np.abs(along[:, None] - borders).min(1)
        # Where a tooth ends: towards its gap the gum comes down, and at the edge the two neighbours part.
        above = (height[own] - np.polyval(edge, depth[own])) * (1 if number == 1 else -1)
        line = crown - 0.002 * np.exp(-((from_border / 0.0015) ** 2))
        gum = _step(line - 0.0005, line + 0.0005, above)[:, None]
        gap = np.exp(-((from_border / GAP) ** 2) / 2) * (GAP_DEPTH + (1 - GAP_DEPTH) * (1 - _step(0, NOTCH, above)))
        tooth = colours[own] + gap[:, None] * (dark - colours[own])
        colours[own] = tooth + gum * (red - tooth)
    shade = DEEPEST + (1 - DEEPEST) * near_front
    return np.asarray(colours * np.where(part == 4, 1, shade)[:, None], np.float32)


def draw_inside(drawn: np.ndarray, where: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> None:
    """Put colours `N 3` of an opacity `N` into a picture `H W 3` uint8 at its samples `where` `N`, softly and in the
    lips' shadow."""
    if not len(where):
        return
    tall, wide = drawn.shape[:2]
    deviation = max(EDGE * min(tall, wide), 1.0)
    reach = int(3 * deviation) + 2
    rows, columns = where // wide, where % wide
    top, left = max(int(rows.min()) - reach, 0), max(int(columns.min()) - reach, 0)
    part = drawn[top : int(rows.max()) + reach + 1, left : int(columns.max()) + reach + 1]
    known = np.zeros((*part.shape[:2], 4), np.float32)
    known[rows - top, columns - left] = np.column_stack([colours, np.ones(len(colours))]) * opacity[:, None]
    shadow = np.clip(2 - 2 * cv2.GaussianBlur(known[..., 3], (0, 0), deviation), 0, 1) * SHADOW
    soft = cv2.GaussianBlur(known, (0, 0), SOFT)
    share = soft[..., 3:]
    seen = soft[..., :3] / np.maximum(share, 1e-6) * (1 - shadow[..., None])
    part[:] = np.clip(part + share * (seen - part) + 0.5, 0, 255).astype(np.uint8)


def _step(low: float | np.ndarray, high: float | np.ndarray, value: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`."""
    share = np.clip((value - low) / (np.asarray(high) - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))
