"""Training spread over processes by DeepSpeed (Rajbhandari et al. 2020): ZeRO-2 gradients, moments; ZeRO-3 weights too.

DeepSpeed's own checkpoints are pickles; here, as everywhere, whole tensors are saved under the parameters' names. The
optimiser is PyTorch's AdamW on DeepSpeed's flat partitions, so the numbers are those of the other ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fportrait.errors import UserError
from fportrait.training.average import Average, learned_state
from fportrait.training.config import StageConfig
from fportrait.training.parallel import FullState, Parallel, make_optimizer, whole

MOMENTS = ("exp_avg", "exp_avg_sq")


def engine_settings(stage: StageConfig, processes: int) -> dict[str, Any]:
    """DeepSpeed's configuration: float32 weights and gradients, autocast and clipping as elsewhere."""
    return {
        "train_micro_batch_size_per_gpu": stage.micro_batch(processes),
        "gradient_accumulation_steps": stage.accumulation,
        "gradient_clipping": stage.gradient_clip,
        "zero_optimization": {"stage": zero_stage(stage)},
        "zero_allow_untested_optimizer": True,  # AdamW of PyTorch, not DeepSpeed's
        # Without a list of modules DeepSpeed would also exchange gradients in bfloat16; Identity has none.
        "torch_autocast": {
            "enabled": stage.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": ["torch.nn.Identity"],
        },
        "steps_per_print": 10**9,
    }


def zero_stage(stage: StageConfig) -> int:
    return int(stage.sharding.removeprefix("zero"))


