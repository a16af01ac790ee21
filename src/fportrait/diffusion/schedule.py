"""The noise levels of sampling, and the samplers that step along them: one maker for everything that samples.

n steps take Wan's levels: n + 1 of them evenly spaced from 1 to 0, shifted once, sigma' = s sigma / (1 + (s - 1) sigma)
(Wan 2.1's `get_sampling_sigmas`; Esser et al. 2024, eq. 23). Six steps at s = 5: 1, .962, .909, .833, .714, .5, 0.
`FlowMatchEulerDiscreteScheduler.set_timesteps(6)` would start from the smallest level it was made with, which is
shifted already, and shift again: 1, .953, .883, .771, .562, .024, 0. The last step then has nothing left to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from fportrait.diffusion.flow import shift_sigma
from fportrait.errors import UserError, refuse_unknown_keys

SCHEDULERS = ("euler", "unipc", "dpm++")
"""First order; Wan's own second-order predictor and corrector (Zhao et al. 2023); DPM-Solver++ (Lu et al. 2022)."""


def make_scheduler(name: str = "euler", shift: float = 5.0) -> Any:
    """A diffusers scheduler for velocities of flow matching; step it along `set_noise_levels`.

    Raises:
        UserError: an unknown name, or a shift that is not positive.
    """
    refuse_unknown_keys([name], SCHEDULERS, "scheduler")
    if not shift > 0:
        raise UserError(f"a shift of {shift}", "a number above 0; 1 leaves the levels evenly spaced", "correct shift")
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    return UniPCMultistepScheduler(**flow) if name == "unipc" else DPMSolverMultistepScheduler(**flow)


def noise_levels(steps: int, start: float = 1.0, shift: float = 5.0) -> np.ndarray:
    """The `steps` levels above 0, before the shift: evenly spaced down from the one that becomes `start` by it."""
    return np.linspace(start / (shift - (shift - 1) * start), 0.0, steps + 1)[:-1]


def shifted_levels(steps: int, start: float = 1.0, shift: float = 5.0) -> np.ndarray:
    """The `steps` levels above 0 that are sampled at."""
    return shift_sigma(torch.from_numpy(noise_levels(steps, start, shift)), shift).numpy()


def set_noise_levels(scheduler: Any, steps: int, device: str | torch.device | None = None, start: float = 1.0) -> None:
    """Give a scheduler Wan's levels for `steps` steps. One that spaces its levels by another rule keeps its own.

    Below `start` 1 they go from there, for models whose paths start there (`flow.bridged_noise`).

    A multistep solver has its state reset, so that the same scheduler samples one video after the other.
    """
    config = scheduler.config
    own = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    shifted = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or config.get("use_flow_sigmas")
    takes = not isinstance(scheduler, DPMSolverMultistepScheduler)  # whose own flow levels are these, to a thousandth
    wan = shifted and not any(config.get(rule) for rule in own)
    if not wan and start < 1:
        raise UserError(
            "a scheduler that spaces its levels by a rule of its own",
            f"Wan's levels from {start:g} down, where this model's paths start",
            "make it with fportrait.diffusion.schedule.make_scheduler",
        )
    shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
    levels = noise_levels(steps, start, shift)
    if wan and takes:
        scheduler.set_timesteps(sigmas=levels, device=device)
        return
    scheduler.set_timesteps(steps, device=device)
    if start < 1:
        scheduler.sigmas = torch.from_numpy(np.append(shifted_levels(steps, start, shift), 0.0)).float()
        scheduler.timesteps = (scheduler.sigmas[:-1] * config.num_train_timesteps).round().to(scheduler.timesteps)
