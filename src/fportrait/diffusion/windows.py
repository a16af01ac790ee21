"""Overlapping windows over the latent frames of a long video.

A window is a clip as the model was trained on: its first latent frame is one video frame, the others are four. A window
that starts at video frame 4j therefore owns one extra latent, its *anchor* (frame 4j alone), and then shares the whole
video's latents j+1, j+2, ... with its neighbours. In the first window the anchor is the video's first latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fportrait.diffusion.shapes import TEMPORAL_STRIDE, latent_frames
from fportrait.errors import UserError


@dataclass(frozen=True)
class Window:
    """Latent frames `start` ... `stop`-1 of the video; latent `start` is the anchor's place."""

    start: int
    stop: int
    weights: tuple[float, ...]  # blend weight per latent frame, the anchor's included

    @property
    def frames(self) -> slice:
        """The window's video frames, 4k+1 of them."""
        return slice(TEMPORAL_STRIDE * self.start, TEMPORAL_STRIDE * (self.stop - 1) + 1)


def plan_windows(frames: int, window_frames: int | None, overlap_frames: int | None = None) -> list[Window]:
    """Windows of `window_frames` that cover `frames`, neighbours sharing at least `overlap_frames` (None: a third).

    One window when the video is no longer than that, or `window_frames` is None. Weights ramp over the overlap.

    Raises:
        UserError: a count is not 4k+1, or the overlap leaves no step forward.
    """
    total = latent_frames(frames)
    if window_frames is None or frames <= window_frames:
        return [Window(0, total, (1.0,) * total)]
    size = latent_frames(window_frames)
    overlap = max(1, (size - 1) // 3) if overlap_frames is None else -(-overlap_frames // TEMPORAL_STRIDE)
    step = size - 1 - overlap
    if step < 1 or overlap < 1:
        raise UserError(
            f"an overlap of {TEMPORAL_STRIDE * overlap} frames in windows of {window_frames}",
            f"at least 4 frames, and at most {max(4, TEMPORAL_STRIDE * (size - 2))}",
            "choose a smaller overlap or longer windows",
        )
    starts = [*range(0, total - size, step), total - size]
    windows = []
    for index, start in enumerate(starts):
        weights = [1.0] * size
        if index > 0:
            shared = starts[index - 1] + size - (start + 1)
            weights[0] = 0.0
            for place in range(shared):
                weights[1 + place] = min(weights[1 + place], (place + 1) / (shared + 1))
        if index + 1 < len(starts):
            shared = start + size - (starts[index + 1] + 1)
            for place in range(shared):
                weights[size - 1 - place] = min(weights[size - 1 - place], (place + 1) / (shared + 1))
        windows.append(Window(start, start + size, tuple(weights)))
    return windows


def window_weights(windows: list[Window], total: int) -> torch.Tensor:
    """The sum of the windows' blend weights on each of the video's `total` latent frames: what a mean divides by."""
    weights = torch.zeros(total)
    for window in windows:
        weights[window.start : window.stop] += torch.tensor(window.weights)
    return weights
