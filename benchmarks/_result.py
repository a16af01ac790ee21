"""The one form of a benchmark's result, so that all of them can be read side by side."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from fportrait.atomic_io import write_json

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def write_result(
    name: str,
    what: str,
    ours: float,
    unit: str,
    bound: float,
    n: int,
    theirs: float | None = None,
    peer: str | None = None,
    lower_is_better: bool = True,
    **more: Any,
) -> dict[str, Any]:
    """Write `benchmarks/results/NAME.json`; the bound holds for `ratio` when there is a peer, else for `ours`.

    `ratio` is how many times better we are than the peer, so larger is better whatever the unit.
    """
    ratio = None
    if theirs is not None:
        ratio = theirs / ours if lower_is_better else ours / theirs
    if ratio is not None:
        holds = ratio >= bound
    else:
        holds = ours <= bound if lower_is_better else ours >= bound
    result = {
        **{"name": name, "what": what, "ours": ours, "theirs": theirs, "peer": peer, "unit": unit, "ratio": ratio},
        **{"bound": bound, "holds": holds, "n": n, "machine": machine(), **more},
    }
    write_json(RESULTS / f"{name}.json", result)
    return result
