"""What `kedro run` did is known to DVC: `dvc repro` goes on, and `fportrait status` says fresh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import yaml

from fportrait.ops import dvc_lock, status

STAGES = {
    "count": {
        "cmd": "echo again >> ran.txt",
        "params": [{"conf/base/parameters.yml": ["count"]}],
        "outs": ["data/numbers", "data/08_reporting/lineage/count.json"],
        "metrics": ["data/08_reporting/count.json"],
    },
    "add": {
        "cmd": "echo again >> ran.txt",
        "deps": ["data/numbers", "code.py"],
        "params": [{"conf/base/parameters.yml": ["add"]}],
        "outs": ["data/sums", "data/08_reporting/lineage/add.json"],
        "metrics": ["data/08_reporting/add.json"],
    },
}


def dvc(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(dry_project):
    """The dry project as DVC knows it: every stage's command would leave `ran.txt`."""
    (dry_project / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (dry_project / "code.py").write_text("1")
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    (dry_project / ".dvcignore").write_text("/mlruns\n")
    return dry_project


def test_dvc_goes_on_after_kedro_and_status_says_the_same(project, kedro_run):
    assert kedro_run("--pipelines=count").exit_code == 0
    assert set(json.loads(dvc("status", "--json"))) == {"add"}
    rows = {row["stage"]: row["state"] for row in status.stages(["count", "add"])}
    assert rows == {"count": status.FRESH, "add": status.NEVER}
    assert kedro_run("--params", "add.scale=-1").exit_code == 2  # the first stage ran with parameters of its own
    (project / "conf/base/parameters.yml").write_text(
        (project / "conf/base/parameters.yml").read_text().replace("upto: 5", "upto: 4").replace("2.0", "-2.0")
    )
    assert kedro_run().exit_code == 2  # `add` refuses its scale; what `count` did before is known
    assert set(json.loads(dvc("status", "--json"))) == {"add"}
    count, add = status.stages(["count", "add"])
    assert count["state"] == status.FRESH and add["state"] == status.STOPPED and "scale" in add["why"]
    (project / "conf/base/parameters.yml").write_text(
        (project / "conf/base/parameters.yml").read_text().replace("-2.0", "2.0")
    )
    assert kedro_run("--pipelines=add").exit_code == 0
    assert [row["state"] for row in status.stages(["count", "add"])] == [status.FRESH, status.FRESH]
    assert json.loads(dvc("status", "--json")) == {}
    dvc("repro", "-q")
    assert not (project / "ran.txt").exists(), "DVC ran again what Kedro had done"


def test_what_was_not_run_as_dvc_would_run_it_is_not_told(project, monkeypatch, caplog):
    asked: list = []
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(dvc_lock, "commit", lambda targets: asked.append(targets) or done)
    now = time.time()
    assert dvc_lock.tell_dvc({"count": now}, given={"count.upto": 3}) == [] and "--params" in caplog.text
    assert dvc_lock.tell_dvc({"study": now}) == []  # no stage of dvc.yaml
    assert dvc_lock.tell_dvc({"count": now}, "paper") == []  # without a dvc.yaml of its own
    os.utime("code.py", (now + 5, now + 5))
    assert dvc_lock.tell_dvc({"count": now + 1, "add": now + 1}) == ["count"] and "code.py changed" in caplog.text
    monkeypatch.setenv("DVC_STAGE", "add")
    assert dvc_lock.tell_dvc({"add": now + 10}) == []  # DVC runs it and writes its lock itself
    assert len(asked) == 1 and asked[0] == ["count"]


def test_a_dvc_that_refuses_costs_a_sentence_and_not_the_run(project, kedro_run, monkeypatch):
    refused = subprocess.CompletedProcess([], 255, "", "ERROR: Unable to acquire lock.")
    said: list[str] = []
    monkeypatch.setattr(dvc_lock, "commit", lambda targets: refused)
    monkeypatch.setattr(dvc_lock.log, "warning", lambda text, *values: said.append(text % values))
    assert kedro_run("--pipelines=count").exit_code == 0
    assert len(said) == 1 and "Unable to acquire lock" in said[0] and "runs count again" in said[0]
