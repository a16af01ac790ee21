"""A matte of the person in a picture: hair, hats and shoulders against what stands behind.

Google's MediaPipe Selfie Segmentation (`assets/selfie_segmentation`), 250 kB, a few milliseconds a picture. It knows
pictures in which a person fills a good part: give it the crop around a head.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fportrait.tracking.landmarks import load_network

MODEL = Path(__file__).parents[1] / "assets/selfie_segmentation/selfie_segmentation.tflite"
SIDE = 256  # pixels of the network's picture
KNOWN = 0.7  # mean opacity of a face from which the network knows a person there


def matte(picture: np.ndarray) -> np.ndarray:
    """Opacity of the person, `H W` float32 in [0, 1]. Args: picture: `H W 3` uint8, RGB.

    Raises:
        UserError: the network's file is missing.
    """
    network = _network()
    given, told = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    network.set_tensor(given, small[None].astype(np.float32) / 255)
    network.invoke()
    opacity = network.get_tensor(told)[0, ..., 0]
    return np.clip(cv2.resize(opacity, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)


def matte_around(picture: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """`matte`, or None where the network takes the face for something else: a statue, a drawing, a mask. A head would
    then move before its own hair.

    Args:
        points: of the face, `N 2` pixels.
    """
    found = matte(picture)
    face = np.zeros(found.shape, np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return found if face.any() and found[face > 0].mean() >= KNOWN else None


@functools.cache
def _network() -> Any:
    return load_network(MODEL)
