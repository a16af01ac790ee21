"""One unit of work: what it needs, how it is run and published, and what is said about it; the same on every engine."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, write_json
from fportrait.devices import LOST_DEVICE, device_errors
from fportrait.errors import UserError

RESULT = "result.json"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Resources:
    """What one unit takes while it runs. `cpus` are also its numerical threads; `memory_gib` 0 means unknown."""

    cpus: int = 1
    gpus: int = 0
    memory_gib: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or not 0 <= self.memory_gib < float("inf"):
            raise UserError(f"the resources {self}", "cpus of 1 or more, the others not negative", "correct them")


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


@dataclass(frozen=True)
class Task:
    """A unit that has no result yet: its place in the list, the folder its result becomes, and what it needs."""

    index: int
    unit: Any
    folder: Path
    resources: Resources


Answers = Iterator[tuple[int, dict[str, Any]]]  # index of the unit, and the answer of `work` or `killed`
Engine = Callable[[Callable[[Any, Path], Any], Sequence[Task], int], Answers]


def read_result(folder: Path) -> dict[str, Any] | None:
    """The published result of a unit, or None when there is none (or none that can be read: it is made again)."""
    try:
        result = json.loads((folder / RESULT).read_text())
        return result if "value" in result else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def work(function: Callable[[Any, Path], Any], unit: Any, folder: Path) -> dict[str, Any]:
    """Run one unit and publish its folder; the answer is JSON-like in every case."""
    started = time.perf_counter()
    try:
        with atomic_folder(folder) as temporary:
            with device_errors():
                value = function(unit, temporary)
            write_json(temporary / RESULT, {"value": value})
        value = json.loads((folder / RESULT).read_text())["value"]  # what a later, resumed run will see
        return {"status": "done", "value": value, "seconds": time.perf_counter() - started}
    except UserError as error:
        found = getattr(error, "found", "")
        stop = [found, error.expected, error.fix] if found.startswith(("a full disk", LOST_DEVICE)) else None
        return {"status": "refused", "reason": str(error), "stop": stop}  # what every other unit would meet, too
    except Exception:
        return {"status": "broken", "reason": traceback.format_exc()}


def killed(how: str) -> dict[str, Any]:
    """The answer for a unit whose process died."""
    return {"status": "killed", "reason": f"its process died with {how} (killed, or out of memory)"}
