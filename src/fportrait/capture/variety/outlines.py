"""Hair of any outline and texture, from a shell like the plain world's; and whatever else lies on a head like one.

A shell runs on meridians from the crown down to a line, and from there hangs or juts out. `shape_shell` turns a line,
a thickness and a drop into one; hair, hats, hoods and scarves differ in these alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.capture.hair import (
    AZIMUTHS,
    CROWN_DEGREES,
    ELEVATIONS,
    LOWEST_DEGREES,
    SHELL_ROWS,
    TAIL_ROWS,
    Hair,
    Skull,
    azimuth_grid,
    directions,
    painted_scalp,
)
from fportrait.capture.variety.fields import any_colour, smooth


def ring(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise `A` around the head."""
    knots = np.tile(rng.standard_normal(cells), 3).astype(np.float32)[None]
    wide = cv2.resize(knots, (3 * AZIMUTHS, 1), interpolation=cv2.INTER_CUBIC)[0]
    return np.asarray(wide[AZIMUTHS : 2 * AZIMUTHS], np.float64)


def shell_elevation(line: np.ndarray) -> np.ndarray:
    """Degrees `A SHELL_ROWS` from the crown down to `line` `A`."""
    shell = np.linspace(0, 1, SHELL_ROWS)[None] ** 0.9
    return np.asarray(CROWN_DEGREES + (line[:, None] - CROWN_DEGREES) * shell)


