"""Windows of a long video: cover everything, overlap, and carry the right conditions."""

import itertools

import numpy as np
import pytest
import torch

from fportrait.diffusion.windows import Window, plan_windows, window_weights
from fportrait.errors import UserError


def test_windows_cover_every_latent_and_neighbours_overlap():
    for groups, window_groups, overlap in itertools.product(range(0, 60, 7), range(2, 20), range(1, 7)):
        overlap = min(overlap, window_groups - 1)
        windows = plan_windows(4 * groups + 1, 4 * window_groups + 1, 4 * overlap)
        total = np.zeros(groups + 1)
        for window in windows:
            assert len(window.weights) == window.stop - window.start <= window_groups + 1
            total[window.start : window.stop] += window.weights
        assert (total > 0).all()
        for one, other in itertools.pairwise(windows):
            assert one.start < other.start
            assert one.stop - (other.start + 1) >= overlap  # the anchor is nobody else's


def test_a_short_video_is_one_window():
    assert plan_windows(13, 13, 4) == plan_windows(13, None, 4) == [Window(0, 4, (1.0,) * 4)]


def test_a_windows_video_frames_start_at_its_anchor():
    first, second = plan_windows(17, 13, 4)
    assert (first.frames, second.frames) == (slice(0, 13), slice(4, 17))
    assert second.weights[0] == 0


def test_an_overlap_that_leaves_no_step_is_refused():
    with pytest.raises(UserError, match="overlap"):
        plan_windows(33, 9, 8)


def test_weights_are_positive_everywhere_and_a_join_is_a_ramp():
    windows = plan_windows(33, 17, 8)
    weights = window_weights(windows, 9)
    assert (weights > 0).all()
    shared = [place for place in range(9) if sum(w.start < place < w.stop for w in windows) == 2]
    assert len(shared) >= 2
    # Across a join the earlier window's share falls steadily and never by more than one step of the ramp.
    first = torch.zeros(9)
    first[windows[0].start : windows[0].stop] = torch.tensor(windows[0].weights)
    share = first / weights
    assert share[0] == 1 and share[-1] == 0
    assert (share.diff() <= 0).all() and share.diff().abs().max() <= 1 / (len(shared) / (len(windows) - 1) + 1) + 1e-6
