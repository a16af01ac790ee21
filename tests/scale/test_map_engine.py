"""The map engine: named results, failures that do not stop the rest, and resumption."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from fportrait.errors import UserError
from fportrait.scale.map_engine import Resources, map_units


def square(unit: int, folder: Path, trace: Path | None = None) -> dict:
    if trace is not None:
        (trace / f"{unit}-{os.getpid()}").touch()
    if unit == 3:
        raise UserError("the unit 3", "any other unit", "leave it out")
    if unit == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == 7:
        raise ZeroDivisionError("a bug")
    (folder / "square.txt").write_text(str(unit**2))
    return {"square": unit**2, "threads": os.environ.get("OMP_NUM_THREADS")}


def key(unit: int) -> dict:
    return {"code": "1", "input": unit}


def test_results_come_in_the_order_of_the_units_with_their_files(tmp_path):
    report = map_units(square, [4, 1, 2], workers=0, cache_folder=tmp_path, key=key)
    assert [result.value["square"] for result in report.results] == [16, 1, 4]
    assert (report.results[0].folder / "square.txt").read_text() == "16"
    assert not report.failures


def test_a_second_run_computes_nothing_and_other_parameters_compute_anew(tmp_path):
    traced = partial(square, trace=tmp_path / "trace")
    (tmp_path / "trace").mkdir()
    map_units(traced, [1, 2], workers=0, cache_folder=tmp_path / "units", key=key)
    again = map_units(traced, [1, 2, 4], workers=0, cache_folder=tmp_path / "units", key=key)
    assert [result.cached for result in again.results] == [True, True, False]
    assert len(list((tmp_path / "trace").iterdir())) == 3
    other = map_units(traced, [1], cache_folder=tmp_path / "units", key=lambda unit: {"code": "2", "input": unit})
    assert not other.results[0].cached


def test_a_refused_unit_is_listed_with_its_reason_and_tried_again_next_time(tmp_path):
    report = map_units(square, [1, 3, 2], workers=0, cache_folder=tmp_path, key=key)
    assert [result.unit for result in report.results] == [1, 2]
    assert [(failure.unit, failure.kind) for failure in report.failures] == [(3, "refused")]
    assert "leave it out" in report.failures[0].reason
    assert len(list(tmp_path.glob("*/"))) == 2  # nothing of the refused unit is left
    (listed,) = json.loads((tmp_path / "failures.json").read_text())
    assert listed["unit"] == "3" and listed["kind"] == "refused" and "leave it out" in listed["reason"]


def test_a_killed_worker_is_reported_and_the_rest_goes_on(tmp_path):
    report = map_units(square, [1, 5, 2, 3, 4, 6], workers=2, cache_folder=tmp_path, key=key)
    assert [result.unit for result in report.results] == [1, 2, 4, 6]
    assert [(failure.unit, failure.kind) for failure in report.failures] == [(5, "killed"), (3, "refused")]
    assert {result.value["threads"] for result in report.results} == {"1"}


def test_processes_and_inline_give_the_same_values(tmp_path):
    inline = map_units(square, [1, 2, 4], workers=1, cache_folder=tmp_path / "a", key=key)
    pooled = map_units(square, [1, 2, 4], workers=2, cache_folder=tmp_path / "b", key=key)
    assert [r.value["square"] for r in inline.results] == [r.value["square"] for r in pooled.results]


def test_a_result_that_cannot_be_read_is_made_again(tmp_path):
    first = map_units(square, [2], cache_folder=tmp_path, key=key).results[0]
    for damage in ("", "{", "[]", "{}"):
        (first.folder / "result.json").write_text(damage)
        again = map_units(square, [2], cache_folder=tmp_path, key=key).results[0]
        assert not again.cached and again.value["square"] == 4


def rest(unit: tuple, folder: Path, trace: Path) -> dict:
    """A unit that says when it ran, and what it saw."""
    started = time.monotonic()
    time.sleep(0.3)
    return {
        "from": started,
        "to": time.monotonic(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "process": os.getpid(),
    }


def max_at_once(values: list[dict], weights: list[int]) -> int:
    moments = [value["from"] for value in values]
    return max(
        sum(w for v, w in zip(values, weights, strict=True) if v["from"] <= moment < v["to"]) for moment in moments
    )


def test_handing_a_unit_out_asks_as_little_when_thousands_wait(tmp_path, monkeypatch):
    from fportrait.scale import local
    from fportrait.scale.units import Task

    asked = []
    pool = local._Pool(square, [Task(i, i, tmp_path, Resources(cpus=1 + i % 3)) for i in range(30_000)], 4)
    fits = pool._fits
    monkeypatch.setattr(pool, "_fits", lambda needs: asked.append(needs) or fits(needs))

    class Pipe:
        def send(self, unit):
            pass

    monkeypatch.setattr(pool, "_start", lambda devices: (Pipe(), None))
    pool._hand_out()
    order = [task.index for _, task, _ in pool.busy.values()]
    assert order == [0, 1, 3] and pool.free_slots == 0  # 1 + 2 + 1 of 4 slots, the first that fit
    assert len(asked) <= 12


def test_units_run_side_by_side_only_as_their_resources_allow(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    units = [(i, cpus, gpus) for i, (cpus, gpus) in enumerate([(1, 0), (2, 0), (1, 0), (1, 1), (1, 1), (1, 2), (9, 0)])]
    report = map_units(
        partial(rest, trace=tmp_path),
        [*units, (7, 1, 3)],
        workers=3,
        cache_folder=tmp_path,
        key=list,
        resources=lambda unit: Resources(cpus=unit[1], gpus=unit[2]),
    )
    values = [result.value for result in report.results]
    assert len(values) == 7 and max_at_once(values, [min(unit[1], 3) for unit in units]) <= 3
    assert max_at_once(values, [unit[2] for unit in units]) <= 2
    assert {value["threads"] for value in values} == {"3"}
    assert sorted(values[5]["gpus"].split(",")) == ["3", "7"] and values[3]["gpus"] in ("3", "7")
    assert [failure.kind for failure in report.failures] == ["refused"] and "3 GPUs" in report.failures[0].reason
    huge = map_units(
        square, [1, 2], workers=2, cache_folder=tmp_path / "m", key=key, resources=Resources(memory_gib=1e6)
    )
    assert len(huge.failures) == 2 and "1e+06 GiB" in huge.failures[0].reason
    with pytest.raises(UserError, match="cpus"):
        Resources(cpus=0)


def whereabouts(unit: int, folder: Path) -> list:
    if unit == 1:
        raise UserError("a card too small", "room", "take a larger one")
    return [os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")]


def test_a_process_keeps_its_gpu_from_unit_to_unit_until_one_fails_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    gpu = Resources(gpus=1)
    report = map_units(whereabouts, [0, 1, 2, 3], workers=2, cache_folder=tmp_path, key=key, resources=gpu)
    (first, device), second, third = (result.value for result in report.results)
    assert device == "3" and second == third and second == [second[0], "3"]
    assert first != second[0], "what a card said to a process stays with it"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_stops_the_run_and_shows_where(tmp_path, workers):
    with pytest.raises(RuntimeError, match="a bug"):
        map_units(square, [1, 7, 2], workers=workers, cache_folder=tmp_path, key=key)


def test_two_units_with_one_key_are_refused(tmp_path):
    with pytest.raises(UserError, match="same key"):
        map_units(square, [1, 2], cache_folder=tmp_path, key=lambda unit: "same")
