"""Rectangles: more of the portrait above and below, or beside, the head; nothing squashed; squares as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.animate import Animator
from fportrait.animate.edit import Edit, edit_picture
from fportrait.animate.own_clips import evaluate_clips
from fportrait.animate.request import Request
from fportrait.animate.run import for_portrait
from fportrait.animate.sizes import AS_PORTRAIT
from fportrait.animate.stream import PortraitStream
from fportrait.animate.tracked import track_video
from fportrait.animate.viewpoint import Framing, square_intrinsics, viewpoint
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.cameras import crop_intrinsics
from fportrait.camera.paths import front_path, save_camera_path
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import probe, read_image, read_video, write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.cli import main
from fportrait.dataset.crops import crop_picture
from fportrait.errors import UserError
from fportrait.pixels import Picture
from fportrait.provenance import read_provenance
from fportrait.tracking.landmarks import shared_landmarker

TALL, WIDE = Picture(112, 64), Picture(64, 88)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    data = pytest.importorskip("skimage.data")
    folder, body = tmp_path_factory.mktemp("rectangles"), load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 5, 192, person=sample_person(12, body))
    write_video(folder / "clips" / "driving.mp4", clip["video"])
    write_video(folder / "rolled.mp4", np.ascontiguousarray(np.rot90(clip["video"], 1, (1, 2))))
    write_image(folder / "portrait.png", data.astronaut())
    return folder


@pytest.fixture(scope="module")
def square():
    return Animator(SHIPPED_BASE, remember=4)


def shaped(square: Animator, picture: Picture) -> Animator:
    """The same animator, what it has tracked with it, for another shape of the same short side."""
    import copy

    other = copy.copy(square)
    other.picture = picture
    return other


@pytest.fixture(scope="module")
def request_(files):
    return Request(files / "portrait.png", files / "clips/driving.mp4")


def test_the_square_is_drawn_from_the_very_numbers_that_it_was_before_rectangles(square, request_):
    prepared = square.prepare(request_)
    person, picture, size = prepared.person, square.picture, square.settings.size
    assert picture == (size, size) and square.picture_notes(person) == []
    assert np.array_equal(person.lens(picture), crop_intrinsics(person.intrinsics, person.crop, size))
    assert np.array_equal(person.shown(prepared.image, picture), crop_picture(prepared.image, person.crop, size))
    assert np.array_equal(person.shown(prepared.image, picture.times(4)), square.portrait(prepared, 4))
    seen = prepared.drive.track.seen[0].landmarks
    assert np.array_equal(
        prepared.drive.landmarks(size), (seen - prepared.drive.crop[:2]) * size / prepared.drive.crop[2]
    )
    assert np.array_equal(prepared.view.intrinsics[0], square_intrinsics(square.settings))


def test_every_way_to_ask_for_the_square_gives_the_same_bytes(files):
    asked = ["animate", "--portrait", files / "portrait.png", "--driving", files / "portrait.png"]
    asked += ["--model", SHIPPED_BASE, "--scale", "2", "--force", "-o", files / "square.mp4"]
    written = set()
    for more in ([], ["--size", "64"], ["--size", "64x64"], ["--aspect", "1:1"]):
        result = CliRunner().invoke(main, list(map(str, [*asked, *more])))
        assert result.exit_code == 0, result.output
        written.add((files / "square.mp4").read_bytes() + (files / "square.png").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("picture", [TALL, WIDE], ids=["9:16", "4:3"])
def test_the_head_keeps_its_size_its_place_in_the_portrait_and_its_proportions(square, request_, picture):
    animator = shaped(square, picture)
    prepared, plain = animator.prepare(request_), square.prepare(request_)
    person, framing = prepared.person, Framing.of(prepared.person, picture)
    x0, y0, width, height = person.cut(picture)
    assert width / height == pytest.approx(picture.width / picture.height, abs=0.01)
    assert person.lens(picture)[0, 0] == pytest.approx(person.lens(picture)[1, 1], rel=0.01)  # pixels are square
    assert x0 >= 0 and y0 >= 0 and x0 + width <= 512 and y0 + height <= 512  # moved into the photograph
    # The head's middle, seen by the canonical camera, stands where the portrait has it.
    own = person.reference_camera
    place = person.lens(picture) @ own[:3, 3]
    assert place[:2] / place[2] == pytest.approx(framing.centre, abs=1.5)
    # What is given to the model lies on itself: the portrait's own landmarks on its own normal map.
    maps, points = animator.portrait_normals(person), person.landmarks(picture)[0]
    assert maps.shape == (*picture, 3)
    assert all(maps[int(y), int(x)].any() for x, y in points[[1, 4, 33, 263, 61, 291]])

    def measure(which: Animator, of) -> np.ndarray:
        (frame, *_) = which.sample(of, scale=4)
        assert frame.shape == (*which.picture.times(4), 3)
        (face, *others) = shared_landmarker().detect(frame)
        assert not others
        low, high = face.landmarks.min(0), face.landmarks.max(0)
        return high - low

    found, before = measure(animator, prepared), measure(square, plain)
    assert found == pytest.approx(before, rel=0.03)  # as wide and as high
    assert found[1] / found[0] == pytest.approx(before[1] / before[0], rel=0.03)


def test_a_face_rolled_in_its_file_lies_in_the_rectangle_as_an_upright_one(square, files):
    def tracked(name: str):
        limits = (square.landmarks, square.config, square.encoder.crop_size, 3)
        return track_video(files / name, *limits, lambda *_: None, "")

    upright, rolled = tracked("clips/driving.mp4"), tracked("rolled.mp4")
    assert rolled.quarter_turns % 2 == 1
    for picture in (TALL, WIDE):
        (one,), (other,) = upright.crops([1], picture), rolled.crops([1], picture)
        assert one.shape == other.shape == (*picture, 3)
        away = np.abs(upright.landmarks(picture)[1] - rolled.landmarks(picture)[1]).mean(0)
        assert away.max() < 2, away
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_a_written_rectangle_says_its_size_and_its_sheet_is_of_its_shape(files):
    asked = [
        "animate",
        "--portrait",
        files / "portrait.png",
        "--driving",
        files / "clips/driving.mp4",
        "--aspect",
        "9:16",
    ]
    asked += ["--model", SHIPPED_BASE, "--conditions", files / "given", "-o", files / "tall.mp4"]
    result = CliRunner().invoke(main, list(map(str, asked)))
    assert result.exit_code == 0, result.output
    assert "9:16 is drawn as 64x112 (4:7)" in result.output and "not trained on pictures of 64x112" in result.output
    info = probe(files / "tall.mp4")
    assert (info.width, info.height, info.frames) == (256, 448, 5)
    assert read_provenance(files / "tall.mp4")["settings"]["size"] == "64x112"
    assert read_image(files / "tall.png").shape == (3 * 224, 6 * 128, 3)
    for name in ("normals.mp4", "warped.mp4"):
        assert read_video(files / "given" / name).shape == (5, 112, 64, 3)
    assert read_image(files / "given" / "portrait_normals.png").shape == (112, 64, 3)


def test_the_portraits_own_shape_is_that_of_its_upright_picture_and_it_is_tracked_once(files, request_):
    image = read_image(files / "portrait.png")[:, 64:448]
    write_image(files / "tall.png", image)  # 3:4
    write_image(files / "lying.png", np.ascontiguousarray(np.rot90(image)))
    for name in ("tall", "lying"):
        animator = for_portrait(SHIPPED_BASE, files / f"{name}.png", aspect=AS_PORTRAIT)
        assert animator.picture == (88, 64)
        prepared = animator.prepare(replace(request_, portrait=files / f"{name}.png", max_frames=1))
        assert sum("3:4 is drawn as 64x88 (8:11)" in note for note in prepared.notes) == 1
        assert animator.portrait(prepared).shape == (88, 64, 3)


def test_a_camera_file_of_the_models_own_cameras_changes_nothing_in_a_rectangle_either(square, tmp_path):
    settings, framing = square.settings, Framing(TALL, (32.0, 40.0))
    path = save_camera_path(tmp_path / "c.json", front_path(5, settings.camera_distance))
    view = viewpoint(str(path), 5, settings, 0, framing=framing)
    assert np.allclose(view.intrinsics, framing.intrinsics(settings)) and view.intrinsics[0, :2, 2].tolist() == [32, 40]
    tall = framing.intrinsics(settings)  # a lens of a file is of a picture as large as twice its principal point
    tall[:2, 2] = 32, 56
    path = save_camera_path(tmp_path / "k.json", front_path(5, settings.camera_distance), tall)
    assert np.allclose(viewpoint(str(path), 5, settings, 0, framing=framing).intrinsics[0], tall)
    lower = square_intrinsics(settings)
    path = save_camera_path(tmp_path / "s.json", front_path(5, settings.camera_distance), lower)
    found = viewpoint(str(path), 5, settings, 0, framing=framing).intrinsics[0]
    assert found[0, 0] == pytest.approx(1.75 * lower[0, 0])  # a square holds a rectangle as high as itself


def test_what_lies_outside_the_portrait_is_told(square, request_):
    animator = shaped(square, TALL)
    prepared = animator.prepare(request_)
    assert not any("lies outside" in note for note in prepared.notes)
    side = prepared.person.crop[2]
    close = replace(prepared.person, intrinsics=prepared.person.intrinsics.copy(), crop=(0, 0, side))
    close.intrinsics[:2, 2] = side / 2, side / 2
    (note,) = animator.picture_notes(close)
    assert note.startswith("43% of a picture of 64x112 lies outside portrait.png")


def test_edits_and_own_clips_take_rectangles_and_live_refuses_them(square, files, tmp_path):
    animator = shaped(square, WIDE)
    image, _ = edit_picture(animator, Edit(files / "portrait.png", scale=2, adjust={"smile": 0.5}))
    assert image.shape == (128, 176, 3)
    quick = {"metrics": {"psnr": "auto"}, "steps": 1, "control": False}
    summary = evaluate_clips(shaped(square, WIDE), files / "clips", tmp_path / "report", quick)
    assert not summary["failures"] and summary["settings"]["size"] == "88x64"
    assert summary["own clips"]["ours"]["psnr"]["mean"] > summary["own clips"]["repeated_portrait"]["psnr"]["mean"] - 1
    with pytest.raises(UserError, match="88x64 for live video"):
        PortraitStream(animator, files / "portrait.png")


def test_shards_are_scored_in_the_square_they_hold():
    result = CliRunner().invoke(main, ["evaluate", "--aspect", "9:16"])
    assert result.exit_code == 2 and "without --clips" in result.output
