"""Which part of a model's picture was filmed.

The square around a face in a narrow upright film reaches beyond the file. Nobody knows what stands there: the picture
is filled as the file's edge is (`dataset.crops`), and what was filmed alone is learned from (`training.losses`) and
judged (`evaluation.clips`). A crop is the same in all frames of a clip, and so is that part, a rectangle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fportrait.diffusion.shapes import SPATIAL_STRIDE
from fportrait.pixels import Picture

Inside = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the model's picture
Part = tuple[slice, slice]  # rows and columns
EVERYWHERE = slice(None), slice(None)
PIXEL_SLACK = 0.02  # of a pixel: what may lie beyond the file of one that counts as filmed
CELL_SLACK = 0.5  # pixels, of a latent: so little of it is filled that it tells nothing wrong


def inside_file(crop: tuple[int, int, int, int], frame: tuple[int, int], picture: Picture) -> Inside | None:
    """`left, top, right, bottom` of what a file shows of a crop, in pixels of the resized picture; None where that is
    all of it. Where the crop lies beside the file wholly, nothing: zeros.

    Args:
        crop: `x0, y0, width, height` in pixels of the file. frame: the file's height and width.
    """
    x0, y0, across, down = crop
    height, width = frame
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + across, width), min(y0 + down, height)
    if left >= right or top >= bottom:
        return 0.0, 0.0, 0.0, 0.0
    if (left, top, right, bottom) == (x0, y0, x0 + across, y0 + down):
        return None
    wide, high = picture.width / across, picture.height / down
    return (left - x0) * wide, (top - y0) * high, (right - x0) * wide, (bottom - y0) * high


def filmed_pixels(inside: Sequence[float], slack: float = PIXEL_SLACK) -> Part:
    """Rows and columns of the pixels that were filmed but for `slack`; maybe none. `inside` as `inside_file` has it."""
    left, top, right, bottom = map(float, inside)
    spans = []
    for first, last in ((top, bottom), (left, right)):
        begin = math.ceil(first - slack)
        spans.append(slice(begin, max(begin, math.floor(last + slack))))
    return spans[0], spans[1]


def filmed_cells(inside: Sequence[float]) -> Part:
    """Rows and columns of the latents all of whose pixels were filmed, but for half of one; maybe none."""
    left, top, right, bottom = map(float, inside)
    slack = CELL_SLACK / SPATIAL_STRIDE
    return filmed_pixels([side / SPATIAL_STRIDE for side in (left, top, right, bottom)], slack)


def only_filmed(pictures: np.ndarray, inside: Sequence[float] | None) -> np.ndarray:
    """Pictures `... H W 3` uint8, black where nothing was filmed: there is no truth of it, so all that are compared are
    alike there."""
    if inside is None:
        return pictures
    rows, columns = filmed_pixels(inside)
    shown = np.zeros_like(pictures)
    shown[..., rows, columns, :] = pictures[..., rows, columns, :]
    return shown
