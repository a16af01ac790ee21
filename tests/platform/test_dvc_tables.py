"""DVC's tables of two experiments can be read in a terminal of 120 columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fportrait.atomic_io import write_json
from fportrait.ops.headline import headline

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = "conf/base/parameters_train_stage1.yml"


def run(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "120", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dvc(*words: str) -> str:
    return run(sys.executable, "-m", "dvc", *words)


def write_experiment(shift: float) -> None:
    """What an experiment on stage 1 changes: its learning rate, four losses, and the evaluation."""
    values = yaml.safe_load((ROOT / PARAMETERS).read_text())
    values["train_stage1"]["learning_rate"] = 1e-4 + shift / 1e6
    Path(PARAMETERS).parent.mkdir(parents=True, exist_ok=True)
    Path(PARAMETERS).write_text(yaml.safe_dump(values))
    reports = {f"train_stage{n}": {"final_loss": 0.1234 + shift / 10} for n in (1, 2, 3, 4)}
    score = {"mean": 20.123 + shift}
    ours = {"ours": {"psnr": score, "expression_gain": score, "head_pose_error": score}}
    reports["evaluate"] = {"ViewSweep": ours, "control": {"methods": {"ours": {"worst_leak": 0.3 + shift / 10}}}}
    write_json(Path("metrics/gains.json"), [{"factor": "jaw", "gain": 0.5 + shift}, {"factor": "smile", "gain": 0.25}])
    for stage, report in reports.items():
        write_json(Path(f"metrics/{stage}.json"), headline(stage, report))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STUDIO_OFFLINE", "true")
    run("git", "init", "-q")
    dvc("init", "-q")
    run("git", "config", "user.email", "a@b")
    run("git", "config", "user.name", "a")
    write_experiment(0.0)
    listed = sorted(path.as_posix() for path in Path("metrics").iterdir() if path.stem != "gains")
    plots = [{"metrics/gains.json": {"x": "factor", "y": "gain"}}]
    Path("dvc.yaml").write_text(yaml.safe_dump({"metrics": listed, "params": [PARAMETERS], "plots": plots}))
    run("git", "add", "-A")
    run("git", "commit", "-qm", "one")
    write_experiment(0.5)
    return tmp_path


def test_an_experiment_on_training_fits_120_columns(repository):
    page = (ROOT / "docs/coming-from.md").read_text()
    command = re.search(r"^dvc exp show (.*)$", page, re.M)[1].replace("'", "").split()
    assert " ".join(command) in (ROOT / "Makefile").read_text().replace("'", "")
    for table in (dvc("exp", "show", "--no-pager", *command), dvc("metrics", "diff")):
        lines = [line.rstrip() for line in table.splitlines()]
        assert max(map(len, lines)) <= 120 and "…" not in table
        for name in ("loss1", "loss4", "psnr", "gain", "pose", "leak"):
            assert name in table
    assert "learning_rate" in dvc("exp", "show", "--no-pager", *command)


def test_plots_are_drawn_and_unused_results_are_dropped(repository):
    assert "dvc plots diff HEAD" in (ROOT / "docs/coming-from.md").read_text()
    for words in (("plots", "show"), ("plots", "diff", "HEAD")):
        page = Path(re.search(r"file://(\S+)", dvc(*words))[1])
        assert "vega" in (text := page.read_text()) and "smile" in text
    assert ("workspace" in text) and ("HEAD" in text)
    Path("large.bin").write_bytes(b"kept")
    dvc("add", "-q", "large.bin")
    kept = {path for path in Path(".dvc/cache").rglob("*") if path.is_file()}
    Path("large.bin").write_bytes(b"changed")
    dvc("add", "-q", "large.bin")
    assert "dvc gc --workspace" in (ROOT / "docs/recovery.md").read_text()
    dvc("gc", "--workspace", "--force")
    left = {path for path in Path(".dvc/cache").rglob("*") if path.is_file()}
    assert len(left) == 1 and not left & kept
