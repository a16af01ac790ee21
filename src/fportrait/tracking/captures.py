"""From a manifest's videos to annotations: landmarks, identity, pose, expression code and crop of every frame.

One identity is one unit of work. Its landmarks are found clip by clip (`clips`), its shape is fitted once over all of
them, then every frame's pose (`segments`). In a studio capture all cameras of a time step share one pose and, as a
driver would, one expression code: that of the camera which faces the person best.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fportrait.atomic_io import atomic_folder, code_hash, file_hash, value_hash, write_json, write_parquet
from fportrait.body.model import load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.manifest import read_manifest
from fportrait.capture.video_io import iter_video
from fportrait.devices import pick_device
from fportrait.errors import UserError
from fportrait.scale.map_engine import map_units
from fportrait.tables.annotations import join_frames, write_frames
from fportrait.tracking.annotate import annotate, frame_table
from fportrait.tracking.clips import Clip, ClipLandmarks, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.mesh_estimator import MeshEstimator
from fportrait.tracking.segments import best_view, check_gaps, segment_codes, track_segments
from fportrait.tracking.unlikeness import refuse_unlike

# What decides a track besides its video, its settings and the encoder: a unit made by other code is not reused.
CODE = (
    "tracking",
    "tables",
    "body",
    "camera",
    "capture/video_io.py",
    "capture/colour.py",
    "capture/display.py",
    "assets/body.npz",
    "assets/head_turn.npz",
    "assets/landmark_calibration.npz",
    "assets/landmark_refinement.safetensors",
    "assets/face_landmarker/face_blendshapes.tflite",
    "assets/face_landmarker/face_detector.tflite",
    "assets/face_landmarker/face_landmarks_detector.tflite",
)


@dataclass(frozen=True)
class IdentityUnit:
    """One person of one capture: rows of the manifest, and the root that their paths are relative to."""

    dataset: str
    identity: str
    split: str
    root: str
    rows: tuple[tuple[tuple[str, Any], ...], ...]  # manifest rows with their camera, hashable

    def __str__(self) -> str:
        return f"{self.dataset}/{self.identity}"


def track_identity(unit: IdentityUnit, folder: Path, base: str, config: TrackConfig) -> dict[str, Any]:
    """Track one identity; writes `frames.parquet` and `identity.json` into `folder`, returns scores.

    A clip that cannot be tracked is set aside with its reason, and the person's others go on.

    Raises:
        UserError: no clip is left.
    """
    import torch

    from fportrait.tracking.expression import ExpressionEncoder

    torch.set_num_threads(1)
    encoder = ExpressionEncoder.from_pretrained(Path(base) / "expression_encoder").to(pick_device())
    estimator = MeshEstimator(config.mesh_estimator) if config.mesh_estimator else None
    body_size = estimator.size if estimator else 0
    body = load_body()
    segments, hidden, aside = read_segments(unit, encoder.crop_size, body_size, config)
    shape, tracks = track_segments(segments, LandmarkModel(body), config, estimator)
    common = {"dataset": unit.dataset, "identity": unit.identity, "split": unit.split}
    rows = [
        row for track in tracks for row in annotate(track, shape, body, segment_codes(track, encoder), common, config)
    ]
    write_frames(folder / "frames.parquet", frame_table(rows))
    first = tracks[0]
    view = best_view(first)
    identity = {
        **common,
        "shape": shape.tolist(),
        "body_model": body.name,
        "reference_clip": first.clips[view].name,
        "reference_frame": int(first.seen[view].confidence.argmax()),
    }
    write_json(folder / "identity.json", identity)
    return {
        "frames": len(rows),
        "error": float(np.mean([track.error for track in tracks])),
        "hidden_cameras": len(hidden),
        "set_aside": [[name, str(error)] for name, error in (*aside, *hidden)],
        "refined": tracks[0].refined,
    }


def read_segments(
    unit: IdentityUnit, crop_size: int, body_size: int, config: TrackConfig
) -> tuple[list[list[tuple[Clip, ClipLandmarks]]], list[tuple[str, UserError]], list[tuple[str, UserError]]]:
    """The clips of a unit by segment; with reasons, those of studio cameras that saw no face, and others set aside.

    Raises:
        UserError: no clip is left.
    """
    by_segment: dict[str, list[tuple[Clip, ClipLandmarks]]] = {}
    hidden: list[tuple[str, UserError]] = []
    aside: list[tuple[str, UserError]] = []
    for clip in (clip_of(dict(row), unit.dataset) for row in unit.rows):
        path = Path(unit.root) / clip.path
        try:
            seen = read_landmarks(iter_video(path), clip.path, crop_size, config, body_size)
            if clip.world_to_camera is None:  # of a studio's cameras some see a face from far aside
                refuse_unlike(seen.unlike, clip.path, config.force)
        except UserError as error:
            if unit.dataset == "StudioCapture" and "no face" in error.found:
                hidden.append((clip.name, error))  # a camera behind the person sees no face; the others do
            else:
                aside.append((clip.name, error))
            continue
        by_segment.setdefault(clip.segment, []).append((clip, seen))
    for name, segment in list(by_segment.items()):
        try:
            check_gaps(segment, config)
        except UserError as error:
            aside += [(clip.name, error) for clip, _ in by_segment.pop(name)]
    if not by_segment:
        faults = list(dict.fromkeys([error for _, error in (*aside, *hidden)]))
        more = f" and {len(faults) - 5} faults more" if len(faults) > 5 else ""
        raise UserError("; ".join(error.found for error in faults[:5]) + more, faults[0].expected, faults[0].fix)
    return list(by_segment.values()), hidden, aside


def clip_of(row: Mapping[str, Any], dataset: str) -> Clip:
    """A manifest row with its camera."""
    if dataset == "StudioCapture":
        intrinsics = np.array(row["intrinsics"], np.float64).reshape(3, 3)
        world_to_camera = np.array(row["world_to_camera"], np.float64).reshape(4, 4)
    else:
        intrinsics = intrinsics_from_fov(row["horizontal_fov_degrees"], row["width"], row["height"])
        world_to_camera = None
    return Clip(
        row["clip"],
        row["path"],
        row["segment"],
        row["camera"],
        int(row["width"]),
        int(row["height"]),
        intrinsics,
        world_to_camera,
        float(row["fps"]),
    )


def identity_units(manifest: Path, root: Path) -> list[IdentityUnit]:
    """One unit per identity of the manifest, in order.

    Raises:
        UserError: the manifest is not what ingest writes (`read_manifest`).
    """
    table, cameras = read_manifest(manifest)
    table = table.drop(columns="notes", errors="ignore")
    cameras = cameras[["dataset", "identity", "camera", "intrinsics", "world_to_camera"]]
    table = table.merge(cameras, on=["dataset", "identity", "camera"], how="left")
    units = []
    for (dataset, identity), rows in table.sort_values(["dataset", "clip"]).groupby(["dataset", "identity"], sort=True):
        frozen = tuple(
            tuple((str(k), tuple(v.tolist()) if isinstance(v, np.ndarray) else v) for k, v in row.items())
            for row in rows.to_dict("records")
        )
        units.append(IdentityUnit(str(dataset), str(identity), str(rows["split"].iloc[0]), str(root), frozen))
    return units


def track_captures(
    manifest: str | Path,
    base: str | Path,
    out: str | Path,
    units_folder: str | Path,
    config: TrackConfig | Mapping[str, Any],
    workers: int = 0,
    root: str | Path = ".",
) -> dict[str, Any]:
    """Track every identity of a manifest into `frames.parquet`, `identities.parquet` and `quarantine.json` in `out`.

    Args:
        manifest: folder with `manifest.parquet` and `cameras.parquet`. base: bundle with the expression encoder.

    Raises:
        UserError: nobody could be tracked, or the configuration has unknown keys.
    """
    config = config if isinstance(config, TrackConfig) else TrackConfig.from_dict(config)
    units = identity_units(Path(manifest), Path(root))
    encoder = {path.name: file_hash(path) for path in sorted((Path(base) / "expression_encoder").glob("*"))}
    parameters = [code_hash(*CODE), asdict(config), encoder]
    if config.mesh_estimator:
        MeshEstimator(config.mesh_estimator)  # a bad file is one message, not one per person
        parameters.append(file_hash(Path(config.mesh_estimator)))
    report = map_units(
        functools.partial(track_identity, base=str(base), config=config),
        units,
        workers=workers,
        cache_folder=units_folder,
        progress="track",
        key=lambda unit: [parameters, unit.dataset, unit.identity, unit.split, value_hash(unit.rows)],
    )
    quarantine = [
        {"dataset": failure.unit.dataset, "identity": failure.unit.identity, "reason": failure.reason}
        for failure in report.failures
    ]
    people = len(quarantine)
    quarantine += [
        {"dataset": result.unit.dataset, "identity": result.unit.identity, "clip": clip, "reason": reason}
        for result in report.results
        for clip, reason in result.value["set_aside"]
    ]
    if not report.results:
        reason = quarantine[0]["reason"] if quarantine else "the manifest is empty"
        raise UserError(f"nobody who could be tracked; {reason}", "one identity at least", "mend the captures")
    with atomic_folder(out) as folder:
        rows = join_frames(folder / "frames.parquet", (r.folder / "frames.parquet" for r in report.results))
        identities = pd.DataFrame([json.loads((r.folder / "identity.json").read_text()) for r in report.results])
        write_parquet(folder / "identities.parquet", identities.astype({"reference_frame": "int32"}))
        write_json(folder / "quarantine.json", quarantine)
    errors = [result.value["error"] for result in report.results]
    return {
        "frames": rows,
        "identities": len(report.results),
        "quarantined": people,
        "clips_set_aside": len(quarantine) - people,
        "identities_with_refined_landmarks": sum(result.value["refined"] for result in report.results),
        "reprojection_error_percent_of_eye_distance": round(100 * float(np.mean(errors)), 3),
    }
