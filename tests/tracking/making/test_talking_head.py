"""Encoders trained end to end with a decoder: the loss, the decoder's use of its inputs, the probes, distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fportrait.body.model import Pose, load_body, rotation_matrix
from fportrait.camera.cameras import intrinsics_from_fov, look_at
from fportrait.errors import UserError
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making.alignment import ALIGNMENT_NAMES, AlignmentEncoder, alignment_of
from fportrait.tracking.making.talking_head.decoder import TalkingHeadDecoder
from fportrait.tracking.making.talking_head.probes import ProbeSet, identity_top1, probe_codes, probe_table
from fportrait.tracking.making.talking_head.training import (
    TalkingHeads,
    TalkingHeadTraining,
    agreement_loss,
    distil_expression_encoder,
    focus_weight,
    train_talking_heads,
)


def drawn_heads(count: int, size: int = 32, seed: int = 0) -> TalkingHeads:
    """Faces whose mouth is open as the one action says; the skin is the person, the place is the alignment."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(0, 1, (count, 1)).astype(np.float32)
    skins, others = rng.uniform(90, 230, (count, 3)), rng.uniform(90, 230, (count, 3))
    places = rng.integers(-3, 4, count)

    def draw(skin, jaw, shift):
        picture = np.full((size, size, 3), skin)
        picture[8:12, [8, 9, 22, 23]] = 20
        picture[18 : 19 + round(9 * jaw), 10:22] = 20
        return np.roll(picture, shift, 1).clip(0, 255).astype(np.uint8)

    alignment = np.zeros((count, 9), np.float32)
    alignment[:, 0] = places / (size / 2)
    return TalkingHeads(
        crops=np.stack([draw(s, a[0], 0) for s, a in zip(skins, actions, strict=True)]),
        pictures=np.stack([draw(s, a[0], p) for s, a, p in zip(skins, actions, places, strict=True)]),
        references=np.stack([draw(s, rng.uniform(), 0) for s in skins])[:, None],
        twins=np.stack([draw(s, a[0], 0) for s, a in zip(others, actions, strict=True)]),
        actions=actions,
        alignment=alignment,
        focus=np.tile(np.array([[8, 10], [23, 10], [16, 22]], np.float32), (count, 1, 1)),
    )


@pytest.fixture(scope="module")
def trained():
    data = drawn_heads(400)
    log = []
    settings = TalkingHeadTraining(steps=150, batch=32, decoded=16, learning_rate=3e-3)
    result = train_talking_heads(data, settings, width=4, log=lambda values, step: log.append(values))
    return result, log


def test_every_loss_falls(trained):
    _, log = trained
    for name in ("picture", "actions", "agreement", "alignment"):
        assert log[-1][name] < 0.8 * log[0][name], (name, log)


def test_codes_tell_the_expression_of_strangers_and_are_standardised(trained):
    result, _ = trained
    data = drawn_heads(150, seed=4)
    produced = result.readout(torch.from_numpy(result.expression.encode(data.crops))).detach().numpy()
    assert np.corrcoef(produced[:, 0], data.actions[:, 0])[0, 1] > 0.8
    codes = result.expression.encode(drawn_heads(400).crops)
    assert np.abs(codes.mean(0)).max() < 0.05 and np.abs(codes.std(0) - 1).max() < 0.05


def test_the_alignment_encoder_finds_the_place_of_strangers(trained):
    result, _ = trained
    data = drawn_heads(150, seed=5)
    found = result.alignment.encode(data.pictures)
    assert np.corrcoef(found[:, 0], data.alignment[:, 0])[0, 1] > 0.7


def test_the_decoder_starts_without_flow_and_gives_all_inputs_a_gradient():
    torch.manual_seed(0)
    decoder = TalkingHeadDecoder()
    inputs = [torch.rand(2, 3, 32, 32), torch.randn(2, 128), torch.randn(2, 9), torch.randn(2, 9)]
    inputs = [value.requires_grad_() for value in inputs]
    out = decoder(*inputs)
    assert out.shape == (2, 3, 32, 32)
    out.square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in inputs)
    assert decoder.flow.weight.abs().max() == 0 and decoder.flow.weight.grad.abs().max() > 0


def test_a_talking_head_without_pairs_or_actions_trains_by_the_picture_alone():
    data = drawn_heads(40)
    bare = TalkingHeads(data.crops, data.pictures, data.references)
    result = train_talking_heads(bare, TalkingHeadTraining(steps=2, batch=8), width=4)
    assert result.readout is None and "picture" in result.scores and "agreement" not in result.scores


def test_going_on_from_an_encoder_leaves_it_unchanged():
    torch.manual_seed(0)
    start = ExpressionEncoder(4, 32)
    start.code_std.fill_(0.1)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    train_talking_heads(drawn_heads(60), TalkingHeadTraining(steps=2, batch=8), start=start)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in before.items())


