"""From videos to annotation tables: real photographs moved in a known way, and a small filmed world with its truth."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from fportrait.body.model import Pose, load_body, rotation_vector
from fportrait.camera.cameras import project
from fportrait.capture.ingest import ingest_captures
from fportrait.capture.video_io import write_video
from fportrait.capture.world import write_embedded_world
from fportrait.dataset.validation import against_manifest
from fportrait.errors import UserError
from fportrait.tables.schema import check_schema
from fportrait.tracking.captures import track_captures
from fportrait.tracking.clips import longest_gap
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.segments import crop_square, front_camera

ROLLS = np.linspace(-12, 12, 9)


def matrices(column: pd.Series, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.asarray(value, np.float64).reshape(shape) for value in column])


def rolled(photograph: np.ndarray, degrees: float) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((224.0, 125.0), degrees, 1.0)
    return cv2.warpAffine(photograph, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)[:320, 64:384]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, photograph, encoder_folder):
    """Phone captures of one photograph: rolling, hidden for a moment, hidden for long, twice in view, and absent.

    The person who rolls has two further clips that cannot be used, and another has nothing but such.
    """
    root = tmp_path_factory.mktemp("phones")
    frames = [rolled(photograph, degrees) for degrees in ROLLS]
    wall = np.full_like(frames[0], 128)
    small = cv2.resize(frames[4], (256, 256), interpolation=cv2.INTER_AREA)
    pair = np.concatenate([frames[4], np.pad(small, ((0, 64), (0, 0), (0, 0)))], 1)
    long, garment = [frames[0], *[wall] * 6, *frames[7:]], photograph[300:500, :200]
    clips = {  # no two alike: the same video twice is set aside by ingest
        "rolling/clip": frames,
        "rolling/hidden": [*long, frames[8]],
        "rolling/empty": [garment] * 6,
        "moment/clip": [*frames[:3], wall, wall, *frames[5:]],
        "long/clip": long,
        "pair/clip": [pair] * 5,
        "nobody/clip": [garment] * 5,
        "nobody/pair": [pair] * 6,
    }
    for name, pictures in clips.items():
        path = root / "raw/phone" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, pictures, 25.0, 12.0)
    ingest_captures(root / "raw", root / "ingest", root, {"PhoneCapture": 1}, default_fov_degrees=40.0)
    report = track_captures(root / "ingest", encoder_folder, root / "tracks", root / "units", {}, 0, root)
    return root, report


@pytest.fixture(scope="module")
def frames(tracked):
    return pd.read_parquet(tracked[0] / "tracks/frames.parquet")


def test_tables_follow_the_schema_and_hold_only_finite_values(tracked, frames):
    for table in ("frames", "identities"):
        check_schema(table, tracked[0] / f"tracks/{table}.parquet")
    assert sorted(frames["identity"].unique()) == ["moment", "rolling"] and len(frames) == 2 * len(ROLLS)
    for column in ("world_to_camera", "crop", "body_translation", "expression_code", "landmarks"):
        assert np.isfinite(np.stack(frames[column])).all(), column
    heads = matrices(frames["head_rotation"], (3, 3))
    assert np.allclose(heads @ heads.transpose(0, 2, 1), np.eye(3), atol=1e-8)
    assert tracked[1]["frames"] == len(frames) and tracked[1]["quarantined"] == 3
    assert tracked[1]["identities_with_refined_landmarks"] == 0  # the refiner knows no photographs


def test_captures_that_cannot_be_tracked_are_set_aside_with_their_reason(tracked):
    entries = json.loads((tracked[0] / "tracks/quarantine.json").read_text())
    reasons = {entry["identity"]: entry["reason"] for entry in entries if "clip" not in entry}
    assert all(entry["dataset"] == "PhoneCapture" for entry in entries)
    assert reasons.keys() == {"long", "pair", "nobody"}
    assert "frame 1 to 6" in reasons["long"]
    assert "two faces in frame 0" in reasons["pair"]
    assert "no face in any of the 5 frames" in reasons["nobody"] and "two faces" in reasons["nobody"]


def test_a_clip_that_cannot_be_tracked_leaves_the_persons_others(tracked, frames):
    entries = json.loads((tracked[0] / "tracks/quarantine.json").read_text())
    reasons = {entry["clip"]: entry["reason"] for entry in entries if "clip" in entry}
    assert len(reasons) == tracked[1]["clips_set_aside"] == 2
    assert all("rolling" in clip for clip in reasons)
    hidden, empty = (next(reason for reason in reasons.values() if name in reason) for name in ("hidden", "empty"))
    assert "frame 1 to 6" in hidden and "no face in any of the 6 frames" in empty
    assert frames[frames["identity"] == "rolling"]["clip"].nunique() == 1


def test_a_head_that_rolls_by_known_degrees_is_followed(frames):
    heads = matrices(frames[frames["identity"] == "rolling"]["head_rotation"], (3, 3))
    roll = np.degrees(np.arctan2(heads[:, 1, 0], heads[:, 0, 0]))
    gain, _ = np.polyfit(ROLLS, roll - roll.mean(), 1)
    assert gain == pytest.approx(1.0, abs=0.12)
    assert np.abs(roll - roll.mean() - ROLLS).max() < 2.5


def test_the_body_stands_still_and_upright_in_front_of_one_camera(frames):
    assert np.allclose(matrices(frames["body_rotation"], (3, 3)), np.eye(3))
    assert np.allclose(matrices(frames["world_to_camera"], (4, 4)), front_camera(TrackConfig()))


def test_the_fitted_face_projects_onto_the_landmarks_and_sits_inside_the_crop(tracked, frames):
    body = load_body()
    identities = pd.read_parquet(tracked[0] / "tracks/identities.parquet").set_index("identity")
    for _, row in frames.iterrows():
        pose = Pose(
            np.reshape(row["body_rotation"], (3, 3)),
            np.asarray(row["body_translation"]),
            np.reshape(row["head_rotation"], (3, 3)),
        )
        points = body.landmarks(body.vertices(np.asarray(identities.loc[row["identity"], "shape"]), None, pose))
        camera, intrinsics = np.reshape(row["world_to_camera"], (4, 4)), np.reshape(row["intrinsics"], (3, 3))
        pixels, _ = project(points, camera, intrinsics)
        seen = np.reshape(row["landmarks"], (478, 2))
        rigid = [33, 133, 263, 362, 168, 4]  # eye corners, bridge and tip of the nose
        if row["confidence"] > 0:
            assert np.linalg.norm(pixels[rigid] - seen[rigid], axis=1).mean() < 6
        x0, y0, size = row["crop"]
        assert (seen > [x0, y0]).all() and (seen < [x0 + size, y0 + size]).all()
    assert frames.groupby("clip")["crop"].apply(lambda crops: np.ptp(np.stack(crops), axis=0).max() == 0).all()


def test_a_short_gap_is_bridged_with_no_confidence(frames):
    rows = frames[frames["identity"] == "moment"]
    assert (rows["confidence"] > 0).tolist() == [True] * 3 + [False] * 2 + [True] * 4
    heads = matrices(rows["head_rotation"], (3, 3))
    roll = np.degrees(np.arctan2(heads[:, 1, 0], heads[:, 0, 0]))
    assert (np.diff(roll) > 0).all()


def test_an_interrupted_run_picks_up_finished_identities(tracked, tmp_path, encoder_folder, frames):
    root = tmp_path / "again"
    shutil.copytree(tracked[0], root)
    shutil.rmtree(root / "tracks")
    shutil.rmtree(root / "raw")  # nothing can be read anew
    report = track_captures(root / "ingest", encoder_folder, root / "tracks", root / "units", {}, 0, root)
    assert report["identities"] == 2
    pd.testing.assert_frame_equal(pd.read_parquet(root / "tracks/frames.parquet"), frames)


def test_other_parameters_do_not_reuse_results(tracked, tmp_path, encoder_folder):
    root = tmp_path / "other"
    shutil.copytree(tracked[0], root)
    track_captures(root / "ingest", encoder_folder, root / "tracks", root / "units", {"crop_metres": 0.36}, 0, root)
    sizes = pd.read_parquet(root / "tracks/frames.parquet")["crop"].map(lambda crop: crop[2])
    before = pd.read_parquet(tracked[0] / "tracks/frames.parquet")["crop"].map(lambda crop: crop[2])
    assert np.allclose(sizes / before, 1.2)


def test_nobody_to_track_is_an_error_and_writes_nothing(tracked, tmp_path, encoder_folder):
    root = tmp_path / "none"
    shutil.copytree(tracked[0] / "raw/phone/nobody", root / "raw/phone/nobody")
    ingest_captures(root / "raw", root / "ingest", root, {}, default_fov_degrees=40.0)
    with pytest.raises(UserError, match="no face"):
        track_captures(root / "ingest", encoder_folder, root / "tracks", root / "units", {}, 0, root)
    assert not (root / "tracks").exists()


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UserError, match="'max_gap_seconds'"):
        TrackConfig.from_dict({"max_gap_second": 3})


def test_the_longest_gap_is_found():
    assert longest_gap(np.array([True, False, True, False, False, True])) == (3, 2)
    assert longest_gap(np.array([False, False, True])) == (0, 2)
    assert longest_gap(np.ones(4, bool)) == (0, 0)


def test_the_crop_spans_the_asked_metres_at_the_head():
    camera = front_camera(TrackConfig(camera_distance=0.5))
    intrinsics = np.array([[400.0, 0, 160], [0, 400, 120], [0, 0, 1]])
    x0, y0, size = crop_square(np.zeros((3, 3)), np.stack([np.eye(3)] * 3), camera, intrinsics, 0.24)
    assert size == pytest.approx(400 * 0.24 / 0.48)  # the face's centre lies 2 cm before the head's
    assert x0 + size / 2 == pytest.approx(160) and y0 + size / 2 == pytest.approx(120 + 400 * 0.005 / 0.48)


@pytest.fixture(scope="module")
def studio_root(tmp_path_factory, encoder_folder):
    """One filmed studio identity with its truth; the last of its four cameras looks at a wall."""
    root = tmp_path_factory.mktemp("studio")
    config = {
        "phone_identities": 0,
        "studio_identities": 1,
        "studio_cameras": 4,
        "studio_segments": 1,
        "studio_frames": 6,
        "studio_yaw_degrees": 35.0,
        "size": 160,
        "supersample": 1,
    }
    write_embedded_world(root / "raw", root / "truth", config, seed=5)
    write_video(next((root / "raw").rglob("cam03.mp4")), [np.full((160, 160, 3), 90, np.uint8)] * 6, 25.0, 12.0)
    ingest_captures(root / "raw", root / "ingest", root, {})
    report = track_captures(root / "ingest", encoder_folder, root / "tracks", root / "units", {}, 0, root)
    assert report["identities_with_refined_landmarks"] == 1
    return root


@pytest.fixture(scope="module")
def studio(studio_root):
    with np.load(next((studio_root / "truth").rglob("*.npz")), allow_pickle=False) as truth:
        return pd.read_parquet(studio_root / "tracks/frames.parquet"), dict(truth)


def test_a_studio_camera_that_sees_no_face_is_listed_so_that_the_gate_does_not_miss_it(studio_root, studio):
    (entry,) = json.loads((studio_root / "tracks/quarantine.json").read_text())
    assert entry["clip"].endswith("cam03") and "no face" in entry["reason"]
    structure, lost = against_manifest(
        studio[0].groupby(["dataset", "clip"], as_index=False).agg(frames=("frame", "size")),
        studio_root / "tracks",
        studio_root / "ingest/manifest.parquet",
    )
    assert not lost and not structure["frames_off_manifest"].any()


def test_studio_cameras_share_one_pose_and_one_code_per_frame(studio):
    frames, truth = studio
    assert frames["camera"].nunique() == 3
    for column in ("head_rotation", "body_translation", "expression_code"):
        assert all(len({bytes(value) for value in group}) == 1 for _, group in frames.groupby("frame")[column]), column
    for camera, rows in frames.groupby("camera"):
        known = truth["world_to_camera"][truth["camera_names"].tolist().index(camera)]
        assert np.allclose(matrices(rows["world_to_camera"], (4, 4)), known)


def test_a_filmed_head_is_found_where_it_was(studio):
    frames, truth = studio
    rows = frames[frames["camera"] == "cam00"].sort_values("frame")
    heads = matrices(rows["head_rotation"], (3, 3))
    true_heads = truth["body_rotation"] @ truth["head_rotation"]
    error = np.degrees(np.linalg.norm(rotation_vector(heads @ true_heads.transpose(0, 2, 1)), axis=1))
    assert np.median(error) < 8
    turn, true_turn = heads @ heads[0].T, true_heads @ true_heads[0].T
    assert np.degrees(np.linalg.norm(rotation_vector(turn @ true_turn.transpose(0, 2, 1)), axis=1)).max() < 5
    body = load_body()
    pose = Pose(truth["body_rotation"][3], truth["body_translation"][3], truth["head_rotation"][3])
    centre = body.head_centre(truth["shape"], pose)
    row = rows.iloc[3]
    found = Pose(np.eye(3), np.asarray(row["body_translation"]), heads[3])
    identity = np.zeros(body.identity_dim)
    assert np.linalg.norm(body.head_centre(identity, found) - centre) < 0.03
    vertices = body.vertices(truth["shape"], truth["actions"][3], pose)
    pixels, _ = project(body.landmarks(vertices), truth["world_to_camera"][0], truth["intrinsics"][0])
    seen = np.reshape(row["landmarks"], (478, 2))
    assert np.linalg.norm(pixels - seen, axis=1)[body.landmark_valid].mean() < 0.06 * np.ptp(pixels[:, 1])
