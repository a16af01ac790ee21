"""FID-VID: Fréchet distance of 3D-ResNet-50 (Kinetics) features of 16-frame segments at 112².

Offline, under its own name, segments are described by the mean over their frames of EfficientNet-Lite0's features.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fportrait.evaluation.weights import load

SEGMENT = 16
SIZE = 112


class SegmentFeatures:
    """Features of a segment `16 H W 3` uint8."""

    segment = SEGMENT

    def __init__(self, backbone: str, motion: bool = False):
        self.kind, self.motion = backbone, motion
        self.model: Any
        self.model, found = load(backbone)
        self.backbone = found

    def __call__(self, segment: np.ndarray) -> np.ndarray:
        import torch

        if self.kind == "resnet3d50":
            small = np.stack([resize(frame, SIZE) for frame in segment]).astype(np.float32)
            clip = torch.from_numpy(small - np.array(self.model.mean, np.float32)).permute(3, 0, 1, 2)[None]
            with torch.no_grad():
                return self.model(clip)[0].double().numpy()
        with torch.no_grad():
            pictures = torch.from_numpy(segment.astype(np.float32) / 255).permute(0, 3, 1, 2)
            features = self.model(pictures).double().numpy()
        if not self.motion:
            return features.mean(0)
        return np.concatenate([features.mean(0), np.abs(np.diff(features, axis=0)).mean(0)])


def resize(frame: np.ndarray, size: int) -> np.ndarray:
    """Square, by area averaging when it shrinks."""
    interpolation = cv2.INTER_AREA if frame.shape[0] > size else cv2.INTER_LINEAR
    return cv2.resize(frame, (size, size), interpolation=interpolation)


def make(backbone: str) -> SegmentFeatures:
    return SegmentFeatures(backbone)
