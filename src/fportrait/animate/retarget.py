"""Expression sliders: arithmetic on codes, such as "eyes half closed, whatever the driver does".

A slider's direction is measured, for any encoder, on rendered people who are shown at rest and in a full action: the
mean over them of code(action) − code(rest). A code plus `strength` times that direction is the same face with so much
of the action added; a negative strength goes towards the opposite action where the face has one (eyes close, the mouth
turns down, brows lower), and takes the action away where it has none (lips part, or close).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.errors import UserError, refuse_unknown_keys

FACES_ACTING = Path(__file__).parent.parent / "assets" / "faces_acting.webp"  # tools/draw_faces_acting.py
MOST = 1.5  # of a full action: beyond, codes leave what the model has seen


def _both(name: str, strength: float = 1.0) -> dict[str, float]:
    return {f"{name}Left": strength, f"{name}Right": strength}


# The rows of the sheet: what the rendered people do, as the body's actions.
ROWS: dict[str, dict[str, float]] = {
    "rest": {},
    "eyes_wide": _both("eyeWide"),
    "eyes_closed": _both("eyeBlink"),
    "jaw_open": {"jawOpen": 1.0},
    "smile": _both("mouthSmile"),
    "frown": _both("mouthFrown"),
    "brows_up": {"browInnerUp": 1.0, **_both("browOuterUp")},
    "brows_down": _both("browDown"),
    "pucker": {"mouthPucker": 1.0},
    "gaze_left": {"eyeLookOutLeft": 0.9, "eyeLookInRight": 0.9},
    "gaze_right": {"eyeLookInLeft": 0.9, "eyeLookOutRight": 0.9},
}
# slider: the rows it goes to, upwards and downwards (None: back along the same direction), and what it does
SLIDERS: dict[str, tuple[str, str | None, str]] = {
    "eyes": ("eyes_wide", "eyes_closed", "open wider, or close"),
    "lips": ("jaw_open", None, "part, or close"),
    "smile": ("smile", "frown", "smile, or mouth corners down"),
    "brows": ("brows_up", "brows_down", "raise, or lower"),
    "pucker": ("pucker", None, "purse the lips, or not"),
    "gaze": ("gaze_left", "gaze_right", "look to their left, or right"),
}


@functools.cache
def faces_acting() -> dict[str, np.ndarray]:
    """Crops `N 96 96 3` uint8 of the same rendered people, by row."""
    from PIL import Image

    with Image.open(FACES_ACTING) as opened:
        sheet = np.asarray(opened.convert("RGB"))
    side = sheet.shape[0] // len(ROWS)
    rows = sheet.reshape(len(ROWS), side, -1, side, 3).swapaxes(1, 2)
    return dict(zip(ROWS, rows, strict=True))


def directions(encoder: Any) -> dict[str, np.ndarray]:
    """Code direction `128` of each row but the first: what an encoder reads of the action, above rest."""
    import cv2

    size, faces = encoder.crop_size, faces_acting()

    def read(crops: np.ndarray) -> np.ndarray:
        return np.asarray(
            encoder.encode(np.stack([cv2.resize(c, (size, size), interpolation=cv2.INTER_AREA) for c in crops]))
        )

    rest = read(faces["rest"])
    return {name: (read(crops) - rest).mean(0) for name, crops in faces.items() if name != "rest"}


def check_strengths(strengths: Mapping[str, float]) -> None:
    """Refuse unknown sliders and strengths out of range.

    Raises:
        UserError: either of these.
    """
    refuse_unknown_keys(strengths, SLIDERS, "expression")
    for name, value in strengths.items():
        if not -MOST <= value <= MOST:
            raise UserError(f"expression {name}={value:g}", f"-{MOST:g} to {MOST:g}", "1 is a full action, 0 none")


def offset(strengths: Mapping[str, float], along: Mapping[str, np.ndarray]) -> np.ndarray:
    """What strengths of `SLIDERS` add to a code, `128`; `along` as `directions` gives it."""
    total = np.zeros(128, np.float32)
    for name, value in strengths.items():
        up, down, _ = SLIDERS[name]
        total += value * along[up] if value >= 0 or down is None else -value * along[down]
    return total
