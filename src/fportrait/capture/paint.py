"""Paint on a person: skin, lips, brows, lids, stubble and hairline, in one cylindrical texture around the head.

The texture's columns are the azimuth around a vertical axis through the skull (0 in the centre: the face), its rows
the height on the template. Places (lips, lids, brows) come from the body's face-landmark embedding, so nothing here
knows vertex numbers. Colours are linear light, float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fportrait.body.model import BodyModel

ROWS, COLUMNS = 512, 1024
TOP, BOTTOM = 0.20, -0.28  # metres, template heights covered by the texture
LIPS_OUTER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
LIPS_SEAM = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
EYES = {
    "left": ([362, 398, 384, 385, 386, 387, 388, 466, 263], [263, 249, 390, 373, 374, 380, 381, 382, 362]),
    "right": ([133, 173, 157, 158, 159, 160, 161, 246, 33], [33, 7, 163, 144, 145, 153, 154, 155, 133]),
}  # upper rim from the nose outwards, lower rim back
BROWS = {  # upper and lower edge, from the nose outwards
    "left": ([336, 296, 334, 293, 300], [285, 295, 282, 283, 276]),
    "right": ([107, 66, 105, 63, 70], [55, 65, 52, 53, 46]),
}
CHEEKS, NOSE_TIP, NOSE_BASE, CHIN, FOREHEAD = (50, 280), 1, 2, 152, 10

# Skin tones from very light to very dark, sRGB.
_TONES = np.array(
    [
        [0.98, 0.85, 0.78],
        [0.95, 0.79, 0.69],
        [0.90, 0.71, 0.58],
        [0.80, 0.60, 0.46],
        [0.67, 0.47, 0.35],
        [0.50, 0.34, 0.25],
        [0.36, 0.245, 0.19],
    ]
)
_HAIR_TONES = {  # sRGB, and how often
    "black": ([0.07, 0.06, 0.06], 3.0),
    "dark brown": ([0.16, 0.10, 0.07], 3.0),
    "brown": ([0.30, 0.19, 0.12], 2.5),
    "light brown": ([0.46, 0.32, 0.20], 1.5),
    "blond": ([0.72, 0.56, 0.34], 1.5),
    "red": ([0.52, 0.22, 0.10], 0.8),
    "grey": ([0.55, 0.54, 0.53], 0.8),
    "white": ([0.82, 0.81, 0.79], 0.4),
}
_IRISES = np.array(  # sRGB: dark brown, brown, hazel, green, blue, grey
    [
        [0.16, 0.09, 0.05],
        [0.32, 0.19, 0.09],
        [0.42, 0.32, 0.14],
        [0.32, 0.42, 0.24],
        [0.28, 0.44, 0.62],
        [0.45, 0.5, 0.54],
    ]
)


def linear(colour: np.ndarray | list[float]) -> np.ndarray:
    """sRGB in [0, 1] to linear light (the plain 2.2 power, inverted exactly when frames are written)."""
    return np.asarray(np.clip(colour, 0.0, 1.0), dtype=np.float64) ** 2.2


@dataclass(frozen=True)
class Chart:
    """Where things lie on the texture; computed once per body."""

    axis: float  # z of the vertical axis
    uv: np.ndarray  # (V, 2) columns, rows in [0, 1]
    marks: np.ndarray  # (478, 2) pixels of the texture
    points: np.ndarray  # (478, 3) template positions
    azimuth: np.ndarray  # (COLUMNS,) radians, positive to the person's left
    height: np.ndarray  # (ROWS,) metres


def chart_uv(points: np.ndarray, axis: float) -> np.ndarray:
    """Template positions (N, 3) to texture coordinates (N, 2) in [0, 1]."""
    azimuth = np.arctan2(points[:, 0], points[:, 2] - axis)
    return np.stack([azimuth / (2 * np.pi) + 0.5, (TOP - points[:, 1]) / (TOP - BOTTOM)], axis=-1)


def make_chart(body: BodyModel) -> Chart:
    """The chart of a body; `axis` lies midway between the face's foremost and the head's rearmost point."""
    template = np.asarray(body.template, dtype=np.float64)
    head = template[(template[:, 1] > 0.0)]
    axis = float(0.5 * (np.percentile(head[:, 2], 1) + np.percentile(head[:, 2], 99)))
    corners = template[np.asarray(body.faces)[body.landmark_triangles]]
    points = (corners * np.asarray(body.landmark_barycentric)[..., None]).sum(1)
    azimuth = ((np.arange(COLUMNS) + 0.5) / COLUMNS - 0.5) * 2 * np.pi
    height = TOP - (np.arange(ROWS) + 0.5) / ROWS * (TOP - BOTTOM)
    marks = chart_uv(points, axis) * [COLUMNS, ROWS] - 0.5
    return Chart(axis, chart_uv(template, axis), marks, points, azimuth, height)


@dataclass(frozen=True)
class Palette:
    """The colours of one person, linear light, and the choices that paint depends on."""

    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris: np.ndarray
    teeth: np.ndarray
    tone: float  # 0 very light to 1 very dark
    beard: float  # 0 none to 1 full
    makeup: float


def sample_palette(rng: np.random.Generator) -> Palette:
    tone = rng.uniform()
    place = tone * (len(_TONES) - 1)
    low = min(int(place), len(_TONES) - 2)
    skin = _TONES[low] + (place - low) * (_TONES[low + 1] - _TONES[low])
    skin = skin + rng.normal(0, 0.012) * np.array([1.0, 0.2, -1.0]) + rng.normal(0, 0.01, 3)
    names = list(_HAIR_TONES)
    weights = np.array([_HAIR_TONES[name][1] for name in names])
    if tone > 0.55:  # light natural hair is rare on dark skin
        weights = weights * np.array([3, 2, 0.5, 0.2, 0.1, 0.1, 1, 0.7])
    hair = np.array(_HAIR_TONES[names[rng.choice(len(names), p=weights / weights.sum())]][0])
    hair = hair * rng.uniform(0.85, 1.2) + rng.normal(0, 0.01, 3)
    makeup = rng.uniform(0.3, 1.0) if rng.random() < 0.3 else 0.0
    rouge = np.array([0.62, 0.12, 0.18]) if rng.random() < 0.5 else np.array([0.70, 0.25, 0.30])
    natural = skin * [0.84, 0.50, 0.52] + [0.03, 0.0, 0.015]  # red and dark enough to be seen at 64 pixels
    lips = natural + makeup * 0.8 * (rouge - natural)
    brow = np.minimum(hair * rng.uniform(0.5, 0.8), 0.38) if hair.mean() < 0.7 else hair * 0.6
    brow = brow * min(1.0, 0.62 * skin.mean() / brow.mean())  # never as light as the skin it lies on
    eye = rng.choice(len(_IRISES), p=[0.3, 0.25, 0.12, 0.08, 0.15, 0.1] if tone < 0.6 else [0.7, 0.25, 0.05, 0, 0, 0])
    teeth = np.array([0.93, 0.91, 0.84]) * rng.uniform(0.9, 1.03)
    beard = rng.uniform(0.15, 1.0) if makeup == 0 and rng.random() < 0.35 else 0.0
    colours = [linear(c) for c in (skin, lips, hair, brow, _IRISES[eye] * rng.uniform(0.85, 1.15), teeth)]
    skin, lips, hair, brow, iris, teeth = colours
    return Palette(skin, lips, hair, brow, iris, teeth, tone, beard, makeup)


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of unit-like size over the whole texture with `rows` by `columns` cells."""
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    grid[:, -1] = grid[:, 0]  # closed around the head
    return cv2.resize(grid, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)


