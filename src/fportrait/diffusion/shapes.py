"""Counts of frames: T video frames are l = (T + 3) / 4 latent frames, the first alone, then groups of four."""

from __future__ import annotations

from fportrait.errors import UserError

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8


def latent_frames(frames: int) -> int:
    """l for T = 4k+1 video frames.

    Raises:
        UserError: T is not 4k+1; the message names the nearest good values.
    """
    if frames < 1 or frames % TEMPORAL_STRIDE != 1:
        below = max(1, (frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        above = max(5, below + TEMPORAL_STRIDE)
        raise UserError(f"{frames} frames", "T = 4k+1 frames", f"use {below} or {above} frames")
    return (frames + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE


def video_frames(latent_count: int) -> int:
    """T for l latent frames."""
    return TEMPORAL_STRIDE * (latent_count - 1) + 1


def check_picture_size(height: int, width: int, multiple: int = SPATIAL_STRIDE) -> None:
    """Raise `UserError` unless both sides divide by `multiple`; the message names the nearest good size."""
    if height % multiple or width % multiple or min(height, width) < multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise UserError(
            f"pictures of {height}x{width} pixels",
            f"a height and width that divide by {multiple}",
            f"resize or crop to {near[0]}x{near[1]}",
        )
