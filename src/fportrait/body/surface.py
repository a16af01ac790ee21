"""Colours for the whole surface of a head of which a portrait shows one side.

Ours. What a portrait does not see has to look like something. Filled in the picture from whatever is seen around it,
a temple takes the colour of the wall and a cheek that of the hair beside it, and both swim as the head turns. Here
every vertex of the mesh has a colour, found once: that of the portrait where it sees the vertex well, less surely that
of its mirror image on the other side, and elsewhere what Laplace's equation over the mesh makes of those. Scalp, face,
ears, neck and clothes hardly exchange colours, so the side of a head whose crown is dark has dark hair.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np

ACROSS = 0.01  # weight of an edge between two of `KINDS`, beside 1 within one
KINDS = {"face": 0, "neck": 0, "ears": 1, "scalp": 2, "torso": 3}  # the body's parts, by what shares a colour
SOFT = 0.012  # of the picture's short side: deviation of the Gaussian a vertex takes its colour through
SURE = 30.0  # weight of what is seen straight on, beside an edge's
MIRROR = 0.1  # and of the mirror image beside that
SMOOTHED = 2  # steps of diffusion over all edges alike, at the end
HAIR = 0.3  # of the hair or hat that stands above the mesh, for the scalp
EARS, LEAST_HAIR = 0.3, 0.02  # above the ears by this share of the head it counts, from this share of the mesh's pixels
LEAST_STRANDS = 0.02  # of the picture's short side: half of the smallest square of hair whose detail is used
STRANDS = 11.0  # levels, deviation of the detail at most: a square that holds an edge would be seen again and again
EAR_REACH = 0.05  # of the picture's short side: how far about the mesh's ears an ear may be
UNKNOWN = 1e-5  # of the mean of all that is seen


def surface_colours(
    body: Any,
    portrait: np.ndarray,
    places: np.ndarray,
    sight: np.ndarray,
    mirror: np.ndarray,
    hair: np.ndarray | None = None,
) -> np.ndarray:
    """Colours `V 3` of a body's vertices, float32.

    Args:
        portrait: `H W 3` uint8. places: `V 2`, where the vertices are in it, pixels. sight: `V`, how well it sees them,
            cosines; 0 for hidden ones. mirror: `V`, the vertex that each one mirrors. hair: `3`, of `crown_colour`.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    soft = cv2.GaussianBlur(portrait, (0, 0), max(SOFT * min(portrait.shape[:2]), 0.3)).astype(np.float32)
    at = np.ascontiguousarray(places[:, None] - 0.5, np.float32)
    seen = cv2.remap(soft, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]  # type: ignore[call-overload]
    own = SURE * sight.astype(np.float64) ** 2
    other = MIRROR * own[mirror]
    laplacian, plain, first = _mesh(body)
    tied = np.zeros(len(own))
    if hair is not None:
        tied[_of(body, "scalp")] = HAIR
    known = own + other + tied
    mean = (own @ seen) / max(own.sum(), 1e-9)
    weighed = own[:, None] * seen + other[:, None] * seen[mirror] + UNKNOWN * mean
    weighed += tied[:, None] * (0 if hair is None else hair)
    count = laplacian.shape[0]  # of welded vertices: seams of the texture are none of the surface
    total, wanted = (
        np.bincount(first, known + UNKNOWN, count),
        np.stack([np.bincount(first, channel, count) for channel in weighed.T], 1),
    )
    solved = splu((laplacian + diags(total)).tocsc()).solve(wanted)
    for _ in range(SMOOTHED):  # a hairline is soft, and not as jagged as the mesh's triangles
        solved -= 0.5 * (plain @ solved) / plain.diagonal()[:, None]
    return np.asarray(np.clip(solved, 0, 255)[first], np.float32)


