"""From videos to annotations: landmarks, identity, pose, expression code and crop of every frame.

One identity is one unit of work. Its landmarks are found clip by clip, its shape is fitted once over all of them, then
every frame's pose. In a studio capture all cameras of a time step share one pose and, as a driver would, one
expression code: that of the camera which faces the person best.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fportrait.atomic_io import atomic_folder, file_hash, value_hash, write_json, write_parquet
from fportrait.body.model import BodyModel, load_body
from fportrait.camera.cameras import intrinsics_from_fov, look_at, project
from fportrait.capture.video_io import iter_video
from fportrait.dataset.annotations import write_frames
from fportrait.errors import UserError
from fportrait.parameters import settings_from
from fportrait.scale.map_engine import map_units
from fportrait.tracking.crops import face_crop, upper_body_crop
from fportrait.tracking.fit import (
    LandmarkModel,
    Observations,
    bridge_gaps,
    fit_identity,
    measured,
    smooth,
    smooth_rotations,
    solve_frames,
    to_pose,
    with_estimates,
)
from fportrait.tracking.landmarks import Face, shared_landmarker
from fportrait.tracking.mesh_estimator import MeshEstimator
from fportrait.tracking.refinement import CROP, STRANGE, shipped_refiner
from fportrait.tracking.views import view_bias, without_bias

CODE_VERSION = "tracking-8"
SEARCH_EVERY = 12  # frames between searches for a second face
LOOK_AT = np.array([0.0, -0.005, 0.02])  # of the head, in its own axes: the centre of the crop


@dataclass(frozen=True)
class TrackConfig:
    """Settings of tracking. Lengths in metres."""

    camera_distance: float = 0.55  # of the canonical front camera of a monocular clip
    crop_metres: float = 0.30  # side of the model's picture at the head
    max_gap: int = 5  # longest run of frames without a face that is bridged
    clear_lead: float = 1.8  # of two faces, the larger is taken when it is this much larger
    identity_frames: int = 32  # frames that the shape is fitted on
    refine_landmarks: bool = True  # of faces like the rendered ones: see `refinement.py`
    mesh_estimator: str = ""  # an ONNX file of the user's: see `mesh_estimator.py`
    estimator_degrees: float = 2.0  # how far its rotations are off, per axis

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrackConfig:
        return settings_from(cls, values, "the parameters of track")


@dataclass(frozen=True)
class Clip:
    """One video with its camera, before tracking. `world_to_camera` is None for a monocular clip."""

    name: str
    path: str
    segment: str
    camera: str
    width: int
    height: int
    intrinsics: np.ndarray
    world_to_camera: np.ndarray | None


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


@dataclass
class ClipLandmarks:
    """`landmarks` `T 478 2` (NaN without a face), `confidence` `T`, `crops` `T S S 3`; `bodies` for an estimator,
    `refined` as `landmarks`, but moved to their places (`refinement.py`)."""

    landmarks: np.ndarray
    confidence: np.ndarray
    crops: np.ndarray
    bodies: np.ndarray | None = None
    refined: np.ndarray | None = None


def read_landmarks(
    frames: Iterable[np.ndarray], where: str, crop_size: int, config: TrackConfig, body_size: int = 0
) -> ClipLandmarks:
    """Landmarks and face crops of a video, following one face; upper-body crops too if they have a `body_size`.

    Raises:
        UserError: no face at all, two faces of like size, or a gap longer than `max_gap` frames.
    """
    landmarker = shared_landmarker()
    points, confidence, crops = [], [], []
    bodies: list[np.ndarray] = []
    close: list[np.ndarray] = []
    previous: Face | None = None
    for index, frame in enumerate(frames):
        faces = everyone = landmarker.detect(frame, previous=previous)
        # Following a face is blind to others, so the rest of the frame is searched now and then.
        if faces and previous is not None and index % SEARCH_EVERY == 0:
            everyone = landmarker.detect(frame, known=faces[0])
        if len(everyone) > 1 and everyone[0].size < config.clear_lead * everyone[1].size:
            raise UserError(f"two faces in frame {index} of {where}", "one person", "crop it to one of them")
        previous = faces[0] if faces else None
        points.append(previous.landmarks if previous else np.full((478, 2), np.nan, np.float32))
        confidence.append(previous.confidence if previous else 0.0)
        crops.append(
            np.zeros((crop_size, crop_size, 3), np.uint8)
            if previous is None
            else face_crop(frame, previous.landmarks, crop_size)
        )
        if config.refine_landmarks:
            nothing = np.zeros((CROP, CROP, 3), np.uint8)
            close.append(nothing if previous is None else face_crop(frame, previous.landmarks, CROP))
        if body_size:
            nothing = np.zeros((body_size, body_size, 3), np.uint8)
            bodies.append(nothing if previous is None else upper_body_crop(frame, previous.landmarks, body_size))
    found = np.array(confidence) > 0
    if not found.any():
        among = f"any of the {len(found)} frames of " if len(found) > 1 else ""
        raise UserError(
            f"no face in {among}{where}", "a visible face", "crop to head and shoulders, upright and from the front"
        )
    landmarks = np.stack(points)
    return ClipLandmarks(
        landmarks,
        np.array(confidence, np.float32),
        np.stack(crops),
        np.stack(bodies) if bodies else None,
        shipped_refiner().refine(landmarks, np.stack(close)) if close else None,
    )


def longest_gap(found: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], found, [True]]).astype(int)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int((stops - starts).argmax())
    return int(starts[best]), int(stops[best] - starts[best])


def front_camera(config: TrackConfig) -> np.ndarray:
    """`world_to_camera` of the canonical front camera: a monocular clip's world is defined by it."""
    return look_at(np.array([0.0, 0.0, config.camera_distance]), np.zeros(3))


