"""Hair as a shell: meridians that run from the crown over the skull to a hairline, and below it for long hair.

The shell's foot points are fixed to triangles of the body, so hair follows every identity, pose and raised brow.
Thickness, hairline, length and waves are drawn per person. Strands run along the meridians, which is what makes
noise stretched along them look combed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np

from fportrait.body.model import BodyModel
from fportrait.capture.paint import COLUMNS, ROWS, Chart

AZIMUTHS, ELEVATIONS, SHELL_ROWS, TAIL_ROWS = 96, 48, 20, 10
SHELL_VERTICES = AZIMUTHS * (SHELL_ROWS + TAIL_ROWS)
CROWN_DEGREES, LOWEST_DEGREES = 89.0, -60.0  # of elevation, where meridians begin and end
STYLES = {  # how often
    "bald": 0.04,
    "buzz": 0.10,
    "short": 0.24,
    "quiff": 0.14,
    "curly": 0.12,
    "bob": 0.14,
    "long": 0.17,
    "tied": 0.05,
}


@dataclass(frozen=True)
class Skull:
    """Where rays from the skull's centre leave the head: triangles (A, E), weights (A, E, 3), once per body."""

    centre: np.ndarray
    triangles: np.ndarray
    weights: np.ndarray
    correction: np.ndarray  # (A, E, 3) from there to a smooth skull, metres in the head's frame
    elevation_map: np.ndarray  # (ROWS, COLUMNS) degrees of elevation seen from the centre, on the texture
    hairline: np.ndarray  # (A,) degrees: an average hairline
    faces: np.ndarray  # of the shell, indices into its own vertices

    def points(self, vertices: np.ndarray, faces: np.ndarray, head: np.ndarray) -> np.ndarray:
        """Foot points (A, E, 3) on a posed mesh whose head has the world rotation `head` (3, 3)."""
        attached = np.einsum("aekx,aek->aex", vertices[faces[self.triangles]], self.weights)
        return attached + self.correction @ head.T


@dataclass(frozen=True)
class Hair:
    """One person's hair; `offsets` (A * rows, 3) from the foot points in the head's frame, metres."""

    style: str
    row: np.ndarray  # (A, rows) lower grid row of the foot
    mix: np.ndarray  # (A, rows) towards the next row
    offsets: np.ndarray
    strands: np.ndarray  # (64, 512) brightness
    scalp: np.ndarray  # (ROWS, COLUMNS) painted share

    def vertices(self, skull: Skull, vertices: np.ndarray, faces: np.ndarray, head: np.ndarray) -> np.ndarray:
        """Shell vertices for a posed mesh and the head's world rotation (3, 3)."""
        foot = skull.points(vertices, faces, head)
        a = np.arange(AZIMUTHS)[:, None]
        mix = self.mix[..., None]
        base = foot[a, self.row] * (1 - mix) + foot[a, self.row + 1] * mix
        return base.reshape(-1, 3) + self.offsets @ head.T


def azimuth_grid() -> np.ndarray:
    return (np.arange(AZIMUTHS) / AZIMUTHS - 0.5) * 2 * np.pi


def elevation_grid() -> np.ndarray:
    """Degrees, from the crown downwards."""
    return np.linspace(CROWN_DEGREES, LOWEST_DEGREES, ELEVATIONS)


def directions(azimuth: np.ndarray, elevation_degrees: np.ndarray) -> np.ndarray:
    azimuth, e = np.broadcast_arrays(azimuth, np.radians(elevation_degrees))
    return np.stack([np.sin(azimuth) * np.cos(e), np.sin(e), np.cos(azimuth) * np.cos(e)], axis=-1)


