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


def noise_levels(steps: int) -> np.ndarray:
    """The `steps` levels above 0, evenly spaced, before the shift."""
    return np.linspace(1.0, 0.0, steps + 1)[:-1]


def set_noise_levels(scheduler: Any, steps: int, device: str | torch.device | None = None) -> None:
    """Give a scheduler Wan's levels for `steps` steps. One that spaces its levels by another rule keeps its own.

    A multistep solver has its state reset, so that the same scheduler samples one video after the other.
    """
    config = scheduler.config
    own = ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    shifted = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or config.get("use_flow_sigmas")
    takes = not isinstance(scheduler, DPMSolverMultistepScheduler)  # whose own flow levels are these, to a thousandth
    if shifted and takes and not any(config.get(rule) for rule in own):
        scheduler.set_timesteps(sigmas=noise_levels(steps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
