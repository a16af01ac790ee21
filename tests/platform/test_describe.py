"""What a reader of the MLflow pages sees first."""

from __future__ import annotations

import mlflow

from fportrait.ops import describe, runs
from fportrait.ops.chain import BESIDE, CHAIN


def test_every_stage_is_described_in_a_sentence():
    described = set(describe.STAGES)
    assert set(CHAIN) <= described and "study" in {*BESIDE, *described}
    assert all(sentence.endswith(".") and len(sentence) < 130 for sentence in describe.STAGES.values())


def test_the_experiment_and_its_runs_say_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    server = mlflow.MlflowClient()
    old = server.create_experiment(runs.EXPERIMENT)  # as a version without descriptions made it
    run = runs.StageRun("track")
    run.finish()
    assert server.get_experiment(old).tags[describe.NOTE] == describe.EXPERIMENT
    assert "landmarks" in server.get_run(run.run_id).data.tags[describe.NOTE]
    assert server.get_run(run.parent).data.tags[describe.NOTE] == describe.CHAIN
