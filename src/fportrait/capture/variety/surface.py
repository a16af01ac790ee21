"""Skin beyond the plain world's: fields, marks, wrinkles, paint, beards, brows and whole looks, on the head's texture.

Everything is drawn in the texture of `capture.paint` (linear light), at places that its chart knows from the face
landmarks. What a picture of 64 pixels cannot show (a texel is a tenth of its pixel) is left out.
"""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.capture.paint import BROWS, CHEEKS, CHIN, COLUMNS, EYES, LIPS_OUTER, NOSE_BASE, ROWS, Chart, Palette
from fportrait.capture.variety.fields import any_colour, blend, coloured, smooth, soften, stroke

SHAPE = (ROWS, COLUMNS)
COARSE = (ROWS // 4, COLUMNS // 4)
_FIELDS = ((3, 6, 0.40), (6, 12, 0.34), (11, 22, 0.28), (22, 44, 0.24), (44, 88, 0.20), (88, 176, 0.16))
# Lines that age draws: marks of the face, and how deep.
_WRINKLES = (
    ((103, 67, 109, 10, 338, 297, 332), 0.7),
    ((104, 69, 108, 151, 337, 299, 333), 0.8),
    ((105, 66, 107, 9, 336, 296, 334), 0.4),
    ((129, 203, 206, 216, 212), 1.0),
    ((358, 423, 426, 436, 432), 1.0),
    ((61, 202, 210, 169), 0.6),
    ((291, 422, 430, 394), 0.6),
    ((243, 112, 26, 22, 23, 110), 0.7),
    ((463, 341, 256, 252, 253, 339), 0.7),
    ((33, 226, 34, 127), 0.6),
    ((263, 446, 264, 356), 0.6),
    ((55, 8), 0.5),
    ((285, 8), 0.5),
)


def vary_palette(palette: Palette, rng: np.random.Generator, amount: float) -> Palette:
    """Other colours for skin, lips, brows, iris and teeth; natural ones at small amounts, any at 1."""
    import dataclasses

    def bend(colour: np.ndarray, share: float, spread: float) -> np.ndarray:
        if rng.random() < share * amount:
            return any_colour(rng)
        return np.clip(colour * np.exp(rng.normal(0, spread * amount) + rng.normal(0, 0.25 * spread * amount, 3)), 0, 1)

    skin = bend(palette.skin, 0.16, 0.30)
    lips = bend(palette.lips, 0.25, 0.45) if rng.random() < 0.7 else bend(skin, 0.0, 0.35)
    hair = bend(palette.hair, 0.30, 0.7)
    brow = bend(palette.brow, 0.2, 0.6) if rng.random() < 0.6 else bend(hair, 0.0, 0.4)
    iris = bend(palette.iris, 0.25, 0.5)
    teeth = bend(palette.teeth, 0.1, 0.3)
    return dataclasses.replace(palette, skin=skin, lips=lips, hair=hair, brow=brow, iris=iris, teeth=teeth)


def vary_surface(
    texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator, amount: float
) -> np.ndarray:
    """The texture (ROWS, COLUMNS, 3) of a person of the wide world, from the plain one."""
    varied = texture.copy()
    centre, spread = chart.marks.mean(0), np.ptp(chart.marks, axis=0)
    if rng.random() < 0.35 * amount:
        _new_brows(varied, chart, palette, rng)
    if rng.random() < 0.8:
        _regions(varied, chart, palette, rng, amount)
    if rng.random() < 0.45:
        _wrinkles(varied, chart, rng, amount)
    if rng.random() < 0.35 * amount:
        _beard(varied, chart, palette, rng)
    if rng.random() < 0.4 * amount:
        _eye_paint(varied, chart, rng)
    for _ in range(rng.poisson((0 if rng.random() < 0.3 else 14) * amount)):
        _mark(varied, centre, spread, rng)
    _apply_fields(varied, rng, amount)
    if rng.random() < 0.35 * amount:
        _look(varied, rng)
    return np.ascontiguousarray(np.clip(varied, 0.003, 1), dtype=np.float32)


def _apply_fields(texture: np.ndarray, rng: np.random.Generator, amount: float) -> None:
    strength, hue = amount * rng.uniform(0.15, 1.0), rng.uniform(0.05, 0.45)
    total = np.zeros((*COARSE, 3), np.float32)
    for rows, columns, spread in _FIELDS:
        if rng.random() < 0.7:
            total += spread * rng.uniform(0, 1.6) * coloured(rng, rows, columns, COARSE, hue)
    texture *= cv2.resize(np.exp(strength * total), (COLUMNS, ROWS), interpolation=cv2.INTER_LINEAR)


def _disc(x: float, y: float, width: float, height: float) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    place, axes = (round(x * 16), round(y * 16)), (round(width * 16), round(height * 16))
    cv2.ellipse(mask, place, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, 4)
    return soften(mask, max(1.0, 0.4 * min(width, height)))


def _regions(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator, amount: float) -> None:
    """Broad light, dark and coloured places, as light, paint and age make them: sockets, cheeks, nose, jaw."""
    marks = chart.marks
    eyes = [marks[list(ring[0] + ring[1])].mean(0) for ring in EYES.values()]
    places = [(eye, (20, 15)) for eye in eyes] + [(marks[k], (26, 22)) for k in CHEEKS]
    places += [(marks[4], (12, 16)), (marks[6], (7, 26)), (marks[151], (60, 26)), (marks[CHIN] - [0, 8], (26, 14))]
    places += [(marks[172], (30, 26)), (marks[397], (30, 26)), (marks[164], (22, 8))]
    paired = {0: 1, 2: 3, 8: 9}
    drawn: dict[int, tuple[np.ndarray, float, float]] = {}
    for index, (place, size) in enumerate(places):
        if index - 1 in paired and paired[index - 1] == index and index - 1 in drawn and rng.random() < 0.85:
            colour, alpha, scale = drawn[index - 1]
        elif rng.random() < 0.55:
            shade = palette.skin * np.exp(rng.normal(-0.15, 0.55 * amount) + rng.normal(0, 0.2 * amount, 3))
            colour = any_colour(rng) if rng.random() < 0.15 * amount else np.clip(shade, 0, 1)
            alpha, scale = rng.uniform(0.1, 0.75) * amount, rng.uniform(0.6, 1.5)
            drawn[index] = (colour, alpha, scale)
        else:
            continue
        blend(texture, colour, alpha * _disc(float(place[0]), float(place[1]), size[0] * scale, size[1] * scale))


def _wrinkles(texture: np.ndarray, chart: Chart, rng: np.random.Generator, amount: float) -> None:
    age, width = rng.uniform(0.2, 1.0) * amount, rng.uniform(1.5, 5.0)
    dark = np.zeros(SHAPE, np.uint8)
    for marks, depth in _WRINKLES:
        if rng.random() < 0.75:
            line = chart.marks[list(marks)] + rng.normal(0, 2.0, (len(marks), 2))
            stroke(dark, line, round(width * rng.uniform(0.7, 1.6)), int(255 * min(1.0, depth * rng.uniform(0.5, 1.2))))
    soft = soften(dark, 0.6 * width)
    lit = np.roll(soft, int(width), axis=0)
    colour = np.array([1.0, 1.25, 1.3], np.float32)
    texture *= np.exp(-age * soft[..., None] * colour + 0.35 * age * np.clip(lit - soft, 0, 1)[..., None])


def _new_brows(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator) -> None:
    """Brows wiped away, and mostly drawn again: any thickness, arch, slant, colour, broken or grown together."""
    wiped = np.zeros(SHAPE, np.uint8)
    centres = {}
    for side, (upper, lower) in BROWS.items():
        line = 0.5 * (chart.marks[upper] + chart.marks[lower])
        centres[side] = line
        stroke(wiped, line, 20)
    blend(texture, palette.skin, soften(wiped, 3.0))
    if rng.random() < 0.2:
        return
    drawn = np.zeros(SHAPE, np.uint8)
    lift, arch, slant = rng.normal(-1, 6), rng.normal(4, 6), rng.normal(0, 7)
    thick, fade = rng.uniform(2, 15), rng.uniform(0.2, 1.0)
    for line in centres.values():
        at = np.linspace(0, 1, len(line))
        shift = lift - arch * np.sin(np.pi * at) + slant * (at - 0.5) + rng.normal(0, 1.2)
        path = line + np.stack([0 * at, shift], axis=-1)
        for k in range(len(path) - 1):
            stroke(drawn, path[k : k + 2], round(thick * (1 - (1 - fade) * at[k])))
    if rng.random() < 0.08:
        stroke(drawn, np.stack([centres["left"][0], centres["right"][0]]), round(0.7 * thick))
    colour = palette.brow if rng.random() < 0.6 else any_colour(rng, 0.02, 0.7)
    grain = np.clip(0.8 + 0.3 * smooth(rng, 128, 256, SHAPE), 0, 1)
    blend(texture, colour, soften(drawn, rng.uniform(0.8, 3.0)) * grain * rng.uniform(0.5, 1.0))


def _beard(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator) -> None:
    """Hair on lip, chin and cheeks in any outline, drawn with broad strokes; patchy where a field cuts it."""
    marks, mask = chart.marks, np.zeros(SHAPE, np.uint8)
    nose, lip, left, right = marks[NOSE_BASE], marks[0], marks[291], marks[61]
    kind = rng.choice(["moustache", "goatee", "sideburns", "full", "patchy"], p=[0.3, 0.2, 0.1, 0.25, 0.15])
    thick = rng.uniform(4, 16)
    if kind in ("moustache", "goatee") or rng.random() < 0.4:
        top, reach, curl = 0.5 * (nose + lip), rng.uniform(0.5, 1.7), rng.normal(4, 12)
        for corner in (left, right):
            tip = top + (corner - top) * reach
            stroke(mask, np.stack([top, 0.5 * (top + tip) + [0, 0.2 * curl], tip + np.array([0, curl])]), round(thick))
    if kind in ("goatee", "full", "patchy"):
        chin = marks[CHIN]
        width = rng.uniform(8, 40)
        cv2.ellipse(
            mask, tuple(np.round(chin).astype(int).tolist()), (int(width), int(rng.uniform(10, 34))), 0, 0, 360, 255, -1
        )
    if kind in ("sideburns", "full", "patchy"):
        for path in (
            (127, 234, 93, 132, 58, 172, 136, 150, 149, 176),
            (356, 454, 323, 361, 288, 397, 365, 379, 378, 400),
        ):
            line = marks[list(path)]
            stroke(
                mask, line[: len(line) if kind != "sideburns" else int(rng.integers(3, 6))], round(rng.uniform(8, 46))
            )
    alpha = soften(mask, rng.uniform(1.0, 6.0))
    if kind == "patchy":
        alpha = alpha * np.clip(0.5 + smooth(rng, 40, 80, SHAPE), 0, 1)
    lips = np.zeros(SHAPE, np.uint8)
    cv2.fillPoly(lips, [np.round(marks[LIPS_OUTER]).astype(np.int32)], 255)
    alpha = alpha * (1 - soften(lips, 1.0)) * np.clip(0.8 + 0.25 * smooth(rng, 100, 220, SHAPE), 0, 1)
    colour = palette.hair if rng.random() < 0.7 else any_colour(rng, 0.02, 0.9)
    blend(texture, colour, np.asarray(alpha * rng.uniform(0.35, 0.98)))


def _eye_paint(texture: np.ndarray, chart: Chart, rng: np.random.Generator) -> None:
    """Dark rims, shadow and liner around the eyes; rings of no colour at all for the lashless."""
    mask = np.zeros(SHAPE, np.uint8)
    width, wing = rng.uniform(1, 6), rng.uniform(0, 16)
    for upper, lower in EYES.values():
        top = chart.marks[upper]
        tail = top[-1] + (top[-1] - top[0]) / np.linalg.norm(top[-1] - top[0]) * wing - [0, 0.4 * wing]
        stroke(mask, np.concatenate([top, tail[None]]), round(width))
        if rng.random() < 0.6:
            stroke(mask, chart.marks[lower], round(0.6 * width))
    colour = any_colour(rng, 0.0, 0.35) if rng.random() < 0.75 else any_colour(rng)
    blend(texture, colour, soften(mask, rng.uniform(0.6, 2.5)) * rng.uniform(0.4, 1.0))
    if rng.random() < 0.35:
        lips = np.zeros(SHAPE, np.uint8)
        cv2.fillPoly(lips, [np.round(chart.marks[LIPS_OUTER]).astype(np.int32)], 255)
        blend(texture, any_colour(rng), soften(lips, 1.5) * rng.uniform(0.4, 1.0))


def _mark(texture: np.ndarray, centre: np.ndarray, spread: np.ndarray, rng: np.random.Generator) -> None:
    """One scar, patch, shadow, spot or smear somewhere on the face or around it."""
    mask = np.zeros(SHAPE, np.uint8)
    x, y = centre + rng.uniform(-0.62, 0.62, 2) * spread
    x, y = int(np.clip(x, 0, COLUMNS - 1)), int(np.clip(y, 0, ROWS - 1))
    if rng.random() < 0.5:
        axes = (int(rng.uniform(3, 45)), int(rng.uniform(3, 30)))
        cv2.ellipse(mask, (x, y), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    else:
        steps = rng.normal(0, 18, (int(rng.integers(1, 7)), 2))
        stroke(mask, np.cumsum(np.concatenate([[[x, y]], steps]), 0), int(rng.integers(2, 10)))
    near = np.clip(texture[y, x] * np.exp(rng.normal(0, 0.7)) + rng.normal(0, 0.04, 3), 0, 1)
    colour = near if rng.random() < 0.8 else any_colour(rng)
    blend(texture, colour, soften(mask, rng.uniform(1.0, 8)) * rng.uniform(0.1, 0.8))


def _look(texture: np.ndarray, rng: np.random.Generator) -> None:
    """The whole head as paint, stone, metal or print shows it."""
    kind = rng.choice(["stone", "print", "contrast", "brush", "tint"])
    grey = texture.mean(-1, keepdims=True)
    if kind == "stone":
        level = float(grey.mean())
        flat = level + (grey - level) * rng.uniform(0.2, 1.0)
        texture[:] = flat / max(level, 0.02) * any_colour(rng, 0.25, 0.95).astype(np.float32)
    elif kind == "print":
        steps = int(rng.integers(3, 7))
        texture[:] = (np.round(np.clip(texture, 0, 1) ** 0.45 * steps) / steps) ** 2.2
    elif kind == "contrast":
        texture[:] = np.clip(texture, 1e-3, 1) ** rng.uniform(0.6, 1.8)
    elif kind == "brush":
        size = int(rng.integers(3, 8)) * 2 + 1
        turn = rng.uniform(0, np.pi)
        kernel = np.zeros((size, size), np.float32)
        middle, reach = size // 2, np.array([np.cos(turn), np.sin(turn)]) * size / 2
        first, last = middle - reach, middle + reach
        cv2.line(kernel, tuple(first.astype(int).tolist()), tuple(last.astype(int).tolist()), 1.0)
        grain = cv2.filter2D(rng.standard_normal(COARSE).astype(np.float32), -1, kernel / np.sqrt(kernel.sum()))
        grain = cv2.resize(grain, (COLUMNS, ROWS), interpolation=cv2.INTER_LINEAR)
        texture *= np.exp(rng.uniform(0.1, 0.35) * grain)[..., None]
    else:
        texture[:] = grey + (texture - grey) * rng.uniform(0, 0.6)
        texture *= np.exp(rng.normal(0, 0.3, 3)).astype(np.float32)
