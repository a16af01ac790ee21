"""Lids that a portrait with open eyes does not show.

Ours. Of an open eye a portrait sees the lid as a strip of a few pixels, with its crease and lashes. Drawn over a closed
eye, the strip is a dark smear of streaks, and what lies beside it is the edge of an iris. A closed lid is skin: it
takes the colour of the skin below the eye and between crease and brow, darker towards crease, corners and lashes, and
where it meets the lower lid lies a soft line of lashes. It comes in where and as far as the portrait's own lid is
stretched and its eye closes, and nothing is drawn of eyes that are as open as the portrait has them, or that it closes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np

from fportrait.body.grain import Grain
from fportrait.body.mesh import of_part
from fportrait.body.warping import Target, of_corners, project

# Of the left and the right eye: landmarks along the margin of the upper and of the lower lid, from the outer corner to
# the inner one; and one above and one below the eye.
MARGINS = (
    ((263, 466, 388, 387, 386, 385, 384, 398, 362), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
)
UP = (334, 450), (105, 230)
BLINKS, CLOSED = ("eyeBlinkLeft", "eyeBlinkRight"), 0.8  # and their strength at which the lids of the template meet
# How far around an eye its lids may be drawn: half widths aside, metres above, below, and behind its middle.
ASIDE, ABOVE, BELOW, BEHIND = 1.8, 0.024, -0.018, 0.012
STILL = 0.001  # metres: what a blink moves by less is no lid, and tells how near the eye is
# The skin that tells a lid's colour: metres below and above the margins, half widths aside, how much of it may be brow,
# and how many pixels it has at least. What lies under a brow is hardly ever so much darker than what is below the eye.
LOWER, UPPER, WIDE, BROW, LEAST, DEEP = (-0.009, -0.005), (0.009, 0.015), 1.1, 0.2, 3, 0.8
# Of it so often those pixels are left out that are darker, or brighter, than the others by so many deviations: hair,
# frames of spectacles and glints; and how firmly the slope of the colours from corner to corner is held.
ROUNDS, DARKER, BRIGHTER, SLOPE = 3, 1.3, 1.5, 0.1
# How much of a portrait's own opening has to be gone (at least of this one) from which its lids come in, and wholly;
# how open an eye is, of its width, that the portrait closes, and does not; and how open when lashes begin to lie on the
# lower lid, and do.
CLOSING, LEAST_OPEN, SHUT, MEETING = (0.2, 0.7), 0.15, (0.04, 0.12), (0.2, 0.08)
TOUCHING = 0.0025, 0.0008  # metres between two lids where they begin to meet, and do
# How many times as large as around the eye a lid is drawn, beside the portrait, from where it is drawn anew, and wholly
# (binary logarithms); metres above its margin where its own lashes begin, and where all of one that meets the other is
# drawn anew; half widths aside where that ends; and deviation of the Gaussian that its edge is softened with, metres.
STRETCHED, OWN, ANEW, ENDS, SOFT = (0.32, 1.14), (0.0008, 0.003), (0.008, 0.004), (1.15, 1.6), 0.0022
# How bright a closed lid is beside the skin around: darker by so much at the crease, so high above the margin and so
# wide (metres); at the lashes, up to so far above them; and at the outer and the inner corner, between so many half
# widths aside. Where it is darker it is redder: times that, by channel. About as five filmed people's lids are.
CREASE, LOW, OUTER, INNER, CORNER = (0.08, 0.0085, 0.0012), (0.3, 0.007), 0.16, 0.22, (0.4, 1.2)
TINT = np.array([0.87, 1.03, 1.1], np.float32)
# The line of lashes: how opaque, and how wide (deviation, metres), its core and its edge; how far the upper margin may
# lie below the lower one; between what parts of the way from the middle it fades; and percentile of what a portrait
# shows at the margin, up to so high, that has its colour.
CORE, SHADE, OVERLAP, FADES, DARK = (0.55, 0.0007), (0.3, 0.0022), 0.0025, (0.7, 1.25), (10, 0.002)
LEAST_SHARE = 0.002  # that is drawn
# Of the way from corner to corner, where the margins are read; and what makes a bow a x(1-x) + b x²(1-x) of them.
STATIONS = np.linspace(0.1, 0.9, 17, dtype=np.float32)
BOW = np.linalg.pinv(np.stack([STATIONS * (1 - STATIONS), STATIONS**2 * (1 - STATIONS)], 1))


class Lids(NamedTuple):
    """A body's lids: of every vertex `V 2` where it lies, half widths of its eye aside from the eye's middle, outwards,
    and metres above the upper lid's margin (below the lower one's where negative) as if the lids were closed; the eye,
    1 or 2, that each triangle `F` is drawn for, or 0; and which of those are of the `upper` lid, lie `still`, are
    `bare` skin, or of the eye`ball`, `F` each."""

    places: np.ndarray
    eye: np.ndarray
    upper: np.ndarray
    still: np.ndarray
    bare: np.ndarray
    ball: np.ndarray


@functools.lru_cache(maxsize=4)
def lids_of(body: Any) -> Lids | None:
    """None of a body that has no blinks or no landmarks."""
    names = list(getattr(body, "action_names", []))
    if not set(BLINKS) <= set(names) or not hasattr(body, "landmark_triangles"):
        return None
    template, faces = np.asarray(body.template, np.float64), np.asarray(body.faces)
    flesh = of_part(body, "face")
    places, eye = np.zeros((len(template), 2), np.float32), np.zeros(len(template), np.int8)
    upper, still = np.zeros(len(template), bool), np.zeros(len(template), bool)
    for number, (name, margins) in enumerate(zip(BLINKS, MARGINS, strict=True)):
        blink = np.asarray(body.actions[names.index(name)], np.float64)
        shut = template + CLOSED * blink
        over = template[:, 1] > np.mean([_line(body, template, margin) for margin in margins], 0)
        height = shut[:, 1] - np.where(over, *(_line(body, shut, margin) for margin in margins))
        outer, inner = body.landmarks(template)[[margins[0][0], margins[0][-1]], 0]
        aside = (shut[:, 0] - (outer + inner) / 2) / ((outer - inner) / 2)
        near = (np.abs(aside) < ASIDE) & (height < ABOVE) & (height > BELOW)
        near &= template[:, 2] > body.eye_centres[number, 2] - BEHIND
        places[near], eye[near] = np.stack([aside, height], 1)[near], number + 1
        upper |= near & over & flesh
        still |= near & flesh & (np.linalg.norm(blink, axis=1) < STILL)
    whole = (eye[faces] == eye[faces[:, :1]]).all(1)
    bare = flesh & (np.asarray(body.masks["brows"]) <= BROW)
    kinds = (kind[faces].all(1) for kind in (upper, still, bare, of_part(body, "eyes")))
    return Lids(places, np.where(whole, eye[faces[:, 0]], 0).astype(np.int8), *kinds)


def _line(body: Any, vertices: np.ndarray, margin: tuple[int, ...]) -> np.ndarray:
    """How high a lid's margin is above or below each of `V 3` vertices, `V`."""
    points = body.landmarks(vertices)[list(margin)]
    order = np.argsort(points[:, 0])
    return np.interp(vertices[:, 0], points[order, 0], points[order, 1])


