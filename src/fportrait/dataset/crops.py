"""What a model is shown of a frame: the square around a head, or more of it, cut on whole pixels and resized.

A crop may go beyond the file, as the square around a face in a narrow upright film does. Nobody knows what stands
there: it is black, or `filled` as the file's edge is, which is how shards hold it. What was filmed alone is learned
from (`training.losses`) and judged (`evaluation.clips`). A crop is the same in all frames of a clip, and so is that
part of its picture, a rectangle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fportrait.capture.video_io import iter_video
from fportrait.dataset.buckets import Bucket, nearest_bucket
from fportrait.dataset.upright import TURNS
from fportrait.diffusion.shapes import SPATIAL_STRIDE
from fportrait.errors import UserError
from fportrait.pixels import Picture

if TYPE_CHECKING:
    import pandas as pd

Inside = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the model's picture
Part = tuple[slice, slice]  # rows and columns
EVERYWHERE = slice(None), slice(None)
PIXEL_SLACK = 0.02  # of a pixel: what may lie beyond the file of one that counts as filmed
CELL_SLACK = 0.5  # pixels, of a latent: so little of it is filled that it tells nothing wrong


def whole_pixels(crop: Sequence[float]) -> tuple[int, int, int]:
    """A crop on whole pixels; pictures and intrinsics are both made from this one, so nothing shifts between them."""
    x0, y0, size = (round(float(value)) for value in crop)
    return x0, y0, max(1, size)


def crop_picture(picture: np.ndarray, crop: tuple[int, int, int], size: int, filled: bool = False) -> np.ndarray:
    """The square `x0, y0, side` of a picture at `size`; see `crop_rectangle`."""
    x0, y0, side = crop
    return crop_rectangle(picture, (x0, y0, side, side), Bucket(size, size), filled)


def crop_rectangle(
    picture: np.ndarray, crop: tuple[int, int, int, int], bucket: Bucket, filled: bool = False
) -> np.ndarray:
    """The rectangle `x0, y0, width, height` of a picture, black outside it or `filled` as its edge is, reduced by area
    to `bucket`, or enlarged smoothly: enlarged by area, pixels become blocks."""
    x0, y0, across, down = crop
    height, width = picture.shape[:2]
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y0 + down, height), min(x0 + across, width)
    cut = np.zeros((down, across, 3), np.uint8)
    if top < bottom and left < right:
        beyond = (top - y0, y0 + down - bottom), (left - x0, x0 + across - right), (0, 0)
        cut = np.pad(picture[top:bottom, left:right], beyond, "edge" if filled else "constant")
    way = cv2.INTER_AREA if bucket.width <= across and bucket.height <= down else cv2.INTER_CUBIC
    return cv2.resize(cut, (bucket.width, bucket.height), interpolation=way)


def read_crops(
    path: str,
    cuts: Mapping[Bucket, tuple[int, int, int, int]],
    bucket: Bucket,
    frames: int,
    shown: Collection[int],
    quarter_turns: int = 0,
) -> tuple[np.ndarray, dict[tuple[Bucket, int], np.ndarray], tuple[int, int]]:
    """A clip as `T H W 3` uint8 of its bucket, its frames `shown` as pictures of every bucket of `cuts`, cut from
    frames that `np.rot90` has turned so often, and these frames' height and width.

    Frame by frame: a long, large video never lies in memory as a whole.
    """
    video: list[np.ndarray] = []
    pictures: dict[tuple[Bucket, int], np.ndarray] = {}
    for number, frame in enumerate(iter_video(path, 0, frames)):
        picture = np.rot90(frame, quarter_turns)
        video.append(crop_rectangle(picture, cuts[bucket], bucket, filled=True))
        if number in shown:
            pictures |= {(each, number): crop_rectangle(picture, cut, each, filled=True) for each, cut in cuts.items()}
    if len(video) != frames:
        raise UserError(
            f"{len(video)} frames in {path}, which has {frames} annotated",
            "a frame for every row of the table",
            "track that video again",
        )
    return np.stack(video), pictures, picture.shape[:2]


def clip_buckets(frames: pd.DataFrame, buckets: Sequence[Bucket]) -> dict[str, tuple[Bucket, tuple[int, int] | None]]:
    """The bucket of every clip of `upright` rows, and the height and width of its video where there is a choice."""
    found: dict[str, tuple[Bucket, tuple[int, int] | None]] = {}
    for clip, table in frames.groupby("clip", sort=True):
        if len(buckets) == 1:
            found[str(clip)] = buckets[0], None
            continue
        sides = next(iter(iter_video(str(table["path"].iloc[0]), 0, 1))).shape[:2]
        height, width = sides if table[TURNS].iloc[0] % 2 == 0 else sides[::-1]
        side = whole_pixels(table["crop"].iloc[0])[2]
        found[str(clip)] = nearest_bucket((height, width), side, buckets), (height, width)
    return found


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


def is_sound(inside: Sequence[float], height: int, width: int) -> bool:
    """Whether numbers can be what `inside_file` tells of a picture of so many pixels: a rectangle in it, or zeros."""
    if len(inside) != 4 or not all(map(math.isfinite, inside)):
        return False
    left, top, right, bottom = inside
    within = 0 <= left < right <= width + PIXEL_SLACK and 0 <= top < bottom <= height + PIXEL_SLACK
    return within or not any(inside)


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
