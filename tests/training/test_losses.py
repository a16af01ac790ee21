"""Noise levels, noise and dropped conditions of a batch: each sample's own, also of paths from the painted portrait."""

import pytest
import torch

from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.flow import flow_loss, noise_latents
from fportrait.errors import UserError
from fportrait.training.losses import prepare, sample_losses
from fportrait.training.stages import check_noise_levels
from helpers.small import stage


def batch(count, warped=True):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(count, *shape, generator=generator)

    conditions = Conditions(
        draw(48, 1, 4, 4),
        draw(24, 3, 32, 32),
        draw(48, 3, 4, 4),
        draw(9, 128),
        warped=draw(48, 3, 4, 4) if warped else None,
    )
    return {"latents": draw(48, 3, 4, 4), "conditions": conditions}


def part(whole, rows):
    return {"latents": whole["latents"][rows], "conditions": whole["conditions"][rows]}


def test_a_bridges_samples_do_not_depend_on_how_a_batch_is_split():
    whole, settings = batch(4), stage(dropout=0.5)
    together = prepare(whole, range(4), settings, bridge=0.6)
    for row in range(4):
        alone = prepare(part(whole, slice(row, row + 1)), [row], settings, bridge=0.6)
        for name in ("sigmas", "noise"):
            assert torch.equal(alone[name], together[name][row : row + 1])


def test_a_bridges_paths_start_at_the_painted_portrait_also_where_the_model_is_not_shown_it():
    whole = batch(64)
    made = prepare(whole, range(64), stage(dropout=1.0), bridge=0.6)
    plain = prepare(whole, range(64), stage(dropout=1.0))
    assert made["sigmas"].max() <= 0.6 < plain["sigmas"].max()
    assert made["conditions"].warped.abs().max() == 0  # dropped for the model
    noisy = noise_latents(whole["latents"], made["noise"], made["sigmas"])
    share = (made["sigmas"] / 0.6)[:, None, None, None, None]
    start = (noisy - (1 - share) * whole["latents"]) / share  # the path's other end
    noise = (start - 0.4 * whole["conditions"].warped) / 0.6
    assert abs(noise.std().item() - 1) < 0.02 and abs(noise.mean().item()) < 0.02


def test_settings_that_a_bridge_does_not_read_are_refused_or_told(caplog):
    check_noise_levels(stage(sigmas="logit_normal", shift=3.0), 1.0)
    check_noise_levels(stage(), 0.6)
    check_noise_levels(stage(sigmas="start"), 0.6)
    assert not caplog.records
    with pytest.raises(UserError, match="sigmas = logit_normal in stage3, which is not read"):
        check_noise_levels(stage(sigmas="logit_normal"), 0.6)
    check_noise_levels(stage(shift=3.0), 0.6)
    assert "shift = 3 in stage3 spaces its sample videos alone" in caplog.text


def whole_and_parts(contrast, weighted):
    """Losses of three samples: filmed everywhere, in part and nowhere; what they are made of, and the velocity."""
    made = prepare(batch(3), range(3), stage(), bridge=0.6)
    if weighted:
        made["weights"] = torch.rand(3, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.5
    velocity = torch.randn(3, 48, 3, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    parts = [(slice(None), slice(None)), (slice(0, 4), slice(1, 3)), (slice(0, 4), slice(2, 2))]
    losses = sample_losses(lambda *_, **__: velocity, made | {"filmed": parts}, "fp32", contrast)
    return losses, made, velocity


@pytest.mark.parametrize("contrast", (1.0, 3.0))
@pytest.mark.parametrize("weighted", (False, True))
def test_what_was_not_filmed_is_not_learned_and_a_whole_clip_s_loss_is_bit_for_bit_what_it_was(contrast, weighted):
    losses, made, velocity = whole_and_parts(contrast, weighted)
    rows = [slice(row, row + 1) for row in range(3)]
    weights = made.get("weights")
    whole = [
        flow_loss(velocity[r], made["latents"][r], made["noise"][r], weights[r] if weighted else None, contrast)
        for r in rows
    ]
    assert torch.equal(losses[0], whole[0]), "beside a masked clip"
    assert torch.equal(sample_losses(lambda *_, **__: velocity, made, "fp32", contrast), torch.stack(whole))
    assert losses[2] == 0 and losses[1] != whole[1]
    losses.mean().backward()
    beyond = torch.ones(4, 4, dtype=torch.bool)
    beyond[:, 1:3] = False
    assert not velocity.grad[1][..., beyond].any() and velocity.grad[1][..., ~beyond].all()
    assert torch.isfinite(velocity.grad).all() and not velocity.grad[2].any()
    changed = {**made, "latents": made["latents"].clone(), "filmed": [(slice(0, 4), slice(1, 3))] * 3}
    changed["latents"][..., beyond] = 99.0  # black, or whatever stood there
    found = sample_losses(lambda *_, **__: velocity, changed, "fp32", contrast)
    assert torch.equal(found[1], losses[1])
