"""A picture as the texture of a mesh that is drawn in another pose, and what it drags along beside the mesh."""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numba
import numpy as np

from fportrait.body.backdrop import Backdrop, around, before_backdrop, beside_the_silhouette, over_the_shoulders
from fportrait.body.mouth import draw_inside
from fportrait.body.rasterizer import rasterize
from fportrait.camera.cameras import scale_intrinsics

PERSON_REACH = 4.0  # how many times as far a person moves with the mesh who is told apart from what stands behind
SPREAD_BLUR = 0.25  # of the reach: deviation of the Gaussian that smooths what is spread
SEAM = 0.012  # of the picture's short side: deviation of the Gaussian that shares are softened with
EDGE = 0.015  # and that ends of what another portrait shows are
COARSE = 4  # samples of a side, of which one tells how shoulders move
DRAW_SCALE = 3  # the picture is drawn larger and averaged down, as filmed ones are


class Beyond(NamedTuple):
    """Of the `N` samples of a target that see the mesh: `colours` `N 3` from elsewhere than the portrait, and their
    `shares` `N` of what is drawn, 0 where it sees for itself; how much of them is the `inside` of a mouth, `N`, with
    usual colours; and which are `lost`: nothing is known of them, they are filled from what is around them."""

    colours: np.ndarray
    shares: np.ndarray
    inside: np.ndarray
    lost: np.ndarray


class Target:
    """What each pixel of a picture sees of a mesh: found once, and painted from any number of portraits.

    Args:
        vertices: `V 3` before the camera, metres. intrinsics: `3 3`, pixels. faces: `F 3`.
        size: height and width of the picture, pixels. samples: per pixel and side.
    """

    def __init__(
        self, vertices: np.ndarray, intrinsics: np.ndarray, faces: np.ndarray, size: tuple[int, ...], samples: int
    ):
        self.size, self.samples, self.vertices, self.intrinsics, self.faces = size, samples, vertices, intrinsics, faces
        tall, wide = (side * samples for side in size)
        ids, weights, _ = rasterize(vertices, faces, scale_intrinsics(intrinsics, samples), tall, wide)
        self.covered = ids >= 0  # of every sample
        self.places = np.flatnonzero(self.covered)  # `N` samples, row by row
        self.triangles = ids.reshape(-1)[self.places]  # `N`
        self.weights = weights.reshape(-1, 3)[self.places]  # `N 3`, of the triangles' corners
        across, down = ((np.arange(side, dtype=np.float32) + 0.5) / samples for side in (wide, tall))
        self.grid = np.stack(np.meshgrid(across, down), -1)  # where the samples lie, `H W 2` pixels
        _, self.facing = on_surface(vertices, faces, self.triangles, self.weights)  # `N` cosines
        self._fading: dict[float, np.ndarray] = {}

    @functools.cached_property
    def within(self) -> np.ndarray:
        """How much of what lies around each sample the mesh covers, `H W`, at least a tenth; see SEAM."""
        covered = self.covered.astype(np.float32)
        return np.maximum(cv2.GaussianBlur(covered, (0, 0), SEAM * min(covered.shape)), 0.1)

    def well_within(self, shown: np.ndarray) -> np.ndarray:
        """How far inside what is `shown`, `N` true or not, its points lie, `N` in 0..1: where a picture's sight of the
        mesh ends at a fold, it ends in the teeth of triangles. Beside the mesh nothing ends."""
        told = np.ones(self.covered.size, np.float32)
        told[self.places] = shown
        soft = cv2.GaussianBlur(told.reshape(self.covered.shape), (0, 0), EDGE * min(self.covered.shape))
        return np.asarray(np.clip(2 * soft.reshape(-1)[self.places] - 1, 0, 1))

    def fading(self, reach: float) -> np.ndarray:
        """`fade` around the mesh, `H W`."""
        if reach not in self._fading:
            self._fading[reach] = fade(self.covered, reach)
        return self._fading[reach]


def warp_portrait(
    portrait: np.ndarray,
    portrait_vertices: np.ndarray,
    portrait_intrinsics: np.ndarray,
    vertices: np.ndarray,
    intrinsics: np.ndarray,
    faces: np.ndarray,
    reach: float = 0.0,
    scale: int = DRAW_SCALE,
) -> np.ndarray:
    """The portrait as a texture of the mesh, drawn elsewhere: `H W 3` uint8.

    Every pixel that sees the mesh takes the portrait's colour at the place where the same point of the surface was,
    which is a piecewise projective map (piecewise affine but for the perspective within a triangle). Points that the
    portrait does not see take what lies before them there; pixels beside the mesh keep the portrait's.

    Args:
        portrait: `H W 3` uint8. portrait_vertices, vertices: `V 3` in the space of their own OpenCV cameras, metres.
        portrait_intrinsics, intrinsics: `3 3`, pixels. faces: `F 3`.
        reach: how far the mesh takes along what lies beside it, hair and hats, as a share of the short side: a pixel
            there moves as the nearest one on the mesh, less by exp(-distance / reach). 0 leaves it where it is.
        scale: samples per pixel and side.
    """
    target = Target(vertices, intrinsics, faces, portrait.shape[:2], scale)
    points, _ = on_surface(portrait_vertices, faces, target.triangles, target.weights)
    return draw_warped(portrait, target, project(points, portrait_intrinsics), points[:, 2] > 0, reach)


