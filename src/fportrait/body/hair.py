"""Hair and hats: where a portrait shows them, and which part of a head they cover.

Ours. A mesh has no hair. What hangs over a temple is painted on it, and stops where the portrait stops seeing it; so a
head that turns showed a lock of hair on a bare side of the face, with an ear that the hair hides. Here the hair of a
portrait is told from its skin by colour (GrabCut, Rother et al. 2004), out of what certainly is one or the other, and
over the mesh it goes on behind where it was last seen: a side whose outline stands before hair has hair.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from fportrait.body.backdrop import around
from fportrait.body.mesh import of_part, parted, spread_over

SIDE = 160  # the short side that colours are told apart at, pixels
ABOVE, LEAST = 0.3, 50  # certain hair stands above the ears by this share of the head, in this many pixels at least
FRONT = 35.0  # degrees aside up to which a face's own points are certainly no hair
CROWN = 0.085  # metres above the eyes' middle: where hair stands that is too short to stand above the mesh
DARKER = 25  # levels, of OpenCV's lightness, by which such hair is darker than skin
SOFT = 0.01  # of the picture's short side: deviation of the Gaussian that its edge is softened with
BESIDE = 0.03  # of the short side: how far beside an outline is looked for hair that goes on behind it
RIM = 0.04  # and how near to the outline, within, points are that are asked
SEEN, OUTLINE, MIRROR, PRIOR = 30.0, 3.0, 0.0001, 0.003  # weights of what is known, beside an edge's of the mesh
SCALP, HAT, COLOURFUL = 0.5, 0.05, 40.0  # of hair on a scalp, and of what has more than this CIELAB chroma, a hat
BEFORE_EAR = 0.045  # metres from an ear's middle that what is before it may be away
HAIRLINE, STEEP = 0.4, 3.0  # hair ends where so much of it is left, this much steeper than it spreads
FACE_SIDE, BEHIND = 60.0, 115.0  # degrees aside from which a face is its side, and a skull its back
LIKE = 2.0  # how steeply what is nearer to hair than to skin counts as hair, of the way from one to the other
FINE = 0.004  # of the short side: deviation of the Gaussian that colours are softened with where they are compared
UNLIKE = 20.0, 35.0  # CIELAB distance from skin and from hair between which something begins to be neither
TEMPLE = 0.65  # of the way from the ears to the crown: how high a temple is
STRIP = 0.06  # of the short side: how wide at most what is no hair may be between a mesh and its hair
FEW = 0.01  # of the hair beside the mesh: hardly any
HANGS = 0.045, -0.1  # metres above the eyes' middle between which something beside a face is no part of a skull


def hair_in(
    body: Any, portrait: np.ndarray, places: np.ndarray, opacity: np.ndarray, vertex: np.ndarray
) -> np.ndarray | None:
    """Where a portrait shows hair or a hat, `H W` in 0..1; None of a head that has hardly any.

    Args:
        portrait: `H W 3` uint8. places: `V 2`, where the body's vertices are in it, pixels. opacity: the person's,
            `H W`. vertex: a vertex that each pixel sees, `H W`, -1 beside the mesh.
    """
    size = portrait.shape[1::-1]
    scale = min(1.0, SIDE / min(size))
    small = tuple(max(round(side * scale), 1) for side in size)
    lab = cv2.cvtColor(cv2.resize(portrait, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    person = cv2.resize(opacity.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    seen = cv2.resize(vertex.astype(np.int32), small, interpolation=cv2.INTER_NEAREST)
    template, mesh = np.asarray(body.template), seen >= 0
    front = np.abs(np.degrees(np.arctan2(template[:, 0], template[:, 2]))) < FRONT
    skin = mesh & (of_part(body, "face") & front)[seen]
    ears, top = (
        scale * edge for edge in (places[of_part(body, "ears"), 1].mean(), places[of_part(body, "scalp"), 1].min())
    )
    beside = cv2.dilate(mesh.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    hair = (person > 0.9) & beside & (np.arange(len(mesh))[:, None] < ears - ABOVE * (ears - top))
    if hair.sum() < LEAST:
        hair = mesh & (of_part(body, "scalp") & (template[:, 1] > CROWN))[seen] & (person > 0.9)
        if hair.sum() < LEAST or not skin.any() or np.median(lab[skin, 0]) - np.median(lab[hair, 0]) < DARKER:
            return None  # bald, and light may fall on it
    chin = np.arange(len(mesh))[:, None] > scale * places[of_part(body, "face"), 1].max()
    elsewhere = (person < 0.5) | chin | (mesh & (of_part(body, "torso") | of_part(body, "neck"))[seen])
    skin, hair = skin & ~elsewhere, hair & ~elsewhere
    if not skin.any() or hair.sum() < LEAST:  # a head that the picture's edge cuts, or that lies upside down
        return None
    lab[elsewhere] = np.resize(lab[skin], (elsewhere.sum(), 3))  # walls and clothes tell of neither
    kinds = np.full(mesh.shape, cv2.GC_PR_BGD, np.uint8)
    kinds[((person > 0.9) & beside & ~chin) | (mesh & of_part(body, "scalp")[seen])] = cv2.GC_PR_FGD
    kinds[skin | elsewhere], kinds[hair] = cv2.GC_BGD, cv2.GC_FGD
    cv2.setRNGSeed(0)  # of the clustering: the same portrait has the same hair
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(cv2.bilateralFilter(lab, 5, 30, 3), kinds, None, *models, 3, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    found = ((kinds == cv2.GC_FGD) | (kinds == cv2.GC_PR_FGD)) & (person > 0.5)
    _, labels = cv2.connectedComponents(found.astype(np.uint8))
    found &= np.isin(labels, np.unique(labels[hair]))  # a coat of the same colour is no hair
    wide = cv2.resize(found.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(wide, (0, 0), max(SOFT * min(size), 0.3)))


class Likeness(NamedTuple):
    """What stands beside the mesh of a person, `H W` in 0..1 each: how much nearer to the colour of `hair` than to that
    of skin it is (locks that fall below the chin, or that something parts from the rest, too), and how much it is of
    `neither`: collars and coats."""

    hair: np.ndarray
    neither: np.ndarray


def likeness(portrait: np.ndarray, shown: np.ndarray | None, seen: np.ndarray, opacity: np.ndarray) -> Likeness:
    """Args: portrait: `H W 3` uint8. shown: of `hair_in`. seen: the mesh, opacity: the person's, `H W`."""
    nothing, beside = np.zeros(seen.shape, np.float32), ~seen & (opacity > 0.5)
    hairy = np.zeros(seen.shape, bool) if shown is None else shown > 0.8
    bare = seen & (opacity > 0.9) & (True if shown is None else shown < 0.1)
    if not bare.any():
        return Likeness(nothing if shown is None else np.asarray(shown * beside, np.float32), nothing)
    soft = cv2.GaussianBlur(portrait, (0, 0), max(FINE * min(portrait.shape[:2]), 0.3)).astype(np.float32) / 255
    lab = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)
    skin = np.median(lab[bare], 0)
    to_skin = np.linalg.norm(lab - skin, axis=-1)
    hair, nearest = nothing, to_skin
    if hairy.any():
        lock = np.median(lab[hairy], 0)
        to_hair, apart = np.linalg.norm(lab - lock, axis=-1), max(float(np.linalg.norm(skin - lock)), 1e-6)
        hair, nearest = np.clip(0.5 + LIKE * (to_skin - to_hair) / apart, 0, 1), np.minimum(to_skin, to_hair)
    neither = np.clip((nearest - UNLIKE[0]) / (UNLIKE[1] - UNLIKE[0]), 0, 1)
    neither = cv2.GaussianBlur((neither * beside).astype(np.float32), (0, 0), max(SOFT * min(seen.shape), 0.3))
    return Likeness(np.asarray(hair * beside, np.float32), np.asarray(neither, np.float32))


