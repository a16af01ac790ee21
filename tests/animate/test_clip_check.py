"""What is said of clips before anything runs, on embedded people filmed well and badly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.animate import clip_check, tracked
from fportrait.animate.check_sheet import contact_sheet
from fportrait.animate.clip_check import (
    GOOD,
    POOR,
    UNUSABLE,
    ClipCheck,
    PersonCheck,
    check_clips,
    clips_of,
    cover,
    table,
)
from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import render, sample_person
from fportrait.capture.video_io import probe, write_video
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig


def film(person: int, turns: list[tuple[float, float]], jaw: float = 0.0, size: int = 224) -> np.ndarray:
    """A head that goes through (yaw, pitch) in degrees; the mouth opens on the way."""
    body = load_body()
    someone, actions = sample_person(person, body), np.zeros(len(body.action_names))
    camera, intrinsics = orbit_camera(0, 0, 0.5, HEAD_TARGET), intrinsics_from_fov(38.0, size, size)
    frames = []
    for index, (yaw, pitch) in enumerate(turns):
        actions[body.action_names.index("jawOpen")] = jaw * index / max(len(turns) - 1, 1)
        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(yaw, pitch, 0.0))
        frames.append(render(someone, actions, pose, camera, intrinsics, size, 1, body))
    return np.stack(frames)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """anna turns and talks; her other clips are dark, blurred, far away, no video, no face, and another one's."""
    root = tmp_path_factory.mktemp("people")
    anna = film(12, [(0, 0), (20, 0), (30, 0), (-20, 0), (-30, 0), (0, 12), (0, -12), (0, 0)], jaw=1.0)
    still = film(12, [(0, 0)] * 3)
    small = np.zeros_like(still)
    small[:, 80:136, 80:136] = [cv2.resize(frame, (56, 56), interpolation=cv2.INTER_AREA) for frame in still]
    clips = {
        "talk": anna,
        "still": still,
        "dark": (still * 0.2).astype(np.uint8),
        "blurred": np.stack([cv2.GaussianBlur(frame, (0, 0), 7) for frame in still]),
        "far": small,
        "wall": np.full_like(still, 120),
    }
    for name, video in clips.items():
        write_video(root / "anna" / f"{name}.mp4", video, fps=4.0, crf=4)
    (root / "anna/broken.mp4").write_bytes(b"not a video")
    shutil.copy(root / "anna/still.mp4", root / "anna/still_again.mp4")
    write_video(root / "ben/wide.mp4", np.pad(film(31, [(0, 0)] * 3), ((0, 0), (0, 0), (60, 60), (0, 0))), fps=4.0)
    return root


@pytest.fixture(scope="module")
def found(people):
    return check_clips(clips_of(people))


def test_every_clip_is_judged_by_what_is_wrong_with_it(found):
    anna = {clip.name: clip for clip in found[0].clips}
    assert anna["talk.mp4"].usable and not any("dark" in reason for reason in anna["talk.mp4"].reasons)
    said = {name: " ".join(clip.reasons) for name, clip in anna.items()}
    assert "dark" in said["dark.mp4"] and anna["dark.mp4"].state == POOR
    assert "blurred" in said["blurred.mp4"] or "soft" in said["blurred.mp4"]
    assert anna["far.mp4"].state == UNUSABLE and ("pixels" in said["far.mp4"] or "no face" in said["far.mp4"])
    assert anna["wall.mp4"].state == UNUSABLE and "no face" in said["wall.mp4"]
    assert anna["broken.mp4"].state == UNUSABLE and said["broken.mp4"].startswith("broken.mp4, which is not a readable")
    assert "the same file as anna/still.mp4" in said["still_again.mp4"]
    assert anna["still.mp4"].sharpness > 1.5 * anna["blurred.mp4"].sharpness
    assert found[1].person == "ben" and found[1].clips[0].usable  # what is wrong with anna's stops nobody


def test_turns_are_told_by_side_and_the_mouth_that_opens_counts(found):
    talk = next(clip for clip in found[0].clips if clip.name == "talk.mp4")
    assert talk.yaw[1] > 15 and talk.yaw[0] < -15, "positive is the person's left, as cameras count"
    assert talk.pitch[1] - talk.pitch[0] > 12
    still = next(clip for clip in found[0].clips if clip.name == "still.mp4")
    assert talk.expressions["mouth open"] > 0.2 > still.expressions["mouth open"]
    asked = " ".join(found[1].film_next)
    assert "to your left" in asked and "to your right" in asked and "mouth wide" in asked and "2 more clips" in asked
    assert "mouth open" in found[0].expressions