def make_skull(body: BodyModel, chart: Chart, skin_faces: np.ndarray) -> Skull:
    """Cast the rays against the outer skin; `skin_faces` are indices of its triangles (without ears)."""
    template = np.asarray(body.template, dtype=np.float64)
    faces = np.asarray(body.faces)
    temples = 0.5 * (chart.points[127] + chart.points[356])
    centre = np.array([0.0, temples[1] + 0.02, chart.axis])
    azimuth, elevation = azimuth_grid(), elevation_grid()
    rays = directions(azimuth[:, None], elevation[None])
    triangles, found = np.zeros(rays.shape[:2], np.int64), np.ones(rays.shape[:2], np.bool_)
    weights, every = np.zeros(rays.shape), rays.reshape(-1, 3)
    told = triangles.reshape(-1), weights.reshape(-1, 3), found.reshape(-1)
    _cast(centre, every, template, faces, skin_faces.astype(np.int64), *told)
    attached = np.einsum("aekx,aek->aex", template[faces[triangles]], weights)
    radius = np.einsum("aex,aex->ae", attached - centre, rays)
    foot = centre + _close_holes(radius, found)[..., None] * rays
    # heights fall along a meridian, so each column of the texture can look its elevation up
    heights = np.minimum.accumulate(foot[..., 1], axis=1) - 1e-6 * np.arange(ELEVATIONS)
    columns = np.stack([np.interp(-chart.height, -heights[a], elevation) for a in range(AZIMUTHS)], axis=1)
    columns = np.concatenate([columns, columns[:, :1]], axis=1)
    at = np.linspace(0, AZIMUTHS, COLUMNS, endpoint=False) + 0.5 * AZIMUTHS / COLUMNS
    low = at.astype(int)
    elevation_map = columns[:, low] * (1 - (at - low)) + columns[:, low + 1] * (at - low)
    forehead = chart.points[10] - centre
    front = float(np.degrees(np.arctan2(forehead[1], np.hypot(forehead[0], forehead[2]))))
    places = np.array([0, 30, 50, 62, 72, 80, 88, 100, 115, 150, 180.0])
    lines = np.array([front + 6, front + 4, front - 6, front - 20, 0, -8, 6, 6, -14, -34, -38.0])
    hairline = np.interp(np.degrees(np.abs(azimuth)), places, lines)
    elevation_map = elevation_map.astype(np.float32)
    return Skull(centre, triangles, weights, foot - attached, elevation_map, hairline, _shell_faces())


