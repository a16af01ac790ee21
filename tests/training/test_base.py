"""Batches and loss of the small base's pretraining."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fportrait.bundle import SHIPPED_BASE
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.flow import flow_loss
from fportrait.training.base import BaseTraining, ClipBatches, contrast_loss

FRAMES = 9


def errors(first: float, second: float) -> tuple[torch.Tensor, ...]:
    """Velocity, latents, noise and weights of a batch of three pairs with these errors everywhere."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 6, 4, 1, 2, 2, generator=generator)
    weights = (torch.rand(1, 1, 1, 2, 2, generator=generator) + 0.5).repeat(6, 1, 1, 1, 1)
    error = torch.tensor([first] * 3 + [second] * 3).reshape(-1, 1, 1, 1, 1)
    return noise - latents + error, latents, noise, weights


def test_an_error_that_both_pictures_share_counts_once():
    batch = errors(0.5, 0.5)
    loss, share = contrast_loss(*batch, contrast=5.0)
    assert loss.item() == pytest.approx(flow_loss(*batch).item(), rel=1e-5)
    assert share.item() == pytest.approx(0, abs=1e-6)


def test_an_error_in_what_differs_counts_as_often_as_asked():
    batch = errors(0.5, -0.5)
    loss, share = contrast_loss(*batch, contrast=5.0)
    assert loss.item() == pytest.approx(5 * flow_loss(*batch).item(), rel=1e-5) and share.item() == pytest.approx(1)


def test_with_contrast_one_it_is_the_flow_loss():
    batch = errors(0.7, 0.1)
    assert contrast_loss(*batch, contrast=1.0)[0].item() == pytest.approx(flow_loss(*batch).item(), rel=1e-5)


def test_a_pair_that_differs_little_counts_more_than_one_that_differs_much():
    """One of three pairs differs tenfold; the same error there costs less than in either of the others."""
    _, latents, noise, weights = errors(0.0, 0.0)
    latents[3:] = latents[:3] + torch.tensor([1.0, 1.0, 10.0]).reshape(3, 1, 1, 1, 1)
    losses = []
    for pair in (0, 1, 2):
        velocity = noise - latents
        velocity[pair] += 0.1
        velocity[pair + 3] -= 0.1
        losses.append(contrast_loss(velocity, latents, noise, weights, contrast=5.0)[0].item())
    assert losses[0] == pytest.approx(losses[1]) and losses[2] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    """Twelve clips of noise; in the last six the head holds still and the face does not."""
    rng, count = np.random.default_rng(0), 12
    pose = rng.normal(size=(count, FRAMES, 6)).astype(np.float32)
    pose[6:] = pose[6:, :1]
    cameras = np.tile(np.eye(4, dtype=np.float32), (count, FRAMES, 1, 1))
    cameras[:, :, 2, 3] = 0.6
    return {
        "video": rng.integers(0, 256, (count, FRAMES, 64, 64, 3), dtype=np.uint8),
        "normals": rng.integers(0, 256, (count, FRAMES, 64, 64, 3), dtype=np.uint8),
        "references": rng.integers(0, 256, (count, 2, 64, 64, 3), dtype=np.uint8),
        "world_to_camera": cameras,
        "reference_world_to_camera": cameras[:, :2],
        "intrinsics": np.tile(np.array([[130, 0, 32], [0, 130, 32], [0, 0, 1]], np.float32), (count, 1, 1)),
        "actions": rng.random((count, FRAMES, 52)).astype(np.float32),
        "pose": pose,
        "focus": np.full((count, FRAMES, 3, 2), 32.0, np.float32),
    }


def batches(clips: dict[str, np.ndarray], lengths: dict[int, float]) -> ClipBatches:
    codes = np.arange(len(clips["pose"]) * FRAMES, dtype=np.float32).reshape(-1, FRAMES, 1)  # a code names its picture
    return ClipBatches(clips, codes, load_vae(SHIPPED_BASE / "vae"), BaseTraining(lengths=lengths, tokens=1024))


def test_pictures_come_in_pairs_of_one_person_with_one_portrait(clips):
    batch = batches(clips, {1: 1.0})(3)
    first, second = batch["conditions"].codes.chunk(2)
    assert len(batch["conditions"]) == 8 and (first != second).all()
    assert torch.equal(first // FRAMES, second // FRAMES)
    assert torch.equal(*batch["conditions"].reference.chunk(2)) and not torch.equal(*batch["latents"].chunk(2))


def test_half_of_the_pairs_show_a_face_that_moves_alone_and_no_video_does(clips):
    assert set(batches(clips, {1: 1.0}).faces) == set(range(6, 12))
    people = (batches(clips, {1: 1.0})(0)["conditions"].codes[:4, 0, 0] // FRAMES).tolist()
    assert sum(person >= 6 for person in people) == 2
    assert (batches(clips, {5: 1.0})(0)["conditions"].codes // FRAMES < 6).all()


def test_batch_i_is_the_same_whenever_it_is_asked_for(clips):
    one, again, other = (batches(clips, {1: 0.5, 5: 0.5})(step) for step in (4, 4, 5))
    parts = ({"latents": b["latents"], "weights": b["weights"], **b["conditions"].inputs()} for b in (one, again))
    first, second = parts
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(one["conditions"].codes, other["conditions"].codes)


def tiny_model():
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    torch.manual_seed(3)
    return FactorPortraitTransformer(
        patch_size=(1, 1, 1),
        num_attention_heads=1,
        attention_head_dim=16,
        ffn_dim=16,
        num_layers=1,
        text_dim=8,
        prompt_tokens=1,
        latent_channels=48,
        code_dim=1,
        controller_init_std=0.02,
    )


def test_a_stopped_phase_goes_on_as_if_it_had_never_stopped(clips, tmp_path, monkeypatch):
    noise_batches = batches(clips, {1: 0.5, 5: 0.5})
    from fportrait.training import base

    monkeypatch.setattr(base, "SAVE_SECONDS", -1.0)  # after every step
    settings = BaseTraining(steps=6, minutes=60, warmup=2, decay_from=0.2)
    whole = base.train_base(tiny_model(), noise_batches, settings, lambda *_: None)

    class StoppedError(Exception):
        pass

    def stopping(step):
        if step == 4:
            raise StoppedError
        return noise_batches(step)

    state = tmp_path / "phase.pt"
    with pytest.raises(StoppedError):
        base.train_base(tiny_model(), stopping, settings, lambda *_: None, state=state)
    steps = []
    resumed = base.train_base(
        tiny_model(), lambda step: steps.append(step) or noise_batches(step), settings, lambda *_: None, state=state
    )
    assert steps == [4, 5]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_state_of_another_model_is_refused(clips, tmp_path):
    noise_batches = batches(clips, {1: 1.0})
    from fportrait.errors import UserError
    from fportrait.training import base

    settings = BaseTraining(steps=1, minutes=60)
    base.train_base(tiny_model(), noise_batches, settings, lambda *_: None, state=tmp_path / "phase.pt")
    other = type(tiny_model()).from_config({**tiny_model().config, "ffn_dim": 24})
    with pytest.raises(UserError, match=r"phase\.pt"):
        base.train_base(other, noise_batches, settings, lambda *_: None, state=tmp_path / "phase.pt")
