"""The search on tiny shards: one MLflow run per trial, pruning, resumption, and a file the next run can use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
import yaml

from fportrait.dataset.shards import ShardWriter, write_shard
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from fportrait.ops import runs
from fportrait.ops.study import FollowUp, Search, run_study

FRAMES = 5
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "sigmas": {"choices": ["uniform", "logit_normal"]}}
SETTINGS = {
    **{"frames": FRAMES, "iterations": 1000, "learning_rate": 1e-3, "mixture": {"PhoneCapture": 100}},
    **{"batch_size": 2, "precision": "fp32", "warmup": 0, "sigmas": "uniform", "seed": 1},
}


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/optuna.db"


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    camera = torch.eye(4).repeat(FRAMES, 1, 1)
    camera[:, 2, 3] = 0.5
    return {
        "latents": torch.randn(16, 2, 2, 2, generator=generator),
        "normals": torch.randn(16, 2, 2, 2, generator=generator),
        "codes": torch.randn(FRAMES, 128, generator=generator),
        "world_to_camera": camera,
        "intrinsics": torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]),
    }


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards with one training and one held-out person, and a tiny transformer to start from."""
    folder = tmp_path_factory.mktemp("study")
    shards = folder / "shards"
    writer = ShardWriter(shards, "vae0", {})
    portraits = {
        "latents": torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(9)),
        "world_to_camera": torch.eye(4)[None],
        "intrinsics": torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]])[None],
        "images": torch.zeros(1, 16, 16, 3, dtype=torch.uint8),
    }
    for number, split in enumerate(("train", "test")):
        records = []
        for r in range(3):
            values = tensors(10 * number + r)
            if split == "test":
                values["video"] = torch.zeros(FRAMES, 16, 16, 3, dtype=torch.uint8)
            records.append((f"r{r}", "p/s/phone", r, values))
        unit = folder / f"{split}.safetensors"
        rows = write_shard(
            unit, dataset="PhoneCapture", identity=f"p{number}", split=split, records=records, references=portraits
        )
        writer.add(unit, rows)
    writer.finish()
    torch.manual_seed(0)
    model = FactorPortraitTransformer(
        **{"patch_size": (1, 1, 1), "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 16},
        **{"ffn_dim": 32, "num_layers": 1, "prompt_tokens": 4, "controller_init_std": 0.02},
    )
    model.save_pretrained(folder / "transformer")
    return shards, folder / "transformer"


@pytest.fixture
def study_run(dry_project, monkeypatch):
    """A stage run of MLflow in a fresh database; trials become its children."""
    uri = f"sqlite:///{dry_project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return runs.StageRun("study")


def trials_of(server) -> list:
    return [r for r in server.search_runs(["1"]) if r.data.tags.get("stage") == "trial"]


def test_a_stopped_search_goes_on_prunes_and_leaves_parameters_for_the_next_run(material, study_run, tmp_path):
    def search(trials: int):
        settings = Search(trials, iterations=4, report_every=2, held_out=3, space=SPACE, storage=url(tmp_path))
        return run_study(settings, SETTINGS, *material, tmp_path / "out")

    first = search(2)
    assert first["trials"] == 2
    second = search(8)
    study_run.finish()
    assert second["trials"] == 8 and second["pruned"] >= 1
    assert second["default_loss"] == first["default_loss"] >= second["best_loss"]
    assert search(8) == second  # nothing left to do
    assert search(2) == first  # of the first two alone

    children = trials_of(runs.client())
    assert len(children) == 8
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {study_run.run_id}
    assert sum(run.info.status == "KILLED" for run in children) == second["pruned"]
    written = yaml.safe_load((tmp_path / "out/best_parameters.yml").read_text())
    assert written == {"train_stage1": second["best"]}
    assert set(written["train_stage1"]) == set(SPACE)


def test_a_killed_workers_trial_is_failed_and_run_again(material, study_run, tmp_path):
    """The worker is a fork that SIGKILLs itself within its second trial."""
    settings = {"iterations": 4, "report_every": 2, "held_out": 3, "space": SPACE, "storage": url(tmp_path)}
    search = Search(3, heartbeat=1, **settings)
    killed = Search(1, **settings)
    run_study(killed, SETTINGS, *material, tmp_path / "out")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fportrait.ops import study\n"
        "import optuna\n"
        "optuna.Trial.report = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"search = study.Search(3, heartbeat=1, **{settings!r})\n"
        f"study.run_study(search, {SETTINGS!r}, {str(material[0])!r}, Path({str(material[1])!r}), Path('out'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path).returncode == -9
    time.sleep(3.5)  # three missed signs of life
    report = run_study(search, SETTINGS, *material, tmp_path / "out")
    study_run.finish()
    assert report["trials"] == 3
    study = optuna.load_study(study_name=None, storage=url(tmp_path))
    lost = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL]
    assert [trial.number for trial in lost] == [1]
    again = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == 1]
    assert [trial.params for trial in again] == [lost[0].params]
    status = {run.info.run_id: run.info.status for run in trials_of(runs.client())}
    assert status[lost[0].user_attrs["mlflow_run"]] == "FAILED"


