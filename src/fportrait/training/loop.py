"""The training loop, on one screen: exact order of samples, exact resumption, nothing learned from a broken number.

Every random choice of global sample n (record, portrait, noise level, noise, dropped conditions) comes from counters
keyed by (seed, n). The state of a run is its weights, the optimiser's moments and one integer; the same global batch
gives the same losses on one process or many, and after any interruption.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import atomic_folder, value_hash, write_json, write_safetensors
from fportrait.dataset.batches import Batches
from fportrait.dataset.mixing import draw_integer
from fportrait.dataset.shards import ShardReader, tensors_hash
from fportrait.diffusion.flow import drop_conditions, flow_loss, noise_latents, sample_sigmas
from fportrait.errors import UserError
from fportrait.training.checkpoints import last_good_checkpoint, load_checkpoint, save_checkpoint
from fportrait.training.config import StageConfig
from fportrait.training.stages import batches_of, check_stage, tokens_per_sample

LOOP_VERSION = "1"  # raise when the same settings would learn something else
CONDITIONS = ("reference", "rays", "normals", "codes")
Log = Callable[[dict[str, float], int], None]
logger = logging.getLogger(__name__)


def train(
    stage: StageConfig,
    transformer: torch.nn.Module,
    reader: ShardReader,
    out_folder: str | Path,
    log: Log,
    resume: bool = True,
    checkpoint_folder: str | Path | None = None,
) -> dict[str, Any]:
    """Train `transformer` in place; it ends with the averaged weights, also saved to `out_folder/transformer`.

    Args:
        log: called with metrics and the number of finished steps.
        checkpoint_folder: where checkpoints go; `out_folder/checkpoints` by default. Runs of other settings, shards or
            starting weights have other subfolders there and are never resumed by mistake.

    Returns:
        `steps`, `parameters`, `final_loss` (mean over the last tenth of this run's steps), `resumed_from`.

    Raises:
        UserError: the shards cannot feed the stage, the batch does not divide over processes, a sample is unreadable,
            or a loss or gradient is not finite.
        SystemExit: (code 143) SIGTERM arrived; a checkpoint was written.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    share, rest = divmod(stage.batch_size, accelerator.num_processes * stage.accumulation)
    if rest:
        raise UserError(
            f"a batch of {stage.batch_size} over {accelerator.num_processes} processes and {stage.accumulation} parts",
            "a batch that divides by processes × accumulation",
            f"set batch_size of {stage.name} to a multiple of {accelerator.num_processes * stage.accumulation}",
        )
    check_stage(stage, reader)
    batches = batches_of(stage, transformer, reader)
    run_name = value_hash([LOOP_VERSION, stage.learned_from(), reader.hash, tensors_hash(cpu_state(transformer))])
    checkpoints = Path(checkpoint_folder or Path(out_folder) / "checkpoints") / run_name

    torch.manual_seed(stage.seed)
    transformer.train()
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer: Any = torch.optim.AdamW(
        parameters, lr=stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay
    )
    model, optimizer = accelerator.prepare(transformer, optimizer)
    forward = torch.compile(model) if stage.compile else model
    average = {name: value.detach().clone() for name, value in transformer.state_dict().items()}
    step = 0
    found = last_good_checkpoint(checkpoints) if resume else None
    if found:
        step = load_checkpoint(found, transformer, average, optimizer)["step"]
        logger.info("%s resumes at step %d from %s", stage.name, step, found)
    first_step, meter = step, Meter(stage)

    def save() -> None:
        if accelerator.is_main_process:
            state = {"stage": stage.name, "next_index": step * stage.batch_size}
            save_checkpoint(
                checkpoints, step, cpu_state(transformer), average, optimizer, state, stage.keep_checkpoints
            )

    def local_batch(number: int) -> list[dict[str, Any]]:
        """This process's part of the global batch `number`, in micro-batches."""
        start = number * stage.batch_size + accelerator.process_index * share * stage.accumulation
        parts = [range(start + part * share, start + (part + 1) * share) for part in range(stage.accumulation)]
        return [prepare(batches(part), part, stage) for part in parts]

    if step == 0 and accelerator.is_main_process:
        tokens = tokens_per_sample(transformer, batches([0])["latents"].shape) * stage.batch_size
        log({"parameters": sum(parameter.numel() for parameter in parameters), "tokens_per_step": tokens}, 0)
    with ThreadPoolExecutor(1) as ahead, terminate_flag() as terminated:
        following = ahead.submit(local_batch, step)
        while step < stage.iterations:
            waited = time.perf_counter()
            micro_batches = following.result()
            waited = time.perf_counter() - waited
            following = ahead.submit(local_batch, min(step + 1, stage.iterations - 1))
            losses = []
            for number, batch in enumerate(micro_batches):
                batch = {key: value.to(accelerator.device) if isinstance(value, Tensor) else value
                         for key, value in batch.items()}  # fmt: skip
                last = number == stage.accumulation - 1
                with nullcontext() if last else accelerator.no_sync(model):
                    each = sample_losses(forward, batch, stage.precision)
                    accelerator.backward(each.mean() / stage.accumulation)
                losses.append(each.detach())
            norm = accelerator.clip_grad_norm_(parameters, stage.gradient_clip)
            numbers = torch.cat([accelerator.gather(torch.cat(losses)), torch.as_tensor(norm).reshape(1)]).tolist()
            if not all(map(math.isfinite, numbers)):
                optimizer.zero_grad(set_to_none=True)
                refuse_not_finite(numbers, step, stage, batches, accelerator.num_processes)
            for group in optimizer.param_groups:
                group["lr"] = stage.rate(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_average(average, transformer, min(stage.ema, (1 + step) / (10 + step)))
            step += 1
            meter.add(numbers, micro_batches, waited)
            if accelerator.is_main_process and (step % stage.log_every == 0 or step == stage.iterations):
                log(meter.read(step), step)
            if terminated() or step % stage.checkpoint_every == 0 or step == stage.iterations:
                save()
            if terminated():
                logger.warning("%s stopped by SIGTERM after step %d; run it again to go on", stage.name, step)
                raise SystemExit(143)

    transformer.load_state_dict(average)
    transformer.eval()
    summary = {"steps": step, "parameters": sum(parameter.numel() for parameter in parameters),
               "final_loss": meter.tail_mean(), "resumed_from": first_step}  # fmt: skip
    if accelerator.is_main_process:
        save_transformer(transformer, Path(out_folder) / "transformer")
        write_json(
            Path(out_folder) / "training.json",
            {"stage": {**stage.learned_from(), "iterations": stage.iterations}, "shards": reader.hash,
             "vae_hash": reader.vae_hash, "parameters": summary["parameters"], "steps": step},
        )  # fmt: skip
    return summary


def prepare(batch: dict[str, Any], indices: range, stage: StageConfig) -> dict[str, Any]:
    """Add noise levels, noise and dropped conditions, each sample from its own counter, so that no split matters."""
    prepared = []
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed(draw_integer(stage.seed, index, "noise", 2**63))
        sigma = sample_sigmas(1, stage.shift, stage.sigmas, generator)
        noise = torch.randn(batch["latents"][row : row + 1].shape, generator=generator)
        conditions = {name: batch[name][row : row + 1] for name in CONDITIONS}
        prepared.append({**drop_conditions(conditions, stage.dropout, generator), "sigmas": sigma, "noise": noise})
    return batch | {key: torch.cat([sample[key] for sample in prepared]) for key in prepared[0]}


def sample_losses(model: Callable[..., Tensor], batch: dict[str, Any], precision: str) -> Tensor:
    """Flow-matching loss of each sample, `B`."""
    latents, noise = batch["latents"], batch["noise"]
    inputs = {name: batch[name] for name in (*CONDITIONS, "reference_rays") if name in batch}
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=precision == "bf16"):
        velocity = model(noise_latents(latents, noise, batch["sigmas"]), batch["sigmas"] * 1000, **inputs)
    weights = batch.get("weights")
    rows = [slice(row, row + 1) for row in range(len(latents))]
    return torch.stack(
        [flow_loss(velocity[r], latents[r], noise[r], None if weights is None else weights[r]) for r in rows]
    )


def refuse_not_finite(numbers: list[float], step: int, stage: StageConfig, batches: Batches, processes: int) -> None:
    first = step * stage.batch_size
    bad = [row for row, loss in enumerate(numbers[:-1]) if not math.isfinite(loss)] or range(stage.batch_size)
    names = ", ".join(batches.record(first + row).id for row in bad)
    what = "loss" if len(bad) < stage.batch_size or not math.isfinite(numbers[0]) else "gradient"
    raise UserError(
        f"a {what} that is not finite at step {step} of {stage.name}, from {names}",
        "finite numbers; no weight was changed",
        "look at these records, and lower learning_rate if they are sound",
    )


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: torch.nn.Module, decay: float) -> None:
    state = model.state_dict()
    names = [name for name, value in state.items() if value.dtype.is_floating_point]
    torch._foreach_lerp_([average[name] for name in names], [state[name] for name in names], 1 - decay)


