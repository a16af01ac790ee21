"""What stands behind a portrait, kept where it is while the person moves before it.

Ours. A picture of a person who moves is made by dragging the portrait along with the body's mesh. Without a matte the
wall behind is dragged along, too, and bends. With one the picture has two layers: the person, with a rim of what
stands right behind, which hides a matte's errors; and the backdrop, filled where the person was.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

PERSON = 0.3  # opacity from which a matte's pixel belongs to the person: half-seen hats and flying hair do
# Distances from the person, shares of the picture's short side. Where the rim is less than opaque the backdrop is the
# portrait itself, so that a person who does not move leaves it as it is.
FILLED = 0.008, 0.02  # the backdrop: filled up to here, and the portrait's own from there on
RIM = 0.02, 0.04  # the person's layer: opaque up to here, and gone from there on
# What two outlines may differ by before anything is moved, of the picture's short side and of the distance from them:
# who does not turn is drawn as he is.
OUTLINE, FURTHER = 0.02, 0.1
# How far within the old silhouette a place beside the new one may come from if it is no hair.
FACE = 0.02, 0.04  # of the picture's short side: shown up to here, and not from there on
SOFTER = 0.01, 0.02, 0.04  # of the short side: deviations that what is filled is softened with, from twice as far on
BLACK, STRAIGHT = 12, 0.4  # level up to which a row is black; part of the next one that is not, where a picture ends
MIXED = 0.004  # of the short side: what resizing mixed of a picture and the black beside it
BEYOND = 0.03  # of the short side: how far a person who is cut by the picture's edge goes on beyond it, fading
ABOVE = 0.03  # and beyond the upper edge of all that is known
WAY_OUT = 0.03  # of the picture's short side: deviation of the Gaussian that smooths the way out of a silhouette


class Backdrop(NamedTuple):
    """`picture` `H W 3` uint8, the portrait without the person; `rim` `H W`, opacity of the person's layer; `outside`
    `H W 3`, how far each pixel lies outside the mesh's silhouette, negative within, and the way out, x and y; `face`
    `H W`, what the silhouette holds and nothing beside a head may show, None where that is not known; `clothes` `H W`,
    what goes with the shoulders and not with the head; and which of the mesh's triangles do, `trunk` `F`; and `slack`,
    how much of OUTLINE counts, 1 for who does not turn; and `cloth` `H W`, what certainly
    is clothes by its colour."""

    picture: np.ndarray
    rim: np.ndarray
    outside: np.ndarray
    face: np.ndarray | None = None
    clothes: np.ndarray | None = None
    trunk: np.ndarray | None = None
    slack: float = 1.0
    cloth: np.ndarray | None = None


def backdrop_of(
    portrait: np.ndarray,
    matte: np.ndarray,
    covered: np.ndarray,
    flesh: np.ndarray | None = None,
    ended: np.ndarray | None = None,
) -> Backdrop:
    """Args:
    portrait: `H W 3` uint8. matte: the person's opacity, `h w` in [0, 1], of the same picture at any size. covered: by
        the mesh in the portrait, `H W`. flesh: what is no hair, `H W` in [0, 1]. ended: where the picture had ended,
        `H W`, and the portrait tells nothing of what stands there.
    """
    size, side = portrait.shape[1::-1], min(portrait.shape[:2])
    matte = cv2.resize(np.asarray(matte, np.float32), size, interpolation=cv2.INTER_AREA)
    away = cv2.distanceTransform((matte < PERSON).astype(np.uint8), cv2.DIST_L2, 5) / side

    def ramp(near: float, far: float) -> np.ndarray:
        return np.asarray(np.clip((far - away) / (far - near), 0, 1), np.float32)

    hole, known = ramp(*FILLED), away > FILLED[1]
    if ended is not None:
        hole, known = np.maximum(hole, ended), known & ~ended
    hole = hole[..., None]
    wall = behind(portrait, known)
    filled = portrait + hole * (wall - portrait)
    outside, face = outside_of(covered), None
    if flesh is not None:
        within = np.clip((-outside[..., 0] / side - FACE[0]) / (FACE[1] - FACE[0]), 0, 1)
        face = np.asarray(within * flesh, np.float32)
    rim = ramp(*RIM)
    if ended is not None:
        rim *= np.clip(1 - cv2.distanceTransform(ended.astype(np.uint8), cv2.DIST_L2, 5) / (BEYOND * side), 0, 1)
    return Backdrop(np.clip(filled + 0.5, 0, 255).astype(np.uint8), rim, outside, face)


def behind(portrait: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A wall `H W 3`, float32, of which only a part is `known`, `H W`: softer with distance from it, for means over
    squares show their squares."""
    wall = np.where(known[..., None], portrait, around(portrait.astype(np.float32), known.astype(np.float32)))
    side, away = min(known.shape), cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5)
    for blur in SOFTER:
        share = np.clip(away / (2 * blur * side), 0, 1)[..., None]
        wall = wall + share * (cv2.GaussianBlur(wall, (0, 0), blur * side) - wall)
    return np.asarray(wall, np.float32)


