"""Metrics, one file each. `METRICS` names them; `make` gives one with the network that is there, or says what to add.

Frame metrics are called with a few frames at a time and give one number per frame, NaN where nothing could be measured
(no face); `scoring.score_clip` feeds them. Fréchet metrics collect features of clips and compare two sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.evaluation.weights import Backbone, find


@dataclass(frozen=True)
class Entry:
    """How a metric is made and read. `backbones`: choices of networks, best first, with the weights that each needs."""

    module: str
    title: str
    unit: str
    higher_is_better: bool
    backbones: tuple[tuple[str, tuple[str, ...]], ...] = (("", ()),)
    network: bool = False  # looks through a network: may be asked to skip frames
    frechet: bool = False
    scale: float = 1.0  # of the number shown, as the field prints it


METRICS: dict[str, Entry] = {
    "psnr": Entry("psnr", "PSNR", "dB", True),
    "ssim": Entry("ssim", "SSIM", "×100", True, scale=100),
    "sharpness": Entry("sharpness", "Sharpness", "of the truth's", True),
    "lpips": Entry(
        "lpips",
        "LPIPS",
        "",
        False,
        (("alex", ("alexnet",)), ("vgg", ("vgg16",)), ("efficientnet-lite0", ("efficientnet-lite0",))),
        True,
    ),
    "csim": Entry("csim", "CSIM", "×100", True, (("arcface", ("arcface",)), ("dlib", ("dlib",))), True, scale=100),
    "aed": Entry("aed", "AED", "", False, (("deep3d", ("deep3d",)), ("blendshapes", ())), True),
    "iqa": Entry("iqa", "IQA", "0–100", True, (("hyperiqa", ("hyperiqa",)), ("brisque", ())), True),
    "fid_vid": Entry(
        "fid_vid",
        "FID-VID",
        "",
        False,
        (("resnet3d50", ("resnet3d50",)), ("efficientnet-lite0", ("efficientnet-lite0",))),
        True,
        frechet=True,
    ),
    "fvd": Entry(
        "fvd",
        "FVD",
        "",
        False,
        (("i3d", ("i3d",)), ("efficientnet-lite0", ("efficientnet-lite0",))),
        True,
        frechet=True,
    ),
}


def make(name: str, backbone: str = "auto") -> Any:
    """The metric of that name.

    Args:
        backbone: a choice of `METRICS[name].backbones`; "auto" takes the first whose weights are there.

    Raises:
        UserError: unknown metric or backbone, or weights that are not there; the message says how to get them.
    """
    refuse_unknown_keys([name], METRICS, "metrics")
    entry = METRICS[name]
    choices = dict(entry.backbones)
    if backbone == "auto":
        backbone = next((choice for choice, needs in choices.items() if all(find(need) for need in needs)), "")
        if backbone not in choices:
            raise missing(name)
    if backbone not in choices:
        raise UserError(f"the backbone '{backbone}' of {name}", f"one of {', '.join(choices)}", "choose one of them")
    module = import_module(f"fportrait.evaluation.metrics.{entry.module}")
    build: Callable[..., Any] = module.make
    return build(backbone) if backbone else build()


def missing(name: str) -> UserError:
    """Says which weights the metric `name` waits for, and how each is got."""
    from fportrait.evaluation.weights import known

    needs = [need for _, all_needs in METRICS[name].backbones for need in all_needs]
    ways = [
        known(need).source
        if known(need).source.startswith("pip ")
        else f"`fportrait weights add {need} FILE` ({known(need).source})"
        for need in needs
    ]
    return UserError(f"no weights for {METRICS[name].title}", f"any of {', '.join(needs)}", " or ".join(ways))


def available(names: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Metrics by name that can be made, and why the others cannot. `names`: metric to backbone, or to "auto"."""
    made, lacking = {}, {}
    for name, backbone in names.items():
        try:
            made[name] = make(name, backbone)
        except UserError as error:
            if name not in METRICS or "no weights" not in error.found:
                raise
            lacking[name] = error.fix
    return made, lacking


class Formula:
    """A metric that needs no network."""

    def __init__(self, name: str, function: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        self.backbone, self._function = Backbone(name), function

    def __call__(self, produced: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return self._function(produced, truth)
