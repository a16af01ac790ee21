"""A portrait is turned upright, its lens is read or given, and what it lacks is said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, chelsea

from fportrait.animate.portrait import track_picture, upright
from fportrait.body.model import load_body
from fportrait.capture.image_io import write_image
from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.landmarks import roll_of, shared_landmarker
from fportrait.tracking.lens import ASSUMED_FOV, intrinsics_across, picture_fov, recorded_fov

MODEL = LandmarkModel(load_body())


def track(path: Path, picture: np.ndarray, **settings):
    write_image(path, picture)
    config = TrackConfig(force=settings.pop("force", False))
    return track_picture(path, MODEL, config, 48, **settings)


@pytest.mark.parametrize("degrees", [35, 90, 180])
def test_a_rolled_portrait_is_turned_upright_and_tracked_as_the_upright_one(tmp_path, degrees):
    picture = astronaut()[:320, 60:380]
    straight, _ = track(tmp_path / "face.png", picture)
    turn = cv2.getRotationMatrix2D((159.5, 159.5), -degrees, 1)
    turn[:, 2] += 80
    rolled = cv2.warpAffine(picture, turn, (480, 480))
    person, image = track(tmp_path / "rolled.png", rolled, fov=57.3)  # the same focal length on a wider picture
    (face,) = shared_landmarker().detect(image)
    assert abs(np.degrees(roll_of(face.landmarks))) < 4
    assert any("rolled" in note for note in person.notes) and straight.notes == ()
    difference = person.track.rotations[0].T @ straight.track.rotations[0]
    assert np.degrees(np.arccos(np.clip((np.trace(difference) - 1) / 2, -1, 1))) < 4
    assert np.isclose(person.intrinsics[0, 0], 240 / np.tan(np.radians(57.3 / 2)))


def test_a_portrait_that_stands_comes_back_as_it_is():
    picture = astronaut()
    same, roll = upright(picture)
    assert same is picture and roll == 0


@pytest.mark.parametrize(("degrees", "turned"), [(35, False), (90, True), (125, True)])
def test_a_frame_of_a_video_is_turned_by_quarters_alone(degrees, turned):
    picture = cv2.copyMakeBorder(astronaut()[:320, 60:380], 80, 80, 80, 80, cv2.BORDER_REPLICATE)
    turn = cv2.getRotationMatrix2D((239.5, 239.5), -degrees, 1)
    rolled = cv2.warpAffine(picture, turn, (480, 480))
    stood, roll = upright(rolled, quarters_alone=True)
    assert np.array_equal(stood, np.rot90(rolled) if turned else rolled) and (roll != 0) is turned


def test_the_lens_is_given_recorded_or_unknown(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 50
    Image.fromarray(astronaut()).save(tmp_path / "fifty.jpg", exif=exif)
    assert np.isclose(recorded_fov(tmp_path / "fifty.jpg"), 2 * np.degrees(np.arctan(43.27 / np.sqrt(2) / 100)))
    assert picture_fov(tmp_path / "fifty.jpg", 70.0) == (70.0, "given")
    assert picture_fov(tmp_path / "fifty.jpg", None)[1] == "recorded"
    write_image(tmp_path / "plain.png", astronaut())
    assert picture_fov(tmp_path / "plain.png", None) == (ASSUMED_FOV, "assumed")
    assert picture_fov(tmp_path / "talk.mp4", None) == (ASSUMED_FOV, "assumed")


def test_a_recorded_lens_that_is_none_counts_as_not_recorded(tmp_path):
    for millimetres, known in ((0, False), (4, False), (9, True), (1200, True), (2000, False), (10000, False)):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = millimetres
        Image.fromarray(astronaut()).save(tmp_path / "some.jpg", exif=exif)
        fov, source = picture_fov(tmp_path / "some.jpg", None)
        assert (source == "recorded") is known, millimetres
        intrinsics_across(fov, 640, 480)  # whatever is written there, no field of view that is refused later


def test_a_lens_of_which_nothing_is_known_is_told_by_the_face(tmp_path):
    picture = astronaut()[:320, 60:380]
    estimated, _ = track(tmp_path / "face.png", picture)
    given, _ = track(tmp_path / "face.png", picture, fov=ASSUMED_FOV)
    assert given.lens_known and not estimated.lens_known
    wide, focal = (one.intrinsics[0, 0] for one in (given, estimated))
    assert focal > 1.2 * wide  # she stood further away than 40 degrees would have her
    assert np.isclose(estimated.track.clips[0].intrinsics[0, 0], focal)


def test_an_impossible_lens_is_refused(tmp_path):
    with pytest.raises(UserError, match="longer side"):
        track(tmp_path / "face.png", astronaut(), fov=179.0)


def test_a_cut_face_and_a_close_one_are_said(tmp_path):
    cut, _ = track(tmp_path / "cut.png", astronaut()[:320, 230:380])  # half of the points lie outside
    assert any("cut by the picture's edge" in note for note in cut.notes), cut.notes
    close, _ = track(tmp_path / "close.png", astronaut()[55:200, 160:290])
    assert any("ends close to the head" in note for note in close.notes), close.notes


def test_a_cat_is_no_portrait_unless_forced(tmp_path):
    with pytest.raises(UserError, match=r"nothing like a face in cat\.png"):
        track(tmp_path / "cat.png", chelsea())
    person, _ = track(tmp_path / "cat.png", chelsea(), force=True)
    assert any("little like a face" in note for note in person.notes)
