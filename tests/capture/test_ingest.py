import json
import re

import numpy as np
import pandas as pd
import pytest

from fportrait.capture import ingest
from fportrait.capture.calibration import read_calibration
from fportrait.capture.ingest import PHONE, STUDIO, ingest_captures, split_identities
from fportrait.capture.manifest import CAMERA_COLUMNS, MANIFEST_COLUMNS
from fportrait.capture.withdrawn import take_off, withdraw
from fportrait.errors import UserError
from helpers.trees import audio_only, clip, ring, studio


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "data" / "01_raw"
    for identity in ("p0", "p1", "p2"):
        clip(root / "phone" / identity / "a.mp4")
    (root / "phone" / "p1" / "capture.json").write_text('{"horizontal_fov_degrees": 41.5}')
    studio(root / "studio" / "s0", ("calm", "talk"))
    studio(root / "studio" / "s1")
    return root


def run(raw, **options):
    project = raw.parents[1]
    options = {"test_identities": {PHONE: 1, STUDIO: 1}, **options}
    result = ingest_captures(raw, project / "data/02_intermediate/ingest", project, **options)
    folder = project / "data/02_intermediate/ingest"
    tables = [pd.read_parquet(folder / name) for name in ("manifest.parquet", "cameras.parquet")]
    assert json.loads((folder / "quarantine.json").read_text()) == sorted(
        result.quarantine, key=lambda entry: (entry["dataset"], entry["path"])
    )
    return result, *tables


def test_a_clean_folder_becomes_a_manifest_with_one_row_per_video(raw):
    result, manifest, cameras = run(raw)
    assert result.quarantine == [] and result.videos == len(manifest) == 3 + 4 + 2
    assert list(manifest.columns) == MANIFEST_COLUMNS and list(cameras.columns) == CAMERA_COLUMNS
    row = manifest.set_index("clip").loc["p1/a/phone"]
    assert row.path == "data/01_raw/phone/p1/a.mp4" and (raw.parents[1] / row.path).is_file()
    assert row.horizontal_fov_degrees == 41.5 and row.frames == 6 and (row.width, row.height) == (48, 32)
    assert manifest.set_index("clip").loc["p0/a/phone"].horizontal_fov_degrees == 60.0
    assert manifest[manifest.dataset == STUDIO].horizontal_fov_degrees.isna().all()
    assert not manifest.duplicated(["dataset", "clip"]).any()
    assert {len(c.intrinsics) for c in cameras.itertuples()} == {9}
    assert np.allclose(np.reshape(cameras.world_to_camera[0], (4, 4)), ring(2)[0])
    held_out = manifest[manifest.split == "test"].groupby("dataset").identity.nunique()
    assert held_out.to_dict() == {PHONE: 1, STUDIO: 1}
    assert (manifest.groupby(["dataset", "identity"]).split.nunique() == 1).all()


def test_who_withdrew_is_passed_over_and_named_nowhere(raw, tmp_path):
    cache = tmp_path / "cache.json"
    withdraw(raw, "p1", trained=True, done=True)
    withdraw(raw, "s0", trained=True, done=True)
    result, manifest, cameras = run(raw, cache=cache)
    assert set(manifest.identity) == {"p0", "p2", "s1"} and set(cameras.identity) == {"s1"}
    assert result.quarantine == [] and "2 of withdrawn.json" in result.notes[0] and "p1" not in str(result)
    assert "p1" not in cache.read_text() and (raw / "phone/p1/a.mp4").is_file()
    take_off(raw, "p1")
    take_off(raw, "s0")
    assert not (raw / "withdrawn.json").exists() and set(run(raw)[1].identity) == {"p0", "p1", "p2", "s0", "s1"}


def test_unchanged_files_are_not_read_again_and_changed_ones_are(raw, tmp_path, monkeypatch):
    seen = []
    read_facts = ingest.read_facts
    monkeypatch.setattr(ingest, "read_facts", lambda path: seen.append(path) or read_facts(path))
    cache = tmp_path / "cache.json"
    first, manifest, _ = run(raw, cache=cache)
    assert first.files_read == len(seen) == 9
    second, again, _ = run(raw, cache=cache)
    assert second.files_read == 0 and len(seen) == 9
    pd.testing.assert_frame_equal(manifest, again)
    clip(raw / "phone" / "p2" / "a.mp4", frames=8)
    third, changed, _ = run(raw, cache=cache)
    assert third.files_read == 1 and changed.set_index("clip").loc["p2/a/phone"].frames == 8
    cache.write_text("{ damaged")
    assert run(raw, cache=cache)[0].files_read == 9


def truncated(path):
    content = clip(path, 30).read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


PHONE_FAULTS = {
    "truncated": (truncated, "truncated|damaged"),
    "empty": (lambda p: p.write_bytes(b""), "zero bytes"),
    "audio": (audio_only, "no pictures"),
    "one_frame": (lambda p: clip(p, 1), "1 frame in"),
    "text": (lambda p: p.with_suffix(".txt").write_text("notes"), "not named as a video"),
    "folder": (lambda p: p.mkdir(), "a folder"),
}


@pytest.mark.parametrize("fault", PHONE_FAULTS)
def test_a_bad_phone_clip_is_set_aside_with_its_reason_and_the_rest_goes_on(raw, fault):
    make, reason = PHONE_FAULTS[fault]
    make(raw / "phone" / "p0" / "bad.mp4")
    result, manifest, _ = run(raw)
    assert len(result.quarantine) == 1 and len(manifest) == 9
    entry = result.quarantine[0]
    assert (entry["dataset"], entry["identity"]) == (PHONE, "p0") and "phone/p0/bad." in entry["path"]
    assert re.search(reason, entry["reason"])
    assert "To fix it" in entry["reason"]


