"""The portrait painted on the body's mesh and drawn in another pose: pictures that need no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from fportrait.body.pose import Pose
from fportrait.body.rasterizer import rasterize
from fportrait.camera.cameras import scale_intrinsics

WARP_REACH, WARP_SCALE = 0.12, 2  # of `PortraitPainter`
INSIDE = {"teeth": (183, 176, 162), "tongue": (101, 57, 60), "mouth_cavity": (73, 44, 42)}  # sRGB, of rendered people
SPREAD_BLUR = 0.25  # of the reach: deviation of the Gaussian that smooths what is spread
SIGHT_LOW = 0.2  # cosine below which the first portrait sees a point badly enough for another one to be asked
SIGHT_DEPTH = 0.008  # metres behind what a pixel sees that still count as seen
USUAL_LIGHT = 140  # median of a face's grey levels that INSIDE goes with
DRAW_SCALE = 3  # the picture is drawn larger and averaged down, as filmed ones are


def acting_vertices(body: Any, shape: np.ndarray, actions: np.ndarray | None, pose: Pose) -> np.ndarray:
    """The vertices `V 3` that the portrait is painted on: the body with the facial actions that a code tells.

    The normal maps stay without expression, as the paper has them: what moves the painted face is the code alone. So a
    model is shown where lips and lids go, as the pose shows it where the head does.

    Args:
        actions: `52`, of `tracking.expression.ActionReadout`; None, and any body but the embedded one, stay at rest.
    """
    return np.asarray(body.vertices(shape, actions if hasattr(body, "action_names") else None, pose))


def warp_portrait(
    portrait: np.ndarray,
    portrait_vertices: np.ndarray,
    portrait_intrinsics: np.ndarray,
    vertices: np.ndarray,
    intrinsics: np.ndarray,
    faces: np.ndarray,
    reach: float = 0.0,
    scale: int = DRAW_SCALE,
    beyond: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
) -> np.ndarray:
    """The portrait as a texture of the mesh, drawn elsewhere: `H W 3` uint8.

    Every pixel that sees the mesh takes the portrait's colour at the place where the same point of the surface was,
    which is a piecewise projective map (piecewise affine but for the perspective within a triangle). Points that the
    portrait does not see take what lies before them there; pixels beside the mesh keep the portrait's.

    Args:
        portrait: `H W 3` uint8. portrait_vertices, vertices: `V 3` in the space of their own OpenCV cameras, metres.
        portrait_intrinsics, intrinsics: `3 3`, pixels. faces: `F 3`.
        reach: how far the mesh takes along what lies beside it, hair and hats, as a share of the picture: a pixel
            there moves as the nearest one on the mesh, less by exp(-distance / reach). 0 leaves it where it is.
        scale: samples per pixel and side.
        beyond: colours `N 3` of points that the portrait does not see, and their shares `N` of what is drawn, 0 where
            it does, and which of them `N` nothing is known of, so that they are drawn as what lies beside the mesh is;
            from triangles `N`, weights `N 3` of their corners, and places in the portrait `N 2`.
    """
    height, width = (scale * side for side in portrait.shape[:2])
    ids, weights, _ = rasterize(vertices, faces, scale_intrinsics(intrinsics, scale), height, width)
    y, x = np.nonzero(ids >= 0)
    corners = np.asarray(portrait_vertices, np.float32)[np.asarray(faces)[ids[y, x]]]  # N 3 3
    points = (weights[y, x].astype(np.float32)[..., None] * corners).sum(1)
    pixels = points @ np.asarray(portrait_intrinsics, np.float32).T
    front = pixels[:, 2] > 0
    y, x, pixels = y[front], x[front], pixels[front]
    across, down = ((np.arange(side, dtype=np.float32) + 0.5) / scale for side in (width, height))
    grid = np.stack(np.meshgrid(across, down), -1)
    moved, places = np.zeros((height, width, 2), np.float32), pixels[:, :2] / pixels[:, 2:]
    known = np.ones(len(y), bool)
    if beyond is not None and len(y):
        colours, shares, lost = beyond(ids[y, x], weights[y, x], places)
        known = ~lost
    moved[y[known], x[known]] = places[known] - grid[y[known], x[known]]
    if reach and known.any():
        seen = np.zeros((height, width), bool)
        seen[y[known], x[known]] = True
        moved = spread(moved, seen, reach * height, ids >= 0)
    source = grid + moved - 0.5  # OpenCV samples at whole numbers
    drawn = cv2.remap(portrait, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    if beyond is not None and len(y):
        mixed = drawn[y, x] + shares[:, None] * (colours - drawn[y, x])
        drawn[y, x] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return drawn if scale == 1 else cv2.resize(drawn, portrait.shape[1::-1], interpolation=cv2.INTER_AREA)


def spread(moved: np.ndarray, seen: np.ndarray, reach: float, covered: np.ndarray | None = None) -> np.ndarray:
    """Displacements `H W 2`, known where `seen`, from the nearest such pixel elsewhere, fading over `reach`.

    Args:
        covered: `H W`, the mesh, within which nothing fades; what is seen when None.
    """
    beside = (~seen).astype(np.uint8)
    distance, label = cv2.distanceTransformWithLabels(beside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros((int(label.max()) + 1, 2), np.float32)
    by_label[label[seen]] = moved[seen]
    near = by_label[label]
    # Neighbours whose nearest pixels lie apart would part like hair: smooth, the more the further away.
    smooth = cv2.GaussianBlur(near, (0, 0), SPREAD_BLUR * reach)
    share = np.minimum(distance / np.float32(SPREAD_BLUR * reach), 1)[..., None]
    away = distance if covered is None else cv2.distanceTransform((~covered).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray((near + share * (smooth - near)) * np.exp(-away / np.float32(reach))[..., None])


class PortraitPainter:
    """The portrait that a model is given as a condition: painted on its body, and drawn in any pose and face.

    What the mesh drags along beside it fades with distance (`warp_portrait`). The inside of a mouth that the portrait
    keeps closed has no colour there; it takes a usual one, in the portrait's own light. A side of the head that it does
    not see comes from other portraits of the person that do, or else from the side that it sees, mirrored.

    Args:
        body: whose vertices are given. portrait: `H W 3` uint8. vertices: `V 3` of the portrait's own pose and face
            (`acting_vertices`), in its camera's space. intrinsics: `3 3`, pixels. samples: per pixel and side.
        others: further portraits of the same person, of any size.
    """

    def __init__(
        self,
        body: Any,
        portrait: np.ndarray,
        vertices: np.ndarray,
        intrinsics: np.ndarray,
        samples: int = WARP_SCALE,
        others: Sequence[PortraitPainter] = (),
    ):
        self.body, self.samples, self.others = body, samples, list(others)
        self.portrait, self.vertices, self.intrinsics = portrait, vertices, intrinsics
        self.faces, self._inside = body.faces, inside_colours(body)
        height, width = (samples * side for side in portrait.shape[:2])
        ids, _, self._depth = rasterize(vertices, self.faces, scale_intrinsics(intrinsics, samples), height, width)
        seen = cv2.resize((ids >= 0).astype(np.uint8), portrait.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        self.light = np.median(portrait[seen], 0) if seen.any() else np.full(3, USUAL_LIGHT)  # of the face, by channel
        if self._inside is not None:
            inside = np.append(np.isfinite(self._inside[:, 0]), False)  # the last one stands for -1, nothing
            self._shown = inside[ids]
            light = np.median(portrait[seen].mean(1)) / USUAL_LIGHT if seen.any() else 1.0
            self._inside = np.clip(self._inside * np.float32(light), 0, 255)

    def __call__(self, vertices: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """The picture `H W 3` of a body at `vertices` `V 3` before a camera of `intrinsics` `3 3`."""
        own = (self.portrait, self.vertices, self.intrinsics)
        return warp_portrait(*own, vertices, intrinsics, self.faces, WARP_REACH, self.samples, self._beyond)

    def _beyond(
        self, triangles: np.ndarray, weights: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        colours, shares = np.zeros((len(triangles), 3), np.float32), np.zeros(len(triangles), np.float32)
        hidden = np.ones(len(triangles), bool)  # from every portrait
        if self._inside is not None:
            x, y = self._pixels(places)
            hidden = ~self._shown[y, x]
        best = self.sight(triangles, weights)[0]
        candidates = [(other, False) for other in self.others]
        for other, mirrored in [*candidates, *[(self, True)] * (mirror_vertices(self.body) is not None)]:
            sight, seen_at = other.sight(triangles, weights, mirrored)
            ahead = np.clip((SIGHT_LOW - best) / SIGHT_LOW, 0, 1) * (sight > np.maximum(best, SIGHT_LOW))
            taken = ahead > shares
            colours[taken] = other.colours(seen_at[taken]) * (self.light / np.maximum(other.light, 1))
            shares = np.maximum(shares, ahead)
            hidden &= mirrored | (sight <= 0)
        if self._inside is not None:
            inside = hidden & np.isfinite(self._inside[triangles, 0])
            colours[inside], shares[inside] = self._inside[triangles[inside]], 1
        return colours, shares, (best <= 0) & (shares <= 0)

    def _pixels(self, places: np.ndarray) -> np.ndarray:
        height, width = self._depth.shape
        return np.clip((places * self.samples).astype(int), 0, (width - 1, height - 1)).T

    def sight(
        self, triangles: np.ndarray, weights: np.ndarray, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """How well the portrait sees points of the surface, `N` cosines, 0 for hidden ones; and where, `N 2` pixels.

        Args:
            mirrored: asks for the points of the other side of the head that they mirror.
        """
        named = np.asarray(self.faces)[triangles]
        mirror = mirror_vertices(self.body)
        if mirrored and mirror is not None:
            named = mirror[named][:, ::-1]  # a mirrored triangle turns the other way
            weights = weights[:, ::-1]
        corners = np.asarray(self.vertices, np.float32)[named]  # N 3 3
        points = (weights.astype(np.float32)[..., None] * corners).sum(1)
        places = points @ np.asarray(self.intrinsics, np.float32).T
        places = places[:, :2] / np.maximum(places[:, 2:], 1e-6)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(points, axis=1)
        facing = -(normals * points).sum(1) / np.maximum(lengths, 1e-12)
        x, y = self._pixels(places)
        height, width = self.portrait.shape[:2]
        within = ((places >= 0) & (places < (width, height))).all(1) & (points[:, 2] > 0)
        seen = within & (points[:, 2] < self._depth[y, x] + SIGHT_DEPTH)
        return np.where(seen, np.clip(facing, 0, 1), 0), places

    def colours(self, places: np.ndarray) -> np.ndarray:
        """The portrait's colours `N 3` at places `N 2`, pixels."""
        rows = -(-len(places) // 1024)  # OpenCV takes neither empty nor very wide maps
        at = np.zeros((max(rows, 1) * 1024, 2), np.float32)
        at[: len(places)] = places - 0.5
        grid = at.reshape(-1, 1024, 2)
        drawn = cv2.remap(self.portrait, grid, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        return np.asarray(drawn.reshape(-1, 3)[: len(places)])


@functools.lru_cache(maxsize=4)
def mirror_vertices(body: Any) -> np.ndarray | None:
    """For every vertex the one, of its part, that lies nearest to its mirror image at rest, `V`; None of a body whose
    template is not known."""
    if not (hasattr(body, "template") and hasattr(body, "part")):
        return None
    from scipy.spatial import cKDTree

    template, part = np.asarray(body.template, np.float64), np.asarray(body.part)
    mirror = np.arange(len(template))
    for number in np.unique(part):
        own = np.flatnonzero(part == number)
        _, nearest = cKDTree(template[own]).query(template[own] * (-1, 1, 1))
        mirror[own] = own[nearest]
    return mirror


def inside_colours(body: Any) -> np.ndarray | None:
    """Colours `F 3` of the triangles inside the mouth, NaN elsewhere; None of a body that has no such parts."""
    names = list(getattr(body, "part_names", []))
    if not set(INSIDE) <= set(names):
        return None
    part = np.asarray(body.part)[np.asarray(body.faces)[:, 0]]
    colours = np.full((len(part), 3), np.nan, np.float32)
    for name, colour in INSIDE.items():
        colours[part == names.index(name)] = colour
    return colours