def shape_shell(line: np.ndarray, thick: np.ndarray, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`row`, `mix` and `offsets` of a `Hair`.

    Args:
        line: `A` degrees where the shell ends. thick: `A SHELL_ROWS` metres off the skull; less than nothing lets the
            skin through. tail: `A TAIL_ROWS 3` metres from there on, in the head's frame.
    """
    azimuth, elevation = azimuth_grid(), shell_elevation(line)
    blend = np.clip(np.linspace(0, 1, SHELL_ROWS)[None] / 0.3, 0, 1)
    crown = thick.mean(axis=0, keepdims=True)  # meridians that meet at the crown must agree there
    offsets = directions(azimuth[:, None], elevation) * (crown + (thick - crown) * blend)[..., None]
    shape = np.concatenate([offsets, offsets[:, -1:] + tail], axis=1)
    hanging = np.repeat(line[:, None], TAIL_ROWS, axis=1)
    elevations = np.concatenate([elevation, hanging], axis=1)
    if (tail[..., 1] < -0.02).any():  # hang from ear height: lower down the foot points would follow the neck inwards
        lowered = np.maximum(elevations, -6.0)
        aside = (np.abs(azimuth) > 1.0)[:, None]
        shape[..., 1] -= np.where(aside, np.radians(lowered - elevations) * 0.09, 0.0)
        elevations = np.where(aside, lowered, elevations)
    place = (CROWN_DEGREES - elevations) / (CROWN_DEGREES - LOWEST_DEGREES) * (ELEVATIONS - 1)
    row = np.clip(place.astype(int), 0, ELEVATIONS - 2)
    return row, place - row, shape.reshape(-1, 3)


def hanging_tail(rng: np.random.Generator, drop: np.ndarray, flare: float) -> np.ndarray:
    """A tail `A TAIL_ROWS 3` that falls by `drop` `A` metres, wavy, and spreads by `flare` of it."""
    azimuth = azimuth_grid()
    along = np.linspace(0, 1, TAIL_ROWS + 1)[1:]
    fall = drop[:, None] * along[None]
    wave = rng.uniform(0, 0.010) * np.sin(along * rng.uniform(4, 18) + ring(rng, 5)[:, None]) * (drop[:, None] > 0.01)
    flat = np.stack([np.sin(azimuth), np.zeros(AZIMUTHS), np.cos(azimuth)], axis=-1)[:, None]
    return np.asarray(flat * (flare * fall + wave)[..., None] + np.array([0, -1.0, -0.08]) * fall[..., None])


def sample_outline(skull: Skull, rng: np.random.Generator, amount: float) -> tuple[Hair, np.ndarray]:
    """Hair of the wide world, and its colour `64 256 3` (factors on the person's hair colour)."""
    azimuth, side = azimuth_grid(), np.abs(azimuth_grid())
    centre = rng.uniform(-0.5, 0.5)
    front = np.exp(-(((azimuth - centre) / rng.uniform(0.3, 0.9)) ** 2))
    line: np.ndarray = skull.hairline + amount * (rng.uniform(0, 11) * ring(rng, 6) + rng.uniform(0, 4) * ring(rng, 24))
    how = rng.random()
    if how < 0.35:
        line = line - rng.uniform(5, 26) * front  # a fringe
    elif how < 0.6:
        line = line + rng.uniform(5, 35) * front  # a high forehead
    line = np.clip(line, LOWEST_DEGREES + 3, 82)
    line = np.where(side < 0.5, np.maximum(line, 8.0), line)  # never over the eyes
    elevation = shell_elevation(line)
    up = np.clip(np.sin(np.radians(elevation)), 0, 1)
    top, sides = np.clip(np.exp(rng.normal(np.log(0.016), 0.9, 2)), 0.001, 0.09)
    thick = sides + (top - sides) * up ** rng.uniform(0.5, 2.5)
    lumps = smooth(rng, int(rng.integers(3, 9)), int(rng.integers(4, 14)), (AZIMUTHS, SHELL_ROWS))
    lumps = 0.5 * (lumps + lumps[::-1])  # closes behind the head
    thick = thick * np.exp(rng.uniform(0, 0.7) * amount * lumps)
    shell = np.linspace(0, 1, SHELL_ROWS)[None]
    thick = thick * np.where(shell > 0.8, rng.uniform(0.2, 1) + (1 - shell) / 0.2, 1).clip(0, 1)
    if rng.random() < 0.25:  # spikes, curls, locks
        knots = rng.standard_normal((AZIMUTHS // int(rng.integers(1, 4)), SHELL_ROWS)).astype(np.float32)
        thick = thick * np.clip(1 + rng.uniform(0.1, 0.6) * cv2.resize(knots, (SHELL_ROWS, AZIMUTHS)), 0.2, 2.5)
    if rng.random() < 0.4 * amount:
        for _ in range(int(rng.integers(1, 4))):  # buns, horns, tufts
            where = directions(np.array(rng.uniform(-np.pi, np.pi)), np.array(rng.uniform(15, 88)))
            near = directions(azimuth[:, None], elevation) @ where
            wide = rng.uniform(0.02, 0.2)
            thick = thick + rng.uniform(0.01, 0.07) * np.sqrt(np.clip((near - 1 + wide) / wide, 0, 1))
    if rng.random() < 0.07 * amount:  # a crest
        across = np.abs(directions(azimuth[:, None], elevation)[..., 0])
        thick = np.where(across < 0.22, thick + 0.02, np.full_like(thick, 0.001))
    if rng.random() < 0.4:  # a parting
        at = rng.uniform(-1.0, 1.0)
        groove = np.exp(-(((azimuth - at) / 0.15) ** 2))[:, None] * (shell > 0.15)
        thick = thick * (1 - rng.uniform(0.2, 0.9) * groove)
    bare = np.zeros((AZIMUTHS, SHELL_ROWS), bool)
    if rng.random() < 0.12:  # a tonsure
        bare |= elevation > rng.uniform(25, 70)
    if rng.random() < 0.10 * amount:
        bare |= smooth(rng, 5, 9, (AZIMUTHS, SHELL_ROWS)) > rng.uniform(0.4, 1.2)
    if rng.random() < 0.07:
        bare[:] = True
    thick = np.where(bare, -0.004, thick)

    drop = np.zeros(AZIMUTHS)
    if rng.random() < 0.5 and not bare.all():
        begin = rng.uniform(0.9, 1.5)
        drop = np.clip((side - begin) / rng.uniform(0.1, 0.5), 0, 1) * rng.uniform(0.03, 0.28)
        drop = drop * np.clip(1 + rng.uniform(0, 0.4) * ring(rng, int(rng.integers(3, 30))), 0, 2)
        drop = drop * np.where(azimuth > 0, rng.choice([1.0, 1.0, 1.0, 0.2]), 1.0)
    row, mix, offsets = shape_shell(line, thick, hanging_tail(rng, drop, rng.uniform(-0.1, 0.35)))
    strands, tint = _strands(rng, amount)
    scalp = painted_scalp(skull, line, rng) * rng.uniform(0.6, 1.0)
    if bare.any():
        scalp = scalp * (1 - _on_texture(skull, elevation, bare.astype(np.float32)))
    return Hair("wide" if not bare.all() else "bald", row, mix, offsets, strands, scalp.astype(np.float32)), tint


def _on_texture(skull: Skull, elevation: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values `A SHELL_ROWS` carried to the head's texture by azimuth and elevation."""
    rows, columns = skull.elevation_map.shape
    at = (np.arange(columns) * AZIMUTHS / columns).astype(int) % AZIMUTHS
    lines = elevation[:, -1]
    share = np.clip((CROWN_DEGREES - skull.elevation_map) / (CROWN_DEGREES - lines[at])[None], 0, 1)
    index = np.round(share ** (1 / 0.9) * (SHELL_ROWS - 1)).astype(int)
    return cv2.GaussianBlur(values[at[None].repeat(rows, 0), index], (0, 0), 2.0)


def _strands(rng: np.random.Generator, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Brightness `64 512` and colour factors `64 256 3` along (rows) and across (columns) the strands."""
    cells = (int(rng.integers(3, 50)), int(rng.integers(60, 300)))
    coarse = rng.standard_normal(cells).astype(np.float32)
    fine = cv2.resize(coarse, (512, 64), interpolation=cv2.INTER_LINEAR)
    locks = smooth(rng, int(rng.integers(2, 10)), int(rng.integers(8, 60)), (64, 512))
    strands: np.ndarray = 1 + rng.uniform(0.05, 0.4) * fine + rng.uniform(0.05, 0.35) * locks
    tint: np.ndarray = np.ones((64, 256, 3), np.float32)
    if rng.random() < 0.35 * amount:  # streaks, tips, roots of another colour
        other = np.clip(any_colour(rng) / max(rng.uniform(0.05, 0.5), 1e-3), 0.1, 6)
        kind = rng.choice(["streaks", "tips", "patches"])
        if kind == "tips":
            share = np.repeat(np.clip((np.linspace(0, 1, 64) - rng.uniform(0.2, 0.7)) / 0.3, 0, 1)[:, None], 256, 1)
        else:
            cells = (2, int(rng.integers(10, 60))) if kind == "streaks" else (6, int(rng.integers(6, 20)))
            share = np.clip(smooth(rng, *cells, (64, 256)) - rng.uniform(0, 0.8), 0, 1)
        tint = tint + (other - 1) * share[..., None]
    return np.clip(strands, 0.2, 2.0).astype(np.float32), np.ascontiguousarray(tint, np.float32)
