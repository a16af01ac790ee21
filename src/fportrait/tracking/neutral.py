"""The expression of a driver's face at rest, taken out of its codes.

The encoder's codes hold more of a person than they should: of the variance between frames of real clips half is the
person's own (rendered people: a tenth). A narrow-eyed driver's face at rest half-closes the result's eyes. What a
face at rest adds is the same in all of a clip's frames, so it can be measured there and taken away. In its place
comes the middle between what rendered faces at rest have, which the model learned as rest, and what the portrait has:
with the former alone eyes open so wide that half a blink does not show, with the latter alone a squint stays. Of people
like the rendered ones nothing is taken: it cost an embedded driver two thirds of a blink.

The frames at rest are told by the scores of the blendshape net, each above its own low end in this clip: those scores
are biased by person, too. Lids rest elsewhere: they are down for moments alone, and what is lowest are eyes that are
opened wide, so their rest is a quarter of the way up. A clip whose calmest frames still laugh or speak is left as it
is, and said.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.errors import UserError
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.points import BLENDSHAPE_NAMES

FACES_AT_REST = Path(__file__).parent.parent / "assets" / "faces_at_rest.png"  # rendered, 12 crops of 96 pixels
WATCHED = (
    *("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", "eyeBlinkRight", "browInnerUp"),
    *("browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight", "mouthPucker", "mouthFunnel"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"),
    *("mouthFrownLeft", "mouthFrownRight", "mouthStretchLeft", "mouthStretchRight"),
)
LOW_END = 0.1  # quantile of a score over the clip
LIDS = ("eyeBlinkLeft", "eyeBlinkRight")
LIDS_REST = 0.25  # quantile at which lids rest: most of a clip's frames show eyes that are open, and few wide ones
SHARE, FEWEST, MOST = 0.1, 3, 25  # of a clip's frames that are averaged
AT_REST = {"jawOpen": 0.25, "mouthSmileLeft": 0.45, "mouthSmileRight": 0.45, "eyeBlinkLeft": 0.6, "eyeBlinkRight": 0.6}


@dataclass(frozen=True)
class Rest:
    """`code` `128` of a driver's face at rest and the `frames` it was taken from; `note`: why none was."""

    code: np.ndarray | None
    frames: tuple[int, ...] = ()
    note: str = ""


def check_neutral(value: str) -> None:
    """Refuse what is neither `auto` nor `off` nor a frame's number.

    Raises:
        UserError: it is none of these.
    """
    if value not in ("auto", "off") and not (value.isdecimal() and len(value) < 10):
        raise UserError(f"--neutral {value[:20]}", "auto, off, or the number of a frame", "write e.g. --neutral 0")


def calm_frames(seen: ClipLandmarks) -> np.ndarray:
    """The frames nearest to rest, in rising order: a tenth of those with a face, 3 to 25 of them."""
    found = np.flatnonzero(seen.confidence > 0)
    assert seen.scores is not None
    scores = seen.scores[found][:, [BLENDSHAPE_NAMES.index(name) for name in WATCHED]].astype(np.float64)
    away = np.clip(scores - np.quantile(scores, LOW_END, axis=0), 0, None)
    lids = np.isin(WATCHED, LIDS)
    away[:, lids] = abs(scores[:, lids] - np.quantile(scores[:, lids], LIDS_REST, axis=0))
    count = int(np.clip(round(SHARE * len(found)), FEWEST, MOST))
    return np.sort(found[np.argsort(away.sum(1), kind="stable")[:count]])


def rest_of(codes: np.ndarray, seen: ClipLandmarks, where: str, named: int | None = None) -> Rest:
    """The face at rest of a clip.

    Args:
        codes: `T 128`. seen: what was found in its frames. where: the clip, for messages. named: a frame that the user
            says is at rest.

    Raises:
        UserError: the named frame is not in the clip, or shows no face.
    """
    if named is not None:
        if not 0 <= named < len(codes) or seen.confidence[named] <= 0:
            raise UserError(
                f"--neutral {named} of {where}", f"a frame from 0 to {len(codes) - 1} with a face", "name another frame"
            )
        return Rest(codes[named], (named,))
    if (seen.confidence > 0).sum() < 2 * FEWEST:
        return Rest(None)  # a picture or two: what it shows may be meant
    frames = calm_frames(seen)
    assert seen.scores is not None
    calm = seen.scores[frames].mean(0)
    moving = [name for name, limit in AT_REST.items() if calm[BLENDSHAPE_NAMES.index(name)] > limit]
    if moving:
        return Rest(
            None,
            note=f"{where} shows no face at rest ({moving[0]} {calm[BLENDSHAPE_NAMES.index(moving[0])]:.2f} in its "
            "calmest frames), so the driver's features stay in the expression; name one at rest: --neutral FRAME",
        )
    return Rest(codes[frames].mean(0), tuple(frames.tolist()))


@functools.cache
def faces_at_rest() -> np.ndarray:
    """Crops `N 96 96 3` uint8 of rendered faces at rest."""
    from fportrait.capture.image_io import read_image

    strip = read_image(FACES_AT_REST)
    side = strip.shape[0]
    return np.stack([strip[:, left : left + side] for left in range(0, strip.shape[1], side)])


def rest_for(portrait: np.ndarray, seen: ClipLandmarks, rendered: np.ndarray) -> np.ndarray:
    """The code `128` that stands for a portrait's face at rest.

    Args:
        portrait: the portrait's own code. seen: what was found in it; an open mouth or closed eyes are no rest.
        rendered: `rendered_rest` of the same encoder.
    """
    assert seen.scores is not None
    for name in ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight"):
        if seen.scores[0, BLENDSHAPE_NAMES.index(name)] > AT_REST[name]:
            return rendered
    return np.asarray((rendered + portrait) / 2)


def rendered_rest(encoder: Any) -> np.ndarray:
    """What an encoder reads of rendered faces at rest, `128`."""
    import cv2

    size = encoder.crop_size
    crops = np.stack([cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA) for crop in faces_at_rest()])
    return np.asarray(encoder.encode(crops).mean(0))
