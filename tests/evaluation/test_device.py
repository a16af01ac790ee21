"""A whole evaluation on a card that is not there: nothing is left behind on the CPU, and the scores are the CPU's."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.devices import use_device
from fportrait.evaluation import modes, weights
from fportrait.evaluation.metrics import make
from fportrait.evaluation.networks.features import alexnet, vgg16
from fportrait.evaluation.networks.hyperiqa import HyperIQA
from fportrait.evaluation.networks.i3d import InceptionI3D
from fportrait.evaluation.networks.iresnet import IResNet
from fportrait.evaluation.networks.resnet import FaceReconstruction, KineticsResNet50
from fportrait.evaluation.run import evaluate
from helpers.fake_card import OnCard, fake_card
from helpers.houses import PROTOCOL


@pytest.fixture
def card(monkeypatch):
    with fake_card(monkeypatch) as mode:
        yield mode


@contextlib.contextmanager
def networks_that_stayed():
    """Names of the layers that were computed with numbers in the CPU's memory."""
    stayed: set[str] = set()

    def look(module, given):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(not isinstance(tensor, OnCard) for tensor in own):
            stayed.add(type(module).__name__)

    hook = register_module_forward_pre_hook(look)
    try:
        yield stayed
    finally:
        hook.remove()


@pytest.fixture
def home(house, tmp_path):
    """The tiny house with the shipped expression encoder, and pictures in which a face is large enough to be found."""
    home = tmp_path / "home"
    shutil.copytree(house, home)
    shutil.copytree(SHIPPED_BASE / "expression_encoder", home / "base/expression_encoder")
    write_json(home / "base/bundle.json", {"size": 64, "frames": 9, "steps": 1})
    return home


def test_a_whole_evaluation_is_computed_on_the_card_and_scores_as_on_the_cpu(
    home, annotations, tmp_path, card, monkeypatch
):
    monkeypatch.setattr(modes, "MODES", ("everything",))  # the four differ in motion alone
    metrics = ["psnr", "ssim", "sharpness", "lpips", "csim", "aed", "iqa", "fid_vid", "fvd"]
    protocol = {**PROTOCOL, "records": 1, "steps": 1, "control": True, "network_every": 5}
    asked = {
        "protocol": {**protocol, "metrics": dict.fromkeys(metrics, "auto")},
        "probes": {"people": 1, "frames": 5, "factors": ["jaw", "view"]},
        "modes": {"people": 1, "frames": 5},
        "cross": {"pairs": 1},
        "annotations": [annotations],
    }
    found, moved = {}, card.moved
    for device in ("cpu", "auto"):
        with use_device(device), networks_that_stayed() as stayed:
            evaluate(home / "model/transformer", home / "base", home / "shards", tmp_path / device, **asked)
        if device == "cpu":
            assert card.moved == moved and stayed
        else:
            assert card.moved > moved + 50 and not stayed
        found[device] = json.loads((tmp_path / device / "metrics.json").read_text())
        assert {"control", "modes", "cross", "PhoneCapture", "ViewSweep"} <= set(found[device])
    assert_alike(found["cpu"], found["auto"])


def assert_alike(one, other, where=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, float) and isinstance(other, float):
        assert other == pytest.approx(one, rel=0.01, abs=0.02), where
    else:
        assert one == other, where


SLOW = pytest.mark.slow  # those come in their published size only
SMALL = {
    "alexnet": ("lpips", "alex", alexnet),
    "vgg16": ("lpips", "vgg", vgg16),
    "arcface": ("csim", "arcface", lambda: IResNet((1, 1, 1, 1), 4)),
    "deep3d": ("aed", "deep3d", lambda: FaceReconstruction(width=4, layers=(1, 1, 1, 1))),
    "resnet3d50": ("fid_vid", "resnet3d50", lambda: KineticsResNet50(width=2, layers=(1, 1, 1, 1))),
    "i3d": ("fvd", "i3d", InceptionI3D),
    "hyperiqa": (
        "iqa",
        "hyperiqa",
        lambda: HyperIQA(width=2, local=2, hyper=8, rated=28, widths=(14, 14, 7, 7), layers=(1, 1, 1, 1)),
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW) if n in ("vgg16", "i3d") else n for n in SMALL])
def test_every_network_of_a_users_own_weights_scores_on_the_card_as_on_the_cpu(
    name, clip, stranger, monkeypatch, tmp_path
):
    metric, backbone, build = SMALL[name]
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    monkeypatch.setitem(weights.KNOWN, name, dataclasses.replace(weights.KNOWN[name], build=lambda state: build()))
    torch.manual_seed(0)
    torch.save(build().state_dict(), tmp_path / "own.pth")
    weights.add(name, tmp_path / "own.pth")
    found = {}
    with fake_card(monkeypatch) as card:
        for device in ("cpu", "auto"):
            with use_device(device), networks_that_stayed() as stayed:
                scorer = make(metric, backbone)
                if metric in ("fid_vid", "fvd"):
                    found[device] = scorer(np.concatenate([clip] * 3)[: scorer.segment])
                else:
                    found[device] = scorer(clip[:2], stranger[:2])
            assert (device == "cpu") or not stayed
        assert card.moved
    assert np.isfinite(found["cpu"]).all()
    np.testing.assert_allclose(found["auto"], found["cpu"], rtol=1e-4, atol=1e-5)
