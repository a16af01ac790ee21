"""Phone clips that lie on their side or upside down, as those of a phone that was held upright.

Tracking takes the world as upright and the camera as rolled by quarter turns (`tracking.segments.front_camera`), in the
file's own pixels. What a model learns from, and is judged by, are frames in which heads stand upright, as those are of
everybody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fportrait.capture.manifest import PHONE

if TYPE_CHECKING:
    import pandas as pd

TURNS = "quarter_turns"
QUARTER = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # of the camera's axes, by a quarter counterclockwise


def quarter_turns(world_to_camera: np.ndarray) -> int:
    """Quarter turns, clockwise on screen, by which a camera `4 4` (OpenCV) shows an upright world (y up)."""
    across, down = world_to_camera[:2, 1]
    return round(float(np.arctan2(across, -down)) / (np.pi / 2)) % 4


def upright(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one clip as they are in frames that `np.rot90` turns upright; the new column `quarter_turns` says how
    often.

    Sides, camera, intrinsics, crop and landmarks change; the head in its world does not. Only a phone is held so: a
    calibrated camera stays as it is mounted.
    """
    first = rows.iloc[0]
    turns = quarter_turns(np.reshape(first["world_to_camera"], (4, 4))) if first["dataset"] == PHONE else 0
    if not turns:
        return rows.assign(**{TURNS: 0})
    turned = rows.to_dict("records")
    for row in turned:
        row[TURNS] = turns
        for _ in range(turns):
            _turn(row)
    narrow = {name: kind for name, kind in rows.dtypes.items() if kind.kind != "O"}
    return type(rows)(turned, index=rows.index).astype(narrow)


def _turn(row: dict) -> None:
    """One row by one quarter turn, counterclockwise: what was at `x, y` is at `y, width - x`."""
    width = row["width"]
    row["width"], row["height"] = row["height"], width
    points = np.reshape(row["landmarks"], (-1, 2))
    row["landmarks"] = np.stack([points[:, 1], width - points[:, 0]], -1).ravel()
    x0, y0, size = row["crop"]
    row["crop"] = np.array([y0, width - x0 - size, size])
    camera = np.array(row["world_to_camera"], np.float64).reshape(4, 4)
    camera[:3] = QUARTER @ camera[:3]
    row["world_to_camera"] = camera.ravel()
    (fx, _, cx), (_, fy, cy), _ = np.reshape(row["intrinsics"], (3, 3))
    row["intrinsics"] = np.array([fy, 0, cy, 0, fx, width - cx, 0, 0, 1.0])
