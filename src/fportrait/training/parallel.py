"""Where a run computes: one device, copies of the model on many, or its parts spread over many.

- `none`: accelerate places the model; on several processes each holds a copy and gradients are averaged (DDP).
- `fsdp2`: weights, gradients and moments are spread over the processes, block by block (`fully_shard`).
- `zero2`, `zero3`: DeepSpeed spreads gradients and moments, and with `zero3` weights too (`training/zero.py`).

Whatever the way, checkpoints hold whole tensors under the parameters' names: what one way wrote, any other reads, on
any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fportrait.devices import pick_device
from fportrait.errors import UserError
from fportrait.training.average import Average, learned_state
from fportrait.training.config import StageConfig

FullState = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]  # weights, average, moments


def make_optimizer(stage: StageConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or AdamW with 8-bit moments (Dettmers et al. 2022).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"lr": stage.learning_rate, "betas": stage.betas, "weight_decay": stage.weight_decay}
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            f"optimizer {stage.optimizer} in {stage.name}, but no bitsandbytes",
            "the package bitsandbytes",
            "pip install 'fportrait[gpu]', or set optimizer to adamw",
        ) from None
    return AdamW8bit(parameters, **options)


def make_parallel(stage: StageConfig) -> Parallel:
    """The way that `stage.sharding` names."""
    if stage.sharding.startswith("zero"):
        from fportrait.training.zero import ZeroParallel

        return ZeroParallel(stage)
    return FullyShardedParallel(stage) if stage.sharding == "fsdp2" else Parallel(stage)


class Parallel:
    """One process, or a copy of the model on each (DDP)."""

    def __init__(self, stage: StageConfig):
        from accelerate import Accelerator

        self.stage = stage
        chosen = pick_device()
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # where accelerate looks
        self.accelerator = Accelerator(mixed_precision="no", cpu=chosen.type == "cpu")
        self.processes, self.process = self.accelerator.num_processes, self.accelerator.process_index
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.model: Any = None
        self.optimizer: Any = None

    def prepare(self, model: torch.nn.Module) -> Callable[..., Tensor]:
        """Place the model, make its optimiser, and return the function to call for a forward pass."""
        self.model = model
        self.wrapped = self.accelerator.prepare_model(model)
        self.optimizer = make_optimizer(self.stage, self.parameters())
        return self.wrapped

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @contextmanager
    def part_of_batch(self, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the last micro-batch of a step alone."""
        if last or self.processes == 1:
            yield
        else:
            with self.accelerator.no_sync(self.wrapped):
                yield

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, largest: float) -> float:
        """Clip the gradient of the global batch to this norm; returns the norm it had."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), largest)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gather(self, values: Tensor) -> Tensor:
        """`N ...` of every process to `processes*N ...`, in the order of the processes."""
        return self.accelerator.gather(values.to(self.device)).cpu()

    def share(self, value: Any) -> Any:
        """The main process's value, on every process."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def make_average(self, model: torch.nn.Module) -> Average:
        """The average of a model that `prepare` has placed."""
        return Average(model)

    def whole_average(self, average: Average) -> dict[str, Tensor]:
        """The averaged weights, whole, on every process's CPU. All processes must call it."""
        return whole(average.values)

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights as they are now, frozen ones too, whole, on every process's CPU. All processes must call it."""
        return whole(self.model.state_dict())

    def full_state(self, average: Average) -> FullState | None:
        """Whole tensors of what is learned, on the main process's CPU; None on the others. All must call it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        moments: Any = get_optimizer_state_dict(self.model, self.optimizer, options=options).get("state", {})
        weights, averaged = whole(learned_state(self.model)), self.whole_average(average)
        if not self.is_main:
            return None
        return weights, averaged, flattened(moments)

    def load_state(self, state: FullState, average: Average) -> None:
        """Put whole tensors into model, average and optimiser; every process has read them."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_optimizer_state_dict,
            set_optimizer_state_dict,
        )

        weights, averaged, moments = state
        options = StateDictOptions(full_state_dict=True)
        for live, stored in ((learned_state(self.model), weights), (average.values, averaged)):
            assert live.keys() == stored.keys()
            for name, value in stored.items():
                spread_into(live[name], value)
        groups = get_optimizer_state_dict(self.model, self.optimizer)["param_groups"]
        entries: dict[str, dict[str, Any]] = {}
        for key, value in moments.items():
            name, *path, moment = key.split("/")
            entry = entries.setdefault(name, {})
            for part in path:
                entry = entry.setdefault(part, {})
            counted = moment == "step" and self.stage.optimizer == "adamw8bit"  # bitsandbytes counts in plain integers
            entry[moment] = int(value) if counted else value
        moments_by_name: Any = {"state": entries, "param_groups": groups}
        set_optimizer_state_dict(self.model, self.optimizer, moments_by_name, options=options)

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Within it the model's own methods may be called, not only its forward pass."""
        yield

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


class FullyShardedParallel(Parallel):
    """Weights, gradients and moments spread over the processes, gathered block by block (Zhao et al. 2023; FSDP2)."""

    def prepare(self, model: torch.nn.Module) -> Callable[..., Tensor]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.processes == 1:
            return super().prepare(model)  # nothing to spread over
        model.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.processes,))
        for block in model.blocks:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        self.model = self.wrapped = model
        self.optimizer = make_optimizer(self.stage, self.parameters())
        return model

    @contextmanager
    def part_of_batch(self, last: bool) -> Iterator[None]:
        if self.processes > 1:
            self.model.set_requires_gradient_sync(last)
        yield

    def full_state(self, average: Average) -> FullState | None:
        """A forward pass without a backward one leaves the root's weights gathered, and then no moment has a name."""
        if self.processes > 1:
            self.model.reshard()
        return super().full_state(average)

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Weights are gathered for as long as it lasts: each process needs room for all of them."""
        spread = [module for module in self.model.modules() if hasattr(module, "unshard")] if self.processes > 1 else []
        for module in spread:
            module.unshard()
        try:
            yield
        finally:
            for module in spread:
                module.reshard()


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """An optimiser's state as tensors by `PARAMETER/MOMENT`; bitsandbytes nests its own one level deeper."""
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = torch.as_tensor(value).cpu()
    return flat


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that FSDP2 has spread, gathered, on the CPU; other tensors as they are."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu()
        for name, value in state.items()
    }


@torch.no_grad()
def spread_into(target: Any, value: Tensor) -> None:
    """Copy a whole tensor into one that may be spread."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)
