"""The exponential moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor


def decay_at(step: int, decay: float) -> float:
    """The share that the average keeps in step `step` (from 0): it follows faster while it is young."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """`values` follow the model's state, `value += (1 - decay) (weight - value)`; integers keep their first value.

    Under FSDP2 and ZeRO-3 each process averages its own part; `live` names the parts where they are not the state's.
    """

    def __init__(self, model: torch.nn.Module, live: dict[str, Tensor] | None = None):
        live = model.state_dict() if live is None else live
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
