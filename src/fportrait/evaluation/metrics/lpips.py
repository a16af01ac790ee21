"""LPIPS (Zhang et al., 2018): distance of deep features. AlexNet or VGG-16 with the published heads, version 0.1.

Offline, and under its own name, the same distance over five maps of EfficientNet-Lite0 with equal weights instead of
learned ones. It orders degradations, but its numbers are not LPIPS' numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fportrait.devices import device_of
from fportrait.errors import UserError
from fportrait.evaluation.frames import check_videos
from fportrait.evaluation.weights import Backbone, load

HEADS = "lpips_heads.safetensors"  # of the package lpips 0.1.4 (BSD-2-Clause), version 0.1


class PerceptualDistance:
    """Per frame, 0 for equal pictures."""

    def __init__(self, backbone: str):
        from safetensors.torch import load_file

        from fportrait.evaluation.networks.features import SCALE, SHIFT

        weights = {"alex": "alexnet", "vgg": "vgg16"}.get(backbone, backbone)
        self.model: Any
        self.model, found = load(weights)
        self.learned = weights != backbone
        title = f"LPIPS 0.1, {found.name}" if self.learned else f"{found.name}, unlearned heads"
        self.backbone = Backbone(title, found.sha256)
        self.heads = None
        if self.learned:
            from importlib.resources import files

            stored = load_file(str(files("fportrait") / "assets" / HEADS))
            self.heads = [stored[f"{backbone}.{i}"] for i in range(5)]
        self._shift, self._scale = np.array(SHIFT, np.float32), np.array(SCALE, np.float32)

    def __call__(self, produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Distances `T`; both `T H W 3` uint8.

        Raises:
            UserError: sizes, lengths or types differ, or pictures too small for the network.
        """
        import torch

        from fportrait.evaluation.networks.features import unit_distance

        check_videos(produced, truth)
        min_side = self.model.min_side
        if min(truth.shape[1:3]) < min_side:
            raise UserError(
                f"pictures of {truth.shape[1]}x{truth.shape[2]}", f"at least {min_side}x{min_side}", "score larger ones"
            )
        with torch.no_grad():
            one, two = (self._maps(video) for video in (produced, truth))
            return unit_distance(one, two, self.heads).double().numpy()

    def _maps(self, video: np.ndarray):
        import torch

        scaled = video.astype(np.float32) / 255
        if not self.learned:  # not through `forward`, which `at_device` watches: there and back by hand
            pictures = torch.from_numpy(scaled).permute(0, 3, 1, 2).to(device_of(self.model))
            return [found.cpu() for found in self.model.maps(pictures)]
        scaled = (scaled * 2 - 1 - self._shift) / self._scale
        return self.model(torch.from_numpy(scaled).permute(0, 3, 1, 2))


def make(backbone: str) -> PerceptualDistance:
    return PerceptualDistance(backbone)
