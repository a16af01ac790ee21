"""An experiment's cell in DVC, its run in MLflow, its lineage file and its weights say the same, and stay together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from safetensors.torch import load_file

from fportrait.ops import lineage
from helpers.fabricated import ROOT, git
from helpers.houses import write_house

SETTINGS = Path("conf/base/parameters_train_stage1.yml")
TRAINED, RECORD = Path("data/06_models/stage1"), Path("data/08_reporting/lineage/train_stage1.json")
REPORT, CURVE = Path("data/08_reporting/train_stage1.json"), Path("data/08_reporting/curves/stage1.csv")
METRICS = Path("data/08_reporting/metrics/train_stage1.json")  # what DVC's cells show
TINY = {
    **{"frames": 9, "iterations": 4, "batch_size": 2, "mixture": {"PhoneCapture": 100}, "precision": "fp32"},
    **{"warmup": 0, "checkpoint_every": 2, "held_out": 2, "log_every": 1},
}


def dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Stage 1 as `dvc.yaml` has it, less its code, on shards and a base of a few kilobytes."""
    house, root = write_house(tmp_path / "house"), tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("pyproject.toml", "conf/base", "conf/logging.yml", ".gitignore"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for name in ("src", "conf/local", "mlruns"):
        (root / name).mkdir()
    shutil.copytree(house / "base", root / "data/06_models/base")
    shutil.copytree(house / "shards", root / "data/05_model_input/shards")
    settings = yaml.safe_load(SETTINGS.read_text())
    settings["train_stage1"] |= TINY
    SETTINGS.write_text(yaml.safe_dump(settings))
    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train_stage1"]
    entry["cmd"] = f"{sys.executable} -m kedro run --pipelines=train_stage1"
    entry["deps"] = [path for path in entry["deps"] if path.startswith("data/")]
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"train_stage1": entry}}))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    git("init", "-q")
    git("config", "user.name", "a")
    git("config", "user.email", "a@b")
    dvc("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "project")
    return root


def cell(name: str) -> dict:
    """An experiment's row in `dvc exp show`."""
    for commit in json.loads(dvc("exp", "show", "--json")):
        for experiment in commit.get("experiments") or []:
            if experiment["name"] == name:
                return experiment["revs"][0]["data"]
    raise AssertionError(f"no experiment {name}")


def run_of(name: str, folder: Path) -> mlflow.entities.Run:
    server = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = server.get_experiment_by_name("fportrait")
    asked = f"tags.DVC_EXP_NAME = '{name}' and tags.DVC_STAGE = 'train_stage1'"
    (run,) = server.search_runs([experiment.experiment_id], asked)
    return run


def all_four_say(name: str, iterations: int, folder: Path) -> None:
    """With the experiment in the working folder."""
    row, run = cell(name), run_of(name, folder)
    record, report = json.loads(RECORD.read_text()), json.loads(REPORT.read_text())
    made = json.loads((TRAINED / "training.json").read_text())
    asked = {
        "DVC": row["params"][SETTINGS.as_posix()]["data"]["train_stage1"]["iterations"],
        "MLflow": int(run.data.params["iterations"]),
        "lineage": record["parameters"]["iterations"],
        "weights": made["stage"]["iterations"],
        "steps of the weights": made["steps"],
        "curve": int(CURVE.read_text().strip().splitlines()[-1].split(",")[0]),
    }
    assert set(asked.values()) == {iterations}, asked
    assert report["final_loss"] == run.data.metrics["final_loss"] > 0
    assert row["metrics"][METRICS.as_posix()]["data"] == {"loss1": round(report["final_loss"], 4)}
    # The record names this run and these bytes, and DVC's own hash of them is that of what lies here.
    assert record["run_id"] == run.info.run_id and record["DVC_EXP_NAME"] == name
    assert record["outputs"][TRAINED.as_posix()]["hash"] == lineage.describe(TRAINED)["hash"]
    assert row["outs"][TRAINED.as_posix()]["hash"]
    assert json.loads(dvc("status", "--json")) == {}


@pytest.mark.slow
def test_the_cell_the_run_the_record_and_the_weights_of_an_experiment_agree(project):
    at = f"{SETTINGS.as_posix()}:train_stage1.iterations"
    dvc("exp", "run", "-n", "longer", "-S", f"{at}=4", "-f")
    all_four_say("longer", 4, project)
    longer = load_file(next((TRAINED / "transformer").glob("*.safetensors")))
    dvc("exp", "run", "-n", "shorter", "-S", f"{at}=2")  # once this gave the four steps back, and said two
    all_four_say("shorter", 2, project)
    shorter = load_file(next((TRAINED / "transformer").glob("*.safetensors")))
    assert any((longer[name] != shorter[name]).any() for name in longer)
    dvc("exp", "apply", "longer")
    all_four_say("longer", 4, project)