def _close_holes(radius: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Radii (A, E) with the rays that left through an ear, and their neighbours, filled in smoothly from around."""
    hole = cv2.dilate((~found).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    filled = np.where(hole, radius[~hole].mean(), radius)
    for _ in range(200):  # Laplace's equation by Jacobi steps; the azimuth is a ring
        around = np.roll(filled, 1, axis=0) + np.roll(filled, -1, axis=0)
        padded = np.pad(filled, ((0, 0), (1, 1)), mode="edge")
        filled = np.where(hole, 0.25 * (around + padded[:, 2:] + padded[:, :-2]), radius)
    # around an ear the skin already rises towards it, so the filling is too high
    return filled - 0.008 * cv2.GaussianBlur(hole.astype(np.float64), (0, 0), 1.5)


def _shell_faces() -> np.ndarray:
    rows = SHELL_ROWS + TAIL_ROWS
    a, r = np.meshgrid(np.arange(AZIMUTHS), np.arange(rows - 1), indexing="ij")
    p00, p10 = a * rows + r, (a + 1) % AZIMUTHS * rows + r
    quads = np.stack([p00, p00 + 1, p10, p10, p00 + 1, p10 + 1], axis=-1)
    return quads.reshape(-1, 3).astype(np.int32)


def sample_hair(skull: Skull, chart: Chart, rng: np.random.Generator, beardy: bool) -> Hair:
    """Draw a style and its measures; long styles are rarer with a beard."""
    weights = np.array(list(STYLES.values())) * ([1, 1, 1, 1, 1, 0.2, 0.4, 0.7] if beardy else 1)
    style = list(STYLES)[rng.choice(len(STYLES), p=weights / weights.sum())]
    azimuth, side = azimuth_grid(), np.abs(azimuth_grid())
    line = skull.hairline + rng.uniform(-4.0, 5.0) * (side < 1.0)
    line = line + rng.uniform(0, 14) * np.exp(-(((side - 0.6) / 0.3) ** 2)) * (rng.random() < 0.35)  # receding corners
    fringe = style in ("bob", "long", "short") and rng.random() < 0.3
    if fringe:
        line = line - rng.uniform(8, 15) * np.clip((0.95 - side) / 0.3, 0, 1)
    wave = _ring_noise(rng, 24) * 1.2
    line = np.clip(line + wave, LOWEST_DEGREES + 3, 80)
    top, sides, tail = {
        "bald": (0.0, 0.0, 0.0),
        "buzz": (rng.uniform(0.002, 0.005), rng.uniform(0.001, 0.003), 0.0),
        "short": (rng.uniform(0.010, 0.022), rng.uniform(0.005, 0.012), 0.0),
        "quiff": (rng.uniform(0.025, 0.045), rng.uniform(0.004, 0.010), 0.0),
        "curly": (rng.uniform(0.025, 0.065), rng.uniform(0.018, 0.055), 0.0),
        "bob": (rng.uniform(0.014, 0.026), rng.uniform(0.018, 0.030), rng.uniform(0.05, 0.11)),
        "long": (rng.uniform(0.010, 0.024), rng.uniform(0.012, 0.026), rng.uniform(0.14, 0.26)),
        "tied": (rng.uniform(0.005, 0.009), rng.uniform(0.004, 0.007), 0.0),
    }[style]
    shell = np.linspace(0, 1, SHELL_ROWS)[None] ** np.array(0.9)
    elevation = 89.0 + (line[:, None] - 89.0) * shell
    up = np.clip(np.sin(np.radians(elevation)), 0, 1)
    thick = sides + (top - sides) * up**1.2
    if style == "quiff":
        thick = thick * (0.6 + 0.7 * np.exp(-((azimuth[:, None] / 0.9) ** 2)) * (up > 0.2))
    if style == "tied":
        where = directions(np.array(np.pi), np.array(rng.uniform(15, 65)))
        near = directions(azimuth[:, None], elevation) @ where
        thick = thick + rng.uniform(0.035, 0.055) * np.sqrt(np.clip((near - 0.93) / 0.07, 0, 1))
    parting = rng.uniform(-0.8, 0.8)
    if style in ("bob", "long", "short"):
        groove = np.exp(-(((azimuth - parting) / 0.12) ** 2)) * (side < 1.3)
        thick = thick * (1 - 0.55 * groove[:, None] * (shell > 0.15))
    blunt = 0.6 if fringe else {"curly": 0.6, "quiff": 0.55, "bob": 0.4, "long": 0.35}.get(style, 0.15)
    edge = np.where(shell > 0.8, np.sqrt(np.clip((1 - shell) / 0.2, 0, 1)), 1.0)
    thick = thick * (blunt + (1 - blunt) * edge)
    rough = {"curly": 0.22, "short": 0.14, "quiff": 0.14}.get(style, 0.07)
    knots = rng.standard_normal((10, 32)).astype(np.float32)
    knots[-1] = knots[0]  # closed around the head
    lumps = cv2.resize(knots, (SHELL_ROWS, AZIMUTHS))
    thick = thick * np.clip(1 + rough * lumps, 0.4, 1.8)
    # meridians that meet at the crown must agree there, or it bristles
    ring = thick.mean(axis=0, keepdims=True)
    thick = ring + (thick - ring) * np.clip(shell / 0.3, 0, 1)
    outward = directions(azimuth[:, None], elevation)
    offsets = outward * thick[..., None]

    rows = SHELL_ROWS + TAIL_ROWS
    shape = np.zeros((AZIMUTHS, rows, 3))
    shape[:, :SHELL_ROWS] = offsets
    along = np.linspace(0, 1, TAIL_ROWS + 1)[1:]
    curtain = np.clip((side - rng.uniform(1.15, 1.35)) / 0.15, 0, 1)[:, None] * tail
    drop = curtain * along[None] * (1 + 0.05 * _ring_noise(rng, 40)[:, None])
    flare = rng.uniform(-0.02, 0.05) * drop + 0.004 * np.sin(along * 9 + rng.uniform(0, 6)) * (tail > 0)
    flat = np.stack([np.sin(azimuth), np.zeros(AZIMUTHS), np.cos(azimuth)], axis=-1)[:, None]
    end = offsets[:, -1:]
    shape[:, SHELL_ROWS:] = end + flat * flare[..., None] + np.array([0, -1.0, -0.08]) * drop[..., None]

    elevations = np.concatenate([elevation, np.repeat(line[:, None], TAIL_ROWS, axis=1)], axis=1)
    if tail:  # hang from ear height: lower down the foot points would follow the neck inwards
        hang = np.maximum(elevations, -6.0)
        swap = (side > 1.0)[:, None]
        lowered = np.where(swap, hang, elevations)
        shape[..., 1] -= np.where(swap, np.radians(lowered - elevations) * 0.09, 0.0)
        elevations = lowered
    place = (89.0 - elevations) / (89.0 - LOWEST_DEGREES) * (ELEVATIONS - 1)
    row = np.clip(place.astype(int), 0, ELEVATIONS - 2)
    cells = (6, 256) if style != "curly" else (40, 160)
    strands = cv2.resize(rng.standard_normal(cells).astype(np.float32), (512, 64), interpolation=cv2.INTER_LINEAR)
    locks = cv2.resize(rng.standard_normal((4, 48)).astype(np.float32), (512, 64), interpolation=cv2.INTER_CUBIC)
    strands = np.clip(1 + 0.28 * strands + 0.15 * locks, 0.25, 1.9).astype(np.float32)
    scalp = painted_scalp(skull, line, rng) * (0.0 if style == "bald" else 0.85 if style == "buzz" else 1.0)
    return Hair(style, row, place - row, shape.reshape(-1, 3), strands, scalp.astype(np.float32))


def _ring_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    knots = rng.standard_normal(cells)
    return np.interp(np.arange(AZIMUTHS) / AZIMUTHS * cells, np.arange(cells + 1), np.append(knots, knots[0]))


def painted_scalp(skull: Skull, line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The painted hairline: soft, with single strands reaching over it."""
    at = np.arange(COLUMNS) * AZIMUTHS / COLUMNS
    edge = np.interp(at, np.arange(AZIMUTHS + 1), np.append(line, line[0])) + 0.9 * rng.standard_normal(COLUMNS)
    inside = np.clip((skull.elevation_map - edge[None] + 1.0) / 3.0, 0, 1)
    return cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.8) * (np.arange(ROWS) >= 0)[:, None]


