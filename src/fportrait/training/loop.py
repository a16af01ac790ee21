"""The training loop: exact order of samples, exact resumption, nothing learned from a broken number.

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fportrait.atomic_io import atomic_folder, value_hash, write_json, write_safetensors
from fportrait.dataset.batches import Batches
from fportrait.dataset.shards import ShardReader, tensors_hash
from fportrait.devices import native_bf16, pick_device
from fportrait.diffusion.lora import adapter_of, add_lora, merged_weights, write_adapter
from fportrait.errors import UserError
from fportrait.training.average import Average, decay_at
from fportrait.training.checkpoints import (
    checkpoint_to_resume,
    lack_of_room,
    load_checkpoint,
    run_folder,
    save_checkpoint,
)
from fportrait.training.config import StageConfig
from fportrait.training.cost import peak_flops, sample_work
from fportrait.training.losses import HeldOut, prepare, sample_losses, to_device
from fportrait.training.meter import Meter
from fportrait.training.parallel import Parallel, make_parallel, whole
from fportrait.training.stages import batches_of, check_noise_levels, check_stage

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

    With an adapter (`stage.lora`, or `add_lora` before) checkpoints, moments and average hold what is learned alone;
    `out_folder/transformer` is the merged model, and `out_folder/adapter` the adapter with the hash of its base.

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
    trainer = Trainer(
        stage, transformer, reader, Path(checkpoint_folder or Path(out_folder) / "checkpoints"), log, sample
    )
    if resume:
        trainer.resume()
    trainer.run()
    return trainer.finish(Path(out_folder))


class Trainer:
    """One stage's run: `resume` where it stopped, `run` to the end or to a SIGTERM, `finish` with the averaged weights.

    `step` is the number of finished steps, and all of the run's state beside weights, average and optimiser.
    """

    def __init__(
        self,
        stage: StageConfig,
        transformer: torch.nn.Module,
        reader: ShardReader,
        checkpoints: Path,
        log: Log,
        sample: Callable[[int], None] | None = None,
    ):
        stage = as_the_card_computes(stage)
        self.stage, self.transformer, self.reader, self.log, self.sample = stage, transformer, reader, log, sample
        self.parallel = parallel = make_parallel(stage)
        self.share = stage.micro_batch(parallel.processes)
        check_stage(stage, reader)
        self.batches = batches_of(stage, transformer, reader)
        check_noise_levels(stage, self.batches.reads.bridge_level)
        self.root, self.name = checkpoints, run_name(stage, transformer, reader)
        torch.manual_seed(stage.seed)
        if stage.adapter is not None:
            add_lora(transformer, stage.adapter)  # type: ignore[arg-type]
        self.trained = [name for name, value in transformer.named_parameters() if value.requires_grad]
        self.learned = sum(value.numel() for value in transformer.parameters() if value.requires_grad)
        transformer.train()
        if stage.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()  # type: ignore[operator]
        self.meter = start_meter(stage, transformer, self.batches, parallel, log)
        self.forward = parallel.prepare(transformer)
        if stage.compile:
            self.forward = torch.compile(self.forward)
        self.average = parallel.make_average(transformer)
        self.held_out = HeldOut(self.batches, stage, stage.held_out, parallel.process, parallel.processes)
        self.step = self.first_step = self.scored_from = 0
        self.logged: list[tuple[dict[str, float], int]] = []

    def refuse_small_disk(self) -> None:
        """Every process raises what the main one finds; before a step is taken, and not when the first save fails."""
        found = None
        if self.parallel.is_main:
            folder = run_folder(self.root, self.name, self.stage)
            found = lack_of_room(folder, self.stage, self.step, self.learned)
        found = self.parallel.share(found)
        if found is not None:
            raise UserError(*found)

    def resume(self) -> None:
        """Go on from the last checkpoint of this run, if there is one."""
        args = (self.root, self.name, self.parallel, self.average, self.meter, self.stage)
        self.step, self.logged = load_last(*args)
        self.first_step = self.scored_from = self.step
        if self.parallel.is_main:  # what a stopped run had told, so that the record of the one that goes on is whole
            for values, at in self.logged:
                self.log(values, at)

    def run(self) -> None:
        """All steps that are left; the next batch is read while one is learned from."""
        last = self.stage.iterations - 1
        self.refuse_small_disk()
        if 0 < self.step <= last:
            self.show()  # a run that is told to stop leaves at once, and owes them
        with ThreadPoolExecutor(1) as ahead, terminate_flag() as terminated:
            following = ahead.submit(self.local_batch, self.step)
            while self.step <= last:
                waited = time.perf_counter()
                micro_batches = following.result()
                waited = time.perf_counter() - waited
                following = ahead.submit(self.local_batch, min(self.step + 1, last))
                told = self.learn(micro_batches, waited, terminated)
                self.after_step(told, terminated)

    def local_batch(self, number: int) -> list[dict[str, Any]]:
        """This process's part of the global batch `number`, in micro-batches."""
        stage, share = self.stage, self.share
        start = number * stage.batch_size + self.parallel.process * share * stage.accumulation
        parts = [range(start + part * share, start + (part + 1) * share) for part in range(stage.accumulation)]
        bridge = self.batches.reads.bridge_level
        return [prepare(self.batches(part), part, stage, bridge) for part in parts]

    def learn(self, micro_batches: list[dict[str, Any]], waited: float, terminated: Callable[[], bool]) -> bool:
        """One step of the optimiser and the average; whether any process was told to stop meanwhile."""
        stage, parallel, step = self.stage, self.parallel, self.step
        losses = [self.backward(batch, number) for number, batch in enumerate(micro_batches)]
        norm = parallel.clip(stage.gradient_clip)
        sigmas = torch.cat([batch["sigmas"] for batch in micro_batches]).to(losses[0])
        stop = torch.full_like(sigmas, terminated())  # told to one process, obeyed by all after the same step
        numbers = parallel.gather(torch.stack([torch.cat(losses), sigmas, stop], 1))
        refuse_not_finite(numbers[:, 0].tolist(), norm, step, stage, self.batches)
        parallel.step(stage.rate(step))
        self.average.update(decay_at(step, stage.ema))
        rows = range(step * stage.batch_size, (step + 1) * stage.batch_size)
        datasets = [self.batches.record(row).dataset for row in rows]
        self.meter.add(numbers[:, 0].tolist(), numbers[:, 1].tolist(), datasets, norm, waited)
        self.step += 1
        return bool(numbers[:, 2].any())

    def backward(self, batch: dict[str, Any], number: int) -> Tensor:
        """Gradients of micro-batch `number`; the losses of its samples."""
        batch = to_device(batch, self.parallel.device)
        with self.parallel.part_of_batch(last=number == self.stage.accumulation - 1):
            each = sample_losses(self.forward, batch, self.stage.precision, self.stage.contrast)
            self.parallel.backward(each.mean() / self.stage.accumulation)
        return each.detach()

    def after_step(self, told: bool, terminated: Callable[[], bool]) -> None:
        """What is due now: a log line, a checkpoint, samples; `SystemExit` (143) when the run was told to stop."""
        stage, step = self.stage, self.step
        done = step == stage.iterations
        if self.parallel.is_main and (step % stage.log_every == 0 or done):
            self.tell(self.meter.read(step))
        stopping = told or (self.parallel.processes == 1 and terminated())
        if stopping or done or step % stage.checkpoint_every == 0:
            self.save()
        if stopping:
            logger.warning("%s stopped by SIGTERM after step %d; run it again to go on", stage.name, step)
            raise SystemExit(143)
        if not done:
            self.show()

    def show(self) -> None:
        """Sample videos, where they are due; all processes must call it."""
        every = self.stage.sample_every
        if self.sample is None or not every or self.step % every:
            return
        started = time.perf_counter()
        with self.parallel.whole_model():
            self.sample(self.step)
        self.meter.leave_out(time.perf_counter() - started)

    def tell(self, values: dict[str, float]) -> None:
        """Log now, and again when a later process goes on from here."""
        self.log(values, self.step)
        self.logged.append((values, self.step))

    def save(self) -> None:
        """A checkpoint with its score: the held-out loss, or without one the mean loss since the last checkpoint."""
        started = time.perf_counter()
        if len(self.held_out):
            losses = self.held_out.losses(self.transformer, self.forward)
            score = float(self.parallel.gather(losses).mean())
            if self.parallel.is_main:
                self.tell({"held_out_loss": score})
        else:
            recent, self.scored_from = self.meter.history[self.scored_from :], len(self.meter.history)
            score = sum(recent) / len(recent)
        full = self.parallel.full_state(self.average)
        if full is not None:
            stage, index = self.stage, self.step * self.stage.batch_size
            state = {"stage": stage.name, "schedule": stage.schedule, "next_index": index}
            state |= {"score": score, "logged": self.logged, "meter": self.meter.state()}
            folder = run_folder(self.root, self.name, stage)
            save_checkpoint(folder, self.step, *full, state, stage.keep_checkpoints)
        self.meter.leave_out(time.perf_counter() - started)

    def finish(self, out: Path) -> dict[str, Any]:
        """The averaged weights into the model and `out`; returns the summary of `train`."""
        stage, parallel = self.stage, self.parallel
        averaged, adapter = parallel.whole_average(self.average), adapter_of(self.transformer)
        merged = merged_weights({**parallel.whole_weights(), **averaged}, adapter.settings) if adapter else averaged
        if stage.sharding != "zero3" or parallel.processes == 1:  # ZeRO-3's parts belong to its engine
            self.transformer.load_state_dict(self.average.values, strict=adapter is None)
        self.transformer.eval()
        summary = {
            "steps": self.step,
            "parameters": self.learned,
            "final_loss": self.meter.tail_mean(),
            "resumed_from": self.first_step,
            **self.meter.spent(),
        }
        if parallel.is_main:
            save_transformer(self.transformer, merged, out / "transformer")
            if adapter is not None:
                write_adapter(out / "adapter", {name: averaged[name] for name in self.trained}, adapter)
            record: dict[str, Any] = {
                "stage": stage.learned_from(),
                "shards": self.reader.hash,
                "vae_hash": self.reader.vae_hash,
            }
            record |= {"adapted": None if adapter is None else adapter.base}
            write_json(out / "training.json", {**record, "parameters": self.learned, "steps": self.step})
        parallel.wait()
        return summary


