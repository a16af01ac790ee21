"""Units on this machine: here, or in processes that are started as CPU slots, memory and GPUs allow.

The pool is our own because `concurrent.futures` drops every pending unit when one worker dies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
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
    """Processes that each take one unit after the other; a dead one costs its own unit and is replaced.

    Units that need the same wait in one line, so that handing one out costs the same however many wait. A process
    keeps the GPUs that it was started with, because CUDA remembers those that it saw first: units that need as many
    follow each other there, and what the first one loaded is loaded for all.
    """

    def __init__(self, function: Callable[[Any, Path], Any], tasks: Sequence[Task], workers: int):
        self.context = multiprocessing.get_context("spawn")
        self.function = function
        self.lines: dict[Resources, deque[Task]] = {}
        for task in tasks:
            self.lines.setdefault(task.resources, deque()).append(task)
        self.slots = self.free_slots = workers
        self.threads = max(min(needs.cpus, workers) for needs in self.lines)
        self.gpus = _visible_gpus() if any(needs.gpus for needs in self.lines) else []
        self.memory_gib = _memory_gib() * MEMORY_SHARE if any(needs.memory_gib for needs in self.lines) else 0.0
        self.used_gib = 0.0
        self.idle: list[tuple[Connection, Any, list[str]]] = []
        self.busy: dict[Connection, tuple[Any, Task, list[str]]] = {}  # our end of the pipe -> process, unit, GPUs

    def run(self) -> Answers:
        try:
            yield from self._refuse_what_never_fits()
            self._hand_out()
            while self.busy:
                for ready in wait(list(self.busy)):
                    assert isinstance(ready, Connection)
                    process, task, devices = self.busy.pop(ready)
                    self._give_back(task.resources)
                    try:
                        answer = ready.recv()
                    except (EOFError, ConnectionResetError):
                        process.join()
                        answer = killed(f"exit code {process.exitcode}")
                        self.gpus += devices
                    else:
                        self.idle.append((ready, process, devices))
                        if devices and answer["status"] != "done":  # a card's error stays with its process
                            self._dismiss(len(self.idle) - 1)
                    self._hand_out()
                    yield task.index, answer
            while self.idle:
                self._dismiss(0)
        finally:
            for process, _, _ in self.busy.values():
                process.terminate()

    def _refuse_what_never_fits(self) -> Answers:
        for needs in list(self.lines):
            if needs.gpus <= len(self.gpus) and (not needs.memory_gib or needs.memory_gib <= self.memory_gib):
                continue
            reason = UserError(
                f"a unit that needs {needs.gpus} GPUs and {needs.memory_gib:g} GiB",
                f"at most {len(self.gpus)} GPUs and {self.memory_gib:.0f} GiB",
                "run it on a larger machine, or lower what it declares",
            )
            for task in self.lines.pop(needs):
                yield task.index, {"status": "refused", "reason": str(reason)}

    def _hand_out(self) -> None:
        """Give units to processes while any fits, the first of those that do; a small one may overtake a large one."""
        while fitting := [line for needs, line in self.lines.items() if self._fits(needs)]:
            line = min(fitting, key=lambda line: line[0].index)
            task = line.popleft()
            needs = task.resources
            if not line:
                del self.lines[needs]
            self.free_slots -= min(needs.cpus, self.slots)
            self.used_gib += needs.memory_gib
            pipe, process, devices = self._process_for(task)
            self.busy[pipe] = (process, task, devices)

    def _process_for(self, task: Task) -> tuple[Connection, Any, list[str]]:
        """A process that has been sent the unit: an idle one with as many GPUs, else a new one."""
        count = task.resources.gpus
        while alike := [number for number, (_, _, devices) in enumerate(self.idle) if len(devices) == count]:
            pipe, process, devices = self.idle[alike[-1]]
            try:
                pipe.send((task.unit, task.folder))
            except OSError:  # it died while it had nothing to do
                self._dismiss(alike[-1])
                continue
            return self.idle.pop(alike[-1])
        while len(self.gpus) < count:
            self._dismiss(next(number for number, (_, _, devices) in enumerate(self.idle) if devices))
        devices = [self.gpus.pop() for _ in range(count)]
        pipe, process = self._start(devices)
        pipe.send((task.unit, task.folder))
        return pipe, process, devices

    def _give_back(self, needs: Resources) -> None:
        self.free_slots += min(needs.cpus, self.slots)
        self.used_gib = self.used_gib - needs.memory_gib if self.busy else 0.0  # no sum of roundings is kept

    def _fits(self, needs: Resources) -> bool:
        memory = self.used_gib + needs.memory_gib
        return (
            min(needs.cpus, self.slots) <= self.free_slots
            and needs.gpus <= len(self.gpus) + sum(len(devices) for _, _, devices in self.idle)
            and (not memory or memory <= self.memory_gib)
        )

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

    def _dismiss(self, number: int) -> None:
        """End an idle process; its GPUs are free again."""
        pipe, process, devices = self.idle.pop(number)
        with contextlib.suppress(OSError):
            pipe.send(None)
        process.join()
        self.gpus += devices


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