def up_to_the_mesh(
    body: Any, portrait: np.ndarray, like: Likeness, places: np.ndarray, seen: np.ndarray, opacity: np.ndarray
) -> np.ndarray:
    """A portrait `H W 3` whose hair begins where the mesh ends: a temple that is wider than the mesh shows skin before
    the hair, and stands as a strip between hair and hair when the head turns.

    Args:
        like: of `likeness`. places: `V 2`, where the body's vertices are, pixels. seen: the mesh, opacity: the
            person's, `H W`.
    """
    locks, short = like.hair > 0.5, min(seen.shape)
    ears, crown = places[of_part(body, "ears"), 1].min(), places[of_part(body, "scalp"), 1].min()
    over = ears - np.arange(len(seen))[:, None]
    temple = (over > 0) & (over < TEMPLE * (ears - crown)) & (like.hair < 0.5) & (like.neither < 0.5)
    to_hair, to_mesh = (
        cv2.distanceTransform((~part).astype(np.uint8), cv2.DIST_L2, 5) / short for part in (locks, seen)
    )
    strip = temple & ~seen & (opacity > 0.5) & (to_hair + to_mesh < STRIP)
    if not strip.any():
        return portrait
    share = cv2.GaussianBlur(strip.astype(np.float32), (0, 0), max(FINE * short, 0.3)) * ~seen
    share = (np.maximum(share, strip) * np.clip(over / (STRIP * short), 0, 1))[..., None]
    filled = portrait + share * (around(portrait.astype(np.float32), locks.astype(np.float32)) - portrait)
    return np.asarray(np.clip(filled + 0.5, 0, 255), np.uint8)


