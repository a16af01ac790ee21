"""A user's own clips are scored without shards: each from its first frame, bad ones set aside."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.animate import tracked
from fportrait.animate.animator import Animator
from fportrait.animate.own_clips import evaluate_clips, from_first_frame
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import read_video, write_image, write_video
from fportrait.capture.withdrawn import withdraw
from fportrait.capture.world import sample_training_clip
from fportrait.cli import main
from fportrait.dataset.crops import crop_picture, filmed_pixels, inside_file, only_filmed
from fportrait.errors import UserError
from fportrait.evaluation.clips import COMPARED, score_clip
from fportrait.evaluation.metrics.psnr import psnr

QUICK = {"metrics": {"psnr": "auto"}, "steps": 1, "control": False}


@pytest.fixture(scope="module")
def animator() -> Animator:
    return Animator(SHIPPED_BASE)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, body = tmp_path_factory.mktemp("clips"), load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 7, 160, person=sample_person(12, body))
    write_video(folder / "ada" / "hello.mp4", clip["video"])
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_a_folder_of_clips_becomes_the_usual_report_and_bad_clips_are_set_aside(animator, clips, tmp_path):
    summary = evaluate_clips(animator, clips, tmp_path / "report", QUICK)
    assert summary["own clips"]["clips"] == 1 and summary["own clips"]["identities"] == 1
    assert summary["own clips"]["codec_limit"]["psnr"]["mean"] > 24
    assert np.isfinite(summary["own clips"]["ours"]["psnr"]["mean"])
    assert list(summary["failures"]) == ["broken.mp4"]
    (aside,) = json.loads((tmp_path / "report/quarantine.json").read_text())
    assert aside["clip"] == "broken.mp4" and "broken.mp4" in aside["reason"]
    assert json.loads((tmp_path / "report/scores.json").read_text())["people"] == {"ada/hello.mp4": "ada"}
    page = (tmp_path / "report/report.html").read_text()
    assert "own clips" in page and "ada/hello.mp4" in page
    assert "own clips" in (tmp_path / "report/table.md").read_text()


def test_clips_of_who_withdrew_are_passed_over_and_named_nowhere(animator, clips, tmp_path):
    raw = tmp_path / "01_raw"
    for person in ("anna", "ben"):
        (raw / "phone" / person).mkdir(parents=True)
        (raw / "phone" / person / "talk.mp4").symlink_to(clips / "ada/hello.mp4")
    withdraw(raw, "anna", trained=False, done=True)
    summary = evaluate_clips(animator, raw / "phone", tmp_path / "report", QUICK)
    assert summary["withdrawn"] == 1 and list(summary["people"]) == ["ben"] and not summary["failures"]
    for path in (path for path in (tmp_path / "report").rglob("*") if path.is_file()):
        assert "anna" not in str(path) and b"anna/" not in path.read_bytes(), path
    (tmp_path / "link").symlink_to(raw / "phone/anna")
    for place in (raw / "phone/anna", raw / "phone/anna/talk.mp4", tmp_path / "link"):
        with pytest.raises(UserError, match="people who withdrew"):
            evaluate_clips(animator, place, tmp_path / "report", QUICK)
    for words in (
        (
            "animate",
            "--portrait",
            clips / "face.png",
            "--driving",
            tmp_path / "link/talk.mp4",
            "-o",
            tmp_path / "o.mp4",
        ),
        ("edit", "--portrait", raw / "phone/anna/face.png", "--head", "5,0,0", "-o", tmp_path / "o.png"),
        ("live", "--portrait", clips / "face.png", "--input", raw / "phone/anna/talk.mp4", "-o", tmp_path / "o.mp4"),
    ):
        write_image(clips / "face.png", np.zeros((64, 64, 3), np.uint8))
        shutil.copy(clips / "face.png", raw / "phone/anna/face.png")
        done = CliRunner().invoke(main, [*map(str, words), "--model", str(SHIPPED_BASE)])
        assert done.exit_code == 2 and "people who withdrew" in done.output


def test_a_clip_without_a_face_is_refused_by_its_own_name(animator, tmp_path):
    write_video(tmp_path / "wall.mp4", np.full((5, 64, 64, 3), 90, np.uint8))
    with pytest.raises(UserError, match=r"no face in the first frame of wall\.mp4"):
        from_first_frame(animator, tmp_path / "wall.mp4", 0, 5)


def test_the_first_frame_is_asked_for_as_it_was_filmed(animator, clips):
    """The crop, camera and pose of the first frame are the clip's: its normal map lies where the face is."""
    prepared, first = from_first_frame(animator, clips / "ada/hello.mp4", 0, 49)
    assert len(prepared) == 7 and prepared.person.crop == prepared.drive.crop
    (normals,) = animator.normals(prepared, [0])
    points = prepared.drive.landmarks(animator.settings.size)[0]
    inside = [normals[int(y), int(x)].any() for x, y in points[[1, 4, 33, 263, 61, 291]]]
    assert all(inside)
    assert first.shape == (160, 160, 3)


