"""Flow matching against diffusers' own scheduler."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fportrait.diffusion import flow
from fportrait.errors import UserError


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_shifted_schedule_is_diffusers_own(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    ours = flow.shift_sigma(torch.arange(1000, 0, -1) / 1000, shift)
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours * 1000, scheduler.timesteps, rtol=1e-6, atol=1e-4)


def test_noising_is_diffusers_own():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    latents, noise = torch.randn(2, 4, 16, 3, 4, 4).unbind()
    index = torch.tensor([3, 400, 700, 999])
    theirs = scheduler.scale_noise(latents, scheduler.timesteps[index], noise)
    torch.testing.assert_close(flow.noise_latents(latents, noise, scheduler.sigmas[index]), theirs)


def test_the_target_carries_diffusers_sampler_from_noise_to_data():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(7)
    latents, noise = torch.randn(2, 2, 16, 3, 4, 4).unbind()
    sample = noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(flow.velocity_target(latents, noise), timestep, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_drawn_sigmas_follow_the_shifted_distribution(distribution):
    drawn = flow.sample_sigmas(200_000, 5.0, distribution, torch.Generator().manual_seed(0))
    assert drawn.min() > 0 and drawn.max() <= 1
    # Both are symmetric about 1/2 before the shift, which moves the median to 5/6.
    assert drawn.median().item() == pytest.approx(5 / 6, abs=0.005)
    unshifted = drawn / (5 - 4 * drawn)
    quarter = 0.25 if distribution == "uniform" else torch.sigmoid(torch.tensor(-0.6745)).item()
    assert unshifted.quantile(0.25).item() == pytest.approx(quarter, abs=0.005)


def test_an_unknown_distribution_is_refused():
    with pytest.raises(UserError, match="logit_normal"):
        flow.sample_sigmas(2, distribution="normal")


def test_the_loss_is_zero_for_the_target_and_weights_choose_the_region():
    latents, noise = torch.randn(2, 2, 16, 3, 4, 4).unbind()
    target = flow.velocity_target(latents, noise)
    assert flow.flow_loss(target, latents, noise) == 0
    wrong = target.clone()
    wrong[..., 0, 0] += 1
    weights = torch.ones(2, 1, 3, 4, 4)
    plain = flow.flow_loss(wrong, latents, noise)
    torch.testing.assert_close(plain, torch.tensor(1 / 16))
    torch.testing.assert_close(flow.flow_loss(wrong, latents, noise, 7 * weights), plain)
    weights[..., 0, 0] = 16
    torch.testing.assert_close(flow.flow_loss(wrong, latents, noise, weights), torch.tensor(16 / 31))


@pytest.mark.parametrize(("second", "factor"), [(1.0, 1.0), (-1.0, 5.0)])
def test_contrast_counts_the_error_in_what_differs_between_frames(second, factor):
    """Two frames with errors 1 and `second`: alike counts once, opposite counts `contrast` times."""
    latents, noise = torch.randn(2, 2, 16, 2, 4, 4).unbind()
    wrong = flow.velocity_target(latents, noise)
    wrong[:, :, 0] += 1
    wrong[:, :, 1] += second
    weights = torch.rand(2, 1, 2, 1, 1).expand(2, 1, 2, 4, 4) + 0.5
    for given in (None, weights):
        torch.testing.assert_close(flow.flow_loss(wrong, latents, noise, given, contrast=5.0), torch.tensor(factor))


@pytest.mark.parametrize("name", ["euler", "unipc", "dpm++"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_bridge_goes_straight_from_the_noised_guess_to_the_data_whatever_the_solver(name, steps):
    from fportrait.diffusion.schedule import make_scheduler, set_noise_levels

    latents, noise, painted = torch.randn(3, 2, 16, 3, 4, 4).unbind()
    level = 0.6
    start = (1 - level) * painted + level * noise
    for part in (0.2, 0.5, 1.0):
        sigmas = torch.full((2,), part * level)
        bent = flow.bridged_noise(noise, latents, painted, level, sigmas)
        expected = (1 - part) * latents + part * start
        torch.testing.assert_close(flow.noise_latents(latents, bent, sigmas), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(flow.velocity_target(latents, bent), (start - latents) / level, rtol=0, atol=1e-5)
    scheduler = make_scheduler(name, 5.0)
    set_noise_levels(scheduler, steps, start=level)
    assert len(scheduler.timesteps) == steps
    assert scheduler.sigmas[0].item() == pytest.approx(level, abs=1e-6) and scheduler.sigmas[-1] == 0
    sample = start
    for timestep in scheduler.timesteps:
        sample = scheduler.step((start - latents) / level, timestep, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, latents, rtol=0, atol=1e-4)


def test_a_bridge_leaves_noise_as_it_is_above_its_level_and_at_level_one():
    latents, noise, painted = torch.randn(3, 2, 16, 3, 4, 4).unbind()
    sigmas = torch.tensor([0.5, 0.7])
    bent = flow.bridged_noise(noise, latents, painted, 0.6, sigmas)
    assert torch.equal(bent[1], noise[1]) and not torch.equal(bent[0], noise[0])
    assert flow.bridged_noise(noise, latents, painted, 1.0, sigmas) is noise


def test_the_levels_of_a_bridge_are_below_it_and_lean_towards_it():
    drawn = flow.bridge_sigmas(100_000, 0.6, 5.0, torch.Generator().manual_seed(0))
    assert drawn.min() > 0 and drawn.max() <= 0.6
    assert drawn.mean().item() == pytest.approx(0.4, abs=0.005)  # of s sqrt(u): two thirds of s
    assert flow.bridge_sigmas(3, 0.6, distribution="start").tolist() == pytest.approx([0.6] * 3)
    assert flow.bridge_sigmas(3, 1.0, distribution="start").tolist() == [1.0] * 3
    ordinary = flow.bridge_sigmas(5, 1.0, 3.0, torch.Generator().manual_seed(1))
    assert torch.equal(ordinary, flow.sample_sigmas(5, 3.0, generator=torch.Generator().manual_seed(1)))