def as_the_card_computes(stage: StageConfig) -> StageConfig:
    """The stage in float32 where it asks for bf16 on a card that has it only in emulation, which is said once.

    The run is then one of float32 in every respect, its name and `training.json` included.
    """
    device = pick_device()
    return (
        stage
        if stage.precision != "bf16" or device.type != "cuda" or native_bf16(device)
        else replace(stage, precision="fp32")
    )


def start_meter(
    stage: StageConfig, transformer: torch.nn.Module, batches: Batches, parallel: Parallel, log: Log
) -> Meter:
    """A meter that knows what a step costs; the main process logs that cost as step 0."""
    config = getattr(transformer, "config", None)
    if config is None:
        return Meter(stage, parallel.device)
    costs = [  # a shape that the model does not take is refused here, before the first step
        (sample_work(config, stage.frames, height, width), share) for (height, width), share in batches.shapes().items()
    ]
    learned = sum(value.numel() for value in transformer.parameters() if value.requires_grad)
    tokens = round(sum(share * cost.tokens for cost, share in costs) * stage.batch_size)
    flops = round(sum(share * cost.flops for cost, share in costs) * stage.passes * stage.batch_size)
    peak = peak_flops(parallel.device, stage.precision)
    if parallel.is_main:
        log({"parameters": learned, "tokens_per_step": tokens, "flops_per_step": flops}, 0)
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
