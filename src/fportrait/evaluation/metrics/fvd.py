"""FVD (Unterthiner et al., 2018): Fréchet distance of I3D logits of 16-frame segments at 224², in [−1, 1].

The paper's FVD of 0.007 to 0.215 is on another scale: never print ours as comparable. Offline, under its own name,
EfficientNet-Lite0's features and their mean change from frame to frame, so that frozen or shuffled video is seen.
"""

from __future__ import annotations

import numpy as np

from fportrait.evaluation.metrics.fid_vid import SEGMENT, SegmentFeatures, resize
from fportrait.evaluation.weights import load

SIZE = 224


class I3DFeatures:
    """Logits of a segment `16 H W 3` uint8."""

    segment = SEGMENT

    def __init__(self) -> None:
        self.model, self.backbone = load("i3d")

    def __call__(self, segment: np.ndarray) -> np.ndarray:
        import torch

        large = np.stack([resize(frame, SIZE) for frame in segment]).astype(np.float32) / 127.5 - 1
        with torch.no_grad():
            return self.model(torch.from_numpy(large).permute(3, 0, 1, 2)[None])[0].double().numpy()


def make(backbone: str) -> I3DFeatures | SegmentFeatures:
    return I3DFeatures() if backbone == "i3d" else SegmentFeatures(backbone, motion=True)
