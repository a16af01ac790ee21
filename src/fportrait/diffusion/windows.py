"""Overlapping windows over the latent frames of a long video.

A window is a clip as the model was trained on: its first latent frame is one video frame, the others are four. A window
that starts at video frame 4j therefore owns one extra latent, its *anchor* (frame 4j alone), and then shares the whole
video's latents j+1, j+2, ... with its neighbours. In the first window the anchor is the video's first latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


class Blend:
    """The windows of a video while it is sampled: what each one sees, and the mean of what is said of them.

    The state `B C l+w-1 h w` is the video's latents and behind them the anchors of all windows but the first, so that
    one scheduler step moves everything alike. With one window it is the latents alone.
    """

    def __init__(self, windows: list[Window], device: torch.device):
        self.windows, self.total = windows, windows[-1].stop
        self.weights = window_weights(windows, self.total).to(device)
        self.ramps = [torch.tensor(window.weights, device=device)[:, None, None] for window in windows]

    def noise(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
        """A state of noise for latents of `shape`; `draw` gives noise of a shape."""
        anchor = (*shape[:2], 1, *shape[3:])
        return torch.cat([draw(shape), *(draw(anchor) for _ in self.windows[1:])], 2)

    def part(self, state: torch.Tensor, index: int) -> torch.Tensor:
        """The latents of a window, its anchor first."""
        window = self.windows[index]
        part = state[:, :, window.start : window.stop]
        if index > 0:
            part = torch.cat([state[:, :, self.total + index - 1 :][:, :, :1], part[:, :, 1:]], 2)
        return part

    def mean(self, velocities: Iterable[torch.Tensor]) -> torch.Tensor:
        """The velocity of the state from those of the windows, in order: where they overlap, their weighted mean."""
        velocity: torch.Tensor | None = None
        for index, (window, moved) in enumerate(zip(self.windows, velocities, strict=True)):
            if velocity is None:
                frames = self.total + len(self.windows) - 1
                velocity = moved.new_zeros(*moved.shape[:2], frames, *moved.shape[3:])
            velocity[:, :, window.start : window.stop] += moved * self.ramps[index]
            if index > 0:
                velocity[:, :, self.total + index - 1] = moved[:, :, 0]
        assert velocity is not None
        velocity[:, :, : self.total] /= self.weights[:, None, None]
        return velocity

    def video(self, state: torch.Tensor) -> torch.Tensor:
        """The video's latents."""
        return state[:, :, : self.total]

    def replaced(self, state: torch.Tensor, latents: torch.Tensor | None) -> torch.Tensor:
        """The state with other latents of the video; as it is for None."""
        return state if latents is None else torch.cat([latents, state[:, :, self.total :]], 2)
