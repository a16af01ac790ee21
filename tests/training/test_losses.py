"""Noise levels, noise and dropped conditions of a batch: each sample's own, also of paths from the painted portrait."""

import pytest
import torch

from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.flow import noise_latents
from fportrait.errors import UserError
from fportrait.training.losses import prepare
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