def test_the_survivors_are_weighed_quality_against_time(material, study_run, tmp_path):
    follow_up = FollowUp(trials=4, survivors=2, space={"batch_size": {"choices": [2, 4]}})
    search = Search(3, 4, 2, 3, SPACE, storage=url(tmp_path), follow_up=follow_up)
    report = run_study(search, SETTINGS, *material, tmp_path / "out")
    study_run.finish()
    front = report["pareto"]
    assert 1 <= len(front) <= 4
    assert [entry["held_out_loss"] for entry in front] == sorted(entry["held_out_loss"] for entry in front)
    seconds = [entry["seconds_per_step"] for entry in front]
    assert seconds == sorted(seconds, reverse=True)  # no trial of a front is beaten in both
    assert all(set(entry["settings"]) == {*SPACE, "batch_size"} for entry in front)
    assert yaml.safe_load((tmp_path / "out/pareto.yml").read_text()) == front
    assert len(trials_of(runs.client())) == 3 + 4
    assert run_study(search, SETTINGS, *material, tmp_path / "out") == report  # nothing left to do


def test_a_study_belongs_to_its_start_its_score_and_its_seed(material, tmp_path):
    from shutil import copytree

    from fportrait.dataset.shards import ShardReader
    from fportrait.ops.study import Material, study_key

    search = Search(2, iterations=4, report_every=2, held_out=3, space=SPACE)
    mine = Material(SETTINGS, ShardReader(material[0]), material[1])
    other = copytree(material[1], tmp_path / "transformer")
    assert (
        study_key(search, mine)
        == study_key(search, replace(mine, start=other))
        == study_key(replace(search, trials=9), mine)
    )
    (other / "config.json").write_text("{}")
    keys = {study_key(search, mine), study_key(search, replace(mine, start=other))}
    keys |= {study_key(replace(search, **change), mine) for change in ({"held_out": 4}, {"seed": 1})}
    assert len(keys) == 4


def test_a_setting_that_stages_do_not_have_is_refused_with_the_nearest_name(material, tmp_path):
    search = Search(1, 2, 1, 1, {"learning_rat": {"low": 0.1, "high": 1.0}}, storage=url(tmp_path))
    with pytest.raises(UserError, match="learning_rate"):
        run_study(search, SETTINGS, *material, tmp_path / "out")


def test_a_database_that_does_not_answer_is_refused_without_its_password(material, tmp_path):
    pytest.importorskip("psycopg2")
    search = Search(1, 2, 1, 1, SPACE, storage="postgresql://me:secret@127.0.0.1:9/optuna")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/optuna") as refused:
        run_study(search, SETTINGS, *material, tmp_path / "out")
    assert "secret" not in str(refused.value)
