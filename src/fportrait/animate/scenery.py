"""What surrounds a portrait's face, painted from the frames of an adapter's films, too: see `fportrait.body.scene`.

A portrait of the films' own scene is tracked with their frames (`film`). Each of them is cut as the portrait is: what
stands behind lies where it lies in the portrait, as a camera that stays has it. That it stayed is not assumed: what
each frame is off by is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from fportrait.animate.film import Frame
from fportrait.animate.tracked import Tracked, portrait_painter, posed
from fportrait.body.blending import MEASURED
from fportrait.body.model import BodyModel
from fportrait.body.painting import PortraitPainter
from fportrait.body.scene import SceneBlend, Shot, measured
from fportrait.camera.cameras import in_camera
from fportrait.pixels import Picture
from fportrait.tracking.matting import SIDE, matte_around

SAME_SHAPE = 0.02  # by which the proportions of two files of one camera may differ


def shot_of(
    frame: Frame, body: BodyModel, person: Tracked, size: Picture, samples: int, gain: np.ndarray
) -> Shot | None:
    """A film's frame in the cut that the portrait of its scene has, in a picture of that size; None without a matte."""
    x0, y0, side = (round(float(value) * file_size(frame.tracked)[0] / file_size(person)[0]) for value in person.crop)
    of = replace(frame.tracked, crop=(x0, y0, side))
    (vertices,) = posed(body, of.shape, of, [frame.number], [frame.actions], of.offsets)
    wide = size.times(max(1, SIDE // size.short))
    opacity = matte_around(of.shown(frame.picture, wide), of.landmarks(wide)[frame.number])
    if opacity is None:
        return None
    before, known = in_camera(vertices, of.reference_camera), of.shown(np.full_like(frame.picture, 255), size)
    painter = PortraitPainter(body, of.shown(frame.picture, size), before, of.lens(size), samples, (), opacity)
    return Shot(painter, at_size(opacity, size), filmed(known), gain)


def file_size(tracked: Tracked) -> tuple[float, float]:
    """Pixels across and down a file."""
    across, down = 2 * tracked.intrinsics[:2, 2]
    return float(across), float(down)


def same_shape(person: Tracked, frames: Sequence[Frame]) -> list[Frame]:
    """Frames of films whose file has the shape of the portrait's: of another, nobody knows where its camera stood."""
    (across, down), found = file_size(person), list[Frame]()
    for frame in frames:
        wide, high = file_size(frame.tracked)
        if abs(wide * down / (high * across) - 1) < SAME_SHAPE:
            found.append(frame)
    return found


def scene_of(
    body: BodyModel,
    person: Tracked,
    image: np.ndarray,
    own_actions: np.ndarray,
    frames: Sequence[Frame],
    size: Picture,
    samples: int,
    matte: np.ndarray,
    gains: np.ndarray,
) -> SceneBlend | None:
    """What surrounds a portrait's face, from the portrait and from frames of its scene; None where they tell nothing
    that is clearly better (`body.scene`).

    Args:
        person, image: the portrait's track and upright picture `H W 3`. own_actions: how its face acts, `52`. size,
            samples: of what is painted. matte: of the portrait. gains: of the frames' light, `N 3`.
    """
    alike = {id(frame) for frame in same_shape(person, frames)}

    white = np.full_like(image, 255)

    def own(size: Picture, samples: int) -> Shot:
        painter = portrait_painter(body, person, person.shown(image, size), own_actions, samples, (), matte)
        return Shot(painter, at_size(matte, size), filmed(person.shown(white, size)), np.ones(3))

    small = Picture(*(round(side * MEASURED / size.short) for side in size))
    shots, makers = [own(small, 1)], []
    for frame, gain in zip(frames, gains, strict=True):
        shot = shot_of(frame, body, person, small, 1, gain) if id(frame) in alike else None
        if shot is not None:
            shots.append(shot)
            makers.append(functools.partial(shot_of, frame, body, person, size, samples, gain))
    expected = measured(shots)
    return None if expected is None else SceneBlend(own(size, samples), makers, expected)


def at_size(opacity: np.ndarray, size: Picture) -> np.ndarray:
    return np.asarray(
        cv2.resize(np.asarray(opacity, np.float32), (size.width, size.height), interpolation=cv2.INTER_AREA)
    )


def filmed(known: np.ndarray) -> np.ndarray:
    """Which pixels a file holds wholly, and not its black, `H W` float32 of 0 and 1; `known` `H W 3` is white where
    there was a file."""
    inside = cv2.erode((known.min(-1) == 255).astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    return inside.astype(np.float32)
