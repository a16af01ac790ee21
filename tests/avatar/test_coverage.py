"""Avatars of phone clips: one camera before which the head turns, the angles that it shows, and sweeps inside them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fportrait.avatar.captures import read_capture
from fportrait.avatar.coverage import Coverage, angles_about, inside, without_gaps
from fportrait.avatar.fitting import FitConfig, fit_capture
from fportrait.avatar.model import AvatarConfig, GaussianAvatar
from fportrait.avatar.sweeps import SweepConfig, plan_sweeps
from fportrait.avatar.views import CaptureFrame
from fportrait.body.model import Pose
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit
from fportrait.capture.motion import rotation_from_degrees
from fportrait.errors import UserError
from fportrait.pipelines.render_sweeps.nodes import render_sweeps, sweeps_of

SMALL = AvatarConfig(gaussians=500, latents=2)
TURNS = (-28.0, -14.0, 0.0, 14.0, 28.0)


@pytest.fixture(scope="module")
def phone(capture, truth):
    """The first row of the studio's table for each of five frames, as one static front camera sees the head turn."""
    (camera,) = orbit(np.zeros(1), np.zeros(1), np.full(1, 0.7))
    intrinsics = intrinsics_from_fov(30.0, 40, 40)
    poses = [Pose(np.eye(3), np.zeros(3), rotation_from_degrees(yaw, 0.0, 0.0)) for yaw in TURNS]
    video = np.stack([truth.render(np.zeros(128, np.float32), pose, camera, intrinsics, 40) for pose in poses])
    table = capture.frames[capture.frames.camera == "cam00"].head(len(TURNS)).copy()
    table["dataset"], table["camera"], table["frame"] = "PhoneCapture", "phone", range(len(TURNS))
    table["head_rotation"] = [pose.head_rotation.ravel().tolist() for pose in poses]
    table["world_to_camera"] = [camera.ravel().tolist()] * len(table)
    return table, video


def test_a_turning_head_gives_an_avatar_with_the_angles_it_covers_told(phone, capture, body, tmp_path):
    table, video = phone
    read = read_capture(table, capture.shape, body, SMALL, 40, 16, root=tmp_path, read_video=lambda path: video)
    assert read.coverage is not None
    assert read.coverage.yaw[0] == pytest.approx(-27, abs=3) and read.coverage.yaw[1] == pytest.approx(27, abs=3)
    avatar = fit_capture(read, FitConfig(SMALL, size=40, steps=2, register_torso=False))
    avatar.save(tmp_path / "avatar")
    again = GaussianAvatar.load(tmp_path / "avatar")
    assert Coverage.told(again.scores) is not None and "28° on its left" in Coverage.told(again.scores).words
    clips = plan_sweeps(again, table, SweepConfig(clips_view=3, clips_dynamic=1, frames_view=9, frames_dynamic=5), 0)
    for clip in clips:
        for frame, camera in zip(clip.frames, clip.world_to_camera, strict=True):
            view = type("Seen", (), {"world_to_camera": camera})
            yaw, pitch = angles_about(frame, view, again.body.head_centre(again.shape, frame.pose))
            assert -30 <= yaw <= 30 and -6 <= pitch <= 6, "a camera stood where no frame shows the head"


def test_a_head_that_does_not_turn_is_refused_with_what_to_film(phone, capture, body, tmp_path):
    table, video = phone
    still = table.copy()
    still["head_rotation"] = [np.eye(3).ravel().tolist()] * len(still)
    with pytest.raises(UserError, match=r"turns by 0°.*film a clip in which the head turns"):
        read_capture(still, capture.shape, body, SMALL, 40, 16, root=tmp_path, read_video=lambda path: video)
    studio = table.assign(dataset="StudioCapture")
    with pytest.raises(UserError, match="1 cameras"):  # of a studio, one camera is still too few
        read_capture(studio, capture.shape, body, SMALL, 40, 16, root=tmp_path, read_video=lambda path: video)


