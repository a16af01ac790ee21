"""IQA: quality of a picture without any truth, 0 (worst) to 100. The paper names no network, so results name ours.

HyperIQA with the user's weights, on the whole picture at 224²; offline 100 − BRISQUE (Mittal et al., 2012), a formula
on natural-scene statistics. Neither was made for renders: flat skin and plain walls look like blur to BRISQUE, so
compare methods on the same clips and never renders with photographs.
"""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.weights import Backbone, load


class Brisque:
    """100 − BRISQUE, clipped to 0…100."""

    def __init__(self) -> None:
        from fportrait.atomic_io import file_hash
        from fportrait.evaluation.networks import brisque

        self._brisque = brisque
        self.backbone = Backbone("100 − BRISQUE (LIVE)", file_hash(brisque.ASSET))

    def __call__(self, produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Scores `T` of the produced frames, NaN for one without structure; the truth only has to have their shape."""
        check_videos(produced, truth)
        return np.array([np.nan if np.ptp(f) == 0 else np.clip(100 - self._brisque.score(f), 0, 100) for f in produced])


class HyperIQA:
    """HyperIQA on the whole picture, resized to 224² (its authors average 25 random crops, which no seed repeats)."""

    def __init__(self) -> None:
        self.model, self.backbone = load("hyperiqa")
        self.size = 224

    def __call__(self, produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Scores `T` of the produced frames; the truth only has to have their shape."""
        import torch

        from fportrait.evaluation.networks.hyperiqa import MEAN, STD

        check_videos(produced, truth)
        size = self.size
        small = np.stack(
            [cv2.resize(frame, (size, size), interpolation=_interpolation(frame, size)) for frame in produced]
        )
        scaled = (small.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        with torch.no_grad():
            return self.model(torch.from_numpy(scaled).permute(0, 3, 1, 2)).double().numpy()


def _interpolation(frame: np.ndarray, size: int) -> int:
    return cv2.INTER_AREA if frame.shape[0] > size else cv2.INTER_CUBIC


def make(backbone: str) -> Brisque | HyperIQA:
    return Brisque() if backbone == "brisque" else HyperIQA()
