"""What people wear on the head: hats, hoods, scarves and bands as shells; spectacles, earrings, ornaments as meshes.

Pieces are drawn on the neutral head and carried rigidly with it. Their colours lie on one small picture, the atlas:
its upper three quarters are cloth, the lowest quarter holds plain squares for frames, lenses and jewels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fportrait.body.model import BodyModel, Pose
from fportrait.capture.hair import (
    AZIMUTHS,
    LOWEST_DEGREES,
    SHELL_ROWS,
    TAIL_ROWS,
    Hair,
    Skull,
    azimuth_grid,
    directions,
)
from fportrait.capture.variety.fields import any_colour
from fportrait.capture.variety.outlines import hanging_tail, ring, shape_shell, shell_elevation
from fportrait.capture.variety.scenery import cloth_picture

ATLAS = 192
CELLS = 8  # plain squares along the atlas's lowest quarter
KINDS = ("cap", "brim", "tall", "scarf", "turban", "band")


@dataclass(frozen=True)
class Piece:
    """A rigid piece: `points` `N 3` on the neutral head, relative to the mean of the vertices `anchor`."""

    points: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    anchor: np.ndarray

    def vertices(self, body: np.ndarray, head: np.ndarray) -> np.ndarray:
        return np.asarray(body[self.anchor].mean(0) + self.points @ head.T)


@dataclass(frozen=True)
class Wear:
    """All of a person's pieces. `atlas` `S S 4` float32: linear light and gloss."""

    headgear: Hair | None
    pieces: tuple[Piece, ...]
    atlas: np.ndarray


