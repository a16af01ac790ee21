"""Frames of an adapter's film are cut as the portrait of their scene is."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.film import Frame
from fportrait.animate.scenery import file_size, filled, same_shape
from fportrait.animate.tracked import Tracked


def of_file(across: int, down: int) -> Tracked:
    lens = np.array([[900.0, 0, across / 2], [0, 900.0, down / 2], [0, 0, 1]])
    tracked = Tracked.__new__(Tracked)
    tracked.intrinsics = lens
    return tracked


@pytest.mark.parametrize(
    ("size", "used"), [((640, 480), True), ((1280, 960), True), ((480, 640), False), ((640, 400), False)]
)
def test_only_frames_whose_file_has_the_portraits_shape_are_used(size, used):
    frame = Frame(of_file(*size), 0, np.zeros((size[1], size[0], 3), np.uint8), np.zeros(52))
    assert bool(same_shape(of_file(640, 480), [frame])) == used
    assert file_size(frame.tracked) == size


def test_black_beside_a_file_is_filled_and_told():
    picture, known = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    picture[:12], known[:12] = 90, 255
    drawn, filmed = filled(picture, known)
    assert filmed[:11].all() and not filmed[12:].any()
    assert drawn.min() >= 80 and np.array_equal(drawn[:11], picture[:11])


def test_a_picture_that_its_file_holds_wholly_stays_as_it_is():
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    drawn, filmed = filled(picture, np.full_like(picture, 255))
    assert np.array_equal(drawn, picture) and filmed.all()
