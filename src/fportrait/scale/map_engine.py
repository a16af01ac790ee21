"""Run one function over many units of work, each result kept under a name that says what made it.

A unit's result is a folder `cache_folder/HASH`: the files the function wrote, and `result.json` with the value it
returned. HASH names the code version, the parameters and the input (`key`), so a run that died picks up where it
stopped and never reuses a result made under other parameters. A unit that raises `UserError`, or whose worker process
dies, becomes a failure with a reason while the rest goes on.

The pool is our own forty lines because `concurrent.futures` drops every pending unit when one worker dies.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, value_hash, write_json
from fportrait.errors import UserError

RESULT = "result.json"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class UnitResult:
    """`value` is what the function returned; `folder` holds the files it wrote; `cached` tells it was there before."""

    unit: Any
    folder: Path
    value: Any
    cached: bool
    seconds: float


@dataclass(frozen=True)
class UnitFailure:
    """A unit without result. `kind` is `refused` (the function raised `UserError`) or `killed` (its process died)."""

    unit: Any
    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class MapReport:
    """`results` and `failures`, both in the order of the units given."""

    results: list[UnitResult] = field(default_factory=list)
    failures: list[UnitFailure] = field(default_factory=list)


def map_units(
    function: Callable[[Any, Path], Any],
    units: Sequence[Any],
    *,
    workers: int = 0,
    cache_folder: str | Path,
    key: Callable[[Any], Any],
    progress: str | None = None,
) -> MapReport:
    """Call `function(unit, folder)` for every unit that has no result yet.

    Args:
        function: writes its files into `folder` (empty, temporary) and returns a JSON-like value. With `workers` above
            one it must be importable by name (a module-level function or a `functools.partial` of one).
        workers: 0 or 1 runs here; more starts that many processes, each with one numerical thread.
        key: maps a unit to a JSON-like value with the code version, the parameters used and the input (paths with
            content hashes). It names the result.
        progress: title of a progress bar with the time left; None shows none.

    Raises:
        UserError: two units share a key, or the disk is full.
        RuntimeError: the function raised anything but `UserError`; finished results stay.
    """
    cache_folder = Path(cache_folder)
    names = [value_hash(key(unit)) for unit in units]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        pair = [str(unit) for unit, name in zip(units, names, strict=True) if name == twice][:2]
        raise UserError(f"the same key for {' and '.join(pair)}", "one key per unit", "name the input in the key")
    outcomes: dict[int, UnitResult | UnitFailure] = {}
    todo = []
    for index, (unit, name) in enumerate(zip(units, names, strict=True)):
        value = _read(cache_folder / name)
        if value is None:
            todo.append(index)
        else:
            outcomes[index] = UnitResult(unit, cache_folder / name, value["value"], True, 0.0)

    with _bar(progress, len(units), len(outcomes)) as tick:
        run = _run_here if workers <= 1 or len(todo) <= 1 else _run_in_processes
        for index, answer in run(function, units, names, todo, cache_folder, workers):
            if answer["status"] == "done":
                outcomes[index] = UnitResult(
                    units[index], cache_folder / names[index], answer["value"], False, answer["seconds"]
                )
            elif answer["status"] in ("refused", "killed"):
                if answer.get("full_disk"):
                    raise UserError(*answer["full_disk"])
                outcomes[index] = UnitFailure(units[index], names[index], answer["status"], answer["reason"])
            else:
                raise RuntimeError(f"the unit {units[index]} failed:\n{answer['reason']}")
            tick()
    ordered = [outcomes[index] for index in range(len(units))]
    return MapReport(
        [outcome for outcome in ordered if isinstance(outcome, UnitResult)],
        [outcome for outcome in ordered if isinstance(outcome, UnitFailure)],
    )


def _read(folder: Path) -> dict | None:
    try:
        return json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        return None


def _work(function: Callable, unit: Any, folder: Path) -> dict:
    """Run one unit and publish its folder; the answer is JSON-like in every case."""
    started = time.perf_counter()
    try:
        with atomic_folder(folder) as temporary:
            value = function(unit, temporary)
            write_json(temporary / RESULT, {"value": value})
        value = json.loads((folder / RESULT).read_text())["value"]  # what a later, resumed run will see
        return {"status": "done", "value": value, "seconds": time.perf_counter() - started}
    except UserError as error:
        full = [error.found, error.expected, error.fix] if error.found.startswith("a full disk") else None
        return {"status": "refused", "reason": str(error), "full_disk": full}
    except Exception:
        return {"status": "broken", "reason": traceback.format_exc()}


Answers = Iterator[tuple[int, dict]]


def _run_here(
    function: Callable, units: Sequence, names: list[str], todo: list[int], folder: Path, workers: int
) -> Answers:
    for index in todo:
        yield index, _work(function, units[index], folder / names[index])


def _run_in_processes(
    function: Callable, units: Sequence, names: list[str], todo: list[int], folder: Path, workers: int
) -> Answers:
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(todo))
    busy: dict[Connection, tuple[Any, int]] = {}  # our end of the pipe -> (process, index of its unit)

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _one_thread_each():
            process.start()
        theirs.close()
        give(ours, process)

    def give(pipe: Connection, process: Any) -> None:
        index = waiting.pop()
        busy[pipe] = (process, index)
        pipe.send((units[index], folder / names[index]))

    try:
        for _ in range(min(workers, len(todo))):
            start()
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, index = busy.pop(ready)
                try:
                    answer = ready.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    reason = f"its process died with exit code {process.exitcode} (killed, or out of memory)"
                    answer = {"status": "killed", "reason": reason}
                yield index, answer
                if waiting and answer["status"] == "killed":
                    start()
                elif waiting:
                    give(ready, process)
                elif answer["status"] != "killed":
                    ready.send(None)
                    process.join()
    finally:
        for process, _ in busy.values():
            process.terminate()


def _serve(pipe: Connection, function: Callable) -> None:
    """A worker process: answer units until told None or until the driver is gone."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (task := pipe.recv()) is not None:
            pipe.send(_work(function, *task))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Child processes read these variables when they import their numerical libraries."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _bar(title: str | None, total: int, done: int) -> Iterator[Callable[[], object]]:
    if title is None:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=title, unit="unit") as bar:
        yield bar.update
