"""Units on Ray: on this machine, or on a cluster whose nodes see the same files under the same paths."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fportrait.errors import UserError
from fportrait.scale.units import THREAD_VARIABLES, Answers, Task, killed, work

IN_FLIGHT_PER_CPU = 4  # tasks handed to Ray ahead of time; all of them at once would fill its object store


def run_on_ray(function: Callable[[Any, Path], Any], tasks: Sequence[Task], workers: int, address: str = "") -> Answers:
    """Every unit as one Ray task without retries, so that a worker's death is told as a failure, as it is locally.

    Raises:
        UserError: Ray is not installed or its cluster cannot be reached.
    """
    if not tasks:
        return
    ray = _connect(address, workers)
    remote = ray.remote(work)
    shared = ray.put(function)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * IN_FLIGHT_PER_CPU
    waiting = list(reversed(tasks))
    running: dict[Any, Task] = {}

    def submit(task: Task) -> None:
        needs = task.resources
        options: dict[str, Any] = {"num_cpus": needs.cpus, "max_retries": 0}
        if needs.cpus > 1:  # an environment of its own costs a fresh worker process
            options["runtime_env"] = {"env_vars": dict.fromkeys(THREAD_VARIABLES, str(needs.cpus))}
        if needs.gpus:
            options["num_gpus"] = needs.gpus
        if needs.memory_gib:
            options["memory"] = int(needs.memory_gib * 2**30)
        running[remote.options(**options).remote(shared, task.unit, task.folder.absolute())] = task

    try:
        while waiting or running:
            while waiting and len(running) < limit:
                submit(waiting.pop())
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                task = running.pop(reference)
                try:
                    yield task.index, ray.get(reference)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                    yield task.index, killed(type(error).__name__)
                except ray.exceptions.RayError as error:  # for example a unit that no node can hold
                    yield task.index, {"status": "broken", "reason": str(error)}
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _connect(address: str, workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        fix = "pip install 'fportrait[ray]', or set scale.engine: local"
        raise UserError("no Ray", "the extra 'ray'", fix) from None
    if not ray.is_initialized():
        variables = dict.fromkeys(THREAD_VARIABLES, "1")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address:
                ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
            else:  # its workers find what this process finds, installed or not
                variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
                ray.init(
                    num_cpus=max(1, workers), include_dashboard=False, runtime_env={"env_vars": variables}, **quiet
                )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise UserError(
                f"no Ray cluster at '{address or 'this machine'}' ({str(error).splitlines()[0][:120]})",
                "a running cluster",
                "start one with `ray start --head`, or correct scale.address",
            ) from None
    return ray
