"""A person's tracks as rows of the frame schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fportrait.body.model import BodyModel
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import bridge_gaps, to_pose
from fportrait.tracking.segments import Track, crop_square


def annotate(
    track: Track, shape: np.ndarray, body: BodyModel, codes: np.ndarray, common: Mapping[str, str], config: TrackConfig
) -> list[dict[str, Any]]:
    """Rows of the frame schema for every camera of a segment; `codes` `T 128`."""
    poses = [to_pose(body, shape, r, t) for r, t in zip(track.rotations, track.translations, strict=True)]
    # A pose is as sure as the camera that saw its frame best: one behind the person takes nothing away from it.
    confidence = np.max([seen.confidence for seen in track.seen], axis=0)
    rows = []
    for clip, camera, seen in zip(track.clips, track.cameras, track.seen, strict=True):
        crop = crop_square(track.translations, track.rotations, camera, clip.intrinsics, config.crop_metres)
        found = np.flatnonzero(seen.confidence > 0)
        points = bridge_gaps(found, seen.landmarks[found], len(seen.landmarks))
        for t, pose in enumerate(poses):
            rows.append(
                {
                    **common,
                    "clip": clip.name,
                    "camera": clip.camera,
                    "segment": clip.segment,
                    "path": clip.path,
                    "frame": t,
                    "width": clip.width,
                    "height": clip.height,
                    "world_to_camera": camera.ravel().tolist(),
                    "intrinsics": clip.intrinsics.ravel().tolist(),
                    "crop": crop.tolist(),
                    "body_rotation": pose.body_rotation.ravel().tolist(),
                    "head_rotation": pose.head_rotation.ravel().tolist(),
                    "body_translation": pose.body_translation.tolist(),
                    "expression_code": codes[t].astype(np.float32),
                    "landmarks": points[t].astype(np.float32).ravel(),
                    "confidence": float(confidence[t]),
                }
            )
    return rows


def frame_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the schema's narrow types."""
    table = pd.DataFrame(rows)
    return table.astype({"frame": "int32", "width": "int32", "height": "int32", "confidence": "float32"})
