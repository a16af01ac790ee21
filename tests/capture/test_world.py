import hashlib
import json

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.camera.cameras import camera_centre, project
from fportrait.capture.ingest import PHONE, STUDIO, ingest_captures
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import read_video
from fportrait.capture.world import (
    FIRST_TRAINING_SEED,
    PHONE_MOTIONS,
    TRAINING_KINDS,
    VIEW_METRES,
    WorldConfig,
    sample_training_clip,
    studio_cameras,
    world_units,
    write_embedded_world,
)
from fportrait.errors import UserError

BODY = load_body()
SMALL = {
    "phone_identities": 2,
    "phone_clips": 2,
    "phone_frames": 5,
    "studio_identities": 2,
    "studio_cameras": 3,
    "studio_segments": 1,
    "studio_frames": 5,
    "size": 48,
    "supersample": 1,
}


def all_bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    done = write_embedded_world(root / "raw", root / "truth", SMALL, seed=3)
    return root, done


def test_the_captures_are_laid_out_as_a_user_would_bring_them(filmed):
    root, done = filmed
    assert done == [
        f"{d}/{n}"
        for d, n in [(PHONE, "phone0000"), (PHONE, "phone0001"), (STUDIO, "studio0000"), (STUDIO, "studio0001")]
    ]
    names = set(all_bytes(root / "raw"))
    assert {"phone/phone0000/00_rotation.mp4", "phone/phone0000/capture.json"} <= names
    assert {"studio/studio0001/calibration.json", "studio/studio0001/00_expressions/cam02.mp4"} <= names
    assert not any(name.endswith(".npz") or "truth" in name for name in names)  # nothing known leaks into a capture
    result = ingest_captures(root / "raw", root / "ingest", root, {PHONE: 1, STUDIO: 1})
    assert result.quarantine == [] and result.videos == 2 * 2 + 2 * 3


def test_people_of_one_clip_each_still_show_every_kind_of_motion(tmp_path):
    few = {**SMALL, "phone_identities": 4, "phone_clips": 1, "studio_identities": 0, "size": 32}
    write_embedded_world(tmp_path / "raw", tmp_path / "truth", few, seed=3)
    kinds = {path.stem.split("_")[1] for path in (tmp_path / "raw").rglob("*.mp4")}
    assert kinds == set(PHONE_MOTIONS)


def test_the_truth_projects_onto_the_face_in_the_video(filmed):
    root, _ = filmed
    truth = np.load(root / "truth" / STUDIO / "studio0000" / "00_expressions.npz", allow_pickle=False)
    calibration = json.loads((root / "raw/studio/studio0000/calibration.json").read_text())["cameras"]
    assert truth["camera_names"].tolist() == list(calibration)
    person = sample_person(int(truth["person_seed"]), BODY)
    assert np.array_equal(person.identity, truth["shape"]) and truth["actions"].shape == (5, 52)
    for index, name in enumerate(truth["camera_names"]):
        assert np.allclose(truth["world_to_camera"][index], calibration[name]["world_to_camera"], atol=0)
        video = read_video(root / f"raw/studio/studio0000/00_expressions/{name}.mp4")
        pixels, depth = project(
            np.zeros((1, 3)) + truth["body_translation"][0], truth["world_to_camera"][index], truth["intrinsics"][index]
        )
        x, y = pixels[0].astype(int)
        assert 10 < x < 38 and 10 < y < 38 and depth[0] > 0.5
        background = video[0, :3, :3].reshape(-1, 3).mean(0)
        assert np.abs(video[0, y, x] - background).max() > 10  # a head is there, not the wall


