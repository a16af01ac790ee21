"""`doctor`, `status` and `bench` in folders that are whole, empty and broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fportrait.atomic_io import write_json
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.ops import doctor, status, stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_every_check_that_does_not_pass_names_a_fix(folder):
    checks = doctor.examine()
    assert {"python", "packages", "devices", "disk", "base model", "mlflow"} <= {check.name for check in checks}
    assert all(check.fix for check in checks if check.state != doctor.OK)


def test_a_check_that_breaks_becomes_a_failure_of_its_own(folder, monkeypatch):
    def broken() -> doctor.Check:
        raise RuntimeError("no such device")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.python, broken, doctor.disk))
    result = call("doctor", "--json")
    states = {row["name"]: row["state"] for row in json.loads(result.stdout)}
    assert states["python"] == "ok" and states["broken"] == "fail" and "disk" in states
    assert result.exit_code == 2


def test_a_full_disk_a_damaged_model_and_a_read_only_store_fail_with_their_command(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    assert doctor.disk().state == doctor.FAIL and "dvc gc" in doctor.disk().fix
    monkeypatch.setattr("fportrait.bundle.SHIPPED_BASE", folder / "gone")
    assert doctor.base_model().state == doctor.FAIL
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert doctor.mlflow_store().state == doctor.FAIL and "unset" in doctor.mlflow_store().fix


def test_status_outside_a_project_is_one_sentence(folder):
    result = call("status")
    assert result.exit_code == 2 and "dvc.yaml" in result.output and "Traceback" not in result.output


def record(folder: Path, stage: str, **more) -> None:
    value = {"stage": stage, "seconds": 1.5, "peak_memory_mib": 10, "run_id": "0" * 32, "environment": "base", **more}
    write_json(folder / f"data/08_reporting/lineage/{stage}.json", value)


def test_status_shows_what_ran_what_never_did_and_who_was_set_aside(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    record(folder, "ingest")
    entries = [{"dataset": "PhoneCapture", "identity": f"p{i}", "reason": "no face"} for i in range(6)]
    entries += [{**entries[0], "identity": "p6", "clip": "p6/talk/phone"}]
    write_json(folder / "data/03_primary/tracks/quarantine.json", entries)
    result = call("status", "--fast")
    assert result.exit_code == 0, result.output
    assert (
        "never run" in result.output
        and "quarantine  7" in result.output
        and "PhoneCapture/p0: no face" in result.output
    )
    assert "and 2 more" in result.output and "shipped base" in result.output
    assert "PhoneCapture/p6/talk/phone: no face" in call("status", "--fast", "--all").output
    report = json.loads(call("status", "--fast", "--json").output)
    assert report["stages"][0]["state"] == status.UNKNOWN and len(report["quarantine"]) == 7


def test_status_of_an_environment_shows_its_own_stages_and_quarantine(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    for environment in ("base", "gpu"):
        shutil.copytree(ROOT / "conf" / environment, folder / "conf" / environment)
    record(folder, "ingest")
    write_json(folder / "data/gpu/03_primary/tracks/quarantine.json", [{"identity": "anna", "reason": "no face"}])
    report = json.loads(call("status", "--env", "gpu", "--json").output)
    assert report["stages"][0] == {"stage": "ingest", "state": status.NEVER, "waits_for": []}
    assert [row["who"] for row in report["quarantine"]] == ["anna"]
    assert json.loads(call("status", "--fast", "--json").output)["quarantine"] == []
    refused = call("status", "--env", "gpuu")
    assert refused.exit_code == 2 and "there are base, gpu" in refused.output


def test_status_tells_a_changed_stage_from_a_fresh_one_as_dvc_does(folder):
    stages = "stages:\n" + "".join(
        f"  {name}:\n    cmd: echo {name} > {name}.txt\n    deps: [{name}.in]\n    outs: [{name}.txt]\n"
        for name in ("one", "two")
    )
    (folder / "dvc.yaml").write_text(stages)
    for name in ("one", "two"):
        (folder / f"{name}.in").write_text("a")
        record(folder, name)
    quiet = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q"], **quiet)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], **quiet)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], **quiet)
    (folder / "two.in").write_text("b")
    rows = {row["stage"]: row for row in status.stages(["one", "two"])}
    assert rows["one"]["state"] == status.FRESH
    assert rows["two"]["state"] == status.CHANGED and "two.in" in rows["two"]["why"]


def test_what_lies_below_a_changed_stage_waits_for_it_and_dvc_tells_no_other_story(folder):
    links = {"one": "one.in", "two": "one.txt", "three": "two.txt", "beside": "beside.in"}
    stages = "stages:\n" + "".join(
        f"  {name}:\n    cmd: wc -l < {dep} > {name}.txt\n    deps: [{dep}]\n    outs: [{name}.txt]\n"
        for name, dep in links.items()
    )
    (folder / "dvc.yaml").write_text(stages)
    for name in ("one", "beside"):
        (folder / f"{name}.in").write_text("a\n")
    for name in links:
        record(folder, name)
    quiet = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q"], **quiet)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], **quiet)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], **quiet)

    def told() -> dict:
        rows = {row["stage"]: row for row in status.stages(list(links))}
        assert set(status.changed_stages()) == {name for name, row in rows.items() if row["state"] == status.CHANGED}
        return {name: (row["state"], *row["waits_for"]) for name, row in rows.items()}

    fresh, waits = (status.FRESH,), (status.WAITS, "one")
    assert told() == dict.fromkeys(links, fresh)
    (folder / "one.in").write_text("b\n")
    assert told() == {"one": (status.CHANGED,), "two": waits, "three": waits, "beside": fresh}
    result = call("status")
    assert result.exit_code == 0 and "for one" in result.output and "these only if its results" in result.output
    (folder / "three.txt").unlink()  # what changed itself is called so, and told what it comes after
    assert told()["three"] == (status.CHANGED, "one") and "after one; " in call("status").output
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], **quiet)  # `one` counts as many lines as before
    assert told() == dict.fromkeys(links, fresh)
    stopped.write("one", folder / "data/08_reporting/lineage", UserError("no lines", "some", "write them"))
    (folder / "one.in").write_text("c\n")
    rows = {row["stage"]: row for row in status.stages(list(links))}
    assert rows["one"]["state"] == status.STOPPED and rows["three"]["state"] == status.WAITS
    assert rows["three"]["why"] == "for one"
    (folder / "data/08_reporting/lineage/one.json").unlink()
    stopped.forget("one", folder / "data/08_reporting/lineage")
    rows = {row["stage"]: row for row in status.stages(list(links), ask_dvc=False)}  # known without DVC
    assert rows["one"]["state"] == status.NEVER and rows["two"]["state"] == status.WAITS
    assert rows["beside"]["state"] == status.UNKNOWN


def test_a_state_that_dvc_cannot_tell_has_a_reason_and_what_to_do(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    record(folder, "ingest")

    def told() -> str:
        result = call("status")
        assert result.exit_code == 0 and "ingest          ?" in result.output
        row = json.loads(call("status", "--json").output)["stages"][0]
        assert row["state"] == status.UNKNOWN and row["why"] in result.output
        return row["why"]

    assert "no folder .dvc here" in told() and "git init" in told()
    quiet = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], **quiet)
    (folder / ".dvc/config").write_text("")  # as in a copy of a repository's files without its .git
    assert "no Git repository here" in told() and "git init" in told()
    subprocess.run(["git", "init", "-q"], **quiet)
    assert json.loads(call("status", "--json").output)["stages"][0]["state"] == status.CHANGED
    (folder / ".dvc/config").write_text("[core\n")
    assert "`dvc status` without an answer" in told()
    assert "cannot tell" not in call("status", "--fast").output
    for said in ("ERROR: 'data/x' is busy, it is being blocked by:\n  (PID 7)", "ERROR: Unable to acquire lock."):
        assert "another DVC at work" in str(status._cannot_tell(said))


def test_a_model_that_the_gate_refused_was_not_promoted_elsewhere(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    stopped.write("promote", folder / "data/08_reporting/lineage", UserError("a weak model", "a strong one", "train"))
    result = call("status", "--fast")
    assert "promote         stopped" in result.output and "stopped: Found a weak model." in result.output
    assert "elsewhere" not in result.output


def test_a_person_whom_the_gate_sets_aside_is_listed_once(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    entry = {"dataset": "PhoneCapture", "identity": "anna", "reason": "a still face"}
    write_json(folder / "data/03_primary/validated/quarantine.json", [entry])
    write_json(
        folder / "data/03_primary/validated/report.json", {"quarantined": {"PhoneCapture/anna": ["a still face"]}}
    )
    assert [row["who"] for row in status.quarantine()] == ["PhoneCapture/anna"]


def test_the_last_study_is_read_from_its_storage(folder):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (folder / "mlruns").mkdir()
    study = optuna.create_study(storage="sqlite:///mlruns/optuna.db", study_name="learning rates")
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1) - 0.5) ** 2, n_trials=3)
    found = status.last_study()
    assert found and found["study"] == "learning rates" and found["trials"] == {"complete": 3}
    assert found["best_value"] == pytest.approx(study.best_value)


def test_bench_shows_what_was_measured_and_what_was_not(folder):
    (folder / "benchmarks/results").mkdir(parents=True)
    (folder / "benchmarks/fast.py").write_text('print("hello")')
    (folder / "benchmarks/slow.py").write_text("raise SystemExit(3)")
    (folder / "benchmarks/other.py").write_text('write_result("odd", ...)\nneither = "fast"')
    for name in ("fast", "odd"):
        result = {"name": name, "ours": 2.0, "unit": "ms", "holds": True}
        write_json(folder / f"benchmarks/results/{name}.json", result)
    lines = call("bench").output.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert len(lines) == 1 + 3 and "odd" in rows  # each result once, under the script that writes it
    assert rows["fast"].endswith("yes") and rows["slow"].endswith("not run")
    assert call("bench", "fast", "--run").exit_code == 0
    failed = call("bench", "slow", "--run")
    assert failed.exit_code == 2 and "code 3" in failed.output
    assert "write 'fast'" in call("bench", "fasst").output


@pytest.mark.parametrize("text", ["", "[", "stages: 3", "stages: {a: null}", "[]", "stages:\n\t- a"])
def test_a_broken_chain_is_a_sentence(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(text)
    for fast in ("--fast", "--json"):
        done = CliRunner().invoke(main, ["status", fast])
        assert done.exit_code == 2 and "a broken dvc.yaml" in done.output
