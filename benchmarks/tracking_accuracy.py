"""Tracking against ground truth on people of seeds that nothing was calibrated or trained on.

    python benchmarks/tracking_accuracy.py [--people 16] [--studio 16] [--seed 31337]

Phone clips: rotation and place of the head as the camera sees them (a phone clip's world is defined by its camera).
Studio: in the world of the cameras. The place is that of the centre of the face's landmarks on the expressionless mesh.
Camera consistency: the same frames fitted from every second camera and from the others, shape fixed; with the views'
biases as the person's other frames tell them (of the same segment every second one), with those of the person's other
segment only, and without. Spread: of the halves' disagreement, what is constant of a person, of a segment, and the rest
(root mean squares of a nested decomposition of the rotation vectors, without and with the biases). Jitter: change
between frames of a clip that repeats one picture with fresh noise of 2 grey levels.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from _result import write_result

from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.camera.cameras import project
from fportrait.capture.video_io import iter_video
from fportrait.capture.world import WorldConfig, write_embedded_world
from fportrait.errors import UserError
from fportrait.tracking.calibration import Calibration
from fportrait.tracking.clips import Clip, ClipLandmarks, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, Observations, measured, solve_frames
from fportrait.tracking.segments import front_camera, is_familiar, track_segments
from fportrait.tracking.views import view_bias, without_bias

BODY = load_body()
CONFIG = TrackConfig()
EMBEDDING = LandmarkModel(BODY, Calibration.none())


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.linalg.norm(rotation_vector(a @ np.swapaxes(b, -1, -2)), axis=-1))


def read_person(folder: Path, truth: Path) -> tuple[list, list]:
    """Segments (clips with landmarks) and their truths."""
    segments, truths = [], []
    for file in sorted(truth.glob("*.npz")):
        known = dict(np.load(file, allow_pickle=False))
        clips = []
        for index, camera in enumerate(known["camera_names"].tolist()):
            phone = camera == "phone"
            path = folder / (f"{file.stem}.mp4" if phone else f"{file.stem}/{camera}.mp4")
            try:
                seen = read_landmarks(iter_video(path), path.name, 16, CONFIG)
            except UserError:
                continue  # a camera from the side saw nobody
            size = 256
            world = None if phone else known["world_to_camera"][index]
            clips.append(
                (Clip(path.stem, path.name, file.stem, camera, size, size, known["intrinsics"][index], world), seen)
            )
        segments.append(clips)
        truths.append(known)
    return segments, truths


def as_tracked(segments: list) -> list[Observations]:
    """What tracking fits: turns measured on landmarks as they came, and the refined ones if the face is familiar."""
    groups = [
        measured(
            Observations(
                np.stack([s.landmarks for _, s in segment], 1).astype(np.float64),
                np.stack(
                    [front_camera(CONFIG) if c.world_to_camera is None else c.world_to_camera for c, _ in segment]
                ),
                np.stack([c.intrinsics for c, _ in segment]),
            )
        )
        for segment in segments
    ]
    if not is_familiar(groups):
        return groups
    return [
        replace(group, landmarks=np.stack([s.refined for _, s in segment], 1).astype(np.float64))
        for group, segment in zip(groups, segments, strict=True)
    ]


def score_person(segments: list, truths: list, model: LandmarkModel) -> dict[str, list]:
    shape, tracks = track_segments(segments, model, CONFIG)
    groups = as_tracked(segments)
    scores: dict[str, list] = {"rotation": [], "turn": [], "place": [], "reprojection": []}
    for segment, group, track, known in zip(segments, groups, tracks, truths, strict=True):
        poses = [
            Pose(*p)
            for p in zip(known["body_rotation"], known["body_translation"], known["head_rotation"], strict=True)
        ]
        true_rotation = known["body_rotation"] @ known["head_rotation"]
        true_points = np.stack([BODY.landmarks(BODY.vertices(known["shape"], None, p)) for p in poses])
        valid = BODY.landmark_valid
        found = EMBEDDING.at(shape) @ track.rotations.transpose(0, 2, 1) + track.translations[:, None]
        ours, theirs = found[:, valid].mean(1), true_points[:, valid].mean(1)
        rotation = track.rotations
        if segment[0][0].world_to_camera is None:
            front, real = front_camera(CONFIG), known["world_to_camera"][0]
            rotation, true_rotation = front[:3, :3] @ rotation, real[:3, :3] @ true_rotation
            ours, theirs = ours @ front[:3, :3].T + front[:3, 3], theirs @ real[:3, :3].T + real[:3, 3]
        scores["rotation"] += degrees(rotation, true_rotation).tolist()
        turns = [r @ r[len(r) // 2].T for r in (rotation, true_rotation)]
        scores["turn"] += degrees(*turns).tolist()
        scores["place"] += np.linalg.norm(ours - theirs, axis=1).tolist()
        points = model.at(shape) @ track.rotations.transpose(0, 2, 1) + track.translations[:, None]
        stable = [33, 133, 263, 362, 168, 4, 1, 6]
        for c, ((clip, seen), camera) in enumerate(zip(segment, track.cameras, strict=True)):
            for t in np.flatnonzero(seen.confidence > 0):
                pixels, _ = project(points[t, stable], camera, clip.intrinsics)
                off = np.linalg.norm(pixels - group.landmarks[t, c, stable], axis=1).mean()
                scores["reprojection"].append(100 * off / np.ptp(seen.landmarks[t], axis=0).max())
    scores |= agreement([g for g, segment in zip(groups, segments, strict=True) if len(segment) >= 4], shape, model)
    return scores


def half(seen: Observations, cameras: slice) -> Observations:
    assert seen.turns is not None and seen.turn_weights is not None
    return Observations(
        seen.landmarks[:, cameras],
        seen.world_to_camera[cameras],
        seen.intrinsics[cameras],
        seen.turns[:, cameras],
        seen.turn_weights[:, cameras],
    )


def agreement(groups: list[Observations], shape: np.ndarray, model: LandmarkModel) -> dict[str, list]:
    """Rotation vectors `3`, degrees, between the halves of the cameras, a list per segment."""
    found: dict[str, list] = {"consistency": [], "consistency_other_segment": [], "consistency_without": []}
    for index, group in enumerate(groups):
        odd = np.arange(len(group.landmarks)) % 2 == 1
        elsewhere = view_bias(model, groups[:index] + groups[index + 1 :], shape)
        for name in found:
            vectors = np.zeros((len(group.landmarks), 3))
            scored = np.zeros(len(vectors), bool)
            for mine in (odd, ~odd):  # scored with biases from the others
                bias = None if name.endswith("without") else elsewhere
                if name == "consistency":
                    bias = view_bias(
                        model, [*groups[:index], group.at(np.flatnonzero(~mine)), *groups[index + 1 :]], shape
                    )
                seen = without_bias(group, bias)
                halves = [half(seen, slice(start, None, 2)) for start in (0, 1)]
                both = np.flatnonzero(halves[0].seen.any(1) & halves[1].seen.any(1) & mine)
                if len(both):
                    one, other = (solve_frames(model, h.at(both), shape).rotations for h in halves)
                    vectors[both] = np.degrees(rotation_vector(one @ other.transpose(0, 2, 1)))
                    scored[both] = True
            if scored.any():
                found[name].append(vectors[scored])
    return found


def spread(people: list[list[np.ndarray]]) -> dict[str, float]:
    """Root mean squares of the disagreement `T 3` of segments of people: person, segment within, frame within."""
    people = [segments for segments in people if segments]
    segment_means = [np.stack([s.mean(0) for s in segments]) for segments in people]
    person = np.stack([means.mean(0) for means in segment_means])
    within = np.concatenate([m - m.mean(0) for m in segment_means])
    frame = np.concatenate([s - s.mean(0) for segments in people for s in segments])
    parts = {"person": person, "segment": within, "frame": frame}
    return {name: round(float(np.sqrt((part**2).sum(1).mean())), 3) for name, part in parts.items()}


def jitter(model: LandmarkModel, video: Path, known: dict) -> float:
    """Median change of the head's rotation between frames of a still face, degrees."""
    first = next(iter_video(video))
    rng = np.random.default_rng(0)
    frames = [np.clip(first + rng.normal(0, 2, first.shape), 0, 255).astype(np.uint8) for _ in range(12)]
    seen: ClipLandmarks = read_landmarks(iter(frames), "still", 16, CONFIG)
    clip = Clip("still", "still", "still", "phone", *first.shape[1::-1], known["intrinsics"][0], None)
    _, (track,) = track_segments([[(clip, seen)]], model, CONFIG)
    return float(np.median(degrees(track.rotations[1:], track.rotations[:-1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--studio", type=int, default=16)
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--folder", type=Path, help="keep the filmed world here, or use the one that is there")
    arguments = parser.parse_args()
    world = WorldConfig(
        phone_identities=arguments.people,
        phone_clips=2,
        phone_frames=10,
        studio_identities=arguments.studio,
        studio_cameras=5,
        studio_segments=2,
        studio_frames=6,
        studio_yaw_degrees=60.0,
    )
    model, table = LandmarkModel(BODY), {}
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        if not (root / "truth").is_dir():
            write_embedded_world(root / "raw", root / "truth", world, seed=arguments.seed)
        for kind, dataset in (("phone", "PhoneCapture"), ("studio", "StudioCapture")):
            scores: dict[str, list] = {}
            by_person: dict[str, list] = {}
            for person in sorted((root / "raw" / kind).iterdir()):
                one = score_person(*read_person(person, root / "truth" / dataset / person.name), model)
                for name, values in one.items():
                    if name.startswith("consistency"):
                        by_person.setdefault(name, []).append(values)
                        values = [float(np.linalg.norm(v)) for segment in values for v in segment]
                    scores.setdefault(name, []).extend(values)
            if kind == "studio":
                table["studio_spread"] = {name: spread(people) for name, people in by_person.items()}
            for name, values in scores.items():
                if values:
                    table[f"{kind}_{name}"] = {
                        "median": round(float(np.median(values)), 4),
                        "p95": round(float(np.percentile(values, 95)), 4),
                    }
        clip = sorted((root / "raw" / "phone").rglob("*.mp4"))[0]
        known = dict(np.load(root / "truth" / "PhoneCapture" / clip.parent.name / f"{clip.stem}.npz"))
        table["still_face_jitter"] = {"median": round(jitter(model, clip, known), 4)}
    for name, values in table.items():
        print(f"{name:<22}" + "  ".join(f"{key} {value}" for key, value in values.items()))
    write_result(
        name="tracking_accuracy",
        what="head rotation of unseen embedded people in phone clips, median error; all figures in `table`",
        ours=table["phone_rotation"]["median"],
        unit="degrees",
        bound=2.5,
        n=arguments.people,
        table=table,
        units="degrees for rotation, turn, consistency, jitter; metres for place; percent of the face for reprojection",
    )


if __name__ == "__main__":
    main()