@dataclass
class Track:
    """What was found in one segment: poses `T`, one per frame, and per camera what it saw.

    `refined`: poses and shape were fitted to landmarks moved to their places (`refinement.py`).
    """

    rotations: np.ndarray
    translations: np.ndarray
    error: float
    clips: list[Clip]
    cameras: list[np.ndarray]
    seen: list[ClipLandmarks]
    refined: bool = False


def track_segments(
    segments: list[list[tuple[Clip, ClipLandmarks]]],
    model: LandmarkModel,
    config: TrackConfig,
    estimator: MeshEstimator | None = None,
) -> tuple[np.ndarray, list[Track]]:
    """Shape `K` of one person, and a track per segment (all its synchronised cameras together).

    Raises:
        UserError: a gap without a face that is too long, or the mesh estimator's shape is not the body's.
    """
    observations, refined, seen_rows = [], [], []
    shapes: list[np.ndarray] = []
    for segment in segments:
        front = front_camera(config)
        cameras = np.stack([front if c.world_to_camera is None else c.world_to_camera for c, _ in segment])
        seen = Observations(
            np.stack([s.landmarks for _, s in segment], 1), cameras, np.stack([c.intrinsics for c, _ in segment])
        )
        if estimator is not None:
            seen = with_estimates(
                seen, estimates(segment, estimator, shapes), float(np.radians(config.estimator_degrees))
            )
        check_gaps(segment, config)
        rows = np.flatnonzero(seen.seen.any(1))
        observations.append(measured(seen.at(rows)))
        finer = [s.landmarks if s.refined is None else s.refined for _, s in segment]
        refined.append(replace(observations[-1], landmarks=np.stack(finer, 1)[rows]))
        seen_rows.append(rows)
    familiar = config.refine_landmarks and is_familiar(observations)
    if familiar:
        observations = refined
    if shapes:
        shape = np.concatenate(shapes).mean(0)
        if shape.shape != (model.body.identity_dim,):
            raise UserError(
                f"{len(shape)} shape coefficients from the mesh estimator",
                f"{model.body.identity_dim}",
                "leave that output away, and the shape is fitted",
            )
    else:
        shape = fit_identity(model, observations, frames=config.identity_frames)
    bias = view_bias(model, observations, shape)
    observations = [without_bias(group, bias) for group in observations]
    tracks = []
    for segment, group, rows in zip(segments, observations, seen_rows, strict=True):
        fit = solve_frames(model, group, shape)
        count = len(segment[0][1].landmarks)
        tracks.append(
            Track(
                smooth_rotations(bridge_gaps(rows, smooth_rotations(fit.rotations), count), 0.01),
                bridge_gaps(rows, smooth(fit.translations), count),
                float(fit.errors.mean()),
                [clip for clip, _ in segment],
                list(group.world_to_camera),
                [seen for _, seen in segment],
                familiar,
            )
        )
    return shape, tracks


def check_gaps(segment: list[tuple[Clip, ClipLandmarks]], config: TrackConfig) -> None:
    """Refuse a segment whose face no camera sees for longer than can be bridged.

    Raises:
        UserError: a gap longer than `max_gap` frames.
    """
    start, gap = longest_gap(np.any([seen.confidence > 0 for _, seen in segment], axis=0))
    if gap > config.max_gap:
        raise UserError(
            f"no face from frame {start} to {start + gap - 1} of {segment[0][0].name}",
            f"gaps of at most {config.max_gap} frames",
            "cut the clip there",
        )


def is_familiar(seen: list[Observations]) -> bool:
    """Whether a person's face, in the views from which it looks least strange, is like those the refiner knows."""
    faces = np.concatenate([group.landmarks[group.seen] for group in seen])
    return bool(np.quantile(shipped_refiner().strangeness(faces), 0.1) < STRANGE)


def estimates(
    segment: list[tuple[Clip, ClipLandmarks]], estimator: MeshEstimator, shapes: list[np.ndarray]
) -> np.ndarray:
    """Rotations `T cameras 3 3` in the cameras' axes of all faces of a segment; their shapes are added to `shapes`."""
    rotations = np.tile(np.eye(3), (len(segment[0][1].landmarks), len(segment), 1, 1))
    for c, (clip, seen) in enumerate(segment):
        assert seen.bodies is not None
        found = np.flatnonzero(seen.confidence > 0)
        rotations[found, c], shape = estimator.estimate(seen.bodies[found], seen.landmarks[found], clip.intrinsics)
        if shape is not None:
            shapes.append(shape)
    return rotations


