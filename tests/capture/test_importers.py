"""Importers on miniature trees: what is placed is what ingest accepts, in metres, upright, around the head."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.camera.cameras import project
from fportrait.capture.calibration import make_camera, read_calibration
from fportrait.capture.features import features_path, read_features
from fportrait.capture.importers.align import draw_cameras, focus_point, to_head_world
from fportrait.capture.importers.place import import_captures
from fportrait.capture.importers.plan import Options
from fportrait.capture.ingest import ingest_captures
from fportrait.capture.video_io import probe, read_video
from fportrait.capture.withdrawn import take_off, withdraw
from fportrait.cli import main
from fportrait.errors import UserError
from helpers.trees import (
    ava256,
    calibration,
    clip,
    movement,
    nersemble,
    pictures,
    ring,
    seamless,
    studio,
    variable_clip,
)


def bring(source, target, layout="auto", **options):
    return import_captures(source, target, layout, options=Options(**options))


def ingested(target):
    """What ingest makes of the placed captures; nothing that an import places may be quarantined."""
    result = ingest_captures(target, target.parent / "manifest", target.parent, {}, min_frames=5)
    assert result.quarantine == []
    return pd.read_parquet(target.parent / "manifest/manifest.parquet")


def test_a_folder_of_clips_becomes_one_person_by_links_or_copies(tmp_path):
    source, target = tmp_path / "anna", tmp_path / "raw"
    clip(source / "one.mp4")
    clip(source / "two.mov")
    (source / "capture.json").write_text('{"horizontal_fov_degrees": 61.0}')
    report = bring(source, target)
    assert report.layout == "folder" and sorted(report.placed) == ["phone/anna/one", "phone/anna/two"]
    assert (target / "phone/anna/one.mp4").is_symlink() and report.quarantine == []
    table = ingested(target)
    assert list(table["clip"]) == ["anna/one/phone", "anna/two/phone"]
    assert set(table["horizontal_fov_degrees"]) == {61.0}

    again = bring(source, target)
    assert again.placed == [] and len(again.unchanged) == 2
    clip(source / "one.mp4", frames=9)
    assert bring(source, target).placed == ["phone/anna/one"]

    copied = import_captures(source, tmp_path / "raw2", "folder", copy=True, options=Options(identity="berta"))
    assert sorted(copied.placed) == ["phone/berta/one", "phone/berta/two"]
    assert not (tmp_path / "raw2/phone/berta/one.mp4").is_symlink()


def test_a_clip_of_variable_rate_is_resampled_and_shows_the_frame_of_every_time(tmp_path):
    variable_clip(tmp_path / "anna" / "phone.mp4")
    report = bring(tmp_path / "anna", tmp_path / "raw")
    assert report.resampled == ["phone/anna/phone"]
    info = probe(tmp_path / "raw/phone/anna/phone.mp4")
    assert info.fps == pytest.approx(25, rel=0.01) and not info.variable_rate and info.frames == 9
    shown = read_video(tmp_path / "raw/phone/anna/phone.mp4")[:, 16, 24, 0] / 30
    assert np.abs(shown - [0, 1, 2, 3, 3, 3, 4, 5, 6]).max() < 0.2
    assert len(ingested(tmp_path / "raw")) == 1


def test_phone_folders_keep_their_people_and_name_what_is_left_out(tmp_path):
    source = tmp_path / "phones"
    clip(source / "p0" / "a.mp4")
    clip(source / "p1" / "a.mp4")
    clip(source / "p1" / "short.mp4", frames=2)
    clip(source / "stray.mp4")
    (source / "p2").mkdir()
    (source / "p3").mkdir()
    (source / "p3/a.mp4").write_bytes(b"")
    report = bring(source, tmp_path / "raw")
    assert report.layout == "phone" and sorted(report.placed) == ["phone/p0/a", "phone/p1/a"]
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in report.quarantine}
    assert set(reasons) == {"short.mp4", "stray.mp4", "p2", "a.mp4"}
    assert "2 frames" in reasons["short.mp4"] and "zero bytes" in reasons["a.mp4"] and "no videos" in reasons["p2"]
    assert json.loads((tmp_path / "raw/import.json").read_text())["quarantine"] == report.quarantine
    assert len(ingested(tmp_path / "raw")) == 2


def test_who_withdrew_is_not_brought_back_and_named_nowhere_until_taken_off_the_list(tmp_path):
    """Placed in silence, their clips lay there, and ingest passed over them without saying how they come in again."""
    raw = tmp_path / "raw"
    for person in ("anna", "ben"):
        clip(tmp_path / "phones" / person / "a.mp4")
    studio(tmp_path / "studios/anna")
    withdraw(raw, "anna", trained=True, done=True)
    report = bring(tmp_path / "phones", raw)
    assert report.placed == ["phone/ben/a"] and report.quarantine == [] and not (raw / "phone/anna").exists()
    (note,) = report.notes
    assert "consent was withdrawn" in note and "agrees again" in note
    assert "anna" not in (raw / "import.json").read_text()
    for source in ("phones/anna", "studios"):
        with pytest.raises(UserError, match=r"people who withdrew.*agrees again"):
            bring(tmp_path / source, raw)
    take_off(raw, "anna")
    assert bring(tmp_path / "phones", raw).placed == ["phone/anna/a"] and len(ingested(raw)) == 2


@pytest.mark.parametrize("copy", (False, True))
def test_consent_comes_along_with_the_captures_and_stays_when_they_are_placed_anew(tmp_path, copy):
    phones, studios, raw = tmp_path / "phones", tmp_path / "studios", tmp_path / "raw"
    for name in ("p0", "p1"):
        clip(phones / name / "a.mp4")
    (phones / "p0/capture.json").write_text('{"horizontal_fov_degrees": 60}')
    (phones / "p0/Consent.TXT").write_text("agreed")
    studio(studios / "s0", ("calm",), tuple(f"cam{i:02d}" for i in range(6)))
    (studios / "s0/consent.md").write_text("agreed")
    for number in (6, 5):  # the second places the studio anew
        for source in (phones, studios):
            import_captures(source, raw, copy=copy, options=Options(cameras=number))
        (raw / "studio/s0/consent.json").write_text("{}")  # by hand, in the place itself
    import_captures(studios, raw, copy=copy, options=Options(cameras=4))
    assert (raw / "studio/s0/consent.json").read_text() == "{}"
    assert (raw / "phone/p0/Consent.TXT").is_symlink() != copy
    found = ingest_captures(raw, tmp_path / "manifest", tmp_path, {}, min_frames=5, require_consent=True)
    assert [entry["identity"] for entry in found.quarantine] == ["p1"] and "consent" in found.quarantine[0]["reason"]
    (phones / "p0/Consent.TXT").unlink()  # withdrawn: of a link nothing is left
    found = ingest_captures(raw, tmp_path / "manifest", tmp_path, {}, min_frames=5, require_consent=True)
    assert {entry["identity"] for entry in found.quarantine} == ({"p1"} if copy else {"p0", "p1"})


def test_captures_that_no_import_made_are_never_overwritten(tmp_path):
    clip(tmp_path / "anna" / "one.mp4")
    mine = clip(tmp_path / "raw/phone/anna/one.mp4", frames=7).read_bytes()
    with pytest.raises(UserError, match="already there"):
        bring(tmp_path / "anna", tmp_path / "raw")
    assert (tmp_path / "raw/phone/anna/one.mp4").read_bytes() == mine
    studio(tmp_path / "source" / "s0")
    studio(tmp_path / "raw/studio/s0", segments=("mine",))
    with pytest.raises(UserError, match="already there"):
        bring(tmp_path / "source", tmp_path / "raw", "studio")
    assert (tmp_path / "raw/studio/s0/mine").is_dir()


def test_a_studio_in_millimetres_arrives_in_metres_with_the_drawn_cameras_only(tmp_path):
    names = tuple(f"cam{i:02d}" for i in range(16))

    def in_millimetres(content):
        content["units"] = "mm"
        for camera in content["cameras"].values():
            for row in camera["world_to_camera"][:3]:
                row[3] *= 1000

    studio(tmp_path / "source" / "s0", ("calm", "talk"), names, in_millimetres)
    (tmp_path / "source/s0/talk/cam03.mp4").unlink()
    report = bring(tmp_path / "source", tmp_path / "raw", cameras=11, seed=3)
    placed = read_calibration(tmp_path / "raw/studio/s0/calibration.json")
    assert report.placed == ["studio/s0"] and len(placed) == 11
    for name, camera in placed.items():
        assert np.allclose(camera.world_to_camera, ring(16)[names.index(name)], atol=1e-9)
    table = ingested(tmp_path / "raw")
    missing = "cam03" in placed
    assert set(table.segment) == ({"calm"} if missing else {"calm", "talk"}) and len(report.quarantine) == missing
    assert bring(tmp_path / "source", tmp_path / "raw", cameras=11, seed=3).unchanged == ["studio/s0"]
    assert bring(tmp_path / "source", tmp_path / "raw", cameras=5, seed=3).placed == ["studio/s0"]
    assert len(read_calibration(tmp_path / "raw/studio/s0/calibration.json")) == 5


def sphere_of_cameras(count=60):
    """Cameras over the front of a dome, denser to one side, as domes are."""
    rng = np.random.default_rng(5)
    cameras = {}
    for index in range(count):
        yaw, pitch = np.radians(rng.triangular(-100, 60, 100)), np.radians(rng.uniform(-40, 50))
        eye = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
        right = np.cross(-eye, [0, 1, 0]) / np.linalg.norm(np.cross(-eye, [0, 1, 0]))
        rotation = np.stack([right, np.cross(-eye, right), -eye])
        matrix = np.block([[rotation, (-rotation @ eye)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
        cameras[f"c{index:02d}"] = make_camera(64, 64, np.array([[90.0, 0, 32], [0, 90, 32], [0, 0, 1]]), matrix, "c")
    return cameras


def nearest_neighbours(cameras, names):
    """Degrees from each drawn camera to the nearest other one."""
    centres = np.stack([cameras[name].centre / np.linalg.norm(cameras[name].centre) for name in names])
    cosines = centres @ centres.T - 2 * np.eye(len(names))
    return np.degrees(np.arccos(np.clip(cosines.max(axis=1), -1, 1)))


def test_the_draw_is_seeded_spread_over_the_sphere_and_uses_every_camera_over_many_people():
    cameras = sphere_of_cameras()
    drawn = draw_cameras(cameras, 11, 0, "p0")
    assert len(set(drawn)) == 11 and drawn == draw_cameras(dict(reversed(cameras.items())), 11, 0, "p0")
    assert any(drawn != draw_cameras(cameras, 11, seed, "p0") for seed in range(1, 4))
    rng = np.random.default_rng(0)
    by_chance = [nearest_neighbours(cameras, rng.choice(sorted(cameras), 11, replace=False)).min() for _ in range(300)]
    for person in range(20):
        spread = nearest_neighbours(cameras, draw_cameras(cameras, 11, 0, f"p{person}")).min()
        assert spread > max(by_chance)
    used = {name for person in range(200) for name in draw_cameras(cameras, 11, 0, f"p{person}")}
    assert len(used) == len(cameras)
    assert draw_cameras(cameras, 99, 0, "p0") == sorted(cameras)
    with pytest.raises(UserError, match="0 cameras"):
        draw_cameras(cameras, 0, 0, "p0")


def test_a_moved_and_turned_studio_comes_back_with_the_head_at_the_origin_and_the_same_pictures():
    cameras = sphere_of_cameras(12)
    angle = np.radians(35)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    tilt = np.array([[1, 0, 0], [0, 0, 1.0], [0, -1, 0]])
    axes, head = tilt @ turn, np.array([300.0, -200.0, 900.0])
    moved = {}
    for name, camera in cameras.items():
        matrix = np.eye(4)
        matrix[:3, :3] = camera.world_to_camera[:3, :3] @ axes.T
        matrix[:3, 3] = 1000 * camera.world_to_camera[:3, 3] - matrix[:3, :3] @ head
        moved[name] = make_camera(64, 64, camera.intrinsics, matrix, name)
    assert np.allclose(focus_point(moved), head, atol=1e-6)
    back = to_head_world(moved, axes.T, 0.001)
    points = np.random.default_rng(1).uniform(-0.1, 0.1, (20, 3))
    for name, camera in cameras.items():
        assert np.allclose(back[name].world_to_camera, camera.world_to_camera, atol=1e-9)
        seen = project(points, back[name].world_to_camera, camera.intrinsics)[0]
        assert np.allclose(
            seen, project(1000 * points @ axes.T + head, moved[name].world_to_camera, camera.intrinsics)[0]
        )
    guessed = to_head_world(moved, None, 0.001)
    upward = np.mean([-camera.world_to_camera[1, :3] for camera in guessed.values()], axis=0)
    front = np.mean([camera.centre for camera in guessed.values()], axis=0)
    assert upward[1] > 0.9 * np.linalg.norm(upward) and front[2] > 0 and abs(front[0]) < 1e-6
    with pytest.raises(UserError, match="upside down"):
        to_head_world(moved, np.diag([1.0, -1, -1]) @ axes.T, 0.001)


def test_ava256_pictures_become_videos_and_its_dome_stands_upright_in_metres(tmp_path):
    capture = ava256(tmp_path / "ava")
    report = bring(tmp_path / "ava", tmp_path / "raw", cameras=3)
    assert report.layout == "ava256" and report.placed == ["studio/ABC123"] and report.quarantine == []
    table = ingested(tmp_path / "raw")
    assert set(table.segment) == {"EXP_jaw", "SEN_rose"} and set(table.frames) == {12} and len(table) == 6
    assert table.fps.to_numpy() == pytest.approx(7.5) and set(zip(table.width, table.height, strict=True)) == {(42, 64)}
    placed = read_calibration(tmp_path / "raw/studio/ABC123/calibration.json")
    for name, camera in placed.items():
        assert np.allclose(camera.world_to_camera, ring(4)[int(name[2:])], atol=1e-6)
        assert camera.intrinsics[0, 0] == pytest.approx(10000 * 42 / 2668)
        assert camera.intrinsics[1, 2] == pytest.approx(2048 * 64 / 4096)
    name = min(placed)
    video = read_video(tmp_path / f"raw/studio/ABC123/SEN_rose/{name}.mp4")
    assert np.abs(video.astype(int) - pictures(name, 24, 64, 42)[12:]).mean() < 12
    assert bring(capture, tmp_path / "raw", cameras=3).unchanged == ["studio/ABC123"]  # one capture as the source


def without(archive, number):
    with zipfile.ZipFile(archive) as old:
        kept = [(name, old.read(name)) for name in old.namelist() if f"{number:06d}" not in name]
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in kept:
            new.writestr(name, data)


def test_a_frame_that_one_ava_camera_dropped_splits_the_segment_and_a_broken_archive_is_left_out(tmp_path):
    capture = ava256(tmp_path / "ava", cameras=5, suffix="png")
    images = sorted((capture / "decoder/image").iterdir())
    images[4].write_bytes(b"PK not a zip")
    without(images[0], 1000 + 4 * 5)
    report = bring(tmp_path / "ava", tmp_path / "raw", cameras=4)
    assert report.placed == ["studio/ABC123"]
    table = ingested(tmp_path / "raw")
    assert table.groupby("segment").frames.first().to_dict() == {"EXP_jaw": 5, "EXP_jaw_2": 6, "SEN_rose": 12}
    reasons = " ".join(entry["reason"] for entry in report.quarantine)
    assert "no zip archive" in reasons and "1 of 12 frames of EXP_jaw" in reasons and len(report.quarantine) == 2


def test_nersemble_shares_scaled_intrinsics_and_turns_its_world_by_what_its_cameras_see(tmp_path):
    nersemble(tmp_path / "n", "017")
    second = nersemble(tmp_path / "n", "018")
    (second / "sequences/FREE/images/cam_222200038.mp4").unlink()
    report = bring(tmp_path / "n", tmp_path / "raw", cameras=5)
    assert report.layout == "nersemble" and sorted(report.placed) == ["studio/017", "studio/018"]
    assert [entry["identity"] for entry in report.quarantine] == ["018"]
    assert "no video of 222200038 in FREE" in report.quarantine[0]["reason"]
    table = ingested(tmp_path / "raw")
    assert set(table[table.identity == "017"].segment) == {"EXP-3-cheeks+nose", "FREE"} and len(table) == 15
    placed = read_calibration(tmp_path / "raw/studio/017/calibration.json")
    truth = dict(zip(sorted(placed), ring(5), strict=True))
    for name, camera in placed.items():
        assert camera.intrinsics[0, 0] == pytest.approx(8187 * 44 / 2200)
        # Up is what the cameras see as up, so the whole rig may be tilted by the mean of their pitches: degrees.
        relative = camera.world_to_camera[:3, :3] @ truth[name][:3, :3].T
        assert np.degrees(np.arccos((np.trace(relative) - 1) / 2)) < 5
        assert camera.centre[2] > 0.3


def test_seamless_features_lie_beside_the_clip_frame_by_frame(tmp_path):
    seamless(tmp_path / "s")
    seamless(tmp_path / "s", "V01_S0346_I00000726_P1694A", features=None)
    report = bring(tmp_path / "s", tmp_path / "raw")
    assert report.layout == "seamless" and report.quarantine == []
    assert sorted(report.placed) == ["phone/P0947/V00_S0809_I00000582", "phone/P1694A/V01_S0346_I00000726"]
    ingested(tmp_path / "raw")
    video = tmp_path / "raw/phone/P0947/V00_S0809_I00000582.mp4"
    features, given = read_features(video, 8), movement(8)
    assert np.array_equal(features.expression_code, given["movement:expression"])
    assert np.array_equal(features.head_translation, given["movement:alignment_translation"])
    assert features.valid.tolist() == [False] + [True] * 7
    assert read_features(tmp_path / "raw/phone/P1694A/V01_S0346_I00000726.mp4", 8) is None


@pytest.mark.parametrize(("count", "kept"), [(10, True), (7, True), (6, True), (11, False), (5, False)])
def test_seamless_features_may_miss_two_frames_and_no_more(tmp_path, count, kept):
    seamless(tmp_path / "s", features=count)
    report = bring(tmp_path / "s", tmp_path / "raw")
    video = tmp_path / "raw/phone/P0947/V00_S0809_I00000582.mp4"
    assert len(report.placed) == 1 and features_path(video).exists() == kept and len(report.quarantine) == (not kept)
    if kept:
        features = read_features(video, 8)
        assert len(features) == 8 and features.valid.sum() == min(count, 8) - 1


def test_features_are_refused_by_ingest_when_they_are_not_those_of_the_clip(tmp_path):
    seamless(tmp_path / "s")
    bring(tmp_path / "s", tmp_path / "raw")
    video = tmp_path / "raw/phone/P0947/V00_S0809_I00000582.mp4"
    video.unlink()
    clip(video, frames=9)
    (video.parent / "lonely.features.safetensors").write_bytes(b"x")
    result = ingest_captures(tmp_path / "raw", tmp_path / "manifest", tmp_path, {})
    reasons = " ".join(entry["reason"] for entry in result.quarantine)
    assert result.videos == 1 and "9x128" in reasons and "without a video" in reasons


def test_what_is_no_known_layout_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        bring(tmp_path / "missing", tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no known layout.*seamless"):
        bring(tmp_path / "empty", tmp_path / "raw")
    with pytest.raises(UserError, match="nothing usable"):
        bring(tmp_path / "empty", tmp_path / "raw", "nersemble")
    with pytest.raises(UserError, match="inside the source"):
        bring(tmp_path, tmp_path / "raw")
    with pytest.raises(UserError, match="layout 'ava'"):
        bring(tmp_path / "empty", tmp_path / "raw", "ava")


def test_the_command_says_what_was_left_out_and_exits_with_3(tmp_path):
    clip(tmp_path / "anna" / "one.mp4")
    run = CliRunner().invoke
    result = run(main, ["import", str(tmp_path / "anna"), "--to", str(tmp_path / "raw")])
    assert result.exit_code == 0 and "1 placed" in result.output and "kedro run --pipelines=ingest" in result.output
    (tmp_path / "anna/two.mp4").write_bytes(b"no video")
    result = run(main, ["import", str(tmp_path / "anna"), "--to", str(tmp_path / "raw"), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 3 and report["unchanged"] == ["phone/anna/one"] and len(report["quarantine"]) == 1
    result = run(main, ["import", str(tmp_path / "nowhere"), "--to", str(tmp_path / "raw")])
    assert result.exit_code == 2 and "no folder" in result.output


def test_millimetres_that_claim_to_be_metres_are_refused(tmp_path):
    content = calibration()
    for camera in content["cameras"].values():
        for row in camera["world_to_camera"][:3]:
            row[3] *= 1000
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="probably millimetres"):
        read_calibration(tmp_path / "calibration.json")