def draw_warped(
    portrait: np.ndarray,
    target: Target,
    sources: np.ndarray,
    front: np.ndarray,
    reach: float,
    beyond: Beyond | None = None,
    backdrop: Backdrop | None = None,
) -> np.ndarray:
    """The picture `H W 3` uint8 whose samples on the mesh have the portrait's colours at `sources` `N 2`, pixels.

    Args:
        front: which of them lie before the portrait's camera, `N`. reach: of `warp_portrait`.
        beyond: what the portrait does not see itself. backdrop: what stays where it is; None drags all along.
    """
    drawn, source = draw_person(portrait, target, sources, front, reach, beyond, backdrop)
    if backdrop is not None:
        drawn = before_backdrop(drawn, backdrop, source, target.covered)
    return drawn if target.samples == 1 else cv2.resize(drawn, portrait.shape[1::-1], interpolation=cv2.INTER_AREA)


def draw_person(
    portrait: np.ndarray,
    target: Target,
    sources: np.ndarray,
    front: np.ndarray,
    reach: float,
    beyond: Beyond | None = None,
    backdrop: Backdrop | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The picture at every sample of the target, `H W 3` uint8, not yet before its backdrop; and where each comes from
    in the portrait, `H W 2`, OpenCV's pixels. Arguments as `draw_warped` has them."""
    known = front if beyond is None else front & ~beyond.lost
    on_mesh = target.places[known]
    moved = np.zeros((*target.covered.shape, 2), np.float32)
    moved.reshape(-1, 2)[on_mesh] = sources[known] - target.grid.reshape(-1, 2)[on_mesh]
    if reach and len(on_mesh):
        seen = np.zeros(target.covered.shape, bool)
        seen.reshape(-1)[on_mesh] = True
        reach *= min(seen.shape)
        fading = target.fading(reach if backdrop is None else PERSON_REACH * reach)
        moved = spread(moved, seen, reach, fading)
    source = target.grid + moved - 0.5  # OpenCV samples at whole numbers
    if backdrop is not None:
        beside_the_silhouette(backdrop, source, target.covered)
        if (still := _with_the_trunk(target, backdrop, sources, known, reach)) is not None:
            over_the_shoulders(backdrop, source, still, target.covered)
    # Beyond its edge a picture goes on as in a mirror, for people; its last pixels would be drawn out to streaks.
    border = cv2.BORDER_REPLICATE if backdrop is None else cv2.BORDER_REFLECT_101
    drawn = cv2.remap(portrait, source, None, cv2.INTER_CUBIC, borderMode=border)  # type: ignore[call-overload]
    if beyond is not None:
        _fill(drawn, target, front, beyond, 1.0 if backdrop is None else backdrop.slack)
    return drawn, source


def _with_the_trunk(
    target: Target, backdrop: Backdrop, sources: np.ndarray, known: np.ndarray, reach: float
) -> np.ndarray | None:
    """Where every sample would come from if all went with the shoulders, `H W 2`, OpenCV's pixels; None where they are
    not seen. Found at a quarter of the size: how shoulders move is smooth. `reach`: in samples."""
    if backdrop.clothes is None or backdrop.trunk is None:
        return None
    tall, wide = target.covered.shape
    own = known & backdrop.trunk[target.triangles]
    own &= (target.places // wide % COARSE == 0) & (target.places % wide % COARSE == 0)
    at = target.places[own]
    if not len(at):
        return None
    small = -(-tall // COARSE), -(-wide // COARSE)
    moved, seen = np.zeros((*small, 2), np.float32), np.zeros(small, bool)
    y, x = at // wide // COARSE, at % wide // COARSE
    moved[y, x], seen[y, x] = sources[own] - target.grid.reshape(-1, 2)[at], True
    fading = np.ascontiguousarray(target.fading(PERSON_REACH * reach)[::COARSE, ::COARSE])
    moved = spread(moved, seen, reach / COARSE, fading)
    size = small[1] * COARSE, small[0] * COARSE
    return target.grid + cv2.resize(moved, size, interpolation=cv2.INTER_LINEAR)[:tall, :wide] - 0.5


def _fill(drawn: np.ndarray, target: Target, front: np.ndarray, beyond: Beyond, slack: float) -> None:
    """Put into `drawn` `H W 3` what the portrait does not see itself; where it comes from elsewhere, without a seam.
    `slack`: of `Backdrop`."""
    flat, mixed = drawn.reshape(-1, 3), np.flatnonzero(front & (beyond.shares > 0))
    if len(mixed):
        share, colours = np.zeros(target.covered.shape, np.float32), np.zeros(drawn.shape, np.float32)
        at = target.places[mixed]
        share.reshape(-1)[at], colours.reshape(-1, 3)[at] = beyond.shares[mixed], beyond.colours[mixed]
        told = (share > 0).astype(np.float32)
        soft = cv2.GaussianBlur(share, (0, 0), SEAM * min(share.shape)).reshape(-1)
        beside = target.places[front]
        beside = beside[soft[beside] != 0]
        if slack < 1:  # of what is softened the mesh's own part: at an outline that is new, shares do not mix with none
            own = slack + (1 - slack) * target.within.reshape(-1)[beside]
            soft[beside] = np.minimum(soft[beside] / own, 1)
        wide = around(colours, told)
        wide.reshape(-1, 3)[at] = colours.reshape(-1, 3)[at]
        mean = flat[beside] + soft[beside, None] * (wide.reshape(-1, 3)[beside] - flat[beside])
        flat[beside] = np.clip(mean + 0.5, 0, 255).astype(np.uint8)
    gaps = target.places[front & beyond.lost & (beyond.shares <= 0)]
    known = target.places[front & ~beyond.lost]
    if len(gaps) and len(known):
        told = np.zeros(target.covered.shape, np.float32)
        told.reshape(-1)[known] = 1
        flat[gaps] = np.clip(around(drawn, told).reshape(-1, 3)[gaps] + 0.5, 0, 255).astype(np.uint8)
    inside = np.flatnonzero(front & (beyond.inside > 0))
    draw_inside(drawn, target.places[inside], beyond.colours[inside], beyond.inside[inside])


def fade(covered: np.ndarray, reach: float) -> np.ndarray:
    """exp(-distance / reach) from what is `covered`, `H W`: 1 within it."""
    away = cv2.distanceTransform((~covered).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.exp(-away / np.float32(reach)))


def spread(moved: np.ndarray, seen: np.ndarray, reach: float, fading: np.ndarray | None = None) -> np.ndarray:
    """Displacements `H W 2`, known where `seen`, from the nearest such pixel elsewhere, fading over `reach`.

    Args:
        fading: `H W`, how much of them is left; `fade` around what is seen when None.
    """
    beside = (~seen).astype(np.uint8)
    distance, label = cv2.distanceTransformWithLabels(beside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros((int(label.max()) + 1, 2), np.float32)
    by_label[label[seen]] = moved[seen]
    near = by_label.take(np.asarray(label, np.int32), 0)
    # Neighbours whose nearest pixels lie apart would part like hair: smooth, the more the further away.
    smooth = cv2.GaussianBlur(near, (0, 0), SPREAD_BLUR * reach)
    share = np.minimum(distance / np.float32(SPREAD_BLUR * reach), 1)[..., None]
    left = fade(seen, reach) if fading is None else fading
    return np.asarray((near + share * (smooth - near)) * left[..., None])


def on_surface(
    vertices: np.ndarray, faces: np.ndarray, triangles: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points `N 3` of a mesh by triangles `N` and weights `N 3` of their corners, and how much the triangles face the
    camera at the origin there: cosines `N`."""
    points, facing = np.empty((len(triangles), 3), np.float32), np.empty(len(triangles), np.float32)
    vertices, faces = np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
    _on_surface(vertices, faces, triangles, np.ascontiguousarray(weights), points, facing)
    return points, facing


@numba.njit(cache=True, nogil=True)
def of_corners(values, faces, triangles, weights):
    """Values `V C` of a mesh's vertices at points by their triangles `N` and weights `N 3` of the corners: `N C`,
    float32."""
    found = np.empty((len(triangles), values.shape[1]), np.float32)
    for n in range(len(triangles)):
        corners = faces[triangles[n]]
        for c in range(values.shape[1]):
            both = weights[n, 0] * values[corners[0], c] + weights[n, 1] * values[corners[1], c]
            found[n, c] = both + weights[n, 2] * values[corners[2], c]
    return found


@numba.njit(cache=True, nogil=True)
def _on_surface(vertices, faces, triangles, weights, points, facing):
    """Float32 throughout and summed from left to right: the numbers that NumPy's sums over an axis of three give."""
    for n in range(len(triangles)):
        f = triangles[n]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for i in range(3):
            both = weights[n, 0] * vertices[a, i] + weights[n, 1] * vertices[b, i]
            points[n, i] = both + weights[n, 2] * vertices[c, i]
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz) * np.sqrt(x * x + y * y + z * z)
        facing[n] = -(nx * x + ny * y + nz * z) / max(length, np.float32(1e-12))


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Pixels `N 2` of points `N 3` before a camera; any number for those behind it."""
    pixels = points @ np.asarray(intrinsics, np.float32).T
    return np.asarray(pixels[:, :2] / np.maximum(pixels[:, 2:], 1e-6))


def values_at(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values `N C` of a picture `H W` or `H W C` at places `N 2`, pixels; those of its edge beyond it."""
    rows = -(-len(places) // 1024)  # OpenCV takes neither empty nor very wide maps
    at = np.zeros((max(rows, 1) * 1024, 2), np.float32)
    at[: len(places)] = places - 0.5
    grid = at.reshape(-1, 1024, 2)
    found = cv2.remap(picture, grid, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found.reshape(grid.shape[0] * 1024, -1)[: len(places)])
