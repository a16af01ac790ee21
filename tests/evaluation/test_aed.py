"""The face's crop for Deep3DFaceRecon lies where that network was trained to find faces."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.evaluation.metrics.aed import CROP, face_matrix, five_points_3d
from fportrait.evaluation.metrics.csim import five_points


def flat(scale: float, shift: tuple[float, float], degrees: float = 0.0) -> np.ndarray:
    """The mean head's landmarks `478 2` under weak perspective, turned to the side."""
    body = load_body()
    points, turn = body.landmarks(body.template), np.radians(degrees)
    points = points - points.mean(0)
    across = points[:, 0] * np.cos(turn) + points[:, 2] * np.sin(turn)
    return np.stack([across, -points[:, 1]], 1) * scale + shift


def cropped(landmarks: np.ndarray) -> np.ndarray:
    matrix = face_matrix(landmarks)
    return five_points(landmarks) @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize(("scale", "shift"), [(700, (100, 90)), (4000, (900, 500))])
def test_eyes_and_mouth_lie_where_the_published_points_put_them(scale, shift):
    """The origin is the crop's middle, and a unit is 102 pixels: eyes .290 above it, the mouth .381 below."""
    points = cropped(flat(scale, shift))
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    assert eyes == pytest.approx([CROP / 2, CROP / 2 - 102 * 0.290], abs=1.0)
    assert mouth == pytest.approx([CROP / 2, CROP / 2 + 102 * 0.381], abs=1.0)


def test_a_head_that_turns_turns_around_the_same_origin():
    """It lies .13 behind the eyes, so at 30 degrees they are .07 to the side of the middle, and the mouth further."""
    points = cropped(flat(1000, (200, 200), 30))
    aside = points[:2].mean(0)[0] - CROP / 2
    assert aside == pytest.approx(102 * 0.1328 * np.sin(np.radians(30)), abs=1.0)


def test_the_five_points_are_in_the_order_of_the_pictures():
    points = five_points_3d(load_body().landmarks(load_body().template))
    assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]  # the person's right is the picture's left
    assert points[2, 2] > points[:2, 2].max()  # the nose is in front
