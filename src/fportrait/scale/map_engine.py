"""Run one function over many units of work, each result kept under a name that says what made it.

A unit's result is a folder `cache_folder/HASH`: the files the function wrote, and `result.json` with the value it
returned. HASH names the code version, the parameters and the input (`key`), so a run that died picks up where it
stopped and never reuses a result made under other parameters. A unit that raises `UserError`, or whose worker process
dies, becomes a failure with a reason while the rest goes on; failures are also listed in `cache_folder/failures.json`.

Who runs the units is the engine's business (`engines.py`): processes of this machine by default, Ray by configuration.
Names, results, failures and their order are the same on both.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fportrait.atomic_io import value_hash, write_json
from fportrait.errors import UserError
from fportrait.scale.engines import current_engine
from fportrait.scale.units import MapReport, Resources, Task, UnitFailure, UnitResult, read_result

__all__ = ["MapReport", "Resources", "UnitFailure", "UnitResult", "map_units"]
FAILURES = "failures.json"


def map_units(
    function: Callable[[Any, Path], Any],
    units: Sequence[Any],
    *,
    workers: int = 0,
    cache_folder: str | Path,
    key: Callable[[Any], Any],
    progress: str | None = None,
    resources: Resources | Callable[[Any], Resources] = Resources(),  # noqa: B008  # frozen
) -> MapReport:
    """Call `function(unit, folder)` for every unit that has no result yet.

    Args:
        function: writes its files into `folder` (empty, temporary) and returns a JSON-like value. Unless it runs here
            it must be importable by name (a module-level function or a `functools.partial` of one).
        workers: local engine: 0 or 1 runs here; more is the number of CPU slots, each unit taking `resources.cpus`.
            Ray: CPUs of the instance that is started here; a cluster knows its own.
        key: maps a unit to a JSON-like value with the code version, the parameters used and the input (paths with
            content hashes). It names the result.
        progress: title of a progress bar with the time left; None shows none.
        resources: what each unit takes while it runs.

    Raises:
        UserError: two units share a key, the disk is full, a GPU is gone, or the engine is not installed or not
            reachable.
        RuntimeError: the function raised anything but `UserError`; finished results stay.
    """
    cache_folder = Path(cache_folder)
    names = [value_hash(key(unit)) for unit in units]
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        pair = [str(unit) for unit, name in zip(units, names, strict=True) if name == twice][:2]
        raise UserError(f"the same key for {' and '.join(pair)}", "one key per unit", "name the input in the key")
    outcomes: dict[int, UnitResult | UnitFailure] = {}
    todo: list[Task] = []
    for index, (unit, name) in enumerate(zip(units, names, strict=True)):
        folder = cache_folder / name
        result = read_result(folder)
        if result is None:
            todo.append(Task(index, unit, folder, resources(unit) if callable(resources) else resources))
        else:
            outcomes[index] = UnitResult(unit, folder, result["value"], True, 0.0)

    with _bar(progress, len(units), len(outcomes)) as tick:
        for index, answer in current_engine()(function, todo, workers):
            unit, name = units[index], names[index]
            if answer["status"] == "done":
                outcomes[index] = UnitResult(unit, cache_folder / name, answer["value"], False, answer["seconds"])
            elif answer["status"] in ("refused", "killed"):
                if answer.get("stop"):
                    raise UserError(*answer["stop"])
                outcomes[index] = UnitFailure(unit, name, answer["status"], answer["reason"])
            else:
                raise RuntimeError(f"the unit {unit} failed:\n{answer['reason']}")
            tick()
    ordered = [outcomes[index] for index in range(len(units))]
    failures = [outcome for outcome in ordered if isinstance(outcome, UnitFailure)]
    listed = [{"unit": str(one.unit), "name": one.name, "kind": one.kind, "reason": one.reason} for one in failures]
    if listed or (cache_folder / FAILURES).exists():
        write_json(cache_folder / FAILURES, listed)
    return MapReport([outcome for outcome in ordered if isinstance(outcome, UnitResult)], failures)


@contextlib.contextmanager
def _bar(title: str | None, total: int, done: int) -> Iterator[Callable[[], object]]:
    if title is None:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=title, unit="unit") as bar:
        yield bar.update