class Over(NamedTuple):
    """What is laid over a picture: which of a target's points, `rows` `M`; their `colours` `M 3`; and their `opacity`,
    `M` in 0..1."""

    rows: np.ndarray
    colours: np.ndarray
    opacity: np.ndarray


class ClosedLids:
    """The lids of a portrait's person, closed.

    Args:
        lids: of `body`. portrait: `H W 3` uint8. triangles, weights: what each of its pixels sees, `H W` and `H W 3`,
            -1 for nothing. skin: which of them show skin, `H W`. vertices: `V 3`, of the portrait's own pose and face
            before its camera of `intrinsics` `3 3`. grain: the skin's, if it is known.
    """

    def __init__(
        self,
        body: Any,
        lids: Lids,
        portrait: np.ndarray,
        triangles: np.ndarray,
        weights: np.ndarray,
        skin: np.ndarray,
        vertices: np.ndarray,
        intrinsics: np.ndarray,
        grain: Grain | None = None,
    ):
        self._body, self._lids, self._grain = body, lids, grain
        self._pixels = project(vertices, intrinsics)
        self._values = np.column_stack([lids.places, np.zeros(len(lids.places), np.float32)])
        self._faces = []  # of each eye: those that lie still, those of the upper lid, and whose corners the latter are
        for eye in (1, 2):
            still, upper = (np.flatnonzero((lids.eye == eye) & kind) for kind in (lids.still, lids.upper))
            self._faces.append((still, upper, *np.unique(body.faces[upper].ravel(), return_inverse=True)))
        marks = body.landmarks(vertices)
        self._open = [opening(marks, eye) for eye in (0, 1)]
        self._skin, self._lashes = np.zeros((2, 2, 3), np.float32), np.zeros((2, 3), np.float32)
        for eye in (0, 1):
            own = (triangles >= 0) & (lids.eye[triangles] == eye + 1)
            seen, colours = triangles[own], portrait[own].astype(np.float64)
            aside, height = of_corners(lids.places, body.faces, seen, weights[own]).T
            told = skin[own] & lids.bare[seen] & (np.abs(aside) < WIDE)
            below, above = (told & (height > low) & (height < high) for low, high in (LOWER, UPPER))
            if below.sum() < LEAST:
                self._open[eye] = 0.0  # of an eye that is hardly seen no lid is made
                continue
            even = even_colours(aside[below], colours[below])
            if above.sum() >= LEAST:
                other = even_colours(aside[above], colours[above])
                other *= max(1.0, DEEP * even[0].mean() / max(other[0].mean(), 1.0))
                even = (even + other) / 2
            margin = lids.upper[seen] & (height < DARK[1]) & (np.abs(aside) < CORNER[1])
            self._skin[eye] = even
            self._lashes[eye] = np.percentile(colours[margin], DARK[0], axis=0) if margin.any() else even[0] / 2

    def draw(self, drawn: np.ndarray, target: Target, sight: np.ndarray) -> None:
        """Lay them over a target's picture `H W 3` uint8 at its samples; `sight` as below."""
        if (over := self(target, sight)) is not None:
            flat, at = drawn.reshape(-1, 3), target.places[over.rows]
            laid = flat[at] + over.opacity[:, None] * (over.colours - flat[at])
            flat[at] = np.clip(laid + 0.5, 0, 255).astype(np.uint8)

    def __call__(self, target: Target, sight: np.ndarray) -> Over | None:
        """What is laid over a target's picture; None of eyes that are hardly less open than the portrait's. `sight`:
        how well the portrait sees the target's points, cosines `N`."""
        marks, pixels, found = self._body.landmarks(target.vertices), None, []
        for eye, own in enumerate(self._open):
            now = opening(marks, eye)
            closing = float(smooth(*CLOSING, (own - now) / max(own, LEAST_OPEN)) * smooth(*SHUT, own))
            if closing:
                pixels = project(target.vertices, target.intrinsics) if pixels is None else pixels
                found.append(self._over(target, sight, marks, pixels, eye, closing, float(smooth(*MEETING, now))))
        return Over(*(np.concatenate(one) for one in zip(*found, strict=True))) if found else None

    def _over(
        self,
        target: Target,
        sight: np.ndarray,
        marks: np.ndarray,
        pixels: np.ndarray,
        eye: int,
        closing: float,
        meeting: float,
    ) -> Over:
        """Of one eye whose lids come in by `closing` and meet by `meeting`, both 0 to 1."""
        lids, rows = self._lids, np.flatnonzero(self._lids.eye[target.triangles] == eye + 1)
        triangles = target.triangles[rows]
        values = self._stretched(pixels, eye)
        aside, height, share = of_corners(values, self._body.faces, triangles, target.weights[rows]).T
        away, apart, within, metre = between_the_lids(target, rows, marks, eye)
        upper, ball = lids.upper[triangles], lids.ball[triangles]
        touching = meeting * smooth(*TOUCHING, apart)
        share = np.maximum(share, touching * smooth(*ANEW, height)) * (1 - smooth(*ENDS, np.abs(aside)))
        share = share * np.maximum(smooth(*OWN, height), touching)
        share, beside = softened(target, rows, upper, share, SOFT * metre * target.samples)
        unseen = meeting * (sight[rows] <= 0)
        share = closing * np.where(upper, np.maximum(share, unseen), touching * np.maximum(beside, ball))
        core, shadow = (high * np.exp(-((away / wide) ** 2) / 2) for high, wide in (CORE, SHADE))
        line = (core + shadow) * touching * within * closing
        opacity = 1 - (1 - share) * (1 - line)
        drawn = np.flatnonzero(opacity > LEAST_SHARE)
        aside, height, away, within, line, opacity, rows = (
            one[drawn] for one in (aside, height, away, within, line, opacity, rows)
        )
        colours = self._skin[eye, 0] + np.clip(aside, -CORNER[1], CORNER[1])[:, None] * self._skin[eye, 1]
        colours *= 1 - (1 - shade(aside, height, away, within))[:, None] * TINT
        if self._grain is not None:
            self._grain.add(colours, self._body.faces, target.triangles[rows], target.weights[rows])
        colours += (line / opacity)[:, None] * (self._lashes[eye] - colours)
        return Over(rows, colours, opacity)

    def _stretched(self, pixels: np.ndarray, eye: int) -> np.ndarray:
        """`places` of `Lids`, and how far each vertex of an eye's upper lid is drawn anew because it is stretched, 0 to
        1: `V 3`. `pixels`: where all vertices lie, `V 2`."""
        still, upper, vertices, corners = self._faces[eye]
        now, before = (areas_of(self._body.faces[still], one).sum() for one in (pixels, self._pixels))
        larger, smaller = (
            np.bincount(corners, np.maximum(areas_of(self._body.faces[upper], one), 1e-6).repeat(3))
            for one in (pixels, self._pixels)
        )
        nearer = max(float(now), 1e-6) / max(float(before), 1e-6)
        self._values[vertices, 2] = smooth(*STRETCHED, np.log2(larger / (smaller * nearer)))
        return self._values


