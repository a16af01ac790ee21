"""Windows of a long video: cover everything, overlap, and carry the right conditions."""

import itertools

import numpy as np
import pytest
import torch

from fportrait.diffusion.windows import Window, blend, plan_windows, window_rays
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


def test_window_rays_equal_folding_the_windows_own_frames():
    from fportrait.camera.rays import fold_rays

    rays = np.random.default_rng(0).normal(size=(17, 6, 2, 2)).astype(np.float32)
    window = plan_windows(17, 13, 4)[1]
    for channels in (24, 6):
        whole = torch.from_numpy(fold_rays(rays, channels))[None]
        own = torch.from_numpy(fold_rays(rays[window.frames], channels))[None]
        assert torch.equal(window_rays(whole, window), own)


def test_blending_equal_parts_changes_nothing():
    video = torch.randn(1, 2, 9, 3, 3)
    windows = plan_windows(33, 13, 4)
    parts = [video[:, :, window.start : window.stop].clone() for window in windows]
    for part in parts[1:]:
        part[:, :, 0] = 99  # anchors do not enter
    torch.testing.assert_close(blend(parts, windows, 9), video)