def _fill(chart: Chart, points: np.ndarray, blur: float) -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32) / 255 if blur > 0 else mask.astype(np.float32) / 255


def _stroke(canvas: np.ndarray, points: np.ndarray, width: int, strength: int = 255) -> None:
    cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, strength, width, cv2.LINE_AA, 4)


def _blend(texture: np.ndarray, colour: np.ndarray, alpha: np.ndarray, window: tuple[slice, slice]) -> None:
    part = texture[window]
    part += (colour.astype(np.float32) - part) * alpha[window][..., None]


def _along(points: np.ndarray, count: int) -> np.ndarray:
    """Resample a polyline (N, 2) to `count` points at equal arc length."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, points[:, k]) for k in range(2)], axis=-1)


def paint_head(chart: Chart, palette: Palette, scalp: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The texture (ROWS, COLUMNS, 3) of one person.

    Args:
        scalp: (ROWS, COLUMNS) in [0, 1], how much of each texel is hair-covered skin.
    """
    texture = np.empty((ROWS, COLUMNS, 3), np.float32)
    mottle = 1 + 0.035 * _noise(rng, 12, 24) + 0.03 * _noise(rng, 64, 128)
    texture[:] = palette.skin.astype(np.float32) * mottle[..., None]
    face = _face_window(chart)
    rows = np.arange(ROWS, dtype=np.float32)[:, None]
    columns = np.arange(COLUMNS, dtype=np.float32)[None]

    def spot(mark: int, radius: float) -> np.ndarray:
        x, y = chart.marks[mark]
        return np.exp(-(((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)))

    redness = rng.uniform(0.1, 0.5) * (1 - 0.6 * palette.tone) + 0.3 * palette.makeup
    flush = np.clip(spot(CHEEKS[0], 32) + spot(CHEEKS[1], 32) + 0.7 * spot(NOSE_TIP, 14), 0, 1) * redness
    texture[face] *= (1 + flush[face][..., None] * np.array([0.10, -0.28, -0.25])).astype(np.float32)
    _paint_neck_shade(texture, chart)
    if rng.random() < 0.25:
        _paint_freckles(texture, chart, palette, rng)
    for _ in range(rng.poisson(1.0)):
        _paint_mole(texture, chart, palette, rng)
    if palette.beard > 0:
        _paint_beard(texture, chart, palette, rng)
    _paint_eyes(texture, chart, palette, rng, face)
    _paint_lips(texture, chart, palette, rng, face)
    _paint_brows(texture, chart, palette, rng, face)
    strands = 0.8 + 0.25 * _noise(rng, 12, 512)
    texture += scalp[..., None] * (palette.hair.astype(np.float32) * 0.8 * strands[..., None] - texture)
    return np.ascontiguousarray(np.clip(texture, 0.0, 1.0), dtype=np.float32)


def _face_window(chart: Chart) -> tuple[slice, slice]:
    low, high = chart.marks.min(0).astype(int) - 60, chart.marks.max(0).astype(int) + 60
    return slice(max(low[1], 0), min(high[1], ROWS)), slice(max(low[0], 0), min(high[0], COLUMNS))


def _paint_neck_shade(texture: np.ndarray, chart: Chart) -> None:
    """The jaw's soft shadow: nothing in the lighting casts shadows, and a bright throat looks hollow."""
    chin = chart.points[CHIN, 1]
    below = np.clip((chin - 0.002 - chart.height) / 0.03, 0, 1) * np.clip((chart.height - (chin - 0.12)) / 0.06, 0, 1)
    front = np.clip(np.cos(chart.azimuth), 0, 1)
    texture *= (1 - 0.30 * below[:, None] * front[None])[..., None].astype(np.float32)


def _paint_freckles(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator) -> None:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    centre = 0.5 * (chart.marks[CHEEKS[0]] + chart.marks[CHEEKS[1]])
    spread = 0.8 * abs(chart.marks[CHEEKS[1], 0] - chart.marks[CHEEKS[0], 0])
    for x, y in centre + rng.normal(0, 1, (rng.integers(40, 140), 2)) * [spread, 22]:
        place = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(mask, place, int(rng.uniform(10, 24)), int(rng.uniform(60, 160)), -1, cv2.LINE_AA, 4)
    _blend(texture, palette.skin * [0.62, 0.45, 0.36], mask.astype(np.float32) / 255, _face_window(chart))


def _paint_mole(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator) -> None:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    x, y = chart.marks[rng.choice([50, 280, 117, 346, 205, 425, 176, 400, 151])] + rng.normal(0, 10, 2)
    cv2.circle(mask, (round(float(x) * 16), round(float(y) * 16)), int(rng.uniform(20, 42)), 220, -1, cv2.LINE_AA, 4)
    _blend(texture, palette.skin * [0.3, 0.2, 0.16], mask.astype(np.float32) / 255, _face_window(chart))


def _paint_beard(texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator) -> None:
    """Stubble to full beard: jaw and moustache, softly bounded; a moustache or goatee alone now and then."""
    height, azimuth = chart.height[:, None], chart.azimuth[None]
    nose, mouth, chin = (chart.points[i, 1] for i in (NOSE_BASE, 13, CHIN))
    corner = abs(np.arctan2(chart.points[291, 0], chart.points[291, 2] - chart.axis))
    side = np.abs(azimuth)
    # the upper edge rises from the mouth's corners to the ears
    edge = mouth - 0.004 + 0.035 * np.clip((side - corner) / 1.0, 0, 1) ** 1.2
    jaw = np.clip((edge - height) / 0.008, 0, 1) * np.clip((height - chin + 0.035) / 0.02, 0, 1) * (side < 1.75)
    moustache = (
        np.clip((nose - 0.003 - height) / 0.004, 0, 1)
        * np.clip((height - mouth + 0.002) / 0.003, 0, 1)
        * np.clip((corner * 1.25 - side) / 0.06, 0, 1)
    )
    style = rng.choice(["full", "moustache", "goatee"], p=[0.65, 0.15, 0.2])
    if style == "goatee":
        jaw = jaw * np.clip((corner * 1.2 - side) / 0.1, 0, 1)
    mask = moustache if style == "moustache" else np.maximum(jaw, moustache)
    grain = np.clip(0.75 + 0.25 * _noise(rng, 256, 512), 0, 1.2)
    mask = cv2.GaussianBlur((mask * palette.beard * grain).astype(np.float32), (0, 0), 1.5)
    _blend(texture, palette.brow * 0.9, np.clip(mask, 0, 0.95), (slice(None), slice(None)))


def _paint_eyes(
    texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator, face: tuple[slice, slice]
) -> None:
    """Shaded lids, a crease and a dark lash line, so that shut eyes read as shut even in a small picture."""
    crease, lashes = np.zeros((ROWS, COLUMNS), np.uint8), np.zeros((ROWS, COLUMNS), np.uint8)
    lid = np.zeros((ROWS, COLUMNS), np.float32)
    lift = rng.uniform(9, 14)
    for upper, lower in EYES.values():
        top, bottom = chart.marks[upper], chart.marks[lower]
        arch = np.sin(np.linspace(0, np.pi, len(top)))[:, None] * [0, 1]
        _stroke(crease, _along(top - arch * lift - [0, 2], 24), 2)
        _stroke(lashes, _along(top, 24), 4)
        _stroke(lashes, _along(bottom, 24), 2, 150)
        around = np.concatenate([top - arch * lift, bottom + np.array([0, 4])])
        lid = np.maximum(lid, _fill(chart, around, 4))
    shadow = palette.skin * ([0.72, 0.62, 0.60] if palette.makeup < 0.5 else rng.uniform(0.3, 0.8, 3))
    _blend(texture, shadow, 0.55 * lid, face)
    _blend(texture, palette.skin * 0.35, 0.6 * cv2.GaussianBlur(crease, (0, 0), 1.0).astype(np.float32) / 255, face)
    dark = np.minimum(palette.brow * 0.25, 0.02)
    _blend(texture, dark, (0.75 + 0.2 * (palette.makeup > 0)) * lashes.astype(np.float32) / 255, face)


def _paint_lips(
    texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator, face: tuple[slice, slice]
) -> None:
    mask = _fill(chart, chart.marks[LIPS_OUTER], 1.2)
    fine = 1 + 0.06 * _noise(rng, 8, 400)
    _blend(texture, palette.lips, 0.9 * mask * np.clip(fine, 0.8, 1.1), face)
    seam = np.zeros((ROWS, COLUMNS), np.uint8)
    _stroke(seam, _along(chart.marks[LIPS_SEAM], 32), 2)
    _blend(texture, palette.lips * 0.25, 0.6 * cv2.GaussianBlur(seam, (0, 0), 0.8).astype(np.float32) / 255, face)


def _paint_brows(
    texture: np.ndarray, chart: Chart, palette: Palette, rng: np.random.Generator, face: tuple[slice, slice]
) -> None:
    """A soft band under many short hairs that lie outwards and a little up."""
    hairs, band = np.zeros((ROWS, COLUMNS), np.uint8), np.zeros((ROWS, COLUMNS), np.uint8)
    thickness, arch, density = rng.uniform(0.7, 1.5), rng.uniform(-4.0, 5.0), int(rng.integers(60, 140))
    lift, tail = rng.uniform(-3.0, 3.0), rng.uniform(0.2, 0.6)
    at = np.linspace(0, 1, 40)
    profile = np.where(at < 0.6, 1.0, 1.0 - (1 - tail) * (at - 0.6) / 0.4) * np.clip(at / 0.08, 0.4, 1)
    jitter = rng.uniform(0, 1, (density, 4))
    for side, (upper, lower) in BROWS.items():
        top, bottom = _along(chart.marks[upper], 40), _along(chart.marks[lower], 40)
        centre_line = 0.5 * (top + bottom) + np.stack([0 * at, -lift - arch * np.sin(np.pi * at**1.4)], axis=-1)
        half = 0.5 * thickness * profile * np.maximum(np.linalg.norm(top - bottom, axis=1).mean(), 7.0)
        outline = np.concatenate(
            [centre_line - np.stack([0 * at, half], -1), (centre_line + np.stack([0 * at, half], -1))[::-1]]
        )
        cv2.fillPoly(band, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        outward = 1.0 if side == "left" else -1.0
        for a, b, c, d in jitter:
            k = int(a * 39)
            start = centre_line[k] + [0, (2 * b - 1) * half[k]]
            end = start + np.array([outward * (6 + 8 * c), -(5 - 9 * a) * (0.5 + d)])
            _stroke(hairs, np.stack([start, end]), 1)
    soft = cv2.GaussianBlur(band, (0, 0), 2.0).astype(np.float32) / 255
    strength = rng.uniform(0.6, 0.9)
    _blend(texture, palette.brow, strength * soft, face)
    _blend(texture, palette.brow * 0.55, 0.7 * cv2.GaussianBlur(hairs, (0, 0), 0.6).astype(np.float32) / 255, face)