def test_a_first_frame_whose_head_is_rolled_stays_as_it_was_filmed_with_its_background(animator, tmp_path):
    """Turned upright as a portrait is, its wall would stand rolled behind a clip that is not turned (12 dB)."""
    body = load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 2, 160, person=sample_person(12, body))
    turn = cv2.getRotationMatrix2D((140, 140), 35, 1.0)
    wide = [cv2.copyMakeBorder(frame, 60, 60, 120, 0, cv2.BORDER_REPLICATE) for frame in clip["video"]]
    write_video(tmp_path / "rolled.mp4", [cv2.warpAffine(frame, turn, (280, 280)) for frame in wide])
    prepared, first = from_first_frame(animator, tmp_path / "rolled.mp4", 0, 49)
    assert np.array_equal(prepared.image, first) and prepared.person.crop == prepared.drive.crop
    size = animator.settings.size
    asked = prepared.drive.landmarks(size)[0]
    (painted,) = animator.painted(prepared, [0])
    low, high = np.percentile(asked, (10, 90), axis=0).astype(int)
    face = (slice(low[1], high[1]), slice(low[0], high[0]))
    truth = crop_picture(first, prepared.drive.crop, size)
    assert psnr(painted[None, *face], truth[None, *face]).mean() > 22
    turned, _ = animator.tracked_portrait(still(first, tmp_path))
    assert turned.notes, "as a portrait the same picture is turned upright, and that is said"


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_clip_on_its_side_is_judged_as_the_upright_one(animator, clips, tmp_path, turns):
    """Its first frame was turned upright, and the cameras that it was seen by were not: 16 dB in place of 43."""
    frames = read_video(clips / "ada/hello.mp4")
    write_video(tmp_path / "lying.mp4", [np.rot90(frame, turns) for frame in frames], crf=1)
    asked, given = from_first_frame(animator, clips / "ada/hello.mp4", 0, 5)
    prepared, first = from_first_frame(animator, tmp_path / "lying.mp4", 0, 5)
    assert np.array_equal(prepared.image, first) and psnr(first[None], given[None]).min() > 35
    assert prepared.drive.own and prepared.person.crop == prepared.drive.crop
    size, shown, wanted = animator.picture, list(animator.painted(prepared, [4])), list(animator.painted(asked, [4]))
    turned, upright = (filmed(one.drive, frame, size) for one, frame in ((prepared, first), (asked, given)))
    assert turned == pytest.approx(upright, abs=0.05)
    assert psnr(np.stack(shown), np.stack(wanted)).min() > 22
    (frame,) = prepared.drive.crops([4], size)
    assert psnr(shown[0][None], frame[None]).min() > psnr(wanted[0][None], asked.drive.crops([4], size)[0][None]) - 1


def test_a_large_picture_has_smooth_folds_and_what_the_model_reads_does_not_change(animator, clips, monkeypatch):
    prepared, _ = from_first_frame(animator, clips / "ada/hello.mp4", 0, 5)

    def pictures() -> list[np.ndarray]:
        return [
            next(animator.painted(prepared, [4], scale, shown)) for scale, shown in ((4, True), (1, True), (1, False))
        ]

    drawn = pictures()
    monkeypatch.setattr(tracked, "smooth_folds", lambda picture, *told: picture)
    rough = pictures()
    changed = (drawn[0] != rough[0]).any(-1)
    assert 0 < changed.mean() < 0.1, "folds and outlines are lines"
    assert all(np.array_equal(*pair) for pair in zip(drawn[1:], rough[1:], strict=True))


def filmed(drive, frame, picture):
    """Share of a picture that was filmed."""
    inside = inside_file(drive.cut(picture), frame.shape[:2], picture)
    return only_filmed(np.ones((*picture, 3), np.uint8), inside).mean()


def still(picture, folder):
    return write_image(folder / "still.png", picture)


def test_no_folder_no_videos_and_nothing_usable_are_sentences(animator, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        evaluate_clips(animator, tmp_path / "nowhere", tmp_path / "out", QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no videos"):
        evaluate_clips(animator, tmp_path / "empty", tmp_path / "out", QUICK)
    (tmp_path / "empty" / "x.mov").write_bytes(b"")
    with pytest.raises(UserError, match=r"no clip that could be scored \(x\.mov\); the last one: .*zero bytes"):
        evaluate_clips(animator, tmp_path / "empty", tmp_path / "out", QUICK)


def test_one_video_is_scored_without_a_folder_and_the_others_beside_it_are_not(animator, clips, tmp_path):
    summary = evaluate_clips(animator, clips / "ada/hello.mp4", tmp_path / "report", QUICK)
    assert summary["own clips"]["clips"] == 1 and not summary["failures"]
    assert set(json.loads((tmp_path / "report/scores.json").read_text())["clips"]) == {"hello.mp4"}


def test_clips_are_judged_as_large_as_they_are_asked_for(animator, clips, tmp_path):
    video = clips / "ada/hello.mp4"
    small, large = (evaluate_clips(animator, video, tmp_path / str(n), QUICK, 0, 5, n) for n in (1, 2))
    assert large["settings"]["scale"] == 2 and "scale" not in small["settings"]
    assert large["holdout"] != small["holdout"], "two sizes are not compared"
    assert small["own clips"]["ours"]["psnr"]["mean"] != large["own clips"]["ours"]["psnr"]["mean"]


def test_beside_a_files_edge_there_is_no_truth_and_nothing_is_judged(animator, clips, tmp_path, monkeypatch):
    frames = read_video(clips / "ada/hello.mp4")
    write_video(tmp_path / "tall.mp4", frames[:, :, 35:125], crf=4)  # 9:16, which the square goes beyond
    judged = []

    def watched(name, identity, videos, request, *rest):
        clip = score_clip(name, identity, videos, request, *rest)
        judged.append((clip.inside, dict(clip.videos)))
        return clip

    monkeypatch.setattr("fportrait.animate.own_clips.score_clip", watched)
    evaluate_clips(animator, tmp_path / "tall.mp4", tmp_path / "report", QUICK, max_frames=5)
    ((inside, videos),) = judged
    rows, columns = filmed_pixels(inside)
    assert 3 < columns.start < columns.stop < animator.picture.width - 3
    for name in COMPARED:
        assert videos[name][:, rows, columns].any()
        assert not np.delete(videos[name], np.r_[columns], axis=2).any(), f"{name}: black in all alike"
    assert "hatched" in (tmp_path / "report/report.html").read_text()
