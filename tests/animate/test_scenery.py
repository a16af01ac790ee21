"""Frames of an adapter's film are cut as the portrait of their scene is."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.film import Frame
from fportrait.animate.scenery import file_size, filmed, same_shape
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


def test_what_a_file_holds_is_told_from_the_black_beside_it():
    known = np.zeros((16, 16, 3), np.uint8)
    known[:12] = 255
    inside = filmed(known)
    assert inside[:11].all() and not inside[11:].any(), "its last row may be mixed with black"
    assert filmed(np.full_like(known, 255)).all()
