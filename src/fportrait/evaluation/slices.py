"""Slices: the same scores by view angle or turn of the head, skin tone and expression strength: a mean hides nobody.

Boundaries are fixed, not drawn from the data: a slice means the same for every model and every holdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fportrait.evaluation.bootstrap import estimate
from fportrait.evaluation.control import changes

if TYPE_CHECKING:
    from fportrait.evaluation.types import ClipResult

VIEW_DEGREES = (15.0, 40.0)  # between the clip's cameras and the portrait's
ITA_DEGREES = (10.0, 41.0)  # individual typology angle (Chardon et al., 1991): dark below, light above
BEYOND_SHARE = (0.1,)  # of a clip's frames whose angle no clip that was trained on shows
EXPRESSION = (0.4, 0.8)  # root mean square change of the codes, standard deviations
LABELS = {
    "view": ("under 15°", "15° to 40°", "over 40°"),
    "turn": ("under 15°", "15° to 40°", "over 40°"),  # of the head, where the camera stands still
    "shown": ("angles trained on", "beyond them"),  # of clips held out of people who are trained on
    "skin": ("dark", "medium", "light"),
    "expression": ("weak", "medium", "strong"),
}
CHEEKS = (50, 280, 205, 425, 117, 346)
SHOWN = ("psnr", "ssim", "lpips", "csim", "aed", "expression_gain", "reprojection_error", "faces_found")


def slice_of(axis: str, value: float) -> str:
    """The label of a value on an axis."""
    bounds = {
        **{"view": VIEW_DEGREES, "turn": VIEW_DEGREES, "shown": BEYOND_SHARE},
        **{"skin": ITA_DEGREES, "expression": EXPRESSION},
    }[axis]
    return LABELS[axis][int(np.searchsorted(bounds, value, side="right"))]


def view_degrees(world_to_camera: np.ndarray, reference: np.ndarray) -> float:
    """Largest angle between the optical axes of a clip's cameras `T 4 4` and the portrait's `4 4`."""
    cosine = np.asarray(world_to_camera)[:, 2, :3] @ np.asarray(reference)[2, :3]
    return float(np.degrees(np.arccos(np.clip(cosine.min(), -1, 1))))


def turn_degrees(rotations: np.ndarray) -> float:
    """Largest angle that the head, rotations `T 3 3`, faces away from where it faced in the first frame."""
    forward = np.asarray(rotations)[:, :, 2]
    return float(np.degrees(np.arccos(np.clip((forward @ forward[0]).min(), -1, 1))))


def skin_degrees(picture: np.ndarray, landmarks: np.ndarray) -> float:
    """Individual typology angle of the cheeks: atan((L − 50) / b) in CIELAB, degrees; of pixels, light included.

    Args:
        picture: `H W 3` uint8. landmarks: `478 2`, its pixels.
    """
    places = np.clip(np.asarray(landmarks)[list(CHEEKS)].astype(int), 0, np.array(picture.shape[1::-1]) - 1)
    colour = np.median(picture[places[:, 1], places[:, 0]], 0).astype(np.float32) / 255
    lightness, _, yellow = cv2.cvtColor(colour[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    return float(np.degrees(np.arctan2(lightness - 50, max(float(yellow), 1e-6))))


def expression_strength(codes: np.ndarray) -> float:
    """Root mean square change of codes `T 128` from their mean."""
    return float(np.sqrt(np.mean(changes(codes) ** 2)))


def summarise_slices(clips: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Axis → slice → `{"clips", "people", METHOD: {METRIC: {"mean", "low", "high"}}}`; intervals are over people."""
    table: dict[str, Any] = {}
    for axis, labels in LABELS.items():
        for label in labels:
            members = [clip for clip in clips if clip.slices.get(axis) == label]
            if not members:
                continue
            entry: dict[str, Any] = {"clips": len(members), "people": len({clip.identity for clip in members})}
            for name in sorted({name for clip in members for name in clip.scores}):
                method, metric = name.split("/")
                if metric not in SHOWN or method not in ("ours", "codec_limit"):
                    continue
                found = estimate(((clip.identity, clip.scores.get(name, np.nan)) for clip in members), seed)
                if found:
                    entry.setdefault(method, {})[metric] = found.cell()
            table.setdefault(axis, {})[label] = entry
    return table