def test_the_table_and_the_sheet_show_every_clip(found, monkeypatch):
    text = table(found)
    assert all(name in text for name in ("anna/talk.mp4", "ben/wide.mp4", "film next", "unusable"))
    sheet, letters = contact_sheet(found), []
    monkeypatch.setattr(cv2, "putText", lambda panel, text, *_: letters.append(text))
    contact_sheet([PersonCheck("Zoë", [clip("Zoë", "a", reasons=["a face " + "of some pixels " * 9 + "at the end"])])])
    assert letters[0].startswith("Zoe:") and letters[-1].endswith("at the end") and max(map(len, letters)) <= 90
    assert sheet.dtype == np.uint8 and sheet.shape[0] == 2 * 40 + 96 * sum(len(one.clips) for one in found)


def test_the_command_writes_the_sheet_and_its_exit_code_says_that_clips_cannot_be_used(people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check", str(people / "ben"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["people"][0]["person"] == "ben" and (tmp_path / "check.png").is_file()
    broken = CliRunner().invoke(main, ["check", str(people / "anna/broken.mp4")])
    assert broken.exit_code == 3 and "unusable" in broken.output  # its own sheet may be replaced
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    for sheet in ("/proc/sheet.png", "folder.png", "mine.png/sheet.png"):
        closed = CliRunner().invoke(main, ["check", str(people / "ben"), "--sheet", sheet])
        assert closed.exit_code == 2 and "cannot be written" in closed.stderr, "before any clip is looked at"
    refused = CliRunner().invoke(main, ["check", str(people / "ben"), "--sheet", "mine.png"])
    assert refused.exit_code == 2 and (tmp_path / "mine.png").read_bytes() == b"mine"


def clip(person: str, name: str, **values) -> ClipCheck:
    given = {"frames": 200, "fps": 25.0, "seconds": 8.0, "width": 640, "height": 480, "sha256": person + name}
    return ClipCheck(person, name, f"/{person}/{name}", **{**given, **values})


def test_a_clip_whose_clock_is_broken_is_refused_before_any_work(people, monkeypatch):
    """Joining clips of two rates wrote one of 307200 frames a second, which nobody could write again in the end."""
    path, broken = people / "ben/wide.mp4", replace(probe(people / "ben/wide.mp4"), fps=307200.0)
    for module in (clip_check, tracked):
        monkeypatch.setattr(module, "probe", lambda _: broken)
    (found,) = check_clips({"ben": [path]})
    assert found.clips[0].state == UNUSABLE and "a clock of 3.072e+05 frames a second" in found.clips[0].reasons[0]
    with pytest.raises(UserError, match=r"3\.072e\+05 frames per second in wide\.mp4"):
        tracked.track_video(path, None, TrackConfig(), 64, 5, lambda *told: None, "track")


def test_what_people_film_together_is_compared():
    anna = PersonCheck("anna", [clip("anna", "a"), clip("anna", "b", width=480, height=853)])
    cover(anna)
    assert any("different shapes" in note for note in anna.notes) and not anna.reasons and anna.clips[0].state == GOOD
    assert any("1 more clip:" in asked for asked in anna.film_next)


def test_no_folder_and_no_videos_are_sentences(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        clips_of(tmp_path / "gone")
    (tmp_path / "astray.mp4").symlink_to(tmp_path / "gone.mp4")
    with pytest.raises(UserError, match="a link that leads nowhere"):
        clips_of(tmp_path / "astray.mp4")
    (tmp_path / "astray.mp4").unlink()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="no videos"):
        clips_of(tmp_path)


def test_people_whose_folder_is_a_link_are_found_once_and_a_link_that_leads_nowhere_is_not_passed_over(tmp_path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/a.mp4").write_bytes(b"x")
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "anna").symlink_to(tmp_path / "elsewhere")
    (clips / "elsewhere/").mkdir()
    (clips / "elsewhere/round").symlink_to(clips)  # links in a circle end
    (clips / "elsewhere/gone.mp4").symlink_to("nowhere.mp4")
    (clips / "elsewhere/._a.mp4").write_bytes(b"a Mac's own")
    found = clips_of(clips)
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "anna": ["a.mp4"],
        "elsewhere": ["gone.mp4"],
    }
    (checked,) = check_clips({"elsewhere": found["elsewhere"]})
    assert not checked.usable and "a link that leads nowhere" in checked.clips[0].reasons[0]


def test_two_people_in_one_folder_and_one_in_two_are_told():
    from fportrait.animate.clip_check import compare_people

    ada, bea = np.array([1.0, 0.0]), np.array([0.5, 0.866])
    mixed = PersonCheck("mixed", [clip("mixed", f"c{i}", embedding=who) for i, who in enumerate((ada, ada, bea))])
    twice = PersonCheck("twice", [clip("twice", "a", embedding=ada)])
    alone = PersonCheck("alone", [clip("alone", "a", embedding=np.array([0.0, 1.0]))])
    compare_people([alone, mixed, twice])
    assert mixed.reasons[0].startswith("c2 looks like another person")
    assert any("mixed and twice look like one person" in reason for reason in mixed.reasons)
    assert alone.reasons == [] and twice.reasons == []