def test_equal_seeds_give_equal_bytes_in_any_order_and_other_seeds_other_people(filmed, tmp_path):
    root, _ = filmed
    write_embedded_world(
        tmp_path / "raw", tmp_path / "truth", SMALL, 3, map_function=lambda f, units: [f(u) for u in reversed(units)]
    )
    assert all_bytes(tmp_path / "raw") == all_bytes(root / "raw")
    assert all_bytes(tmp_path / "truth") == all_bytes(root / "truth")
    seeds = {u.person_seed for u in world_units("a", "b", SMALL, 3)} | {
        u.person_seed for u in world_units("a", "b", SMALL, 4)
    }
    assert len(seeds) == 8 and max(seeds) < FIRST_TRAINING_SEED


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"phone_identitys": 3}, "phone_identities"),
        ({"phone_identities": 0, "studio_identities": 0}, "no identities"),
        ({"studio_frames": 0}, "studio_frames"),
        ({"size": 2}, "size"),
        ({"phone_identities": 6000}, "5000"),
    ],
)
def test_an_impossible_world_is_refused_before_anything_is_filmed(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        write_embedded_world(tmp_path / "raw", tmp_path / "truth", config)
    assert list(tmp_path.iterdir()) == []


def test_studio_cameras_surround_the_head_and_the_first_is_the_frontmost():
    cameras = studio_cameras(WorldConfig(studio_cameras=7), np.random.default_rng(0))
    centres = np.stack([camera_centre(camera) for camera in cameras.values()])
    yaw = np.degrees(np.arctan2(centres[:, 0], centres[:, 2]))
    assert np.ptp(yaw) > 110 and np.abs(yaw).max() <= 76.5 and np.argmin(np.abs(yaw)) == 0
    assert len(cameras) == 7 and np.ptp(centres[:, 1]) > 0.1
    assert len(studio_cameras(WorldConfig(studio_cameras=1), np.random.default_rng(0))) == 1


@pytest.mark.parametrize("kind", TRAINING_KINDS)
def test_a_training_clip_moves_what_its_kind_says_and_nothing_else(kind):
    clip = sample_training_clip(np.random.default_rng(5), BODY, kind, 9, 32)
    assert clip["video"].shape == (9, 32, 32, 3) and clip["actions"].shape == (9, 52)
    assert clip["world_to_camera"].shape == (9, 4, 4) and clip["intrinsics"].shape == (3, 3)
    assert clip["person_seed"] >= FIRST_TRAINING_SEED
    heads = np.stack([pose.head_rotation for pose in clip["poses"]])
    camera_moves = np.ptp(clip["world_to_camera"], axis=0).max() > 1e-9
    assert camera_moves == (kind in ("view_sweep", "dynamic_sweep"))
    assert (np.ptp(clip["actions"], axis=0).max() > 1e-9) == (kind != "view_sweep")
    assert (np.ptp(heads, axis=0).max() > 1e-9) == (kind not in ("view_sweep", "faces"))
    again = sample_training_clip(np.random.default_rng(5), BODY, kind, 9, 32)
    assert np.array_equal(clip["video"], again["video"])


def test_training_cameras_stay_in_range_and_are_slow_enough_for_a_temporal_codec():
    for seed in range(8):
        clip = sample_training_clip(np.random.default_rng(seed), BODY, "dynamic_sweep", 9, 16)
        centres = np.stack([camera_centre(camera) for camera in clip["world_to_camera"]])
        rotations = clip["world_to_camera"][:, :3, :3]
        turn = np.degrees(np.arccos(np.clip((np.trace(rotations[0].T @ rotations[-1]) - 1) / 2, -1, 1)))
        assert turn < 26
        assert (np.abs(np.degrees(np.arctan2(centres[:, 0], centres[:, 2]))) < 65).all()
        span = 16 / clip["intrinsics"][0, 0] * np.linalg.norm(centres[0] - [0, 0, 0.02])
        assert span == pytest.approx(VIEW_METRES, rel=0.06)


def test_a_given_person_is_kept_and_an_unknown_kind_names_the_nearest():
    person = sample_person(9, BODY)
    clip = sample_training_clip(np.random.default_rng(0), BODY, "phone", 1, 32, person=person)
    assert clip["person_seed"] == 9 and len(clip["video"]) == 1
    with pytest.raises(UserError, match="view_sweep"):
        sample_training_clip(np.random.default_rng(0), BODY, "viewsweep", 1, 32)