class Cover(NamedTuple):
    """Of every vertex: how much of it is `hair`, `V` in 0..1; where in the portrait, `beside` `V 2` pixels, its hair
    is seen that an outline hides; and how surely, `weight` `V`."""

    hair: np.ndarray
    beside: np.ndarray
    weight: np.ndarray


def hair_cover(
    body: Any,
    portrait: np.ndarray,
    shown: np.ndarray | None,
    places: np.ndarray,
    sight: np.ndarray,
    mirror: np.ndarray,
    outside: np.ndarray,
    opacity: np.ndarray,
) -> Cover:
    """Which vertices hair covers.

    Args:
        portrait, places, opacity: of `hair_in`. shown: what it found. sight: `V`, how well the portrait sees the
            vertices, cosines. mirror: `V`, the vertex that each one mirrors. outside: of `body.backdrop.Backdrop`.
    """
    count = len(places)
    if shown is None:
        return Cover(np.zeros(count, np.float32), places, np.zeros(count, np.float32))
    short = min(shown.shape)
    distance, way = np.split(sampled(outside, places), [1], 1)
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    beside = (places + way * (BESIDE * short - distance)).astype(np.float32)
    near = np.clip(1 + distance[:, 0] / (RIM * short), 0, 1) * (distance[:, 0] <= 1)
    weight = OUTLINE * near * np.clip(1 - sight / 0.3, 0, 1)
    head = ~(of_part(body, "torso") | of_part(body, "neck"))
    weight *= head * sampled(opacity, beside)[:, 0]  # a wall tells nothing
    own = SEEN * sight.astype(np.float64) ** 2
    here, there = sampled(shown, places)[:, 0], sampled(shown, beside)[:, 0]
    usual = (HAT if _chroma(portrait[shown > 0.8]) > COLOURFUL else SCALP) * of_part(body, "scalp")
    known = own + weight + MIRROR * own[mirror] + PRIOR + usual
    wanted = own * here + weight * there + MIRROR * (own * here)[mirror] + usual
    wanted[~head], known[~head] = 0, SEEN
    hair = spread_over(body, known, wanted[:, None], parted(body, np.asarray(body.part)))[:, 0]
    for side in (-1, 1):  # an ear is covered by what hangs before it
        ear = of_part(body, "ears") & (side * np.asarray(body.template)[:, 0] > 0)
        away = np.linalg.norm(np.asarray(body.template) - np.asarray(body.template)[ear].mean(0), axis=1)
        hair[ear & (sight <= 0)] = hair[of_part(body, "face") & (away < BEFORE_EAR)].mean()
    hair = np.clip((hair - HAIRLINE) * STEEP + 0.5, 0, 1)
    return Cover(hair.astype(np.float32), beside, (weight * there).astype(np.float32))


