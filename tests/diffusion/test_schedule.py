"""Wan's noise levels: shifted once, the last step as long as it should be, on every sampler users of Wan expect."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from fportrait.diffusion.flow import shift_sigma
from fportrait.diffusion.schedule import SCHEDULERS, make_scheduler, noise_levels, set_noise_levels
from fportrait.errors import UserError


def wan_sampling_sigmas(steps, shift):
    """As Wan 2.1 defines them in its own code."""
    sigma = np.linspace(1, 0, steps + 1)[:steps]
    return shift * sigma / (1 + (shift - 1) * sigma)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("steps", "shift"), [(6, 5.0), (50, 3.0), (1, 5.0), (4, 1.0)])
def test_every_sampler_steps_along_wans_levels_shifted_once(name, steps, shift):
    scheduler = make_scheduler(name, shift)
    set_noise_levels(scheduler, steps)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), [*wan_sampling_sigmas(steps, shift), 0], atol=2e-3)
    assert len(scheduler.timesteps) == steps
    np.testing.assert_allclose(scheduler.timesteps.numpy(), scheduler.sigmas[:-1].numpy() * 1000, atol=1.01)


def test_six_steps_at_shift_five_end_at_a_half():
    scheduler = make_scheduler("euler", 5.0)
    set_noise_levels(scheduler, 6)
    assert [round(float(level), 3) for level in scheduler.sigmas] == [1, 0.962, 0.909, 0.833, 0.714, 0.5, 0]
    scheduler.set_timesteps(6)  # what diffusers does by itself, and why we do not let it
    assert scheduler.sigmas[-2] < 0.03


def test_levels_before_the_shift_are_those_that_training_shifts():
    scheduler = make_scheduler("euler", 5.0)
    set_noise_levels(scheduler, 9)
    torch.testing.assert_close(scheduler.sigmas[:-1], shift_sigma(torch.from_numpy(noise_levels(9)).float(), 5.0))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_straight_path_is_followed_to_its_end_exactly_and_again(name):
    data, noise = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    scheduler = make_scheduler(name)
    for _ in range(2):
        set_noise_levels(scheduler, 5)
        sample = noise
        for timestep in scheduler.timesteps:
            sample = scheduler.step(noise - data, timestep, sample, return_dict=False)[0]
        # DPM-Solver++ cannot begin at pure noise: diffusers lets it begin at .9998.
        torch.testing.assert_close(sample, data, rtol=0, atol=1e-3 if name == "dpm++" else 1e-4)


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_second_order_is_nearer_on_a_curved_path(name):
    """The velocity of a Gaussian of variance v about zero, whose path is known: x sqrt((1 - sigma)^2 v + sigma^2).

    The step to zero is of first order in every solver, so the path is compared where that one begins.
    """
    variance = 0.1

    def error_before_the_last_step(name, steps):
        scheduler = make_scheduler(name)
        set_noise_levels(scheduler, steps)
        sample = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
        for index, timestep in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[index].double()
            a, total = 1 - sigma, (1 - sigma) ** 2 * variance + sigma**2
            if index == steps - 1:
                return float((sample - total.sqrt()).abs())
            velocity = sample * (sigma - a * variance) / total
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]

    assert error_before_the_last_step(name, 10) < 0.5 * error_before_the_last_step("euler", 10)


def test_schedulers_that_space_their_levels_by_another_rule_keep_it():
    for made in (
        FlowMatchEulerDiscreteScheduler(shift=5.0, use_karras_sigmas=True),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    ):
        own = type(made).from_config(made.config)
        own.set_timesteps(5)
        set_noise_levels(made, 5)
        assert torch.equal(made.sigmas, own.sigmas)


def test_an_unknown_name_and_a_shift_of_nothing_are_refused():
    with pytest.raises(UserError, match="unipc"):
        make_scheduler("unpic")
    with pytest.raises(UserError, match="shift"):
        make_scheduler("euler", 0.0)
