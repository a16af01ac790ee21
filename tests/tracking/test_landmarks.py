"""Faces and landmarks on a real photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.tracking.landmarks import Face, FaceLandmarker
from fportrait.tracking.overlay import draw_landmarks
from fportrait.tracking.points import BLENDSHAPE_NAMES, GROUPS, SUBSET_238


def test_the_named_subset_has_238_different_points():
    assert len(SUBSET_238) == len(set(SUBSET_238.tolist())) == 238
    assert set(GROUPS) == {"lips", "eyes", "brows", "iris", "oval", "nose", "rest"}


def test_one_photographed_face_is_found_where_it_is(face):
    assert face.landmarks.shape == (478, 2) and face.confidence > 0.9
    # Read off the enlarged picture by eye: pupils, mouth corners, tip of the chin.
    by_eye = {468: (202.5, 101), 473: (247.5, 103), 61: (202, 139.5), 291: (245, 141), 152: (221, 178)}
    for point, place in by_eye.items():
        assert np.linalg.norm(face.landmarks[point] - place) < 4, point


def test_a_smile_scores_and_closed_eyes_do_not(face):
    scores = dict(zip(BLENDSHAPE_NAMES, face.blendshapes.tolist(), strict=True))
    assert scores["mouthSmileLeft"] > 0.6 and scores["mouthSmileRight"] > 0.6
    assert scores["eyeBlinkLeft"] < 0.3 and scores["eyeBlinkRight"] < 0.3


def test_landmarks_move_with_the_picture(photograph, landmarker, face):
    moved = np.roll(photograph, (14, -23), (0, 1))
    shift = landmarker.detect(moved)[0].landmarks - face.landmarks
    assert np.allclose(np.median(shift, axis=0), [-23, 14], atol=0.5)


@pytest.mark.parametrize("degrees", [-40, 30])
def test_a_rolled_head_gets_rolled_landmarks(photograph, landmarker, face, degrees):
    matrix = cv2.getRotationMatrix2D((225.0, 120.0), degrees, 1.0)
    rolled = cv2.warpAffine(photograph, matrix, (512, 512))
    expected = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(landmarker.detect(rolled)[0].landmarks - expected, axis=1).mean() < 2.5


def test_tracking_from_the_frame_before_agrees_with_detection(photograph, landmarker, face):
    stale = Face(face.landmarks + 6, face.blendshapes, 1.0)
    followed = landmarker.detect(photograph, previous=stale)
    assert len(followed) == 1
    assert np.abs(followed[0].landmarks - face.landmarks).mean() < 1


def test_a_lost_face_is_detected_anew(photograph, landmarker, face):
    lost = Face(face.landmarks + np.array([150, 250]), face.blendshapes, 1.0)
    found = landmarker.detect(photograph, previous=lost)
    assert np.abs(found[0].landmarks - face.landmarks).mean() < 1


def test_a_small_face_in_a_large_picture_is_found(photograph, landmarker, face):
    large = np.full((1800, 1800, 3), 90, np.uint8)
    large[900:1412, 700:1212] = photograph
    found = landmarker.detect(large)
    assert len(found) == 1
    assert np.abs(found[0].landmarks - [700, 900] - face.landmarks).mean() < 1


def test_a_face_that_fills_the_picture_is_found(photograph, landmarker, face):
    (x0, y0), (x1, y1) = face.landmarks.min(0).astype(int), face.landmarks.max(0).astype(int)
    found = landmarker.detect(photograph[y0 : y1 + 1, x0 : x1 + 1])
    assert np.abs(found[0].landmarks + np.array([x0, y0]) - face.landmarks).mean() < 2


def test_two_faces_are_both_found_and_the_larger_comes_first(photograph, landmarker):
    small = cv2.resize(photograph, (400, 400), interpolation=cv2.INTER_AREA)
    both = np.zeros((512, 912, 3), np.uint8)
    both[:400, :400], both[:, 400:] = small, photograph
    faces = landmarker.detect(both)
    assert len(faces) == 2
    assert faces[0].landmarks[4, 0] > 400 > faces[1].landmarks[4, 0]
    assert faces[0].size == pytest.approx(faces[1].size * 512 / 400, rel=0.05)
    assert len(landmarker.detect(both, max_faces=1)) == 1


def test_no_face_is_invented(photograph, landmarker):
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    assert landmarker.detect(noise) == []
    assert landmarker.detect(photograph[300:]) == []
    assert landmarker.detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_detection_repeats_bit_for_bit(photograph, face):
    assert np.array_equal(FaceLandmarker().detect(photograph)[0].landmarks, face.landmarks)


def test_pictures_of_the_wrong_kind_are_refused(landmarker):
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(UserError, match="uint8 RGB"):
            landmarker.detect(wrong)


def test_missing_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"face_detector\.tflite"):
        FaceLandmarker(tmp_path)


def test_the_overlay_marks_a_point_at_its_place(photograph, face):
    picture = draw_landmarks(photograph, face.landmarks, scale=2)
    assert picture.shape == (1024, 1024, 3)
    x, y = np.floor(face.landmarks[13] * 2).astype(int)
    assert tuple(picture[y, x]) == (255, 70, 70)
    assert np.array_equal(picture[:40], cv2.resize(photograph, (1024, 1024))[:40])