def best_view(track: Track) -> int:
    """The camera that faces the person best over the segment, among those that always saw them."""
    facing = track.rotations[:, :, 2]  # +z of the head in the world
    scores = []
    for camera, seen in zip(track.cameras, track.seen, strict=True):
        backwards = -camera[2, :3]
        scores.append((facing @ backwards).mean() * (seen.confidence > 0).mean())
    return int(np.argmax(scores))


def crop_square(
    translations: np.ndarray, rotations: np.ndarray, camera: np.ndarray, intrinsics: np.ndarray, metres: float
) -> np.ndarray:
    """`x0, y0, size` of the square, `metres` wide at the head, around the head's mean place in the picture."""
    centre = translations + rotations @ LOOK_AT
    pixels, depth = project(centre, camera, intrinsics)
    size = float(intrinsics[0, 0] * metres / depth.mean())
    return np.array([*(pixels.mean(0) - size / 2), size])


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


def segment_codes(track: Track, encoder: Any) -> np.ndarray:
    """Expression codes `T 128` from the best view, bridged where it lost the face."""
    seen = track.seen[best_view(track)]
    found = np.flatnonzero(seen.confidence > 0)
    return bridge_gaps(found, encoder.encode(seen.crops[found]), len(seen.confidence)).astype(np.float32)


def frame_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the schema's narrow types."""
    table = pd.DataFrame(rows)
    return table.astype({"frame": "int32", "width": "int32", "height": "int32", "confidence": "float32"})


def track_identity(unit: IdentityUnit, folder: Path, base: str, config: TrackConfig) -> dict[str, Any]:
    """Track one identity; writes `frames.parquet` and `identity.json` into `folder`, returns scores.

    A clip that cannot be tracked is set aside with its reason, and the person's others go on.

    Raises:
        UserError: no clip is left.
    """
    import torch

    from fportrait.tracking.expression import ExpressionEncoder

    torch.set_num_threads(1)
    encoder = ExpressionEncoder.from_pretrained(Path(base) / "expression_encoder")
    estimator = MeshEstimator(config.mesh_estimator) if config.mesh_estimator else None
    body_size = estimator.size if estimator else 0
    body = load_body()
    by_segment: dict[str, list[tuple[Clip, ClipLandmarks]]] = {}
    hidden: list[UserError] = []
    aside: list[tuple[str, UserError]] = []
    for clip in (clip_of(dict(row), unit.dataset) for row in unit.rows):
        path = Path(unit.root) / clip.path
        try:
            seen = read_landmarks(iter_video(path), clip.path, encoder.crop_size, config, body_size)
        except UserError as error:
            if unit.dataset == "StudioCapture" and "no face" in error.found:
                hidden.append(error)  # a camera behind the person sees no face; the others do
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
        faults = list(dict.fromkeys([*(error for _, error in aside), *hidden]))
        more = f" and {len(faults) - 5} faults more" if len(faults) > 5 else ""
        raise UserError("; ".join(error.found for error in faults[:5]) + more, faults[0].expected, faults[0].fix)
    shape, tracks = track_segments(list(by_segment.values()), LandmarkModel(body), config, estimator)
    common = {"dataset": unit.dataset, "identity": unit.identity, "split": unit.split}
    rows = [
        row for track in tracks for row in annotate(track, shape, body, segment_codes(track, encoder), common, config)
    ]
    write_parquet(folder / "frames.parquet", frame_table(rows))
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
        "set_aside": [[name, str(error)] for name, error in aside],
        "refined": tracks[0].refined,
    }


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
    )


def identity_units(manifest: Path, root: Path) -> list[IdentityUnit]:
    """One unit per identity of the manifest, in order."""
    table = pd.read_parquet(manifest / "manifest.parquet")
    cameras = pd.read_parquet(manifest / "cameras.parquet")[
        ["dataset", "identity", "camera", "intrinsics", "world_to_camera"]
    ]
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
    parameters = [CODE_VERSION, asdict(config), encoder]
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
        frames = pd.concat([pd.read_parquet(r.folder / "frames.parquet") for r in report.results], ignore_index=True)
        write_frames(folder / "frames.parquet", frames)
        identities = pd.DataFrame([json.loads((r.folder / "identity.json").read_text()) for r in report.results])
        write_parquet(folder / "identities.parquet", identities.astype({"reference_frame": "int32"}))
        write_json(folder / "quarantine.json", quarantine)
    errors = [result.value["error"] for result in report.results]
    return {
        "frames": len(frames),
        "identities": len(report.results),
        "quarantined": people,
        "clips_set_aside": len(quarantine) - people,
        "identities_with_refined_landmarks": sum(result.value["refined"] for result in report.results),
        "reprojection_error_percent_of_eye_distance": round(100 * float(np.mean(errors)), 3),
    }
