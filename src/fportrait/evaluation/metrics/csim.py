"""CSIM: cosine of identity embeddings of the produced and the true face, frame by frame; never clamped.

ArcFace (user's weights) on 112×112 faces aligned to its five points; offline dlib's ResNet, whose embeddings of two
people have a cosine near 0.8 already: its CSIM compares models, it is not ArcFace's number.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from typing import Any

import cv2
import numpy as np

from fportrait.devices import pick_device
from fportrait.evaluation.faces import shared_finder
from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.weights import Backbone, find, load, require
from fportrait.pixels import to_model_range

# Where ArcFace wants both eyes, the nose and both corners of the mouth in its 112×112 crop, left to right.
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
CHIP = 150  # pixels; dlib's crop
CHIP_PADDING = 0.25
REMEMBERED = 4096  # embeddings of frames


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Eyes, nose tip and mouth corners, left to right in the picture, `5 2`."""
    points = np.asarray(landmarks, np.float64)
    return np.stack([points[[33, 133]].mean(0), points[[263, 362]].mean(0), points[1], points[61], points[291]])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The `2 3` similarity (Umeyama, 1991) that takes points `N 2` to others with the least squared error."""
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = source - mean_s, target - mean_t
    u, values, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = (values * sign).sum() / s.var(0).sum()
    return np.column_stack([scale * rotation, mean_t - scale * rotation @ mean_s])


def aligned(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """A `size size 3` crop; `matrix` `2 3` takes pixels of the picture to the crop's, centres at +0.5 in both."""
    linear = matrix[:, :2]
    shift = matrix[:, 2] + linear @ [0.5, 0.5] - 0.5
    zoom = np.sqrt(abs(np.linalg.det(linear)))
    if zoom < 0.6:  # shrinking by bilinear sampling alone would alias
        picture = cv2.GaussianBlur(picture, (0, 0), 0.35 / zoom)
    return cv2.warpAffine(picture, np.column_stack([linear, shift]), (size, size), flags=cv2.INTER_LINEAR)


class ArcFace:
    """Unit embeddings of aligned faces."""

    def __init__(self) -> None:
        self.model, self.backbone = load("arcface")

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        import torch

        face = aligned(picture, similarity(five_points(landmarks), ARCFACE_POINTS), 112)
        with torch.no_grad():
            value = self.model(to_model_range(face[None]))[0].double()
        return (value / value.norm()).numpy()


class Dlib:
    """dlib's 128-d embedding, unit length. The chip is cut by our own landmarks; no landmark model of dlib is used."""

    # Where dlib's five-point chip puts the eye corners and the nose base, in units of the unpadded chip.
    points = np.array(
        [
            [0.8595674595992, 0.2134981538014],
            [0.6460604764104, 0.2289674387677],
            [0.1205750620789, 0.2137274526848],
            [0.3340850613712, 0.2290642403242],
            [0.4901123135679, 0.6277975316475],
        ]
    )

    def __init__(self) -> None:
        import dlib

        stored = require("dlib")
        self._net = dlib.face_recognition_model_v1(str(stored.path))
        self.backbone = Backbone("dlib face recognition ResNet, 128-d", stored.sha256)

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        target = (self.points + CHIP_PADDING) / (1 + 2 * CHIP_PADDING) * CHIP
        source = np.asarray(landmarks, np.float64)[[263, 362, 33, 133, 2]]
        chip = aligned(picture, similarity(source, target), CHIP)
        value = np.array(self._net.compute_face_descriptor(np.ascontiguousarray(chip)))
        return value / np.linalg.norm(value)


class IdentitySimilarity:
    """Cosine per frame; NaN where a face is missing in either picture."""

    needs_face = True

    def __init__(self, network: Any):
        self.network, self.backbone = network, network.backbone
        # A clip's frames are asked for again with every method and every model, a repeated portrait with every frame.
        self._known: OrderedDict[bytes, np.ndarray | None] = OrderedDict()

    def __call__(self, produced: np.ndarray, truth: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        """Cosines `T`; both `T H W 3` uint8. `near` `T 478 2`: where the faces are looked for, if that is known.

        Raises:
            UserError: sizes, lengths or types differ.
        """
        check_videos(produced, truth)
        values = []
        for t, (ours, theirs) in enumerate(zip(produced, truth, strict=True)):
            place = None if near is None else near[t]
            wanted = self._embedded(theirs, place)
            found = None if wanted is None else self._embedded(ours, place)
            values.append(np.nan if wanted is None or found is None else float(found @ wanted))
        return np.array(values)

    def _embedded(self, frame: np.ndarray, near: np.ndarray | None) -> np.ndarray | None:
        """The embedding of a frame's face, None without one; kept for some thousand frames."""
        key = hashlib.blake2b(frame.tobytes(), digest_size=16).digest()
        if key not in self._known:
            face = shared_finder()(frame, near)
            self._known[key] = None if face is None else self.network.embed(frame, face.landmarks)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


def _network(name: str) -> Any:
    return _network_at(name, str(pick_device()))


@functools.cache
def _network_at(name: str, device: str) -> Any:
    """Read once for a device, which `load` chooses."""
    return ArcFace() if name == "arcface" else Dlib()


def default_identity() -> Any | None:
    """The best identity network that is there (`embed`, `backbone`), or None."""
    for name in ("arcface", "dlib"):
        if find(name) is not None and (name != "dlib" or _dlib_installed()):
            return _network(name)
    return None


def _dlib_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("dlib") is not None


def make(backbone: str) -> IdentitySimilarity:
    return _similarity_at(backbone, str(pick_device()))


@functools.cache
def _similarity_at(name: str, device: str) -> IdentitySimilarity:
    return IdentitySimilarity(_network_at(name, device))
