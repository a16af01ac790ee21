"""Both engines: the same names, results, failures and bytes, also when a worker is killed in the middle."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from fportrait.errors import UserError
from fportrait.scale.engines import use_engine
from fportrait.scale.map_engine import Resources, map_units


@pytest.fixture(scope="module")
def ray():
    """One Ray for all tests of this module: starting it takes ten seconds."""
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


def fragile(unit: int, folder: Path, marks: Path) -> dict:
    """Unit 5 kills its own process the first time that it runs; unit 3 is refused; the others write their square."""
    with open(marks / f"{unit}-{len(list(marks.glob(f'{unit}-*')))}", "x"):
        pass
    if unit == 5 and not (marks / "5-1").exists():
        (folder / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == 3:
        raise UserError("the unit 3", "any other unit", "leave it out")
    (folder / "square.txt").write_text(str(unit**2))
    return {"square": unit**2, "threads": os.environ["OMP_NUM_THREADS"]}


def name(unit: int) -> dict:
    return {"code": "1", "input": unit}


def content(folder: Path) -> dict[str, bytes]:
    """Every published file and its bytes; temporary folders of processes that died begin with a dot."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if not name.startswith(".tmp-")}


def run(engine: str, folder: Path) -> list:
    marks, cache = folder / "marks", folder / "units"
    marks.mkdir(parents=True, exist_ok=True)
    with use_engine(engine):
        report = map_units(
            partial(fragile, marks=marks),
            range(8),
            workers=2,
            cache_folder=cache,
            key=name,
            resources=Resources(memory_gib=0.1),
        )
    failures = [(failure.unit, failure.kind, failure.name) for failure in report.failures]
    results = [(result.unit, result.value, result.folder.name, result.cached) for result in report.results]
    return [failures, results, content(cache)]


def test_a_worker_killed_mid_run_leaves_the_same_results_on_both_engines_and_the_next_run_completes_them(tmp_path, ray):
    local, on_ray = run("local", tmp_path / "local"), run("ray", tmp_path / "ray")
    assert [(unit, kind) for unit, kind, _ in local[0]] == [(3, "refused"), (5, "killed")]
    assert [unit for unit, *_ in local[1]] == [0, 1, 2, 4, 6, 7]
    assert local[:2] == on_ray[:2]
    reasons = [part[2].pop("failures.json") for part in (local, on_ray)]
    assert all(b"process died" in reason and b"leave it out" in reason for reason in reasons)
    assert local[2] == on_ray[2]
    second = run("local", tmp_path / "local"), run("ray", tmp_path / "ray")
    for failures, results, files in second:
        assert [unit for unit, *_ in failures] == [3]
        assert [unit for unit, *_ in results] == [0, 1, 2, 4, 5, 6, 7]
        assert [unit for unit, *_, cached in results if not cached] == [5]  # nothing that was done is done again
        assert not any("half" in path for path in files)
    assert second[0] == second[1]


def test_what_one_engine_made_is_found_by_the_other(tmp_path, ray):
    run("ray", tmp_path)
    run("local", tmp_path)
    assert all(cached for *_, cached in run("ray", tmp_path)[1])


def broken(unit: int, folder: Path) -> None:
    raise ZeroDivisionError("a bug")


def test_a_bug_stops_a_run_on_ray_and_shows_where(tmp_path, ray):
    with use_engine("ray"), pytest.raises(RuntimeError, match="a bug"):
        map_units(broken, [1], workers=2, cache_folder=tmp_path, key=name)


def test_engines_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="engine 'spark'"), use_engine("spark"):
        pass
    with pytest.raises(UserError, match="local engine"), use_engine("local", "ray://head:10001"):
        pass