def between_the_lids(
    target: Target, rows: np.ndarray, marks: np.ndarray, eye: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of some points of a target, `M` each: metres above the line where an eye's lids meet, metres between the lids'
    margins there, and how far within its ends, 0 to 1; and how many pixels a metre is. `marks`: landmarks `478 3`."""
    upper, lower = (project(marks[list(one)].astype(np.float32), target.intrinsics) for one in MARGINS[eye])
    across = upper[-1] - upper[0]
    wide = max(float(np.linalg.norm(across)), 1e-6)
    up = np.array([across[1], -across[0]]) / wide * (1 if eye else -1)
    ways = np.stack([across / wide**2, up], 1).astype(np.float32)
    metre = float(target.intrinsics[1, 1] / max(marks[MARGINS[eye][0][4], 2], 1e-3))
    along, over = ((target.grid.reshape(-1, 2)[target.places[rows]] - upper[0]) @ ways).T
    high, low = (np.interp(STATIONS, *((margin - upper[0]) @ ways).T) for margin in (upper, lower))
    # A bow from corner to corner: the margins themselves have kinks where the lids overlap.
    bow = BOW @ np.maximum(high, low - OVERLAP * metre)
    place = np.clip(along, 0, 1)
    away = over - place * (1 - place) * (bow[0] + bow[1] * place)
    apart = np.interp(place, STATIONS, high - low).astype(np.float32)
    return away / metre, apart / metre, 1 - smooth(*FADES, np.abs(2 * along - 1)), metre


def opening(marks: np.ndarray, eye: int) -> float:
    """How open an eye, 0 or 1, is by landmarks `478 3`: of its width; below 0 where the lids overlap."""
    upper, lower = (marks[list(one)] for one in MARGINS[eye])
    up = marks[UP[eye][0]] - marks[UP[eye][1]]
    gap = (upper[3:6] - lower[3:6]).mean(0) @ up / max(float(np.linalg.norm(up)), 1e-9)
    return float(gap / max(float(np.linalg.norm(upper[0] - upper[-1])), 1e-9))


def areas_of(faces: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Twice the areas `F` of triangles `F 3` whose corners lie at `pixels` `V 2`; below 0 of those turned away."""
    a, b, c = (pixels[faces[:, corner]] for corner in range(3))
    return np.asarray((b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) - (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]))


