"""What it costs to plan, hand out and join ever more units: seconds and memory at 10,000 to 360,000.

    python benchmarks/scale_units.py [UNITS ...]
    python benchmarks/scale_units.py --ray 500 2000 4000

The paper's PhoneCapture has 11,976 people with 30 clips each, 359,280 in all. A unit here is as good as empty, so that
what is measured is the engine. `plan`: name units, look for their results, run a function that refuses at once.
`hand out`: give them to two processes that answer at once. `join`: one table a person (for thirty units), of `ROWS`
rows of the full width as units leave them, into `frames.parquet`; the same parts are read again and again.
Linear means that a unit costs the same in the largest run as in the smallest. With `--ray`, the same numbers of units
that write one file each go through Ray on this machine and through the local pool, in turns, both started before.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _result import write_result

from fportrait.scale import local
from fportrait.scale.map_engine import map_units
from fportrait.scale.units import Resources, Task
from fportrait.tables.annotations import join_frames, write_frames

COUNTS, ROWS, WORKERS, PARTS = (10_000, 40_000, 360_000), 60, 2, 20


class Echoes(local._Pool):
    """The engine's pool, with processes that answer at once and write nothing: what is left is the handing out."""

    def _start(self, devices: list[str]) -> tuple[Any, Any]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=echo, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return ours, process


def echo(pipe: Any) -> None:
    while (task := pipe.recv()) is not None:
        pipe.send({"status": "done", "value": task[0], "seconds": 0.0})


def refuse(unit: int, folder: Path) -> int:
    from fportrait.errors import UserError

    raise UserError("a unit of the benchmark", "none", "nothing")


def plan(count: int, folder: Path) -> float:
    """Name every unit, look for its result, and run a function that leaves none."""
    started = time.perf_counter()
    report = map_units(refuse, range(count), cache_folder=folder, key=lambda unit: ["version", {"size": 64}, unit])
    assert len(report.failures) == count
    return time.perf_counter() - started


def hand_out(count: int) -> float:
    tasks = [Task(index, index, Path("unused"), Resources()) for index in range(count)]
    started = time.perf_counter()
    answers = sum(1 for _ in Echoes(refuse, tasks, WORKERS).run())
    assert answers == count
    return time.perf_counter() - started


def join(people: int, folder: Path) -> tuple[float, float]:
    """Seconds, and MiB of the table."""
    import pandas as pd

    from helpers.tables import clip_rows, write_tables

    parts = []
    for person in range(PARTS):
        part = folder / f"{person}"
        write_tables(part, clip_rows("PhoneCapture", f"p{person}", "s0", ROWS, "train", person), [{"identity": "x"}])
        parts.append(part / "frames.parquet")
        write_frames(parts[-1], pd.read_parquet(parts[-1]))
    started = time.perf_counter()
    rows = join_frames(folder / "frames.parquet", [parts[person % PARTS] for person in range(people)])
    assert rows == people * ROWS
    return time.perf_counter() - started, (folder / "frames.parquet").stat().st_size / 2**20


def note(unit: int, folder: Path) -> int:
    (folder / "unit.txt").write_text(str(unit))
    return unit


def processor_seconds() -> float:
    """Of this process, of those it started, and of theirs: what other work on the machine does not lengthen much."""
    import psutil

    total = sum(os.times()[:4])
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return total


def beside_ray(counts: list[int]) -> None:
    """Seconds of an engine that runs, for ever more units; a unit's own cost should not grow."""
    import ray

    from fportrait.scale.engines import use_engine

    rows = []
    for engine in ("ray", "local"):
        with use_engine(engine), tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            map_units(note, [0], workers=WORKERS, cache_folder=Path(folder) / "first", key=str)
            start = time.perf_counter() - started
            for count in counts:
                started, before = time.perf_counter(), processor_seconds()
                report = map_units(note, range(count), workers=WORKERS, cache_folder=Path(folder) / f"{count}", key=str)
                assert len(report.results) == count
                seconds = time.perf_counter() - started
                row: dict[str, Any] = {"engine": engine, "units": count, "seconds": round(seconds, 2)}
                row |= {"processor_s": round(processor_seconds() - before, 2), "start_s": round(start, 2)}
                rows.append(row)
                print(rows[-1], flush=True)
    ray.shutdown()
    by = {(row["engine"], row["units"]): row["processor_s"] / row["units"] for row in rows}
    last, first = max(counts), min(counts)
    result = write_result(
        "scale_units_ray",
        f"a unit among {last} on Ray, over a unit among {first}",
        by["ray", last] / by["ray", first],
        "of a unit's processor seconds",
        1.5,
        1,
        by_count=rows,
        ray_over_local=round(by["ray", last] / by["local", last], 2),
    )
    print({key: result[key] for key in ("ours", "bound", "holds", "ray_over_local")})


def main() -> None:
    if sys.argv[1:2] == ["--ray"]:
        return beside_ray([int(text) for text in sys.argv[2:]] or [500, 2000, 4000])
    counts = [int(text) for text in sys.argv[1:]] or list(COUNTS)
    measured = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            row = {"units": count, "plan_s": plan(count, Path(folder) / "cache"), "hand_out_s": hand_out(count)}
            row["join_s"], row["joined_mib"] = join(count // 30, Path(folder))
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        measured.append({name: round(value, 2) for name, value in row.items()})
        print(measured[-1], flush=True)
    last, first = measured[-1], measured[0]
    total = last["plan_s"] + last["hand_out_s"] + last["join_s"]
    growth = total / last["units"] / ((first["plan_s"] + first["hand_out_s"] + first["join_s"]) / first["units"])
    result = write_result(
        "scale_units",
        f"{last['units']} units planned, handed out and joined",
        total,
        "s",
        600,
        1,
        by_count=measured,
        cost_of_a_unit_last_over_first=round(growth, 2),
    )
    print({key: result[key] for key in ("ours", "bound", "holds")}, f"a unit costs {growth:.2f} of the first run's")


if __name__ == "__main__":
    main()
