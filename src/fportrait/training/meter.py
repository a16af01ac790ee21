"""What a trainer watches: losses by dataset and noise level, and where the time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from fportrait.training.config import StageConfig

NOISE_LEVELS = 4
MIB = 1024**2


class Meter:
    """Means since the last reading.

    Args:
        tokens, flops: of one step over all processes; `flops` 0 when they are not known.
        peak: operations per second of all devices together; None leaves `mfu` (model FLOPs utilisation) out.
    """

    def __init__(
        self, stage: StageConfig, device: torch.device, tokens: int = 0, flops: int = 0, peak: float | None = None
    ):
        self.stage, self.device, self.tokens, self.flops, self.peak = stage, device, tokens, flops, peak
        self.history: list[float] = []
        self.born, self.earlier = (time.perf_counter(), time.process_time()), (0.0, 0.0)
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.started, self.waited, self.paused, self.steps = time.perf_counter(), 0.0, 0.0, 0

    def add(
        self, losses: Sequence[float], sigmas: Sequence[float], datasets: Sequence[str], norm: float, waited: float
    ) -> None:
        """One step: loss, noise level and dataset of every sample of the global batch; seconds waited for data."""
        self.history.append(sum(losses) / len(losses))
        self.sums["loss"].append(self.history[-1])
        self.sums["grad_norm"].append(norm)
        for loss, sigma, dataset in zip(losses, sigmas, datasets, strict=True):
            self.sums[f"loss_{dataset}"].append(loss)
            level = min(int(sigma * NOISE_LEVELS), NOISE_LEVELS - 1)
            self.sums[f"loss_sigma_{level / NOISE_LEVELS:.2f}"].append(loss)
        self.waited += waited
        self.steps += 1

    def leave_out(self, seconds: float) -> None:
        """Seconds spent on checkpoints, held-out scores and samples: no part of a step."""
        self.paused += seconds

    def read(self, step: int) -> dict[str, float]:
        """Means after `step` steps; a reading between the regular ones (a run's last) takes nothing from the next."""
        seconds = max(time.perf_counter() - self.started - self.paused, 1e-9)
        metrics = {name: sum(values) / len(values) for name, values in sorted(self.sums.items())}
        metrics |= {
            "learning_rate": self.stage.rate(step - 1),
            "seconds_per_step": seconds / self.steps,
            "tokens_per_second": self.tokens * self.steps / seconds,
            "data_wait_fraction": self.waited / seconds,
            "samples": step * self.stage.batch_size,
            "memory_mib": memory_mib(self.device),
        }
        if self.flops and self.peak:
            metrics["mfu"] = self.flops * self.steps / seconds / self.peak
        if step % self.stage.log_every == 0:
            self._clear()
        return metrics

    def state(self) -> dict[str, Any]:
        """What a run that goes on needs in order to tell what an uninterrupted one would."""
        return {"history": self.history, "sums": self.sums, "spent": self.spent()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.history, self.earlier = list(state["history"]), (state["spent"]["seconds"], state["spent"]["cpu_seconds"])
        self.sums = defaultdict(list, {name: list(values) for name, values in state["sums"].items()})

    def spent(self) -> dict[str, float]:
        """Seconds of all steps, those before an interruption among them, and of this process's CPU time."""
        now = time.perf_counter(), time.process_time()
        wall, busy = (e + n - b for e, n, b in zip(self.earlier, now, self.born, strict=True))
        return {"seconds": wall, "cpu_seconds": busy}

    def tail_mean(self) -> float:
        """Mean loss over the last tenth of all steps."""
        tail = self.history[-max(1, len(self.history) // 10) :]
        return sum(tail) / len(tail)


def memory_mib(device: torch.device) -> float:
    """The maximum that this process has used: of the device's memory, or of the machine's without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / MIB if sys.platform == "darwin" else peak / 1024
