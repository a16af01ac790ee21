"""Streams of frames, cut into windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fportrait.diffusion.inputs import FrameStream
from fportrait.diffusion.windows import plan_windows
from fportrait.errors import UserError


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(0, 40), window=st.integers(2, 8), overlap=st.integers(1, 7))
def test_a_stream_serves_every_window_and_never_holds_more_than_one(groups, window, overlap):
    frames, overlap = 4 * groups + 1, min(overlap, window - 1)
    windows = plan_windows(frames, 4 * window + 1, 4 * overlap)
    alive = []

    def draw():
        for number in range(frames):
            alive.append(number)
            yield np.full((2, 2, 3), number % 256, np.uint8)

    stream = FrameStream(draw(), "normal maps")
    for part in windows:
        taken = stream.take(part.frames)
        assert taken[:, 0, 0, 0].tolist() == [number % 256 for number in range(part.frames.start, part.frames.stop)]
        assert len(alive) == part.frames.stop, "nothing is drawn before it is needed"
        assert len(stream.kept) <= 4 * window + 1
    stream.check_end(frames)


def test_a_stream_that_ends_early_or_late_says_where():
    with pytest.raises(UserError, match="3 pictures for 5 frames or more"):
        FrameStream(np.zeros((3, 2, 2, 3), np.uint8), "pictures").take(slice(0, 5))
    stream = FrameStream(np.zeros((6, 2, 2, 3), np.uint8), "pictures")
    stream.take(slice(0, 5))
    with pytest.raises(UserError, match="more than 5 pictures"):
        stream.check_end(5)