def cpu_state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def save_transformer(model: torch.nn.Module, target: Path) -> None:
    """The model's folder, as diffusers writes it; weights alone for other modules."""
    import json

    with atomic_folder(target) as folder:
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder)  # type: ignore[operator]
            values = json.loads((folder / "config.json").read_text())
            values.pop("_name_or_path", None)  # where it was loaded from is no property of the model
            write_json(folder / "config.json", values)
        else:
            write_safetensors(folder / "weights.safetensors", cpu_state(model))


@contextmanager
def terminate_flag() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a flag that the loop asks for between steps."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


class Meter:
    """What a trainer watches, as means since the last reading."""

    NOISE_LEVELS = 4

    def __init__(self, stage: StageConfig):
        self.stage = stage
        self.history: list[float] = []
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.started, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def add(self, numbers: list[float], micro_batches: list[dict[str, Any]], waited: float) -> None:
        """`numbers`: losses of the global batch, then the gradient's norm. Losses by kind are this process's."""
        *losses, norm = numbers
        datasets = [name for batch in micro_batches for name in batch["datasets"]]
        sigmas = [sigma for batch in micro_batches for sigma in batch["sigmas"].tolist()]
        self.history.append(sum(losses) / len(losses))
        self.sums["loss"].append(self.history[-1])
        self.sums["grad_norm"].append(norm)
        for loss, dataset, sigma in zip(losses, datasets, sigmas, strict=False):
            self.sums[f"loss_{dataset}"].append(loss)
            level = min(int(sigma * self.NOISE_LEVELS), self.NOISE_LEVELS - 1)
            self.sums[f"loss_sigma_{level / self.NOISE_LEVELS:.2f}"].append(loss)
        self.waited += waited
        self.steps += 1

    def read(self, step: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        metrics = {name: sum(values) / len(values) for name, values in sorted(self.sums.items())}
        metrics |= {
            "learning_rate": self.stage.rate(step - 1),
            "seconds_per_step": seconds / self.steps,
            "data_wait_fraction": self.waited / seconds,
            "samples": step * self.stage.batch_size,
        }
        self._clear()
        return metrics

    def tail_mean(self) -> float | None:
        tail = self.history[-max(1, len(self.history) // 10) :]
        return sum(tail) / len(tail) if tail else None
