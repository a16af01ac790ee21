"""The training loop, on one screen: exact order of samples, exact resumption, nothing learned from a broken number.

Every random choice of global sample n (record, portrait, noise level, noise, dropped conditions) comes from counters
keyed by (seed, n). The state of a run is its weights, the optimiser's moments and one integer; the same global batch
gives the same losses on one process or many, and after any interruption.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import atomic_folder, value_hash, write_json, write_safetensors
from fportrait.dataset.batches import Batches
from fportrait.dataset.shards import ShardReader, tensors_hash
from fportrait.errors import UserError
from fportrait.training.average import Average, decay_at
from fportrait.training.checkpoints import checkpoint_to_resume, load_checkpoint, run_folder, save_checkpoint
from fportrait.training.config import StageConfig
from fportrait.training.cost import peak_flops, sample_cost
from fportrait.training.losses import HeldOut, prepare, sample_losses, to_device
from fportrait.training.meter import Meter
from fportrait.training.parallel import Parallel, make_parallel, whole
from fportrait.training.stages import batches_of, check_stage

LOOP_VERSION = "3"  # raise when the same settings would learn something else
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
    sample: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train `transformer` in place; it ends with the averaged weights, also saved to `out_folder/transformer`.

    Args:
        log: called by the main process with metrics and the number of finished steps.
        checkpoint_folder: where checkpoints go; `out_folder/checkpoints` by default. Runs of other settings, shards or
            starting weights have other subfolders there and are never resumed by mistake; a run of another length is
            resumed up to where both are the same (`checkpoint_to_resume`).
        sample: called by every process after each `stage.sample_every` steps, with the number of finished steps.

    Returns:
        `steps`, `parameters`, `final_loss` (mean over the last tenth of the steps), `resumed_from`, and `seconds` and
        `cpu_seconds` of all steps, those before an interruption among them.

    Raises:
        UserError: the shards cannot feed the stage, the batch does not divide over processes, a sample is unreadable,
            or a loss or gradient is not finite.
        SystemExit: (code 143) SIGTERM arrived; a checkpoint was written.
    """
    parallel = make_parallel(stage)
    share = stage.micro_batch(parallel.processes)
    check_stage(stage, reader)
    batches = batches_of(stage, transformer, reader)
    root, name = Path(checkpoint_folder or Path(out_folder) / "checkpoints"), run_name(stage, transformer, reader)
    checkpoints = run_folder(root, name, stage)

    names = [name for name, value in transformer.named_parameters() if value.requires_grad]

    torch.manual_seed(stage.seed)
    transformer.train()
    if stage.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    meter = start_meter(stage, transformer, batches, parallel, log)
    forward = parallel.prepare(transformer)
    if stage.compile:
        forward = torch.compile(forward)
    average = parallel.make_average(transformer)
    held_out = HeldOut(batches, stage, stage.held_out, parallel.process, parallel.processes)
    step, logged = load_last(root, name, parallel, average, meter, stage) if resume else (0, [])
    first_step, scored_from = step, step
    if parallel.is_main:  # what a stopped run had told, so that the record of the one that goes on is whole
        for values, at in logged:
            log(values, at)

    def tell(values: dict[str, float], at: int) -> None:
        log(values, at)
        logged.append((values, at))

    def local_batch(number: int) -> list[dict[str, Any]]:
        """This process's part of the global batch `number`, in micro-batches."""
        start = number * stage.batch_size + parallel.process * share * stage.accumulation
        parts = [range(start + part * share, start + (part + 1) * share) for part in range(stage.accumulation)]
        return [prepare(batches(part), part, stage) for part in parts]

    def save() -> None:
        nonlocal scored_from
        started = time.perf_counter()
        if len(held_out):
            score = float(parallel.gather(held_out.losses(transformer, forward)).mean())
            if parallel.is_main:
                tell({"held_out_loss": score}, step)
        else:
            recent, scored_from = meter.history[scored_from:], len(meter.history)
            score = sum(recent) / len(recent)
        full = parallel.full_state(average)
        if full is not None:
            state = {"stage": stage.name, "schedule": stage.schedule, "next_index": step * stage.batch_size}
            state |= {"score": score, "logged": logged, "meter": meter.state()}
            save_checkpoint(checkpoints, step, *full, state, stage.keep_checkpoints)
        meter.leave_out(time.perf_counter() - started)

    with ThreadPoolExecutor(1) as ahead, terminate_flag() as terminated:
        following = ahead.submit(local_batch, step)
        while step < stage.iterations:
            waited = time.perf_counter()
            micro_batches = following.result()
            waited = time.perf_counter() - waited
            following = ahead.submit(local_batch, min(step + 1, stage.iterations - 1))
            losses = []
            for number, batch in enumerate(micro_batches):
                batch = to_device(batch, parallel.device)
                with parallel.part_of_batch(last=number == stage.accumulation - 1):
                    each = sample_losses(forward, batch, stage.precision, stage.contrast)
                    parallel.backward(each.mean() / stage.accumulation)
                losses.append(each.detach())
            norm = parallel.clip(stage.gradient_clip)
            sigmas = torch.cat([batch["sigmas"] for batch in micro_batches]).to(losses[0])
            stop = torch.full_like(sigmas, terminated())  # told to one process, obeyed by all after the same step
            numbers = parallel.gather(torch.stack([torch.cat(losses), sigmas, stop], 1))
            refuse_not_finite(numbers[:, 0].tolist(), norm, step, stage, batches)
            parallel.step(stage.rate(step))
            average.update(decay_at(step, stage.ema))
            datasets = [batches.record(step * stage.batch_size + row).dataset for row in range(stage.batch_size)]
            meter.add(numbers[:, 0].tolist(), numbers[:, 1].tolist(), datasets, norm, waited)
            step += 1
            done = step == stage.iterations
            if parallel.is_main and (step % stage.log_every == 0 or done):
                tell(meter.read(step), step)
            stopping = bool(numbers[:, 2].any()) or (parallel.processes == 1 and terminated())
            if stopping or done or step % stage.checkpoint_every == 0:
                save()
            if stopping:
                logger.warning("%s stopped by SIGTERM after step %d; run it again to go on", stage.name, step)
                raise SystemExit(143)
            if sample is not None and stage.sample_every and step % stage.sample_every == 0 and not done:
                started = time.perf_counter()
                with parallel.whole_model():
                    sample(step)
                meter.leave_out(time.perf_counter() - started)

    averaged = parallel.whole_average(average)
    if stage.sharding != "zero3" or parallel.processes == 1:  # ZeRO-3's parts belong to its engine
        transformer.load_state_dict(average.values)
    transformer.eval()
    summary = {
        "steps": step,
        "parameters": sum(averaged[name].numel() for name in names),
        "final_loss": meter.tail_mean(),
        "resumed_from": first_step,
        **meter.spent(),
    }
    if parallel.is_main:
        save_transformer(transformer, averaged, Path(out_folder) / "transformer")
        write_json(
            Path(out_folder) / "training.json",
            {
                "stage": stage.learned_from(),
                "shards": reader.hash,
                "vae_hash": reader.vae_hash,
                "parameters": summary["parameters"],
                "steps": step,
            },
        )
    parallel.wait()
    return summary


