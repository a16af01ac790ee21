"""A mask, a scarf or dark glasses before a face are named; a face that shows itself is let be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fportrait.animate.portrait import track_picture
from fportrait.body.model import load_body
from fportrait.capture.image_io import write_image
from fportrait.errors import UserError
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.covered import CROP, CoverNet, cover_note, covered_parts, covered_shares, in_crop
from fportrait.tracking.crops import face_crop
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.making.covered import SHAPES, batch_of, train

PICTURE = astronaut()[:320, 60:380]


def points_on(picture: np.ndarray) -> np.ndarray:
    (face,) = shared_landmarker().detect(picture, max_faces=1)
    return face.landmarks


FACE = points_on(PICTURE)


def note_on(picture: np.ndarray) -> str | None:
    return cover_note(covered_parts(covered_shares(picture, points_on(picture))), "me.jpg")


def filled(points: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    picture = PICTURE.copy()
    return cv2.fillPoly(picture, [np.round(points).astype(np.int32)], colour, cv2.LINE_AA)


def masked() -> np.ndarray:
    """From below the eyes to the chin and from ear to ear, as a medical mask."""
    return filled(FACE[[197, 50, 234, 58, 172, 136, 149, 152, 378, 365, 397, 288, 454, 280]], (150, 190, 215))


def scarfed() -> np.ndarray:
    height, width = PICTURE.shape[:2]
    sides = [[0, FACE[234, 1]], FACE[234], FACE[1], FACE[454], [width, FACE[454, 1]], [width, height], [0, height]]
    return filled(np.array(sides), (150, 30, 60))


def behind_dark_glasses() -> np.ndarray:
    picture = PICTURE.copy()
    for corners in ((33, 133, 159, 145), (263, 362, 386, 374)):
        middle, wide = FACE[list(corners)].mean(0), np.linalg.norm(FACE[corners[0]] - FACE[corners[1]])
        cv2.ellipse(picture, (*map(int, middle),), (int(0.9 * wide), int(0.7 * wide)), 0, 0, 360, (20, 20, 25), -1)
    return picture


@pytest.mark.parametrize(
    ("picture", "parts"), [(masked(), "mouth and nose"), (scarfed(), "mouth"), (behind_dark_glasses(), "eyes")]
)
def test_what_is_covered_is_named(picture, parts):
    note = note_on(picture)
    assert note is not None and note.startswith(f"the {parts}")
    assert "face in me.jpg" in note and ("is covered" in note) is (parts == "mouth")


def test_a_face_that_shows_itself_is_let_be_also_small_dark_mirrored_and_without_colour():
    grey = np.repeat(PICTURE.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    small = cv2.resize(PICTURE, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    for picture in (PICTURE, grey, small, PICTURE // 3, np.ascontiguousarray(PICTURE[:, ::-1])):
        assert note_on(picture) is None


def test_spectacles_through_which_eyes_are_seen_cover_nothing():
    picture = PICTURE.copy()
    for corners in ((33, 133, 159, 145), (263, 362, 386, 374)):
        middle, wide = FACE[list(corners)].mean(0), np.linalg.norm(FACE[corners[0]] - FACE[corners[1]])
        cv2.ellipse(picture, (*map(int, middle),), (int(0.95 * wide), int(0.75 * wide)), 0, 0, 360, (30, 20, 20), 2)
    assert note_on(picture) is None


def test_one_dark_eye_and_a_nose_alone_are_not_told():
    shares = {"mouth": 0.1, "nose": 0.9, "left eye": 1.0, "right eye": 0.3}
    assert covered_parts(shares) == []
    assert covered_parts({**shares, "mouth": 0.8, "right eye": 0.8}) == ["mouth", "nose", "eyes"]


def test_a_portrait_says_it_and_is_tracked(tmp_path):
    write_image(tmp_path / "me.png", masked())
    person, _ = track_picture(tmp_path / "me.png", LandmarkModel(load_body()), TrackConfig(), 48)
    assert [note for note in person.notes if "the mouth and nose of the face in me.png are covered" in note]
    assert person.covered == ("mouth", "nose")


def test_parts_are_sought_where_the_crop_has_them():
    """The crop's own landmarks are where `in_crop` puts the picture's."""
    again = points_on(face_crop(PICTURE, FACE, 256, 1.2)) / 256 * CROP
    assert np.abs(again - in_crop(FACE)).mean() < 1.0


def test_it_learns_from_rendered_faces_and_its_file_is_checked(tmp_path):
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 255, (3, 8, 40, 40, 3), dtype=np.uint8)
    (tmp_path / "faces").mkdir()
    np.savez(tmp_path / "faces" / "0.npz", wild=faces)
    train(tmp_path / "faces", tmp_path / "net.safetensors", steps=4, batch=2, seed=0, start=None)
    shares = covered_shares(PICTURE, FACE, CoverNet.load(tmp_path / "net.safetensors"))
    assert all(0 <= value <= 1 for value in shares.values())
    with pytest.raises(UserError, match="no file"):
        CoverNet.load(tmp_path / "other.safetensors")
    from safetensors.numpy import save_file

    save_file({"head": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other tensors"):
        CoverNet.load(tmp_path / "other.safetensors")


def test_every_shape_lies_where_its_mask_says():
    rng = np.random.default_rng(1)
    for shape in set(SHAPES):
        masks = [shape(rng, 96, np.array([48.0, 58.0]), 20.0) for _ in range(8)]
        assert all(mask.shape == (96, 96) and set(np.unique(mask)) <= {0, 1} for mask in masks)
        assert np.mean([mask.mean() for mask in masks]) > 0.01
    pictures, masks = batch_of(rng, rng.integers(0, 255, (4, 40, 40, 3), dtype=np.uint8), 24)
    assert pictures.shape == (24, 3, CROP, CROP) and pictures.abs().max() <= 1
    assert 0.2 < float((masks.amax((1, 2)) > 0.5).float().mean()) < 0.95