def test_an_odd_sized_clip_is_welcome(raw):
    clip(raw / "phone" / "p0" / "odd.mp4", height=33, width=47)
    result, manifest, _ = run(raw)
    row = manifest.set_index("clip").loc["p0/odd/phone"]
    assert result.quarantine == [] and (row.width, row.height) == (47, 33)


def set_camera(key, change):
    def edit(content):
        camera = content["cameras"]["cam01"]
        camera[key] = change(camera[key])

    return edit


def sheared(matrix):
    matrix = np.array(matrix)
    matrix[0, 1] += 0.2
    return matrix.tolist()


def mirrored(matrix):
    return (np.diag([-1.0, 1, 1, 1]) @ np.array(matrix)).tolist()


def in_millimetres(content):
    for camera in content["cameras"].values():
        matrix = np.array(camera["world_to_camera"])
        matrix[:3, 3] *= 1000
        camera["world_to_camera"] = matrix.tolist()


def with_nan(matrix):
    matrix[0][0] = float("nan")
    return matrix


CALIBRATION_FAULTS = {
    "sheared": (set_camera("world_to_camera", sheared), "rotation"),
    "mirrored": (set_camera("world_to_camera", mirrored), "rotation"),
    "millimetres": (in_millimetres, "probably millimetres"),
    "nan_pose": (set_camera("world_to_camera", with_nan), "NaN"),
    "nan_intrinsics": (set_camera("intrinsics", with_nan), "NaN"),
    "units": (lambda content: content.update(units="mm"), "units 'mm'"),
    "camera_without_video": (
        lambda content: content["cameras"].update(cam02=content["cameras"]["cam00"]),
        "missing cam02",
    ),
    "video_without_camera": (lambda content: content["cameras"].pop("cam01"), "not in calibration.json cam01"),
    "size": (set_camera("width", lambda width: 64), "48x32 pixels"),
    "field": (lambda content: content["cameras"]["cam01"].pop("intrinsics"), "without intrinsics"),
    "shape": (set_camera("intrinsics", lambda k: k[:2]), "bad numbers"),
    "focal": (set_camera("intrinsics", lambda k: [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), "intrinsics"),
    "no_cameras": (lambda content: content.update(cameras={}), "no cameras"),
}


@pytest.mark.parametrize("fault", CALIBRATION_FAULTS)
def test_a_bad_calibration_sets_the_capture_aside_with_its_reason(raw, fault):
    edit, reason = CALIBRATION_FAULTS[fault]
    studio(raw / "studio" / "bad", edit=edit)
    result, manifest, cameras = run(raw)
    assert [entry["identity"] for entry in result.quarantine] == ["bad"] and reason in result.quarantine[0]["reason"]
    assert "bad" not in set(manifest.identity) | set(cameras.identity) and len(manifest) == 9


def test_a_segment_whose_cameras_are_not_synchronised_is_set_aside_alone(raw):
    clip(raw / "studio" / "s0" / "talk" / "cam01.mp4", frames=7)
    result, manifest, cameras = run(raw)
    assert "different frame counts (cam00 6, cam01 7)" in result.quarantine[0]["reason"]
    assert set(manifest[manifest.identity == "s0"].segment) == {"calm"} and "s0" in set(cameras.identity)


def test_a_missing_or_garbled_calibration_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no calibration.json"):
        read_calibration(tmp_path / "calibration.json")
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_calibration(tmp_path / "calibration.json")


def test_a_bad_field_of_view_sets_the_identity_aside(raw):
    (raw / "phone" / "p0" / "capture.json").write_text('{"horizontal_fov_degrees": 400}')
    result, manifest, _ = run(raw)
    assert "400 degrees" in result.quarantine[0]["reason"] and "p0" not in set(manifest.identity)


def test_nothing_usable_is_an_error_that_shows_the_first_fault(tmp_path):
    with pytest.raises(UserError, match="no captures"):
        ingest_captures(tmp_path, tmp_path / "out", tmp_path, {})
    (tmp_path / "phone" / "p0").mkdir(parents=True)
    (tmp_path / "phone" / "p0" / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="zero bytes"):
        ingest_captures(tmp_path, tmp_path / "out", tmp_path, {})
    assert not (tmp_path / "out").exists()


def test_the_split_depends_on_names_and_seed_only_and_keeps_a_person_on_one_side():
    people = [f"person{i}" for i in range(20)]
    split = split_identities({PHONE: people, STUDIO: people[5:]}, {PHONE: 4, STUDIO: 3})
    assert split == split_identities({PHONE: people[::-1], STUDIO: people[5:]}, {PHONE: 4, STUDIO: 3})
    assert len(split[PHONE]) >= 4 and len(split[STUDIO]) >= 3
    assert split[PHONE] & set(people[5:]) == split[STUDIO]
    assert split != split_identities({PHONE: people, STUDIO: people[5:]}, {PHONE: 4, STUDIO: 3}, seed=1)
    notes: list[str] = []
    assert len(split_identities({PHONE: people[:2], STUDIO: []}, {PHONE: 2}, notes=notes)[PHONE]) == 1
    assert split_identities({PHONE: people[:1], STUDIO: []}, {PHONE: 2}, notes=notes)[PHONE] == set()
    assert "of 2 people in PhoneCapture 1 is held out, not 2" in notes[0] and "0 are held out, not 2" in notes[1]
    for seed in range(4):  # who is the only one of a dataset is held out of none
        alone = split_identities({PHONE: people[:2], STUDIO: people[:1]}, {PHONE: 1, STUDIO: 1}, seed)
        assert alone == {PHONE: {people[1]}, STUDIO: set()}
    with pytest.raises(UserError, match="Phone"):
        split_identities({PHONE: people}, {"Phone": 1})
