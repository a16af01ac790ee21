"""Tracking against ground truth on people of seeds that nothing was calibrated or trained on.

    python benchmarks/tracking_accuracy.py [--people 12] [--studio 12] [--seed 777]

Phone clips: rotation and place of the head as the camera sees them (a phone clip's world is defined by its camera).
Studio: in the world of the cameras. The place is that of the middle of the face's landmarks on the expressionless mesh.
Camera consistency: the same moments fitted from every second camera and from the others, shape fixed. Jitter: change
between frames of a clip that repeats one picture with fresh noise of 2 grey levels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _result import write_result

from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.camera.cameras import project
from fportrait.capture.video_io import iter_video
from fportrait.capture.world import WorldConfig, write_embedded_world
from fportrait.errors import UserError
from fportrait.tracking.calibration import Calibration
from fportrait.tracking.fit import LandmarkModel, Observations, solve_moments, with_turns
from fportrait.tracking.head_turn import shipped_head_turn
from fportrait.tracking.track import Clip, ClipLandmarks, TrackConfig, front_camera, read_landmarks, track_segments

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
            clips.append((Clip(path.stem, path.name, file.stem, camera, size, size, known["intrinsics"][index], world),
                          seen))  # fmt: skip
        segments.append(clips)
        truths.append(known)
    return segments, truths


def score_person(segments: list, truths: list, model: LandmarkModel) -> dict[str, list]:
    shape, tracks = track_segments(segments, model, CONFIG)
    scores: dict[str, list] = {"rotation": [], "turn": [], "place": [], "reprojection": [], "consistency": []}
    for segment, track, known in zip(segments, tracks, truths, strict=True):
        poses = [Pose(*p) for p in zip(known["body_rotation"], known["body_translation"], known["head_rotation"],
                                       strict=True)]  # fmt: skip
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
        for (clip, seen), camera in zip(segment, track.cameras, strict=True):
            for t in np.flatnonzero(seen.confidence > 0):
                pixels, _ = project(points[t, stable], camera, clip.intrinsics)
                off = np.linalg.norm(pixels - seen.landmarks[t, stable], axis=1).mean()
                scores["reprojection"].append(100 * off / np.ptp(seen.landmarks[t], axis=0).max())
        if len(segment) >= 4:
            halves = []
            for part in (segment[0::2], segment[1::2]):
                seen = Observations(
                    np.stack([s.landmarks for _, s in part], 1), np.stack([c.world_to_camera for c, _ in part]),
                    np.stack([c.intrinsics for c, _ in part]),
                )  # fmt: skip
                halves.append(with_turns(seen, shipped_head_turn()))
            both = halves[0].seen.any(1) & halves[1].seen.any(1)
            fits = [solve_moments(model, h.at(both), shape).rotations for h in halves]
            scores["consistency"] += degrees(*fits).tolist()
    return scores


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
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--studio", type=int, default=12)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--folder", type=Path, help="keep the filmed world here, or use the one that is there")
    arguments = parser.parse_args()
    world = WorldConfig(
        phone_identities=arguments.people, phone_clips=2, phone_frames=10, studio_identities=arguments.studio,
        studio_cameras=5, studio_segments=1, studio_frames=6, studio_yaw_degrees=60.0,
    )  # fmt: skip
    model, table = LandmarkModel(BODY), {}
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        if not (root / "truth").is_dir():
            write_embedded_world(root / "raw", root / "truth", world, seed=arguments.seed)
        for kind, dataset in (("phone", "PhoneCapture"), ("studio", "StudioCapture")):
            scores: dict[str, list] = {}
            for person in sorted((root / "raw" / kind).iterdir()):
                one = score_person(*read_person(person, root / "truth" / dataset / person.name), model)
                for name, values in one.items():
                    scores.setdefault(name, []).extend(values)
            for name, values in scores.items():
                if values:
                    table[f"{kind}_{name}"] = {
                        "median": round(float(np.median(values)), 4), "p95": round(float(np.percentile(values, 95)), 4),
                    }  # fmt: skip
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
