"""The expression encoder: format, standardisation, and that training makes codes that say what the face does."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fportrait.errors import UserError
from fportrait.tracking.backbone import BasicBlock, folded
from fportrait.tracking.expression import WEIGHTS, ExpressionEncoder
from fportrait.tracking.making.expression import augment, mirrored_actions, train_expression_encoder

NAMES = ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight"]


def drawn_faces(count: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Faces of two eyes and a mouth, each open as its action says; skin and light vary, which codes must ignore."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(0, 1, (count, 3))
    crops = np.zeros((count, size, size, 3), np.float64)
    for picture, (jaw, left, right) in zip(crops, actions, strict=True):
        picture[:] = rng.uniform(90, 230, 3) + rng.normal(0, 6, (size, size, 1))
        for x, blink in ((9, right), (23, left)):
            picture[8:14, x - 4 : x + 4] = 20
            picture[8 : 8 + round(6 * blink), x - 4 : x + 4] = picture[2, 2]
        picture[20 : 21 + round(9 * jaw), 10:22] = 20
    return crops.clip(0, 255).astype(np.uint8), actions.astype(np.float32)


def test_width_64_is_resnet_34():
    model = ExpressionEncoder(64)
    assert Counter(b.conv2.out_channels for b in model.blocks if isinstance(b, BasicBlock)) == {
        64: 3,
        128: 4,
        256: 6,
        512: 3,
    }
    backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("head"))
    assert backbone == 21_284_672  # torchvision's resnet34 without its classifier
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 128)


def test_a_saved_encoder_gives_the_same_codes(tmp_path):
    torch.manual_seed(0)
    model = ExpressionEncoder(8, 32)
    model.code_mean.normal_(), model.code_std.uniform_(0.5, 2)
    model.save_pretrained(tmp_path / "encoder")
    again = ExpressionEncoder.from_pretrained(tmp_path / "encoder")
    crops, _ = drawn_faces(9)
    ours, theirs = model.encode(crops, batch=4), again.encode(crops)
    assert ours.dtype == np.float32 and ours.shape == (9, 128)
    assert np.abs(ours - theirs).max() < 0.02  # stored in half precision
    again.save_pretrained(tmp_path / "twice")
    assert np.array_equal(ExpressionEncoder.from_pretrained(tmp_path / "twice").encode(crops), theirs)


def test_a_folded_encoder_reads_the_same_codes_and_leaves_the_original_as_it_was():
    torch.manual_seed(0)
    model, crops = ExpressionEncoder(8, crop_size=32), drawn_faces(8)[0]
    model.train()
    for _ in range(3):  # normalisations that have seen something
        model(torch.randn(8, 3, 32, 32))
    model.eval()
    before = model.encode(crops)
    assert np.abs(folded(model).encode(crops) - before).max() < 1e-4 * before.std()
    assert np.array_equal(model.encode(crops), before)


def test_missing_unknown_and_misshapen_tensors_are_all_listed(tmp_path):
    ExpressionEncoder(4, 32).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["head.bias"]
    tensors["conv1.weight"] = torch.zeros(4, 3, 5, 5)
    tensors["tail.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError) as caught:
        ExpressionEncoder.from_pretrained(tmp_path)
    for part in ("missing head.bias", "conv1.weight (4, 3, 5, 5) instead of (4, 3, 7, 7)", "unknown tail.weight"):
        assert part in str(caught.value)


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"width": 4, "crop_size": 32}))
    torch.save(ExpressionEncoder(4, 32).state_dict(), tmp_path / "expression_encoder.pt")
    with pytest.raises(UserError, match="safetensors"):
        ExpressionEncoder.from_pretrained(tmp_path)


def test_an_unknown_setting_names_the_nearest(tmp_path):
    ExpressionEncoder(4, 32).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"widht": 4, "crop_size": 32}))
    with pytest.raises(UserError, match="'width'"):
        ExpressionEncoder.from_pretrained(tmp_path)


def test_crops_of_another_size_are_refused():
    with pytest.raises(UserError, match="32"):
        ExpressionEncoder(4, 32).encode(np.zeros((1, 48, 48, 3), np.uint8))
    assert ExpressionEncoder(4, 32).encode(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 128)


def test_mirrored_actions_swap_left_and_right():
    assert mirrored_actions(NAMES).tolist() == [0, 2, 1]


def test_augmentation_repeats_with_its_seed_and_stays_in_range():
    crops = torch.from_numpy(drawn_faces(6)[0]).permute(0, 3, 1, 2).float() / 127.5 - 1
    first = augment(crops, torch.Generator().manual_seed(3))
    assert torch.equal(first, augment(crops, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, augment(crops, torch.Generator().manual_seed(4)))
    assert first.shape == crops.shape and first.abs().max() <= 1


def test_training_makes_codes_that_tell_the_actions_and_are_standardised():
    crops, actions = drawn_faces(900)
    encoder, readout, scores = train_expression_encoder(
        crops,
        actions,
        NAMES,
        steps=120,
        width=8,
        batch=48,
        held_out=100,
        seed=1,
    )
    assert scores["mean"] > 0.6, scores
    fresh, truth = drawn_faces(200, seed=9)
    codes = encoder.encode(fresh)
    produced = readout(torch.from_numpy(codes)).detach().numpy()
    for index, name in enumerate(NAMES):  # gain, not only correlation: change produced over change asked
        gain = np.polyfit(truth[:, index], produced[:, index], 1)[0]
        assert 0.3 < gain < 1.5, (name, gain)
    train_codes = encoder.encode(crops[:800])
    assert np.abs(train_codes.mean(0)).max() < 0.05 and np.abs(train_codes.std(0) - 1).max() < 0.05
