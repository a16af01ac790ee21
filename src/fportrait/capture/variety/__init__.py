"""The wide world: people so different that a model must look at the portrait instead of remembering.

`variety` runs from 0 (plain) to 1 (wild) and scales how often and how far each of these leaves the plain world:

- `surface`: skin, brows, lips, wrinkles, beards, paint, stone and print
- `proportions`: head shapes, children, caricatures
- `outlines`: hair; `wear`: hats, hoods, scarves, spectacles, earrings, ornaments
- `lights`: hard and coloured light with cast shadows, sheen, eyes, garments; `scenery`: backgrounds and cloth
- `marks`: the camera's own marks, one draw per clip
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fportrait.body.model import BodyModel
from fportrait.capture.hair import CROWN_DEGREES, ELEVATIONS, LOWEST_DEGREES, SHELL_ROWS, TAIL_ROWS, Hair, Skull
from fportrait.capture.paint import Chart
from fportrait.capture.variety.proportions import sample_warp
from fportrait.capture.variety.scenery import cloth_picture, scene_picture
from fportrait.capture.variety.wear import Wear, sample_wear

BACKDROP = 160  # pixels of a background's side
NOTHING = np.zeros((0, 0, 3), np.float32)


def nothing() -> np.ndarray:
    """A picture of no pixels."""
    return NOTHING


@dataclass(frozen=True)
class Extras:
    """What only people of the wide world have. Pictures `H W 3` float32 may be empty.

    `warp` (V, 3) metres in the head's frame; `tint` factors on the hair's colour; `cloth` linear light; `backdrop` in
    display space.
    """

    warp: np.ndarray | None = None
    wear: Wear | None = None
    tint: np.ndarray = field(default_factory=nothing)
    cloth: np.ndarray = field(default_factory=nothing)
    backdrop: np.ndarray = field(default_factory=nothing)


def sample_extras(
    body: BodyModel,
    skull: Skull,
    chart: Chart,
    identity: np.ndarray,
    tint: np.ndarray,
    rng: np.random.Generator,
    amount: float,
) -> Extras:
    """Shape, wear, cloth and background of one person."""
    warp = sample_warp(body, chart, rng, amount)
    wear = sample_wear(body, skull, warp, identity, rng, amount)
    cloth = cloth_picture(rng, (128, 128)) if rng.random() < 0.6 * amount else NOTHING
    backdrop = scene_picture(rng, BACKDROP) if rng.random() < 0.85 else NOTHING
    return Extras(warp, wear, tint, cloth, backdrop)


def flatten_under(hair: Hair, headgear: Hair) -> Hair:
    """Hair pressed to the head wherever `headgear` covers it."""
    rows = SHELL_ROWS + TAIL_ROWS

    def elevation(shell: Hair) -> np.ndarray:
        place = (shell.row + shell.mix) / (ELEVATIONS - 1)
        return np.asarray(CROWN_DEGREES - place * (CROWN_DEGREES - LOWEST_DEGREES))

    covered = elevation(hair) > elevation(headgear)[:, SHELL_ROWS - 1, None] - 3.0
    covered[:, SHELL_ROWS:] = False
    offsets = hair.offsets.reshape(-1, rows, 3)
    length = np.linalg.norm(offsets, axis=-1)
    factor = np.where(covered, np.minimum(1.0, 0.006 / np.maximum(length, 1e-6)), 1.0)
    return replace(hair, offsets=(offsets * factor[..., None]).reshape(-1, 3))
