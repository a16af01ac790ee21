"""The one check that every picture metric makes: two videos of the same size, range and length."""

from __future__ import annotations

import numpy as np

from fportrait.errors import UserError


def check_videos(produced: np.ndarray, truth: np.ndarray) -> None:
    """Raise `UserError` unless both are `T H W 3` uint8 of one shape with at least one frame."""
    for name, video in (("produced", produced), ("true", truth)):
        if not isinstance(video, np.ndarray) or video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
            found = f"{getattr(video, 'dtype', type(video).__name__)} of shape {tuple(getattr(video, 'shape', ()))}"
            raise UserError(
                f"a {name} video as {found}", "uint8 of shape T H W 3, 0 to 255", "convert it before scoring"
            )
    if produced.shape != truth.shape or not len(truth):
        raise UserError(
            f"a produced video of {_size(produced)} beside a true one of {_size(truth)}",
            "the same number of frames, height and width, and at least one frame",
            "crop, resize or cut both alike before scoring",
        )


def _size(video: np.ndarray) -> str:
    return f"{video.shape[0]} frames of {video.shape[1]}x{video.shape[2]}"
