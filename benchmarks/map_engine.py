"""What the map engine costs per unit, beside the standard library's process pool, and on Ray if it is installed.

    python benchmarks/map_engine.py

Units are tiny (a few milliseconds of arithmetic), so that what is measured is the engine. The engine writes a result
folder for each, fsynced and renamed; the pool of `concurrent.futures` keeps nothing, so it is given the same writing to
do. Both run the same units in turns within one run; `ratio` is the pool's time over ours.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _result import write_result

from fportrait.scale.engines import use_engine
from fportrait.scale.map_engine import map_units
from fportrait.scale.units import work

UNITS, ROUNDS, WORKERS = 200, 5, 2


def small(unit: int, folder: Path) -> int:
    """About five milliseconds of Python."""
    (folder / "value.txt").write_text(str(unit))
    return sum(i * i % 7 for i in range(60_000)) + unit


def ours(folder: Path) -> list[int]:
    report = map_units(small, range(UNITS), workers=WORKERS, cache_folder=folder, key=lambda unit: unit)
    return [result.value for result in report.results]


def theirs(folder: Path) -> list[int]:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        folders = [folder / f"{unit:04d}" for unit in range(UNITS)]
        return [answer["value"] for answer in pool.map(partial(work, small), range(UNITS), folders)]


def timed(run) -> tuple[float, list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        values = run(Path(folder))
        return time.perf_counter() - started, values


def resumed() -> float:
    """Seconds to find that all units are done already."""
    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))
        started = time.perf_counter()
        ours(Path(folder))
        return time.perf_counter() - started


def on_ray() -> dict[str, float] | None:
    try:
        import ray
    except ImportError:
        return None
    started = time.perf_counter()
    with use_engine("ray"):
        map_units(small, [0], workers=WORKERS, cache_folder=tempfile.mkdtemp(), key=lambda unit: unit)
        start = time.perf_counter() - started
        seconds = [timed(ours)[0] for _ in range(2)]
    ray.shutdown()
    return {"start_and_first_unit_s": round(start, 2), "s": round(min(seconds), 3)}


def main() -> None:
    mine, pool = [], []
    for _ in range(ROUNDS):
        (first, values), (second, others) = timed(ours), timed(theirs)
        assert values == others
        mine.append(first)
        pool.append(second)
    result = write_result(
        "map_engine",
        f"{UNITS} units of about 5 ms in {WORKERS} processes, start of the processes included",
        statistics.median(mine),
        "s",
        0.8,
        ROUNDS,
        statistics.median(pool),
        "concurrent.futures.ProcessPoolExecutor",
        all_ours=mine,
        all_theirs=pool,
        resumed_s=round(resumed(), 3),
        ray=on_ray(),
    )
    print({key: result[key] for key in ("ours", "theirs", "ratio", "bound", "holds", "resumed_s", "ray")})


if __name__ == "__main__":
    main()