def test_mismatched_samples_and_too_small_sets_are_refused():
    data = drawn_heads(10)
    with pytest.raises(UserError, match="actions"):
        TalkingHeads(data.crops, data.pictures, data.references, actions=data.actions[:3])
    with pytest.raises(UserError, match="batch"):
        train_talking_heads(data, TalkingHeadTraining(batch=16), width=4)


def test_agreement_is_zero_for_equal_codes_one_for_unrelated_and_blind_to_scale():
    a = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0))
    b = torch.randn(5000, 6, generator=torch.Generator().manual_seed(1))
    assert agreement_loss(a, 3 * a + 1) < 1e-6
    assert agreement_loss(a, b).item() == pytest.approx(1, abs=0.05)


def test_the_weight_peaks_at_eyes_and_mouth():
    weight = focus_weight(torch.tensor([[[8.5, 10.5], [23.5, 10.5], [16.5, 22.5]]]), 32, 6.0)[0, 0]
    assert weight[10, 8].item() == pytest.approx(7) and weight[22, 16].item() == pytest.approx(7)
    assert weight[31, 0] < 1.1


def test_distillation_learns_another_encoders_codes():
    rng = np.random.default_rng(0)
    data = drawn_heads(300)
    codes = data.actions @ rng.normal(size=(1, 128)) + 3
    student = distil_expression_encoder(data.crops, codes, steps=80, width=4, batch=32)
    fresh = drawn_heads(80, seed=9)
    produced = student.encode(fresh.crops)
    sign = np.sign(np.corrcoef(codes[:, 0], data.actions[:, 0])[0, 1])
    assert sign * np.corrcoef(produced[:, 0], fresh.actions[:, 0])[0, 1] > 0.8
    with pytest.raises(UserError, match="128"):
        distil_expression_encoder(data.crops, codes[:, :100], steps=1)


def probe_set(count: int = 600) -> tuple[np.ndarray, ProbeSet]:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), count // 20)
    actions = rng.uniform(0, 1, (count, 3))
    turns = rng.normal(0, 0.2, (count, 3))
    empty = np.zeros((count, 4, 4, 3), np.uint8)
    return rng.normal(size=(count, 128)), ProbeSet(empty, people, turns, actions, ["a", "b", "c"])


def test_probes_find_what_is_in_codes_and_nothing_in_noise():
    noise, probes = probe_set()
    blind = probe_codes(noise, probes)
    assert blind["identity_top1"] < 0.12 and blind["pose_r2"] < 0.05 and abs(blind["action_correlation"]) < 0.15
    tags = np.random.default_rng(1).normal(size=(20, 128))[probes.people]
    telling = noise.copy()
    telling[:, :3] += 8 * probes.actions
    telling[:, 3:6] += 20 * probes.rotations
    told = probe_codes(telling + tags, probes)
    assert told["identity_top1"] > 0.8 and told["pose_r2"] > 0.7 and told["action_correlation"] > 0.7
    assert identity_top1(tags, probes.people) == 1
    assert "| a |" in probe_table({"one": blind, "two": told})


def test_alignment_numbers_follow_head_and_camera():
    body = load_body()
    identity = np.zeros(body.identity_dim)
    intrinsics = intrinsics_from_fov(40.0, 64, 64)

    def at(distance=0.6, vector=(0, 0, 0), shift=(0, 0, 0)):
        pose = Pose(np.eye(3), np.array(shift, float), rotation_matrix(np.array(vector, float)))
        camera = look_at(np.array([0, 0, distance]), np.zeros(3))
        return dict(zip(ALIGNMENT_NAMES, alignment_of(body, identity, pose, camera, intrinsics, 64), strict=True))

    rest = at()
    assert abs(rest["head_x"]) < 1e-6 and abs(rest["head_rotation_y"]) < 1e-6 and rest["body_y"] > rest["head_y"]
    assert at(distance=0.5)["head_size"] > rest["head_size"]
    assert at(shift=(0.02, 0, 0))["head_x"] > 0.05
    assert at(vector=(0, 0.3, 0))["head_rotation_y"] == pytest.approx(0.3, abs=1e-6)
    assert at(vector=(0, 0.3, 0))["body_x"] == pytest.approx(rest["body_x"], abs=0.02)


def test_a_saved_alignment_encoder_gives_the_same_numbers(tmp_path):
    model = AlignmentEncoder(4, 32).eval()
    model.save_pretrained(tmp_path / "alignment")
    assert set(load_file(tmp_path / "alignment" / "alignment_encoder.safetensors")) == set(model.state_dict())
    pictures = drawn_heads(5).pictures
    again = AlignmentEncoder.from_pretrained(tmp_path / "alignment").encode(pictures)
    assert again.shape == (5, 9) and np.abs(again - model.encode(pictures)).max() < 0.02
    with pytest.raises(UserError, match="alignment encoder"):
        AlignmentEncoder.from_pretrained(tmp_path / "nothing")