class Beside(NamedTuple):
    """What a portrait's outline holds beside the mesh and other outlines do not, `H W` in 0..1 each, and the mean way
    out of the head there, `3` before the camera: `sides`, what stands beside ears and cheeks (ears, a hand); `front`,
    beside a face that is seen from the side (spectacles); `back`, short hair behind the ears."""

    sides: np.ndarray
    front: np.ndarray
    back: np.ndarray
    ways: tuple[np.ndarray, np.ndarray]  # of the front and of the back


def stands_beside(body: Any, shown: np.ndarray | None, vertex: np.ndarray, outward: np.ndarray) -> Beside:
    """Args: shown, vertex: of `hair_in`. outward: the portrait's normals, `V 3`."""
    covered = vertex >= 0
    nothing = np.zeros(covered.shape, np.float32)
    if covered.all() or not covered.any():
        return Beside(nothing, nothing, nothing, (np.zeros(3), np.zeros(3)))
    away = (~covered).astype(np.uint8)
    _, label = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros(int(label.max()) + 1, np.int64)
    by_label[label[covered]] = vertex[covered]
    nearest = by_label[label]
    template = np.asarray(body.template)
    height, aside = template[:, 1], np.abs(np.degrees(np.arctan2(template[:, 0], template[:, 2])))
    face, ears = of_part(body, "face") & (height < HANGS[0]) & (height > HANGS[1]), of_part(body, "ears")
    behind = of_part(body, "scalp") & (aside > BEHIND) & (height < HANGS[0])
    hair = nothing if shown is None else shown * away
    if hair[behind[nearest]].sum() > FEW * hair.sum():
        behind |= ears
    short = hair[of_part(body, "torso")[nearest]].sum() < FEW * hair.sum()  # what falls on shoulders stays beside
    flesh = away * (1 - hair)
    parts = (
        (ears | (face & (aside > FACE_SIDE)))[nearest] * flesh,
        (face & (aside <= FACE_SIDE))[nearest] * flesh,
        behind[nearest] * hair * short,
    )
    ways = [outward[nearest[part > 0.5]].mean(0) if (part > 0.5).any() else np.zeros(3) for part in parts[1:]]
    soft = max(SOFT * min(covered.shape), 0.3)
    sides, front, back = (cv2.GaussianBlur(part.astype(np.float32), (0, 0), soft) for part in parts)
    return Beside(sides, front, back, (ways[0], ways[1]))


def sampled(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A picture's values `N C`, float32, at places `N 2`, pixels; those of its edge beyond it."""
    at = np.ascontiguousarray(places[:, None] - 0.5, np.float32)
    values = cv2.remap(np.asarray(picture, np.float32), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(values.reshape(len(places), -1))


def _chroma(colours: np.ndarray) -> float:
    """CIELAB chroma of the median of colours `N 3`, uint8; 0 of none."""
    if not len(colours):
        return 0.0
    middle = np.median(colours, 0).astype(np.float32).reshape(1, 1, 3) / 255
    return float(np.linalg.norm(cv2.cvtColor(middle, cv2.COLOR_RGB2LAB)[0, 0, 1:]))
