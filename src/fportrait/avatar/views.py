"""From annotation rows and videos to what an avatar is fitted to: square pictures, cameras, poses and codes by frame.

A *frame* is one instant of a synchronised capture, seen by every camera. Tracking annotates each video on its own, so
a frame has several estimates of one pose and one expression: rotations are averaged, and the code is a mean over the
cameras weighted by confidence and by how squarely they see the face, since that is the view an expression encoder reads
best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.body.model import Pose


@dataclass
class View:
    """One camera's picture of one frame of the capture.

    frame: index into the capture's frames. image (S, S, 3) float32 in 0 to 1, covered (S, S) float32: 0 outside the
    video.
    """

    frame: int
    clip: str
    camera: str
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    image: np.ndarray
    covered: np.ndarray
    landmarks: np.ndarray
    """(478, 2) in pixels of `image`."""
    confidence: float


@dataclass
class CaptureFrame:
    """One frame of a capture: its pose, its driving code (128,), and where it is in the capture."""

    segment: str
    number: int
    pose: Pose
    code: np.ndarray


def matrix(values: Sequence[float] | np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A flat row-major list of the tables as a float64 matrix."""
    return np.asarray(values, dtype=np.float64).reshape(rows, columns)


def frontality(row: Any) -> float:
    """Cosine between the face's forward direction and the direction to the camera: 1 seen squarely, 0 in profile."""
    rotation = matrix(row.body_rotation, 3, 3) @ matrix(row.head_rotation, 3, 3)
    return float(-(matrix(row.world_to_camera, 4, 4)[:3, :3] @ rotation[:, 2])[2])


def combine_rows(rows: Sequence[Any]) -> CaptureFrame:
    """Combine the annotation rows of one instant (named tuples of the frames table)."""
    from fportrait.body.model import Pose

    square = np.array([max(frontality(row), 0.0) for row in rows])
    confidence = np.array([max(float(row.confidence), 0.0) for row in rows])
    weights = confidence * square**4 + 1e-9
    weights /= weights.sum()
    codes = np.stack([np.asarray(row.expression_code, dtype=np.float64) for row in rows])

    def mean_rotation(name: str) -> np.ndarray:
        total = sum(w * matrix(getattr(row, name), 3, 3) for w, row in zip(confidence + 1e-9, rows, strict=True))
        left, _, right = np.linalg.svd(total)
        return left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right

    places = np.stack([matrix(row.body_translation, 1, 3)[0] for row in rows])
    place = np.average(places, axis=0, weights=confidence + 1e-9)
    pose = Pose(mean_rotation("body_rotation"), place, mean_rotation("head_rotation"))
    return CaptureFrame(rows[0].segment, int(rows[0].frame), pose, (weights @ codes).astype(np.float32))


def rows_by_frame(table: pd.DataFrame) -> dict[tuple[str, int], list[Any]]:
    """Rows by (segment, frame), in order."""
    ordered = table.sort_values(["segment", "frame", "camera"], kind="stable")
    grouped: dict[tuple[str, int], list[Any]] = {}
    for row in ordered.itertuples(index=False):
        grouped.setdefault((row.segment, int(row.frame)), []).append(row)
    return grouped


def area_weights(start: float, length: float, count: int, available: int) -> np.ndarray:
    """(count, available) weights that average the pixels under each of `count` equal bins of `length` pixels."""
    edges = start + np.arange(count + 1) * length / count
    cells = np.arange(available)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return (np.clip(overlap, 0, None) * count / length).astype(np.float32)


def crop_picture(frame: np.ndarray, crop: Sequence[float] | np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut and resize by area (bilinear where it enlarges) the square `crop` (x0, y0, size) of a (H, W, 3) uint8 frame.

    Returns:
        picture (size, size, 3) float32 in 0 to 1, black outside the frame, and covered (size, size), the share inside
        it.
    """
    x0, y0, length = (float(value) for value in crop)
    height, width = frame.shape[:2]
    weights = _point_weights if length < size else area_weights
    columns, rows = weights(x0, length, size, width), weights(y0, length, size, height)
    reduced = np.tensordot(rows, frame.astype(np.float32) / 255.0, axes=(1, 0))  # (size, W, 3)
    picture = np.einsum("hwc,xw->hxc", reduced, columns, optimize=True)
    return np.ascontiguousarray(picture, dtype=np.float32), np.outer(rows.sum(axis=1), columns.sum(axis=1))


def _point_weights(start: float, length: float, count: int, available: int) -> np.ndarray:
    """(count, available) linear interpolation weights at the bins' centres."""
    centres = start + (np.arange(count) + 0.5) * length / count - 0.5
    distance = np.abs(centres[:, None] - np.arange(available)[None, :])
    return np.clip(1 - distance, 0, None).astype(np.float32)


def load_views(
    table: pd.DataFrame,
    size: int,
    max_frames: int,
    root: Path,
    read_video: Callable[[Path], np.ndarray],
    margin: float = 1.0,
) -> tuple[list[CaptureFrame], list[View]]:
    """Read one identity's capture: at most `max_frames` frames spread evenly, every camera of each.

    Args:
        table: the identity's rows of the annotation table.
        size: side of the pictures. margin: how many times wider than the model's crop they are: an avatar that is seen
            from everywhere needs more of the shoulders.
        root: what the table's paths are relative to. read_video: path -> (T, H, W, 3) uint8.

    Raises:
        UserError: a video has fewer frames than its annotations, or its path leaves `root`.
    """
    from fportrait.camera.cameras import crop_intrinsics

    grouped = rows_by_frame(table)
    keys = list(grouped)
    if len(keys) > max_frames:
        keys = [keys[i] for i in np.linspace(0, len(keys) - 1, max_frames).round().astype(int)]
    frames = [combine_rows(grouped[key]) for key in keys]
    by_clip: dict[str, list[tuple[int, Any]]] = {}
    for index, key in enumerate(keys):
        for row in grouped[key]:
            by_clip.setdefault(row.clip, []).append((index, row))
    views = []
    for clip, rows in sorted(by_clip.items()):
        path = (root / rows[0][1].path).resolve()
        if not path.is_relative_to(root.resolve()):
            raise UserError(f"a path outside the project: {rows[0][1].path}", "paths below the project", "ingest again")
        video = read_video(path)
        for index, row in rows:
            if int(row.frame) >= len(video):
                raise UserError(
                    f"{len(video)} frames in {row.path}, annotated up to {row.frame}",
                    "annotations of that video",
                    "track again",
                )
            x0, y0, side = np.asarray(row.crop, dtype=np.float64)
            shift = (margin - 1) * side / 2
            crop = np.array([x0 - shift, y0 - shift, margin * side])
            image, covered = crop_picture(video[int(row.frame)], crop, size)
            landmarks = (np.asarray(row.landmarks, dtype=np.float64).reshape(-1, 2) - crop[:2]) * (size / crop[2])
            camera = crop_intrinsics(matrix(row.intrinsics, 3, 3), tuple(crop), size)
            view = matrix(row.world_to_camera, 4, 4)
            views.append(
                View(
                    index,
                    clip,
                    row.camera,
                    view,
                    camera,
                    image,
                    covered,
                    landmarks,
                    float(row.confidence),
                )
            )
    return frames, views
