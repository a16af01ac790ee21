"""Weights: added by name, checked against the architecture, never run, and known by their hash afterwards."""

import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fportrait.atomic_io import file_hash
from fportrait.cli.weights import weights as command
from fportrait.errors import UserError
from fportrait.evaluation import weights
from fportrait.evaluation.metrics import make
from fportrait.evaluation.metrics.csim import ARCFACE_POINTS, five_points, similarity
from fportrait.evaluation.networks.iresnet import IResNet


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "weights"))
    # The published depth would be 170 MB; names and checks are the same for one block per stage.
    small = weights.Known("csim", "ArcFace IResNet", "a file", lambda state: IResNet((1, 1, 1, 1), 4))
    monkeypatch.setitem(weights.KNOWN, "arcface", small)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    state = IResNet((1, 1, 1, 1), 4).state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path, state


def test_added_weights_are_found_loaded_and_named_by_their_hash(checkpoint):
    path, state = checkpoint
    assert weights.find("arcface") is None
    stored = weights.add("arcface", path)
    assert stored.path.suffix == ".safetensors" and stored.sha256 == file_hash(stored.path)
    model, backbone = weights.load("arcface")
    assert (backbone.name, backbone.sha256) == ("ArcFace IResNet", stored.sha256)
    assert torch.equal(model.state_dict()["fc.weight"], state["fc.weight"]) and not model.training
    with pytest.raises(UserError, match="there already"):
        weights.add("arcface", path)
    weights.add("arcface", path, replace=True)
    assert weights.remove("arcface") and weights.find("arcface") is None


def test_a_changed_file_is_refused_by_its_hash(checkpoint):
    stored = weights.add("arcface", checkpoint[0])
    with open(stored.path, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(UserError, match="not the file that was added"):
        weights.find("arcface")


def test_what_does_not_fit_is_listed_and_nothing_is_kept(checkpoint, tmp_path):
    _, state = checkpoint
    broken = {**state, "fc.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}
    del broken["conv1.weight"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"no conv1.weight; unknown extra; fc.weight \(3, 3\) instead of"):
        weights.add("arcface", tmp_path / "broken.pth")
    torch.save({**state, "fc.bias": torch.full_like(state["fc.bias"], float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="not finite"):
        weights.add("arcface", tmp_path / "nan.pth")
    assert weights.find("arcface") is None


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('this ran')",))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, tmp_path / "wrapped.pth")
    (tmp_path / "short.safetensors").write_bytes(b"\x00\x01")
    for name in ("evil.pth", "wrapped.pth", "short.safetensors"):
        with pytest.raises(UserError, match="without running code"):
            weights.read_state(tmp_path / name)
    with pytest.raises(UserError, match="no file"):
        weights.read_state(tmp_path / "none.pth")


def test_names_are_checked_and_missing_weights_say_how_to_get_them():
    with pytest.raises(UserError, match="'arcface'"):
        weights.known("arcfase")
    with pytest.raises(UserError, match="weights add i3d"):
        weights.require("i3d")


def test_identity_through_arcface_is_one_for_the_same_face_and_named(checkpoint, clip, stranger):
    weights.add("arcface", checkpoint[0])
    from fportrait.evaluation.metrics.csim import ArcFace, IdentitySimilarity

    metric = IdentitySimilarity(ArcFace())
    assert metric(clip[:1], clip[:1])[0] == pytest.approx(1, abs=1e-6)
    assert metric(stranger[:1], clip[:1])[0] < 1
    assert np.isnan(metric(np.zeros_like(clip[:1]), clip[:1])[0])
    assert metric.backbone.name == "ArcFace IResNet"


def test_the_alignment_is_the_least_squares_similarity():
    angle, scale, shift = 0.3, 1.7, np.array([5.0, -2.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity(ARCFACE_POINTS, ARCFACE_POINTS @ turn.T + shift)
    assert np.allclose(matrix, np.column_stack([turn, shift]))
    assert five_points(np.arange(956.0).reshape(478, 2)).shape == (5, 2)


def test_the_command_lists_adds_and_checks(checkpoint):
    run = CliRunner()
    assert "missing" in run.invoke(command, ["list"]).output
    added = run.invoke(command, ["add", "arcface", str(checkpoint[0])])
    assert added.exit_code == 0 and "SHA-256" in added.output
    assert "arcface: good" in run.invoke(command, ["check", "arcface"]).output
    assert "removed" in run.invoke(command, ["remove", "arcface"]).output


def test_learned_heads_make_lpips_of_any_backbone_weights(tmp_path, clip):
    from fportrait.evaluation.networks.features import alexnet

    torch.manual_seed(1)
    torch.save(alexnet().state_dict(), tmp_path / "alexnet.pth")
    weights.add("alexnet", tmp_path / "alexnet.pth")
    metric = make("lpips", "alex")
    assert metric.backbone.name.startswith("LPIPS 0.1, AlexNet")
    assert [len(head) for head in metric.heads] == [64, 192, 384, 256, 256]
    assert metric(clip[:1], clip[:1])[0] == 0 < metric(clip[1:2], clip[:1])[0]


def test_a_frame_is_embedded_once_however_often_it_is_compared(checkpoint, clip, monkeypatch):
    weights.add("arcface", checkpoint[0])
    from fportrait.evaluation.metrics.csim import ArcFace, IdentitySimilarity

    network, asked = ArcFace(), []
    embed = network.embed
    monkeypatch.setattr(network, "embed", lambda *told: asked.append(1) or embed(*told))
    metric = IdentitySimilarity(network)
    repeated = np.broadcast_to(clip[:1], clip.shape)
    first, again = metric(repeated, clip), metric(repeated, clip)
    assert np.array_equal(first, again, equal_nan=True) and len(asked) <= len(clip)
