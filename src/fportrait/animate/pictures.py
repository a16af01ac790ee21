"""Pictures of an animation for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fportrait.animate.tracked import Tracked
from fportrait.camera.cameras import project
from fportrait.pixels import Picture

COLOUR_SIDE, COLOURLESS = 256, 8  # pixels looked at, and levels between channels up to which they are grey
LUMA = 0.299, 0.587, 0.114  # of R, G and B (ITU-R BT.601)


def enlarge(frame: np.ndarray, scale: int) -> np.ndarray:
    """`H W 3` uint8 enlarged for viewing; it adds no detail."""
    height, width = frame.shape[:2]
    return cv2.resize(frame, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)


def colourless(picture: np.ndarray) -> bool:
    """Whether a picture `H W 3` uint8 is a black-and-white one, but for what compression leaves."""
    small = cv2.resize(picture, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA)
    return int((small.max(-1) - small.min(-1)).max()) <= COLOURLESS


def in_grey(frames: np.ndarray) -> np.ndarray:
    """Frames `... 3` uint8 without their colour: what a model, a mouth's inside or another portrait brings into a
    black-and-white one."""
    grey = frames @ np.asarray(LUMA, np.float32)
    return np.repeat((grey + 0.5).astype(np.uint8)[..., None], 3, -1)


def shown_frames(length: int, columns: int = 8) -> list[int]:
    """Frame numbers spread over a video, in rising order."""
    return np.linspace(0, length - 1, min(columns, length)).round().astype(int).tolist()


def rows_of_pictures(
    rows: Sequence[tuple[str, np.ndarray | None, Sequence[np.ndarray]]], cell: int | Picture
) -> np.ndarray:
    """Rows over time as one picture. A row is its label, a picture for the first column (or None) and the others.

    Args:
        cell: of one of them, pixels.
    """
    height, width = Picture.of(cell)

    def row(label: str, first: np.ndarray | None, pictures: Sequence[np.ndarray]) -> np.ndarray:
        cells = [np.full((height, width, 3), 255, np.uint8) if first is None else first, *pictures]
        cells = [cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in cells]
        ink = (0, 0, 0) if first is None else (255, 255, 255)
        cv2.putText(cells[0], label, (6, height - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)
        return np.hstack(cells)

    return np.vstack([row(*entry) for entry in rows])


def tracking_overlay(frame: np.ndarray, tracked: Tracked, number: int, size: int = 320) -> np.ndarray:
    """The tracked square of a frame with its 478 landmarks and the axes of the head (x red, y green, z blue)."""
    x0, y0, side = tracked.crop
    scale = size / side
    moved = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]])
    picture = cv2.warpAffine(np.ascontiguousarray(frame), moved, (size, size), flags=cv2.INTER_AREA)
    seen = tracked.track.seen[0].landmarks[number]
    for x, y in (seen[np.isfinite(seen).all(1)] - [x0, y0]) * scale:
        cv2.circle(picture, (round(float(x)), round(float(y))), 1, (90, 220, 255), -1, cv2.LINE_AA)
    rotation, translation = tracked.track.rotations[number], tracked.track.translations[number]
    ends = translation + np.concatenate([np.zeros((1, 3)), 0.08 * np.eye(3)]) @ rotation.T  # 8 cm
    pixels, _ = project(ends, tracked.track.cameras[0], tracked.track.clips[0].intrinsics)
    start, *tips = [(round(float(x)), round(float(y))) for x, y in (pixels - [x0, y0]) * scale]
    for tip, colour in zip(tips, ((230, 60, 60), (60, 200, 60), (70, 110, 255)), strict=True):
        cv2.line(picture, start, tip, colour, 2, cv2.LINE_AA)
    return picture
