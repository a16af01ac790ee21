"""Pictures: their height and width; as people keep them, uint8 with the channels last; and as models read them, in
[−1, 1] with the channels second."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Picture(NamedTuple):
    """Pixels of a picture. Of one that a model draws, the short side is that of the square around the head."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def of(cls, size: int | Picture) -> Picture:
        """A picture as it is, and of a number the square."""
        return cls(size, size) if isinstance(size, int) else size

    @property
    def short(self) -> int:
        return min(self)

    @property
    def square(self) -> bool:
        return self.height == self.width

    @property
    def across_by_down(self) -> str:
        """`WIDTHxHEIGHT`, as video tools and our commands name it; `str` is `HEIGHTxWIDTH`, as configuration has it."""
        return f"{self.width}x{self.height}"

    def times(self, scale: int) -> Picture:
        """As many times as high and wide."""
        return Picture(self.height * scale, self.width * scale)


def two_sides(text: str, between: str) -> tuple[int, int] | None:
    """Two whole numbers above 0 of a text such as `64x112` or `9:16`; None of another."""
    parts = str(text).split(between)
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 and int(part) for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def to_model_range(pictures: np.ndarray) -> torch.Tensor:
    """`B ... 3` uint8 to `B 3 ...` float32 in [−1, 1]: pictures `B H W 3`, videos `B T H W 3`."""
    import torch

    return torch.from_numpy(np.require(pictures, requirements=("C", "W"))).movedim(-1, 1).float() / 127.5 - 1


def enlarged(video: np.ndarray, height: int) -> np.ndarray:
    """A video `T H W 3` uint8, at least `height` pixels high by a whole factor: players blur small ones, and hide them
    behind their buttons. It adds no detail."""
    import cv2

    factor = max(1, -(-height // video.shape[1]))
    if factor == 1:
        return video
    size = (video.shape[2] * factor, video.shape[1] * factor)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in video])


def to_uint8(pictures: torch.Tensor) -> np.ndarray:
    """`B 3 ...` in [−1, 1], on any device, to `B ... 3` uint8; what lies outside is clipped."""
    import torch

    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