def well_inside(opacity: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How far from the wall places `V 2` lie in a person's `opacity` `H W`, 0 to 1: at the edge colours are mixed."""
    soft = cv2.GaussianBlur(opacity, (0, 0), max(SOFT * min(opacity.shape), 0.3))
    at = np.ascontiguousarray(places[:, None] - 0.5, np.float32)
    shown = cv2.remap(soft, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]  # type: ignore[call-overload]
    return np.asarray(np.clip((shown - 0.75) / 0.2, 0, 1))


def crown_colour(
    body: Any, portrait: np.ndarray, places: np.ndarray, opacity: np.ndarray, covered: np.ndarray
) -> np.ndarray | None:
    """The colour `3` of the hair or hat that stands above a portrait's mesh; None of a head that has hardly any.

    Args:
        places: `V 2`, of the vertices. opacity: the person's, `H W`. covered: by the mesh, `H W`.
    """
    hair = hair_above(body, places, opacity, covered)
    return np.median(portrait[hair], 0) if hair.sum() > LEAST_HAIR * covered.sum() else None


class Strands(NamedTuple):
    """Detail of hair, a square `patch` `S S 3` of signed levels; and of every vertex `V` where in it, endlessly tiled,
    `places` `V 2` pixels, and how much of it, `shares` `V`."""

    patch: np.ndarray
    places: np.ndarray
    shares: np.ndarray

    def at(self, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Levels `N 3` at points by their triangles' corners `N 3`, vertex numbers, and weights `N 3`."""
        place = (self.places[corners] * weights[..., None]).sum(1)
        side = len(self.patch)
        folded = np.abs((place + side) % (2 * side) - side)  # there and back: no seam
        x, y = np.clip(folded, 0, side - 1).astype(int).T
        return np.asarray(self.patch[y, x] * (self.shares[corners] * weights).sum(1)[:, None], np.float32)


def strands_of(
    body: Any, portrait: np.ndarray, soft: np.ndarray, hair: np.ndarray, pixels_per_metre: float
) -> Strands | None:
    """Detail for a scalp that the portrait does not see, out of the widest square of `hair` `H W`; None of too little.

    Args:
        soft: the portrait without detail, float32. pixels_per_metre: of the portrait, where the head is.
    """
    room = cv2.distanceTransform(np.pad(hair.astype(np.uint8), 1), cv2.DIST_C, 3)[1:-1, 1:-1]
    half = int(room.max() * 0.95)
    if half < max(LEAST_STRANDS * min(portrait.shape[:2]), 2):
        return None
    y, x = np.unravel_index(room.argmax(), room.shape)
    box = slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)
    patch = portrait[box].astype(np.float32) - soft[box]
    side = min(patch.shape[:2])
    patch = patch - patch.mean((0, 1))
    patch *= min(1.0, STRANDS / max(float(patch.std()), 1e-6))
    template = np.asarray(body.template)
    around = np.arctan2(template[:, 0], template[:, 2]) * np.hypot(*template[_of(body, "scalp")][:, [0, 2]].T).mean()
    places = np.stack([around, template[:, 1]], 1) * pixels_per_metre
    return Strands(patch[:side, :side], places, _of(body, "scalp").astype(np.float32))


def hair_above(body: Any, places: np.ndarray, opacity: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Where hair or a hat stands above a portrait's mesh, `H W` bool; arguments of `crown_colour`."""
    level = places[_of(body, "ears"), 1].mean()
    above = np.arange(len(opacity))[:, None] < level - EARS * (level - places[_of(body, "scalp"), 1].min())
    return np.asarray((opacity > 0.8) & ~covered & above)


def flesh_of(
    body: Any, portrait: np.ndarray, places: np.ndarray, sight: np.ndarray, hair: np.ndarray | None
) -> np.ndarray:
    """Which pixels of a portrait are nearer to the colour of its face than to that of its hair, `H W` in 0..1, softly;
    all of them where no `hair` (`3`) is known."""
    height, width = portrait.shape[:2]
    x, y = np.clip(places.astype(int), 0, (width - 1, height - 1))[_of(body, "face") & (sight > 0.5)].T
    if hair is None or not len(x):
        return np.ones((height, width), np.float32)
    soft = cv2.GaussianBlur(portrait, (0, 0), max(SOFT * min(height, width), 0.3))
    colours = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB).astype(np.float32)
    skin = np.median(colours[y, x], 0)
    dark = cv2.cvtColor(np.asarray(hair, np.uint8).reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0].astype(np.float32)
    from_skin, from_hair = (np.linalg.norm(colours - one, axis=-1) for one in (skin, dark))
    return np.asarray(np.clip((from_hair - from_skin) / np.maximum(from_hair + from_skin, 1e-6) * 4 + 0.5, 0, 1))


def about_the_ears(body: Any, places: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Where in a portrait of `size` ears may stand out beside the mesh's, `H W` in 0..1."""
    near: Any = np.zeros(size, np.uint8)
    ears, side = _of(body, "ears"), np.asarray(body.template)[:, 0] > 0
    for ear in (ears & side, ears & ~side):
        cv2.fillConvexPoly(near, cv2.convexHull(places[ear].astype(np.int32)), (1,))
    reach = 2 * round(EAR_REACH * min(size)) + 1
    near = cv2.dilate(near, np.ones((reach, reach), np.uint8)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(near, (0, 0), max(SOFT * min(size), 0.3)))


def _of(body: Any, name: str) -> np.ndarray:
    """Which vertices `V` are of a part."""
    return np.asarray(body.part) == list(body.part_names).index(name)


@functools.lru_cache(maxsize=4)
def _mesh(body: Any) -> tuple[Any, Any, np.ndarray]:
    """Laplacians `W W` of the welded mesh, with `ACROSS` and of edges that are all alike, and of each vertex the welded
    one, `V`."""
    from scipy.sparse import coo_matrix, diags

    weld = np.asarray(body.weld if body.weld is not None else np.arange(len(body.template)))
    _, first = np.unique(weld, return_inverse=True)
    kind = np.array([KINDS.get(name, 9 + number) for number, name in enumerate(body.part_names)])[body.part]
    faces = np.asarray(body.faces)
    ends = np.concatenate([faces[:, pair] for pair in ((0, 1), (1, 2), (2, 0))])
    a, b = first[ends].T
    count = first.max() + 1

    def laplacian(weights: np.ndarray) -> Any:
        edges = coo_matrix((np.r_[weights, weights], (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()
        return diags(np.asarray(edges.sum(1)).ravel()) - edges

    alike = kind[ends[:, 0]] == kind[ends[:, 1]]
    return laplacian(np.where(alike, 1.0, ACROSS)), laplacian(np.ones(len(alike))), first
