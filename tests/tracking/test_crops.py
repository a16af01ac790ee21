"""Face crops: the face fills them in the same way whatever its place, size and roll in the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fportrait.tracking.crops import face_crop, face_frame, upper_body_crop

SIZE = 96


def spread(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference over the part that no border reaches."""
    inner = (slice(6, -6), slice(6, -6))
    return float(np.abs(a[inner].astype(float) - b[inner]).mean())


def moved(image, landmarks, degrees, scale, shift):
    """A picture turned, scaled and shifted, with its landmarks, pixel centres at +0.5."""
    centre = landmarks.mean(0)
    matrix = cv2.getRotationMatrix2D(centre.tolist(), degrees, scale)
    matrix[:, 2] += shift
    for_cv2 = matrix.copy()
    for_cv2[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(image, for_cv2, (640, 640)), landmarks @ matrix[:, :2].T + matrix[:, 2]


def test_the_crop_holds_brows_chin_and_both_cheeks(photograph, face):
    eyes, scale, axis = face_frame(face.landmarks)
    down = np.array([-axis[1], axis[0]])
    step = 2.6 * scale / SIZE
    place = (face.landmarks - eyes - 0.6 * scale * down) @ np.stack([axis, down]).T / step + SIZE / 2
    for point in (105, 334, 152, 234, 454, 61, 291):
        assert (place[point] > 2).all() and (place[point] < SIZE - 2).all(), point
    assert face_crop(photograph, face.landmarks).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (40, 90)), (35, 1, (80, 120)), (-25, 1.4, (60, 100))])
def test_roll_size_and_place_do_not_change_the_crop(photograph, face, degrees, scale, shift):
    crop = face_crop(photograph, face.landmarks)
    again = face_crop(*moved(photograph, face.landmarks.astype(float), degrees, scale, shift))
    assert spread(crop, again) < 2.5
    upright = face_crop(photograph, face.landmarks)[::-1]
    assert spread(crop, upright) > 20  # the measure does see a difference


def test_eyes_are_level_in_the_crop_of_a_rolled_head(photograph, face, landmarker):
    image, points = moved(photograph, face.landmarks.astype(float), 30, 2.0, (60, 100))
    crop = face_crop(image, points, 256)
    wide = np.zeros((512, 512, 3), np.uint8)
    wide[128:384, 128:384] = crop
    found = landmarker.detect(wide)[0].landmarks
    dx, dy = found[263] - found[33]
    assert abs(np.degrees(np.arctan2(dy, dx))) < 4


def test_an_opening_jaw_does_not_zoom_the_crop(face):
    opened = face.landmarks.copy()
    opened[[152, 148, 377, 176, 400, 17, 14]] += [0, 25]
    before, after = face_frame(face.landmarks), face_frame(opened)
    assert after[1] == pytest.approx(before[1]) and np.allclose(after[0], before[0])


def test_what_lies_outside_the_picture_is_black(photograph, face):
    (x0, y0), (x1, y1) = face.landmarks.min(0).astype(int), face.landmarks.max(0).astype(int)
    x0 += 20
    cut = photograph[y0:y1, x0:x1]
    crop = face_crop(cut, face.landmarks - [x0, y0])
    assert (crop[:, :12] == 0).all() and crop[SIZE // 2, SIZE // 2].any()
    whole = face_crop(photograph, face.landmarks)
    assert np.abs(crop[35:60, 45:65].astype(int) - whole[35:60, 45:65]).max() <= 1


def test_the_upper_body_crop_shows_more_and_stays_upright(photograph, face):
    body = upper_body_crop(photograph, face.landmarks, 128)
    assert body.shape == (128, 128, 3)
    eyes, scale, _ = face_frame(face.landmarks)
    step = 5.6 * scale / 128
    # A far corner of the crop shows the photograph's own colour at that place.
    x, y = (np.array([20.5, 100.5]) - 64) * step + eyes + [0, 1.2 * scale]
    assert np.abs(body[100, 20].astype(int) - cv2.blur(photograph, (3, 3))[int(y), int(x)]).max() < 40


def test_crops_repeat_bit_for_bit(photograph, face):
    assert np.array_equal(face_crop(photograph, face.landmarks), face_crop(photograph, face.landmarks))


@pytest.mark.parametrize("shift", [(0, 0), (-150, -60), (170, 200), (5000, 0)])
def test_a_crop_of_a_large_picture_is_that_of_the_whole_picture_smoothed(photograph, face, shift):
    eyes, scale, axis = face_frame(face.landmarks + shift)
    step, size = 2.6 * scale / 24, 24  # coarse: a step of several pixels
    down = np.array([-axis[1], axis[0]])
    whole = cv2.GaussianBlur(photograph, (0, 0), 0.35 * step)
    origin = eyes + 0.6 * scale * down - (axis + down) * step * (size - 1) / 2 - 0.5
    matrix = np.stack([axis * step, down * step, origin], 1)
    expected = cv2.warpAffine(whole, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert np.array_equal(face_crop(photograph, face.landmarks + shift, size), expected)
