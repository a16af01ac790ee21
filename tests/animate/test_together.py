"""A video of the portrait's own scene is fitted with it; anybody else's is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fportrait.animate import Animator, Request
from fportrait.animate.together import in_one_scene, through_one_lens
from fportrait.animate.tracked import paint_portrait
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.cameras import crop_intrinsics
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.dataset.crops import crop_picture


@pytest.fixture(scope="module")
def animator() -> Animator:
    return Animator(SHIPPED_BASE, remember=9)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    data = pytest.importorskip("skimage.data")
    folder, picture = tmp_path_factory.mktemp("together"), data.astronaut()[:320, 60:380]
    moves = [np.float32([[1, 0, 3 * t], [0, 1, t]]) for t in range(5)]
    frames = [cv2.warpAffine(picture, move, (320, 320), borderMode=cv2.BORDER_REPLICATE) for move in moves]
    darker = [(0.6 * frame).astype(np.uint8) for frame in frames]
    body = load_body()
    other = sample_training_clip(np.random.default_rng(4), body, "phone", 5, 192, person=sample_person(12, body))
    write_image(folder / "portrait.png", picture)
    for name, video in (("same", frames), ("darker", darker), ("other", other["video"])):
        write_video(folder / f"{name}.mp4", iter(video))
    return {path.stem: path for path in folder.iterdir()}


def test_the_portraits_own_scene_is_known_in_other_light_and_nobody_else_is(animator, files):
    for name, own in (("same", True), ("darker", True), ("other", False)):
        prepared = animator.prepare(Request(files["portrait"], files[name]))
        assert prepared.drive.own is own, name
        assert prepared.express is prepared.drive
        assert any("own scene" in note for note in prepared.notes) is own
        assert np.array_equal(prepared.person.shape, prepared.drive.shape) is own


def test_an_own_videos_first_frame_shows_the_portrait_where_it_is(animator, files):
    prepared = animator.prepare(Request(files["portrait"], files["same"]))
    portrait, first = (tracked.track for tracked in (prepared.person, prepared.drive))
    assert np.abs(portrait.translations[0] - first.translations[0]).max() < 0.004  # metres; smoothing moves it
    codes = animator.expression(prepared)
    own = animator.encoder.encode(prepared.person.track.seen[0].crops)
    assert np.abs(codes[0] - own[0]).max() < 0.6 * np.abs(own[0]).max()  # its own face at rest, taken from nobody


def test_only_the_expressions_may_come_from_another_clip(animator, files):
    prepared = animator.prepare(Request(files["portrait"], files["same"], expression=files["other"]))
    assert prepared.drive.own and not prepared.express.own
    assert prepared.express is not prepared.drive


def test_a_face_that_left_the_picture_is_no_likeness(animator, files):
    prepared = animator.prepare(Request(files["portrait"], files["same"]))
    away = replace(prepared.drive, crop=(5000, 5000, 100))
    found = in_one_scene(prepared.person, prepared.image, away, animator.body, animator.landmarks, animator.config)
    assert found is None


def test_an_own_scenes_frames_are_fitted_by_their_pixels(animator, files, monkeypatch):
    def error(prepared):
        numbers = list(range(1, len(prepared)))
        video, size = prepared.drive, 96
        lens = crop_intrinsics(video.intrinsics, video.crop, size)
        repeated = [np.repeat(one[None], len(numbers), 0) for one in (video.reference_camera, lens)]
        own = animator._acted(prepared.person)
        told = list(animator.encoder.readout(animator.expression(prepared)[numbers]))
        portrait = crop_picture(prepared.image, prepared.person.crop, size)
        drawn = paint_portrait(animator.body, prepared.person, portrait, video, *repeated, numbers, own, told)
        face = slice(size // 4, -size // 4)
        pairs = zip(drawn, video.crops(numbers, size), strict=True)
        return np.mean([np.abs(a.astype(float) - b)[face, face].mean() for a, b in pairs])

    request = Request(files["portrait"], files["same"])
    by_pixels = animator.prepare(request)
    monkeypatch.setattr(Animator, "aligned", lambda self, person, image, drive, report: drive)
    by_points = animator.prepare(request)
    assert by_points.drive.code_changes is None and by_pixels.drive.code_changes.shape == (5, 128)
    assert error(by_pixels) < 0.95 * error(by_points)


def test_an_own_video_and_its_portrait_have_one_lens(animator, files):
    prepared = animator.prepare(Request(files["portrait"], files["same"]))
    assert np.allclose(prepared.person.intrinsics, prepared.drive.intrinsics)
    assert np.array_equal(prepared.person.track.clips[0].intrinsics, prepared.person.intrinsics)
    strange = animator.prepare(Request(files["portrait"], files["other"]))
    assert not np.allclose(strange.person.intrinsics[0, 0], strange.drive.intrinsics[0, 0])


@pytest.mark.parametrize("known", [(False, False), (True, False), (False, True), (True, True)])
def test_of_two_lenses_the_one_that_is_known_holds_and_else_the_videos(animator, files, known):
    prepared = animator.prepare(Request(files["portrait"], files["other"]))
    larger = prepared.drive.intrinsics * [[2], [2], [1]] * [[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]]
    person = replace(prepared.person, intrinsics=larger, lens_known=known[0])
    drive = replace(prepared.drive, lens_known=known[1])
    one, other = through_one_lens(person, drive)
    of_one, of_other = one.intrinsics[0, 0] / 2, other.intrinsics[0, 0]
    kept = {(False, False): drive, (True, False): person, (False, True): drive, (True, True): None}[known]
    if kept is None:
        assert one is person and other is drive
    else:
        wanted = kept.intrinsics[0, 0] / (2 if kept is person else 1)
        assert np.isclose(of_one, wanted) and np.isclose(of_other, wanted)
    cut = replace(person, intrinsics=larger * [[1, 1, 0.7], [1, 1, 1], [1, 1, 1]])  # another shape: a crop, or a still
    kept_cut, kept_drive = through_one_lens(cut, drive)
    assert kept_cut is cut and kept_drive is drive