def start_meter(
    stage: StageConfig, transformer: torch.nn.Module, batches: Batches, parallel: Parallel, log: Log
) -> Meter:
    """A meter that knows what a step costs; the main process logs that cost as step 0."""
    config = getattr(transformer, "config", None)
    if config is None:
        return Meter(stage, parallel.device)
    height, width = batches([0])["latents"].shape[-2:]
    cost = sample_cost(config, stage.frames, height, width, stage.precision)
    tokens, flops = cost.tokens * stage.batch_size, 3 * cost.flops * stage.batch_size
    peak = peak_flops(parallel.device, stage.precision)
    if parallel.is_main:
        log({"parameters": cost.parameters, "tokens_per_step": tokens, "flops_per_step": flops}, 0)
    return Meter(stage, parallel.device, tokens, flops, peak and peak * parallel.processes)


def run_name(stage: StageConfig, transformer: torch.nn.Module, reader: ShardReader) -> str:
    """Names everything that the steps of a run are made of, and not how many there are."""
    learned = {key: value for key, value in stage.learned_from().items() if key not in stage.schedule}
    config = {key: value for key, value in getattr(transformer, "config", {}).items() if not key.startswith("_")}
    return value_hash([LOOP_VERSION, learned, reader.hash, config, tensors_hash(whole(transformer.state_dict()))])


def load_last(
    root: Path, name: str, parallel: Parallel, average: Average, meter: Meter, stage: StageConfig
) -> tuple[int, list]:
    """Resume from the checkpoint that `checkpoint_to_resume` finds on the main process.

    Returns:
        Its step, and what this run would have logged until then, pairs of values and step; 0 and nothing without one.
    """
    found = parallel.share(checkpoint_to_resume(root, name, stage) if parallel.is_main else None)
    if found is None:
        return 0, []
    *tensors, state = load_checkpoint(found)
    parallel.load_state((tensors[0], tensors[1], tensors[2]), average)
    meter.load_state(state["meter"])
    if state["step"] == stage.iterations:
        logger.info("%s is already trained: %d steps, kept in %s", stage.name, state["step"], found)
    else:
        logger.info("%s resumes at step %d of %d from %s", stage.name, state["step"], stage.iterations, found)

    def regular(values: dict[str, float], at: int) -> bool:
        """The last step of a shorter run was told only because it was the last."""
        every = stage.checkpoint_every if "held_out_loss" in values else stage.log_every
        return at % every == 0 or at == stage.iterations

    return state["step"], [(values, at) for values, at in state["logged"] if regular(values, at)]


def refuse_not_finite(losses: Sequence[float], norm: float, step: int, stage: StageConfig, batches: Batches) -> None:
    """Raise `UserError` naming the samples of a loss, or the batch of a gradient, that is not finite."""
    bad = [row for row, loss in enumerate(losses) if not math.isfinite(loss)]
    if not bad and math.isfinite(norm):
        return
    first = step * stage.batch_size
    names = ", ".join(batches.record(first + row).id for row in bad or range(stage.batch_size))
    raise UserError(
        f"a {'loss' if bad else 'gradient'} that is not finite at step {step} of {stage.name}, from {names}",
        "finite numbers; no weight was changed",
        "look at these records, and lower learning_rate if they are sound",
    )


def save_transformer(model: torch.nn.Module, weights: dict[str, Tensor], target: Path) -> None:
    """The model's folder with these weights, as diffusers writes it; weights alone for other modules."""
    with atomic_folder(target) as folder:
        if not hasattr(model, "save_pretrained"):
            write_safetensors(folder / "weights.safetensors", weights)
            return
        kind: Any = next(c for c in type(model).__mro__ if hasattr(c, "from_config") and "FSDP" not in c.__name__)
        with torch.device("meta"):
            plain = kind.from_config(model.config)
        plain.load_state_dict(weights, assign=True)
        plain.save_pretrained(folder)
        values = json.loads((folder / "config.json").read_text())
        values.pop("_name_or_path", None)  # where it was loaded from is no property of the model
        write_json(folder / "config.json", values)


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
