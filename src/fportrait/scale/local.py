"""Units on this machine: here, or in processes that are started as CPU slots, memory and GPUs allow.

The pool is our own because `concurrent.futures` drops every pending unit when one worker dies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fportrait.errors import UserError
from fportrait.scale.units import THREAD_VARIABLES, Answers, Resources, Task, killed, work

MEMORY_SHARE = 0.9  # of this machine's memory that declared units may fill


def run_locally(function: Callable[[Any, Path], Any], tasks: Sequence[Task], workers: int) -> Answers:
    """The default engine: with one worker (or one unit) here, else in `workers` CPU slots."""
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task.index, work(function, task.unit, task.folder)
        return
    yield from _Pool(function, tasks, workers).run()


class _Pool:
    """Processes that each take one unit after the other; a dead one costs its own unit and is replaced."""

    def __init__(self, function: Callable[[Any, Path], Any], tasks: Sequence[Task], workers: int):
        self.context = multiprocessing.get_context("spawn")
        self.function = function
        self.waiting = list(tasks)
        self.slots = workers
        self.threads = max(min(task.resources.cpus, workers) for task in tasks)
        self.gpus = _visible_gpus() if any(task.resources.gpus for task in tasks) else []
        self.memory_gib = _memory_gib() * MEMORY_SHARE if any(task.resources.memory_gib for task in tasks) else 0.0
        self.idle: list[tuple[Connection, Any]] = []
        self.busy: dict[Connection, tuple[Any, Task, list[str]]] = {}  # our end of the pipe -> process, unit, GPUs

    def run(self) -> Answers:
        try:
            yield from self._refuse_what_never_fits()
            self._hand_out()
            while self.busy:
                for ready in wait(list(self.busy)):
                    assert isinstance(ready, Connection)
                    process, task, devices = self.busy.pop(ready)
                    self.gpus += devices
                    try:
                        answer = ready.recv()
                    except (EOFError, ConnectionResetError):
                        process.join()
                        answer = killed(f"exit code {process.exitcode}")
                    else:
                        if devices:  # CUDA remembers the devices that a process saw first
                            self._dismiss(ready, process)
                        else:
                            self.idle.append((ready, process))
                    self._hand_out()
                    yield task.index, answer
            for pipe, process in self.idle:
                self._dismiss(pipe, process)
        finally:
            for process, _, _ in self.busy.values():
                process.terminate()

    def _refuse_what_never_fits(self) -> Answers:
        for task in list(self.waiting):
            needs = task.resources
            if needs.gpus > len(self.gpus) or (needs.memory_gib and needs.memory_gib > self.memory_gib):
                self.waiting.remove(task)
                reason = UserError(
                    f"a unit that needs {needs.gpus} GPUs and {needs.memory_gib:g} GiB",
                    f"at most {len(self.gpus)} GPUs and {self.memory_gib:.0f} GiB",
                    "run it on a larger machine, or lower what it declares",
                )
                yield task.index, {"status": "refused", "reason": str(reason)}

    def _hand_out(self) -> None:
        """Give every unit that fits now to a process, in order; a later, smaller one may overtake a large one."""
        for task in list(self.waiting):
            if not self._fits(task.resources):
                continue
            self.waiting.remove(task)
            devices = [self.gpus.pop() for _ in range(task.resources.gpus)]
            pipe, process = self.idle.pop() if self.idle and not devices else self._start(devices)
            self.busy[pipe] = (process, task, devices)
            pipe.send((task.unit, task.folder))

    def _fits(self, needs: Resources) -> bool:
        running = [task.resources for _, task, _ in self.busy.values()]
        slots = sum(min(one.cpus, self.slots) for one in running) + min(needs.cpus, self.slots)
        memory = sum(one.memory_gib for one in running) + needs.memory_gib
        return slots <= self.slots and needs.gpus <= len(self.gpus) and (not memory or memory <= self.memory_gib)

    def _start(self, devices: list[str]) -> tuple[Connection, Any]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.function), daemon=True)
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        if devices:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        with _environment(variables):
            process.start()
        theirs.close()
        return ours, process

    @staticmethod
    def _dismiss(pipe: Connection, process: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(None)
        process.join()


def _serve(pipe: Connection, function: Callable[[Any, Path], Any]) -> None:
    """A worker process: answer units until told None or until the driver is gone."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (task := pipe.recv()) is not None:
            pipe.send(work(function, *task))


def _visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [device for device in listed.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _memory_gib() -> float:
    import psutil

    return psutil.virtual_memory().total / 2**30


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Child processes read these when they import their numerical libraries."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