def test_sweeps_of_one_side_alone_are_refused_and_a_wide_coverage_changes_nothing():
    frames = [CaptureFrame("s", 0, Pose.rest(), np.zeros(128, np.float32))]
    with pytest.raises(UserError, match="to the side that is missing"):
        inside(Coverage((-2.0, 40.0), (-5.0, 5.0)), SweepConfig(), frames, "ada")
    config, kept = inside(Coverage((-90.0, 90.0), (-30.0, 30.0)), SweepConfig(spiral_yaw_degrees=50), frames, "ada")
    assert kept == frames and config == replace(SweepConfig(), spiral_yaw_degrees=50)


def test_frames_that_turn_too_far_are_left_out_and_no_clip_jumps_over_them():
    def turned(number: int, yaw: float) -> CaptureFrame:
        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(yaw, 0.0, 0.0))
        return CaptureFrame("s", number, pose, np.zeros(128, np.float32))

    frames = [turned(number, yaw) for number, yaw in enumerate((0, 2, 25, 25, 3, 1))]
    config, kept = inside(Coverage((-26.0, 24.0), (-2.0, 9.0)), SweepConfig(), frames, "ada")
    assert [frame.number for frame in kept] == [0, 1, 4, 5]
    assert config.spin_yaw_degrees == config.spiral_yaw_degrees == pytest.approx(21)
    assert config.spiral_elevation_degrees == pytest.approx(2)
    assert [[f.number for f in run] for run in without_gaps({"s": kept}).values()] == [[0, 1], [4, 5]]


def test_studio_people_get_no_more_of_the_sweeps_than_their_share_beside_people_of_phone_clips():
    sweep = {"clips_view": 4, "clips_dynamic": 2, "size": 64}
    studio = {f"studio{index}": False for index in range(4)}
    plans = sweeps_of({"anna": True, **studio}, sweep, 0.5)
    assert [plan["clips_view"] for plan in plans.values()] == [10, 3, 3, 2, 2], "as many in all as four of each"
    assert [plan["clips_dynamic"] for plan in plans.values()] == [5, 2, 1, 1, 1]
    assert all(plan["size"] == 64 for plan in plans.values())
    many = {f"own{index}": True for index in range(6)}
    for alone, share in (
        (studio, 0.5),
        ({"anna": True}, 0.5),
        ({**many, **studio}, 0.5),
        ({"anna": True, **studio}, 1),
    ):
        assert all(plan == sweep for plan in sweeps_of(alone, sweep, share).values())
    assert (
        sum(
            plan["clips_view"] for name, plan in sweeps_of({"anna": True, **studio}, sweep, 0).items() if name in studio
        )
        == 0
    )
    with pytest.raises(UserError, match="studio_share"):
        sweeps_of(studio, sweep, 50)


def test_where_nobody_can_be_filmed_the_reason_and_a_way_out_are_told(tmp_path, monkeypatch):
    """Phone clips alone, `ingest.fill: false`, an avatar that covers one side only: fitting it again helps nobody."""
    (tmp_path / "avatars/anna").mkdir(parents=True)
    for name, text in (("avatar.safetensors", ""), ("config.json", "{}")):
        (tmp_path / "avatars/anna" / name).write_text(text)
    for table in ("frames", "identities"):
        pd.DataFrame({"identity": ["anna"], "split": ["train"]}).to_parquet(tmp_path / f"{table}.parquet")
    failed = SimpleNamespace(unit="anna", reason="Found one side. Expected both. To fix it: film the other.")
    nobody = SimpleNamespace(results=[], failures=[failed])
    monkeypatch.setattr("fportrait.scale.map_engine.map_units", lambda *given, **more: nobody)
    sweep = {"clips_view": 1, "clips_dynamic": 1, "frames_view": 9, "frames_dynamic": 9}
    folders = (tmp_path, tmp_path / "avatars", tmp_path / "sweeps", tmp_path / "units", {})
    with pytest.raises(UserError, match=r"film the other\)\. .*ingest\.fill: true"):
        render_sweeps(*folders, sweep=sweep, studio_share=0.5, seed=0, workers=0)