def sample_wear(
    body: BodyModel, skull: Skull, warp: np.ndarray, identity: np.ndarray, rng: np.random.Generator, amount: float
) -> Wear | None:
    """What a person wears; None for nothing."""
    atlas = np.zeros((ATLAS, ATLAS, 4), np.float32)
    high = 3 * ATLAS // 4
    atlas[:high, :, :3] = cloth_picture(rng, (high, ATLAS))
    atlas[:high, :, 3] = rng.choice([0.0, 0.0, 0.05, 0.4])
    for cell in range(CELLS):
        columns = slice(cell * ATLAS // CELLS, (cell + 1) * ATLAS // CELLS)
        atlas[high:, columns, :3] = any_colour(rng, 0.0, 1.0) if rng.random() < 0.6 else any_colour(rng, 0.0, 0.12)
        atlas[high:, columns, 3] = rng.uniform(0, 0.6)
    headgear = _headgear(skull, rng) if rng.random() < 0.36 * amount else None
    neutral = np.asarray(body.vertices(identity, None, Pose.rest()), np.float64) + warp
    pieces: list[Piece] = []
    if rng.random() < 0.28 * amount:
        pieces += _spectacles(body, neutral, rng)
    if rng.random() < 0.25 * amount:
        pieces += _earrings(body, neutral, rng)
    if rng.random() < 0.12 * amount:
        pieces += _ornaments(body, neutral, rng)
    return Wear(headgear, tuple(pieces), atlas) if headgear or pieces else None


def headgear_uv() -> np.ndarray:
    """Texture coordinates of a headgear's shell; mirrored from front to back, so that no seam shows."""
    rows = SHELL_ROWS + TAIL_ROWS
    across = np.repeat(np.abs(azimuth_grid()) / np.pi, rows)
    along = np.tile(np.arange(rows) / (rows - 1), AZIMUTHS)
    return np.stack([0.02 + 0.96 * across, 0.01 + 0.72 * along], axis=-1)


def _headgear(skull: Skull, rng: np.random.Generator) -> Hair:
    azimuth, side = azimuth_grid(), np.abs(azimuth_grid())
    kind = str(rng.choice(KINDS, p=[0.2, 0.25, 0.1, 0.25, 0.1, 0.1]))
    tilt = rng.uniform(0, 12) * np.cos(azimuth - rng.uniform(-np.pi, np.pi))
    front, back = rng.uniform(26, 52), rng.uniform(-25, 25)
    line = back + (front - back) * np.clip((np.cos(azimuth) + 0.5) / 1.5, 0, 1) + tilt
    base = rng.uniform(0.012, 0.03)
    if kind == "scarf":  # down the cheeks, open at the face
        open_to = rng.uniform(0.85, 1.35)
        line = np.where(side < open_to, front, LOWEST_DEGREES + 4)
        blur = np.convolve(np.tile(line, 3), np.ones(7) / 7, "same")[AZIMUTHS : 2 * AZIMUTHS]
        line = blur + 0.3 * tilt
    line = np.clip(line + rng.uniform(0, 3) * ring(rng, 12), LOWEST_DEGREES + 3, 75)
    line = np.where(side < 0.7, np.maximum(line, 18.0), line)
    elevation = shell_elevation(line)
    up = np.clip(np.sin(np.radians(elevation)), 0, 1)
    thick = np.full((AZIMUTHS, SHELL_ROWS), base) + rng.uniform(0, 0.02) * up
    lean = directions(np.array(rng.uniform(-np.pi, np.pi)), np.array(rng.uniform(30, 85)))
    near = np.clip(directions(azimuth[:, None], elevation) @ lean, 0, 1)
    thick = thick + rng.uniform(0, 0.05) * near ** rng.uniform(2, 12)
    tail = np.zeros((AZIMUTHS, TAIL_ROWS, 3))
    along = np.linspace(0, 1, TAIL_ROWS + 1)[1:]
    if kind == "tall":  # a cylinder: nearly level on top
        thick = base + rng.uniform(0.03, 0.12) * up ** rng.uniform(1.5, 4)
    if kind == "turban":
        folds = np.sin(np.radians(elevation) * rng.uniform(10, 30) + rng.uniform(-2, 2) * np.cos(azimuth)[:, None])
        thick = thick + rng.uniform(0.01, 0.04) + rng.uniform(0.002, 0.006) * folds
    if kind == "scarf":
        ripple = ring(rng, int(rng.integers(8, 30)))[:, None]
        thick = thick + 0.004 * ripple
        drop = np.clip((side - 0.8) / 0.3, 0, 1) * rng.uniform(0.02, 0.22)
        tail = hanging_tail(rng, drop, rng.uniform(-0.25, 0.3))
    if kind == "brim" or (kind in ("cap", "tall") and rng.random() < 0.5):
        width = np.full(AZIMUTHS, rng.uniform(0.015, 0.09))
        if kind == "cap":  # a peak
            width = width * np.clip((np.cos(azimuth - rng.choice([0.0, 0.0, np.pi])) - 0.3) / 0.4, 0, 1)
        width = width * (1 + rng.uniform(0, 0.25) * ring(rng, 4))
        droop = rng.uniform(-0.4, 0.7) + rng.uniform(0, 0.4) * np.cos(2 * azimuth + rng.uniform(0, 6))
        flat = np.stack([np.sin(azimuth), np.zeros(AZIMUTHS), np.cos(azimuth)], axis=-1)[:, None]
        tail = flat * (width[:, None] * along)[..., None]
        tail = tail + np.array([0, -1.0, 0]) * (np.maximum(droop, -0.4)[:, None] * width[:, None] * along**2)[..., None]
    if kind == "band":  # open on top: there the shell lies under the skin
        above = elevation > (line[:, None] + rng.uniform(8, 28))
        thick = np.where(
            above, -0.02, 0.006 + rng.uniform(0, 0.02) * (1 + np.sin(azimuth * rng.integers(4, 14)))[:, None]
        )
    row, mix, offsets = shape_shell(line, thick, tail)
    return Hair(kind, row, mix, offsets, np.ones((2, 2), np.float32), np.zeros((1, 1), np.float32))


def _cell(rng: np.random.Generator) -> np.ndarray:
    return np.array([(int(rng.integers(0, CELLS)) + 0.5) / CELLS, 0.9])


def _piece(points: np.ndarray, faces: np.ndarray, body: np.ndarray, anchor: np.ndarray, cell: np.ndarray) -> Piece:
    return Piece(points - body[anchor].mean(0), faces.astype(np.int32), np.tile(cell, (len(points), 1)), anchor)


def _loop(outline: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Faces of the flat ring between two closed outlines of N points each (the first N vertices, then the others)."""
    count = len(outline)
    a = np.arange(count)
    b = (a + 1) % count
    return np.concatenate([np.stack([a, b, a + count], 1), np.stack([b, b + count, a + count], 1)])


def _spectacles(body: BodyModel, neutral: np.ndarray, rng: np.random.Generator) -> list[Piece]:
    marks = body.landmarks(neutral)
    corners = np.asarray(body.faces)[body.landmark_triangles]
    anchor = np.unique(corners[[168, 127, 356, 6]])
    width, height = rng.uniform(0.019, 0.030), rng.uniform(0.012, 0.027)
    power, rim, sink = rng.uniform(2, 6), rng.uniform(0.0012, 0.006), rng.uniform(-0.004, 0.008)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    unit = np.stack([np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power), 0 * c], axis=-1)
    depth = max(marks[168, 2], marks[105, 2], marks[334, 2]) + rng.uniform(0.002, 0.008)
    frame, lens = _cell(rng), _cell(rng)
    shade = rng.random() < 0.35
    half = rng.random() < 0.15  # rimless below
    pieces: list[Piece] = []
    bend = 0.35  # the frame curves back at the sides, as faces do
    for eye, sign in ((marks[[362, 263]].mean(0), 1.0), (marks[[33, 133]].mean(0), -1.0)):
        centre = np.array([eye[0] + sign * 0.002, eye[1] - sink, depth])
        outer = centre + unit * [width, height, 1]
        inner = centre + unit * [width - rim, height - rim, 1]
        points = np.concatenate([outer, inner])
        faces = _loop(outer, inner)
        if half:
            faces = faces[points[faces].mean(1)[:, 1] > centre[1]]
        points[:, 2] -= bend * np.abs(points[:, 0]) ** 2 / 0.07
        pieces.append(_piece(points, faces, neutral, anchor, frame))
        if shade:
            fan = np.concatenate([inner, centre[None]]) - [0, 0, 0.0006]
            fan[:, 2] -= bend * np.abs(fan[:, 0]) ** 2 / 0.07
            a = np.arange(len(inner))
            pieces.append(
                _piece(fan, np.stack([a, (a + 1) % len(a), np.full(len(a), len(a))], 1), neutral, anchor, lens)
            )
        ear = marks[356] if sign > 0 else marks[127]
        start = np.array(
            [centre[0] + sign * width, centre[1] + 0.3 * height, depth - bend * (centre[0] + sign * width) ** 2 / 0.07]
        )
        end = np.array([ear[0] + sign * 0.008, start[1], ear[2] - 0.04])
        thick = np.array([0, max(rim, 0.0015), 0])
        arm = np.stack([start + thick, start - thick, end + thick, end - thick])
        pieces.append(_piece(arm, np.array([[0, 1, 2], [1, 3, 2]]), neutral, anchor, frame))
    bridge_y = marks[168, 1] - sink + rng.uniform(-0.004, 0.004)
    gap = max(0.006, 0.5 * (marks[362, 0] - marks[133, 0]) - 0.004)
    bar = np.array(
        [
            [-gap, bridge_y, depth],
            [gap, bridge_y, depth],
            [-gap, bridge_y - 1.5 * rim, depth],
            [gap, bridge_y - 1.5 * rim, depth],
        ]
    )
    pieces.append(_piece(bar, np.array([[0, 1, 2], [1, 3, 2]]), neutral, anchor, frame))
    return pieces


def _ball(radius: np.ndarray | float, slices: int = 8, stacks: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid's points and faces."""
    theta = np.linspace(0, 2 * np.pi, slices, endpoint=False)
    phi = np.linspace(-np.pi / 2, np.pi / 2, stacks)
    points = np.stack(
        [
            np.outer(np.cos(phi), np.sin(theta)),
            np.outer(np.sin(phi), np.ones(slices)),
            np.outer(np.cos(phi), np.cos(theta)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(stacks - 1), np.arange(slices), indexing="ij")
    a, b = i * slices + j, i * slices + (j + 1) % slices
    faces = np.concatenate([np.stack([a, b, a + slices], -1), np.stack([b, b + slices, a + slices], -1)]).reshape(-1, 3)
    return points * radius, faces


def _earrings(body: BodyModel, neutral: np.ndarray, rng: np.random.Generator) -> list[Piece]:
    ears = np.flatnonzero(np.asarray(body.part) == list(map(str, body.part_names)).index("ears"))
    cell, long, wide = _cell(rng), rng.uniform(0.004, 0.030), rng.uniform(0.003, 0.010)
    hoop = rng.random() < 0.35
    pieces: list[Piece] = []
    for sign in rng.permutation([1.0, -1.0])[: 2 if rng.random() < 0.85 else 1]:
        side = ears[neutral[ears, 0] * sign > 0]
        lobe = side[[int(neutral[side, 1].argmin())]]
        at = neutral[lobe[0]] + [sign * 0.002, -long, 0.003]
        if hoop:
            angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            circle = np.stack([0 * angle, np.cos(angle), np.sin(angle)], axis=-1)
            outer, inner = at + circle * long, at + circle * (long - 0.3 * wide) + [sign * 0.003, 0, 0]
            pieces.append(_piece(np.concatenate([outer, inner]), _loop(outer, inner), neutral, lobe, cell))
        else:
            points, faces = _ball(np.array([wide, long, wide]))
            pieces.append(_piece(points + at, faces, neutral, lobe, cell))
    return pieces


def _ornaments(body: BodyModel, neutral: np.ndarray, rng: np.random.Generator) -> list[Piece]:
    """Flowers, slides and pearls in the hair, or a jewel on the forehead."""
    scalp = np.flatnonzero(np.asarray(body.part) == list(map(str, body.part_names)).index("scalp"))
    pieces = []
    for _ in range(int(rng.integers(1, 5))):
        vertex = scalp[[int(rng.integers(0, len(scalp)))]]
        outward = neutral[vertex[0]] - np.array([0, 0.02, -0.01])
        outward = outward / np.linalg.norm(outward)
        points, faces = _ball(rng.uniform(0.004, 0.022, 3))
        at = neutral[vertex[0]] + outward * rng.uniform(0.005, 0.035)
        pieces.append(_piece(points + at, faces, neutral, vertex, _cell(rng)))
    return pieces