def ends_of(portrait: np.ndarray) -> tuple[slice, slice] | None:
    """The rows and columns of a portrait `H W 3` that hold a picture, where it is black beside them: a crop that went
    beyond the file, or bars that the file has. None without; a dark wall whose edge is not straight is no bar."""
    level = portrait.max(-1)
    found, mixed = [], round(MIXED * min(level.shape) + 0.5)
    for lines in (level, level.T):
        dark = lines.max(1) <= BLACK
        bright = np.flatnonzero(~dark)
        if not len(bright) or len(bright) < len(dark) // 3:
            return None
        first, last = int(bright[0]), int(bright[-1]) + 1
        # The line that ends it may be mixed of both.
        if first and (lines[min(first + mixed, last - 1)] > BLACK).mean() < STRAIGHT:
            first = 0
        if last < len(dark) and (lines[max(last - 1 - mixed, first)] > BLACK).mean() < STRAIGHT:
            last = len(dark)
        found.append(slice(first + mixed * (first > 0), last - mixed * (last < len(dark))))
    rows, columns = found
    return None if level[rows, columns].shape == level.shape else (rows, columns)


def going_on(picture: np.ndarray, ends: tuple[slice, slice], how: Literal["reflect", "edge"] = "reflect") -> np.ndarray:
    """A picture `H W ...` that goes on beyond its ends as in a mirror, or as its edge is."""
    rows, columns = ends
    height, width = picture.shape[:2]
    around = ((rows.start, height - rows.stop), (columns.start, width - columns.stop))
    return np.pad(picture[rows, columns], (*around, *[(0, 0)] * (picture.ndim - 2)), how)


def outside_of(covered: np.ndarray) -> np.ndarray:
    """`Backdrop.outside`."""
    covered = np.asarray(covered, bool)
    if covered.all() or not covered.any():  # no silhouette
        return np.zeros((*covered.shape, 3), np.float32)
    inside, beside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (covered, ~covered))
    distance = cv2.GaussianBlur(beside - inside, (0, 0), WAY_OUT * min(covered.shape))
    down, across = np.gradient(distance)
    return np.dstack([beside - inside, across, down]).astype(np.float32)


def beside_the_silhouette(backdrop: Backdrop, source: np.ndarray, covered: np.ndarray) -> None:
    """Of the pixels that a mesh does not cover, move the places `H W 2` that they come from: what lies so far beside
    the new silhouette is what lay so far beside the old one. Dragged along alone, cheeks that have turned would come
    out beside it. `covered`: `H W`."""
    if covered.all() or not covered.any():
        return
    new = cv2.distanceTransform((~covered).astype(np.uint8), cv2.DIST_L2, 5) * (backdrop.rim.shape[0] / len(covered))
    old = cv2.remap(backdrop.outside, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    shift = new - old[..., 0]
    slack = backdrop.slack * OUTLINE * min(backdrop.rim.shape) + FURTHER * new
    shift = np.sign(shift) * np.maximum(np.abs(shift) - slack, 0)
    shift[covered] = 0
    source += shift[..., None] * old[..., 1:]


def over_the_shoulders(backdrop: Backdrop, source: np.ndarray, still: np.ndarray, covered: np.ndarray) -> None:
    """Where clothes are, or where a head would drag a collar along its jaw, come from where the shoulders' own movement
    has them: changes places `source` `H W 2` beside the mesh to those of `still` `H W 2`."""
    assert backdrop.clothes is not None
    worn = cv2.remap(backdrop.clothes, still, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    if backdrop.cloth is not None and backdrop.slack < 1:
        dragged = cv2.remap(backdrop.cloth, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        worn = np.maximum(worn, (1 - backdrop.slack) * dragged)
    worn[covered] = 0
    source += worn[..., None] * (still - source)


def before_backdrop(drawn: np.ndarray, backdrop: Backdrop, source: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """A drawn person `H W 3` uint8 before what stands behind.

    Args:
        source: where each of its pixels comes from in the portrait, `H W 2`, OpenCV's pixels. covered: by the mesh,
            `H W`: the person, whatever the matte says.
    """
    opacity = opacity_at(backdrop, source, covered)[..., None]
    behind = backdrop.picture
    if behind.shape != drawn.shape:
        behind = cv2.resize(behind, drawn.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(behind + opacity * (drawn - behind.astype(np.float32)) + 0.5, 0, 255).astype(np.uint8)


def opacity_at(backdrop: Backdrop, source: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """How opaque a drawn person is, `H W` in [0, 1]; arguments as `before_backdrop` has them."""
    opacity = cv2.remap(backdrop.rim, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    if backdrop.face is not None:
        opacity *= 1 - cv2.remap(backdrop.face, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    if (source[..., 1] < 0).any():  # hair that the picture's upper edge cuts ends a little above it
        opacity *= np.clip(1 + source[..., 1] / (ABOVE * min(backdrop.rim.shape)), 0, 1)
    return np.asarray(np.maximum(opacity, covered))


def around(drawn: np.ndarray, told: np.ndarray) -> np.ndarray:
    """For every pixel a mean of the colours `H W 3` around it where they are `told` (`H W`, 1 or 0), the nearer the
    more: what stands between two sides goes from one to the other, without the seam that nearest colours leave."""
    known = np.empty((*told.shape, 4), np.float32)
    np.multiply(drawn, told[..., None], out=known[..., :3])
    known[..., 3] = told
    total, weight, size = np.zeros_like(known), 1.0, told.shape[::-1]
    while min(known.shape[:2]) > 1:
        known = cv2.resize(known, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        wide = cv2.resize(known, size, interpolation=cv2.INTER_LINEAR)
        np.multiply(wide, weight, out=wide)
        total += wide
        weight /= 8
    return np.asarray(total[..., :3] / np.maximum(total[..., 3:], 1e-9))
