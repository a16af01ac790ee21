"""Tracking of loose files: a picture or video of one person by a camera nobody measured, to tables and an overlay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fportrait.atomic_io import atomic_folder, write_json
from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.capture.image_io import read_picture
from fportrait.capture.video_io import constant_rate, iter_video, probe, write_image, write_video
from fportrait.devices import pick_device
from fportrait.errors import UserError
from fportrait.tables.annotations import write_frames
from fportrait.tracking.annotate import annotate, frame_table
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.lens import intrinsics_across, picture_fov
from fportrait.tracking.lens_estimate import estimated_lens, fov_of
from fportrait.tracking.mesh_estimator import MeshEstimator
from fportrait.tracking.overlay import draw_landmarks, draw_mesh
from fportrait.tracking.segments import segment_codes, track_segments
from fportrait.tracking.unlikeness import refuse_unlike

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
WRITTEN = ("frames.parquet", "identity.json", "overlay.mp4", "overlay.png")  # what a tracked file's folder holds
OVERLAY_WIDTH = 640  # pixels of one half of the overlay, at most


def track_file(
    path: str | Path,
    out: str | Path,
    base: str | Path,
    fov_degrees: float | None = None,
    config: TrackConfig | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Track one file into the folder `out`.

    Writes `frames.parquet` (the frame schema), `identity.json`, and `overlay.mp4` (of a picture `overlay.png`): the
    landmarks on the left, the fitted mesh's normals on the right.

    Args:
        base: bundle with the expression encoder. fov_degrees: the camera's field of view across the longer side; None
            takes the picture's own record (EXIF), or else what the face tells. force: go on with what is unlike a face.

    Returns:
        `frames`, `frames_with_face`, `reprojection_error_percent_of_face`, `unlike_a_face_percent`, `rolled_degrees`,
        `field_of_view`, `notes` and the paths written.

    Raises:
        UserError: neither picture nor video, no face or nothing like one, two of like size, a face gone too long.
    """
    from fportrait.tracking.expression import ExpressionEncoder

    path, out, config = Path(path), Path(out), config or TrackConfig()
    picture = path.suffix.lower() in PICTURES
    if not picture and path.suffix.lower() not in VIDEOS:
        raise UserError(f"the file {path}", f"one of {', '.join(PICTURES + VIDEOS)}", "convert it")
    fov, source = picture_fov(path, fov_degrees)
    intrinsics_across(fov, 2, 2)  # an impossible one is said before any work
    encoder, body = ExpressionEncoder.from_pretrained(Path(base) / "expression_encoder").to(pick_device()), load_body()

    fps, uneven = 25.0, False

    def frames() -> Iterator[np.ndarray]:
        if picture:
            return iter([still.image])
        return constant_rate(path)[1] if uneven else iter_video(path)

    if picture:
        still = read_picture(path)
        height, width = still.image.shape[:2]
        notes = list(still.notes)
    else:
        info = probe(path)
        height, width, fps, uneven, notes = info.height, info.width, info.fps, info.variable_rate, list(info.notes)
        if uneven:
            fps = constant_rate(path)[0]
            notes.append(f"its variable frame rate was resampled to {fps:g} frames per second")
    estimator = MeshEstimator(config.mesh_estimator) if config.mesh_estimator else None
    seen = read_landmarks(frames(), path.name, encoder.crop_size, config, estimator.size if estimator else 0)
    doubt = refuse_unlike(seen.unlike, path.name, force or config.force)
    intrinsics = intrinsics_across(fov, width, height)
    model = LandmarkModel(body)
    if source == "assumed":
        intrinsics = estimated_lens(model, seen, intrinsics)
        fov, source = fov_of(intrinsics), "estimated"
    clip = Clip(path.stem, path.name, path.stem, "phone", width, height, intrinsics, None, fps)
    shape, (track,) = track_segments([[(clip, seen)]], model, config, estimator)
    common = {"dataset": "PhoneCapture", "identity": path.stem, "split": "train"}
    rows = annotate(track, shape, body, segment_codes(track, encoder), common, config)
    pictures = overlay_frames(frames(), rows, shape, body)
    with atomic_folder(out) as folder:
        table = frame_table(rows)
        write_frames(folder / "frames.parquet", table)
        write_json(
            folder / "identity.json",
            {
                **common,
                "shape": shape.tolist(),
                "body_model": body.name,
                "reference_clip": path.stem,
                "reference_frame": int(seen.confidence.argmax()),
            },
        )
        name = "overlay.png" if picture else "overlay.mp4"
        if picture:
            write_image(folder / name, next(pictures))
        else:
            write_video(folder / name, pictures, fps)
    return {
        "frames": len(rows),
        "frames_with_face": int((seen.confidence > 0).sum()),
        "reprojection_error_percent_of_face": round(reprojection_error(table, shape, body), 2),
        "unlike_a_face_percent": round(100 * seen.unlike, 1),
        "rolled_degrees": 90 * seen.quarter_turns,
        "field_of_view": {"degrees": round(fov, 1), "source": source},
        "notes": [*([doubt] if doubt else []), *(f"{path.name}: {note}" for note in notes)],
        "folder": str(out),
        "overlay": str(out / name),
    }


def overlay_frames(
    frames: Iterator[np.ndarray], rows: list[dict[str, Any]], shape: np.ndarray, body: BodyModel
) -> Iterator[np.ndarray]:
    """For each frame the landmarks (left) and the fitted expression-neutral mesh's normals (right)."""
    for frame, row in zip(frames, rows, strict=False):
        factor = min(1.0, OVERLAY_WIDTH / frame.shape[1])
        landmarks = np.asarray(row["landmarks"], np.float64).reshape(478, 2)
        mesh = draw_mesh(
            frame,
            body.vertices(shape, None, pose_of(row)),
            body.faces,
            np.reshape(row["world_to_camera"], (4, 4)),
            np.reshape(row["intrinsics"], (3, 3)),
            0.7,
        )
        both = np.concatenate([draw_landmarks(frame, landmarks, 1), mesh], 1)
        yield _shrink(both, factor)


def pose_of(row: Any) -> Pose:
    """The pose in a row of the frame schema."""
    return Pose(
        np.reshape(row["body_rotation"], (3, 3)),
        np.asarray(row["body_translation"], np.float64),
        np.reshape(row["head_rotation"], (3, 3)),
    )


def reprojection_error(table: pd.DataFrame, shape: np.ndarray, body: BodyModel) -> float:
    """Median distance of the stable landmarks (eye corners, nose, brow's middle) to the mesh, percent of the face.

    The face's size is the longer side of the box around all landmarks.
    """
    from fportrait.camera.cameras import project

    model = LandmarkModel(body)
    stable = [33, 133, 263, 362, 168, 4, 1, 6]
    errors = []
    for _, row in table[table["confidence"] > 0].iterrows():
        pose = pose_of(row)
        rotations, shifts = body.bone_transforms(shape, pose)
        points = model.at(shape)[stable] @ rotations[2].T + shifts[2]
        pixels, _ = project(points, np.reshape(row["world_to_camera"], (4, 4)), np.reshape(row["intrinsics"], (3, 3)))
        seen = np.reshape(row["landmarks"], (478, 2))
        errors.append(np.linalg.norm(pixels - seen[stable], axis=1).mean() / np.ptp(seen, axis=0).max())
    return 100 * float(np.median(errors))


def _shrink(image: np.ndarray, factor: float) -> np.ndarray:
    """Smaller, with even sides for H.264."""
    import cv2

    height, width = (max(2, round(side * factor) // 2 * 2) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
