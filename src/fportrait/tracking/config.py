"""The settings of tracking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fportrait.parameters import settings_from


@dataclass(frozen=True)
class TrackConfig:
    """Settings of tracking. Lengths in metres."""

    camera_distance: float = 0.55  # of the canonical front camera of a monocular clip
    crop_metres: float = 0.30  # side of the model's picture at the head
    max_gap_seconds: float = 0.2  # longest time without a face that is bridged
    clear_lead: float = 1.8  # of two faces, the larger is taken when it is this much larger
    identity_frames: int = 32  # frames that the shape is fitted on
    refine_landmarks: bool = True  # of faces like the rendered ones: see `refinement.py`
    mesh_estimator: str = ""  # an ONNX file of the user's: see `mesh_estimator.py`
    estimator_degrees: float = 2.0  # how far its rotations are off, per axis
    force: bool = False  # go on with what is unlike a face: see `unlikeness.py`

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrackConfig:
        return settings_from(cls, values, "the parameters of track")