class ZeroParallel(Parallel):
    """Raises:
    UserError: DeepSpeed is not installed, or 8-bit moments are asked for.
    """

    def __init__(self, stage: StageConfig):
        if stage.optimizer != "adamw":
            raise UserError(
                f"optimizer {stage.optimizer} with sharding {stage.sharding} in {stage.name}",
                "adamw",
                "set optimizer to adamw: ZeRO already divides the moments",
            )
        super().__init__(stage)
        self.engine: Any = None

    def prepare(self, model: torch.nn.Module) -> Callable[..., Tensor]:
        if self.processes == 1:
            return super().prepare(model)  # nothing to spread over
        deepspeed = import_deepspeed(self.stage)
        if self.device.type == "cpu":  # its shared-memory collectives are compiled at the first start; gloo will do
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.model = model
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.engine = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(self.stage, trained),
            dist_init_required=False,
            config=engine_settings(self.stage, self.processes),
        )[0]
        self.optimizer = self.engine.optimizer
        self.wrapped = self.engine
        return self.engine

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @contextmanager
    def part_of_batch(self, last: bool) -> Iterator[None]:
        if self.engine is not None:
            self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        if self.engine is None:
            super().backward(loss)
        else:
            self.engine.backward(loss, scale_wrt_gas=False)  # the loop has divided by the number of parts

    def clip(self, largest: float) -> float:
        """The norm of the global batch's gradient, before the step; DeepSpeed clips as it steps.

        It masks a norm that is not finite as -1, and would step all the same.
        """
        if self.engine is None:
            return super().clip(largest)
        if zero_stage(self.stage) == 3:
            norms = self.optimizer._get_norm_groups()
            lowest = min(float(norm) for norm in norms)
            norm = float(torch.linalg.vector_norm(torch.stack([torch.as_tensor(value) for value in norms]).double()))
            return norm if lowest >= 0 else float("nan")
        norm = float(self.optimizer.scaled_global_norm())
        return norm if norm >= 0 else float("nan")

    def step(self, rate: float) -> None:
        if self.engine is None:
            super().step(rate)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()

    def make_average(self, model: torch.nn.Module) -> Average:
        if self.engine is None or zero_stage(self.stage) == 2:
            return Average(model)
        from deepspeed.utils import safe_get_local_fp32_param

        live = {name: safe_get_local_fp32_param(value) for name, value in self.named_parameters().items()}
        return Average(model, {**dict(model.named_buffers()), **live})

    def whole_average(self, average: Average) -> dict[str, Tensor]:
        if self.engine is None or zero_stage(self.stage) == 2:
            return super().whole_average(average)
        named = self.named_parameters()
        gathered = {}
        for name, value in average.values.items():
            if name not in named:
                gathered[name] = value.detach().cpu()
                continue
            parts = [torch.empty_like(value) for _ in range(self.processes)]
            torch.distributed.all_gather(parts, value.contiguous())
            shape = named[name].ds_shape  # type: ignore[attr-defined]
            gathered[name] = torch.cat(parts)[: shape.numel()].view(shape).cpu()
        return {name: gathered[name] for name in learned_state(self.model)}

    def whole_weights(self) -> dict[str, Tensor]:
        if self.engine is None or zero_stage(self.stage) == 2:
            return super().whole_weights()
        import deepspeed

        found = whole(dict(self.model.named_buffers()))
        for name, value in self.model.named_parameters():  # one after the other: all of them may not fit a device
            with deepspeed.zero.GatheredParameters([value]):
                found[name] = value.detach().cpu().clone()
        return {name: found[name] for name in self.model.state_dict()}

    def full_state(self, average: Average) -> FullState | None:
        if self.engine is None:
            return super().full_state(average)
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        weights, moments = whole(dict(self.model.named_buffers())), {}
        steps = {float(entry["step"]) for entry in self.optimizer.optimizer.state.values() if "step" in entry}
        for name, value in self.named_parameters().items():
            weights[name] = safe_get_full_fp32_param(value).detach().cpu().clone()
            for moment in MOMENTS:
                moments[f"{name}/{moment}"] = safe_get_full_optimizer_state(value, moment).detach().cpu().clone()
            moments[f"{name}/step"] = torch.tensor(max(steps))
        averaged = self.whole_average(average)
        if not self.is_main:
            return None
        return {name: weights[name] for name in averaged}, averaged, moments

    def load_state(self, state: FullState, average: Average) -> None:
        if self.engine is None:
            super().load_state(state, average)
            return
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        weights, averaged, moments = state
        third = zero_stage(self.stage) == 3
        flat = self.optimizer.fp32_partitioned_groups_flat if third else self.optimizer.single_partition_of_fp32_groups
        steps = max((float(value) for name, value in moments.items() if name.endswith("/step")), default=0.0)
        for partition in flat:  # as AdamW makes them in its first step
            entry = {moment: torch.zeros_like(partition) for moment in MOMENTS}
            self.optimizer.optimizer.state[partition] = {"step": torch.tensor(steps), **entry}
        if not third:
            self.optimizer._lazy_init_hp_params_optimizer_state()
        named = self.named_parameters()
        for name, value in named.items():
            new = weights[name].to(self.device)
            with deepspeed.zero.GatheredParameters([value], modifier_rank=0, enabled=third), torch.no_grad():
                if not third or self.is_main:
                    value.copy_(new)
            safe_set_full_fp32_param(value, new)
            for moment in MOMENTS:
                safe_set_full_optimizer_state(value, moments[f"{name}/{moment}"].to(self.device), moment)
        for name, buffer in self.model.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])
        for name, target in average.values.items():
            if name not in averaged:  # a buffer that is no part of the state
                continue
            new = averaged[name].to(target.device)
            if third and name in named:  # this process's part, the last one padded
                start = target.numel() * self.process
                part = new.flatten()[start : start + target.numel()]
                target[: part.numel()].copy_(part)
            else:
                target.copy_(new)

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        if self.engine is None or zero_stage(self.stage) == 2:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
            yield


def import_deepspeed(stage: StageConfig) -> Any:
    try:
        import deepspeed
    except ImportError:
        raise UserError(
            f"sharding {stage.sharding} in {stage.name}, but no DeepSpeed",
            "the package deepspeed",
            "pip install 'fportrait[deepspeed]', or set sharding to fsdp2",
        ) from None
    return deepspeed
