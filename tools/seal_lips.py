"""Shut mouths that are shut: without this, six sampled people in ten show a line of teeth between resting lips.

Anny's mouth shapes move the upper and the lower lip independently. Where the two meet, half of the difference is given
to each, fading over a few millimetres; the correction is linear, so it holds for every mix of identity modes.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

REACH = 0.005  # metres from the line of contact over which the correction fades
OVERLAP = 0.0004  # metres by which resting lips press on each other


def seal_lips(
    template: np.ndarray,
    modes: np.ndarray,
    lips: np.ndarray,
    soft: np.ndarray,
    upper_roll: np.ndarray,
    lower_roll: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Template `V 3` and modes `K V 3` (metres) with the lips in contact.

    Args:
        lips: `V` in 0..1. soft: `V` bool, skin and inside of the mouth. upper_roll, lower_roll: `V`, how far each
            vertex moves when that lip rolls in, which tells the lips apart.
    """
    on_lips = np.flatnonzero((lips > 0.5) & soft)
    is_upper = upper_roll[on_lips] > lower_roll[on_lips]
    upper, lower = on_lips[is_upper], on_lips[~is_upper]
    # Pairs in contact: each upper lip vertex with the nearest lower one, where less than 2.5 mm part them.
    distance, nearest = cKDTree(template[lower]).query(template[upper])
    touching = distance < 0.0025
    pairs = np.stack([upper[touching], lower[nearest[touching]]])
    seam = 0.5 * (template[pairs[0]] + template[pairs[1]])
    order = np.argsort(seam[:, 0])

    near = np.flatnonzero(soft & (cKDTree(seam).query(template)[0] < 3 * REACH))
    away = cKDTree(seam).query(template[near])[0]
    sign = np.where(is_upper[cKDTree(template[on_lips]).query(template[near])[1]], -0.5, 0.5)
    weight = sign * np.exp(-((away / REACH) ** 2))

    def closed(field: np.ndarray, overlap: float) -> np.ndarray:
        gap = field[pairs[0], 1] - field[pairs[1], 1] + overlap
        ordered = gap[order]
        smooth = np.convolve(np.pad(ordered, 2, mode="edge"), np.full(5, 0.2), mode="valid")
        out = field.copy()
        out[near, 1] += weight * np.interp(template[near, 0], seam[order, 0], smooth)
        return out

    return closed(template, OVERLAP), np.stack([closed(mode, 0.0) for mode in modes])
