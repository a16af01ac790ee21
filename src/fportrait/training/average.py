"""The exponential moving average of a model's weights (ours: FactorPortrait does not say which weights it samples)."""

from __future__ import annotations

import torch
from torch import Tensor


def decay_at(step: int, decay: float) -> float:
    """The share that the average keeps in step `step` (from 0): it follows faster while it is young."""
    return min(decay, (1 + step) / (10 + step))


def learned_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's live state, or, where parts of it are frozen (LoRA), the parameters that are not."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict()
    if len(learned) == len(list(model.parameters())):
        return state
    return {name: value for name, value in state.items() if name in learned}


class Average:
    """`values` follow what the model learns, `value += (1 - decay) (weight - value)`; integers keep their first value.

    Under FSDP2 and ZeRO-3 each process averages its own part; `live` names the parts where they are not the state's.
    """

    def __init__(self, model: torch.nn.Module, live: dict[str, Tensor] | None = None):
        live = learned_state(model) if live is None else live
        self.values = {name: value.detach().clone() for name, value in live.items()}
        names = [name for name, value in live.items() if value.dtype.is_floating_point]
        self._pairs = [(self.values[name], live[name]) for name in names]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        mine, theirs = ([local(tensor) for tensor in side] for side in zip(*self._pairs, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that FSDP2 has spread; other tensors as they are."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
