"""I3D from a TorchScript archive: by order and shape, and only if both answer alike."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fportrait.errors import UserError
from fportrait.evaluation import weights
from fportrait.evaluation.networks import from_torchscript
from fportrait.evaluation.networks.i3d import InceptionI3D

CLIPS = from_torchscript.sample_clips()


class ForFvd(nn.Module):
    """As archives for FVD are made: other names, and arguments of their own."""

    def __init__(self, network):
        super().__init__()
        self.backbone = network

    def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
        if rescale:
            x = x * 2 - 1
        return self.backbone(x) if return_features else self.backbone(x).softmax(1)


def tiny(seed: int) -> InceptionI3D:
    torch.manual_seed(seed)
    model = InceptionI3D(classes=5, divide=16)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape) * 0.1)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif name.endswith("bn.bias"):
            value.copy_(torch.randn(value.shape) * 0.2)
        elif value.ndim == 5:
            nn.init.kaiming_normal_(value)  # so that what a clip shows reaches the logits
    return model.eval()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "i3d_torchscript.pt"
    torch.jit.script(ForFvd(torch.jit.trace(tiny(0), CLIPS))).save(str(path))
    return path


def test_an_archive_with_other_names_gives_the_same_logits(archive):
    other = tiny(7)
    state = from_torchscript.converted(from_torchscript.read_archive(archive), other, CLIPS)
    assert torch.equal(state["Mixed_4c.b1b.conv3d.weight"], tiny(0).state_dict()["Mixed_4c.b1b.conv3d.weight"])
    with torch.no_grad():
        assert torch.allclose(other(CLIPS), tiny(0)(CLIPS), atol=1e-5)


def test_norms_that_were_folded_into_the_convolutions_are_unfolded():
    folded = {}
    for name, module in tiny(0).named_modules():
        if hasattr(module, "conv3d"):
            whole = module.conv3d
            if hasattr(module, "bn"):
                whole = nn.utils.fusion.fuse_conv_bn_eval(module.conv3d, module.bn)
            folded |= {f"{name}.w": whole.weight, f"{name}.bias": whole.bias}
    folded = {key.replace(".w", ".weight"): value.detach() for key, value in folded.items()}
    other = tiny(7)
    other.load_state_dict(from_torchscript.matched(folded, other))
    with torch.no_grad():
        assert torch.allclose(other(CLIPS), tiny(0)(CLIPS), atol=1e-4)


class Otherwise(ForFvd):
    def forward(self, x):
        return self.backbone(x.flip(2) * 0.7)


def test_an_archive_that_answers_otherwise_or_has_other_layers_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.jit.script(Otherwise(torch.jit.trace(tiny(0), CLIPS))).save(str(path))
    with pytest.raises(UserError, match="logits differ from ours"):
        from_torchscript.converted(from_torchscript.read_archive(path), tiny(7), CLIPS)
    blind = tiny(0)
    for value in blind.logits.parameters():
        value.detach().fill_(0.5 if value.ndim == 1 else 0.0)
    torch.jit.trace(blind, CLIPS).save(str(path))
    with pytest.raises(UserError, match="answers alike whatever it sees"):
        from_torchscript.converted(from_torchscript.read_archive(path), tiny(7), CLIPS)
    with pytest.raises(UserError, match="1 convolutions"):
        from_torchscript.matched({"a.weight": torch.zeros(2, 3, 7, 7, 7)}, tiny(7))
    with pytest.raises(UserError, match="where ours is Conv3d_1a_7x7"):
        from_torchscript.matched(tiny(0).state_dict(), InceptionI3D(classes=5, divide=8))


def test_adding_an_archive_names_the_tool_that_converts_it(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FPORTRAIT_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(UserError, match=r"a program.*from_torchscript"):
        weights.add("i3d", archive)
    made = tmp_path / "i3d.safetensors"
    monkeypatch.setattr(from_torchscript, "InceptionI3D", lambda: tiny(7))
    assert from_torchscript.main([str(archive), str(made)]) == 0
    assert torch.equal(load_file(made)["logits.conv3d.weight"], tiny(0).state_dict()["logits.conv3d.weight"])
    for wrong, reason in (((str(made), str(made)), "no TorchScript"), ((str(archive), "x.pt"), "safetensors")):
        assert from_torchscript.main(list(wrong)) == 2
        assert reason in capsys.readouterr().err