def even_colours(aside: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The middle of colours `N 3` and their slope over `aside` `N`, `2 3`, without what is much darker or brighter."""
    grey, keep = colours.mean(1), np.ones(len(aside), bool)
    design = np.column_stack([np.ones(len(aside)), aside])
    fitted = np.zeros((2, 4))
    for _ in range(ROUNDS):
        tied = design[keep].T @ design[keep] + np.diag([0, SLOPE * keep.sum()])
        fitted = np.linalg.solve(tied, design[keep].T @ np.column_stack([colours, grey])[keep])
        off = grey - design @ fitted[:, 3]
        spread = max(float(np.sqrt((off[keep] ** 2).mean())), 1.0)
        keep = (off > -DARKER * spread) & (off < BRIGHTER * spread)
    return np.asarray(fitted[:, :3])


def shade(aside: np.ndarray, height: np.ndarray, away: np.ndarray, within: np.ndarray) -> np.ndarray:
    """How bright closed lids are beside the skin around, `M`, by `places` of `Lids` and of `between_the_lids`."""
    crease = 1 - CREASE[0] * np.exp(-(((height - CREASE[1]) / CREASE[2]) ** 2) / 2)
    low = 1 - LOW[0] * within * (1 - smooth(0, LOW[1], np.where(away > 0, away, -2 * away)))
    return np.asarray(crease * low * (1 - OUTER * smooth(*CORNER, aside) - INNER * smooth(*CORNER, -aside)))


def softened(
    target: Target, rows: np.ndarray, part: np.ndarray, share: np.ndarray, deviation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shares `M` of some points of a target, softened among those of a `part` `M`; and going on beside it."""
    y, x = np.divmod(target.places[rows], target.covered.shape[1])
    y, x = y - y.min(), x - x.min()
    told = np.zeros((y.max() + 1, x.max() + 1, 2), np.float32)
    told[y, x] = np.stack([share * part, part], 1)
    soft, near = cv2.GaussianBlur(told, (0, 0), max(deviation, 0.3))[y, x].T
    return soft / np.maximum(near, 1e-6), np.minimum(2 * soft, 1)


def smooth(low: float, high: float, value: Any) -> np.ndarray:
    """From 0 at `low` to 1 at `high`, without a kink; `low` may be the greater one."""
    share = np.minimum(np.maximum((value - low) * (1 / (high - low)), 0), 1)  # many small arrays: `clip` is slower
    return np.asarray(share * share * (3 - 2 * share))