@numba.njit(cache=True)
def _cast(
    centre: np.ndarray,
    rays: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    chosen: np.ndarray,
    hit: np.ndarray,
    weights: np.ndarray,
    found: np.ndarray,
) -> None:
    """The farthest triangle each ray crosses (Möller and Trumbore 1997) into `hit` `N`, its `weights` `N 3`, both zero
    before, and whether one was `found` `N`, true before.

    They are given, because Numba crashes when it returns several arrays to an interpreter that was interrupted.
    """
    for r in range(len(rays)):
        d = rays[r]
        best, nearest, miss = 0.0, 0, -2.0
        for index in chosen:
            a, b, c = vertices[faces[index, 0]], vertices[faces[index, 1]], vertices[faces[index, 2]]
            middle = (a + b + c) / 3.0 - centre
            facing = (middle * d).sum() / np.sqrt((middle * middle).sum())
            if facing > miss:
                miss, nearest = facing, index
            if facing < 0.8:
                continue
            e1, e2 = b - a, c - a
            p = np.cross(d, e2)
            det = (e1 * p).sum()
            if abs(det) < 1e-14:
                continue
            t0 = centre - a
            u = (t0 * p).sum() / det
            if u < -1e-6 or u > 1 + 1e-6:
                continue
            q = np.cross(t0, e1)
            v = (d * q).sum() / det
            if v < -1e-6 or u + v > 1 + 1e-6:
                continue
            t = (e2 * q).sum() / det
            if t > best:
                best = t
                hit[r] = index
                weights[r, 0], weights[r, 1], weights[r, 2] = 1 - u - v, u, v
        if best == 0.0:  # a hole, for example at an ear: the nearest triangle stands in
            found[r] = False
            hit[r] = nearest
            weights[r] = 1.0 / 3.0
