"""Adapters in the registry: traced to their clips, and gone with their runs when consent is withdrawn."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import save_file

from fportrait.atomic_io import write_json
from fportrait.diffusion.lora import LoraSettings
from fportrait.ops import adapters


@pytest.fixture
def adapter(dry_project) -> Path:
    folder = dry_project / "data/06_models/adapters/anna"
    folder.mkdir(parents=True)
    write_json(folder / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": "b" * 64})
    save_file({"anna": torch.zeros(2)}, folder / "adapter.safetensors")
    return folder


def record(sha256: str) -> dict:
    scores = {"base": {"ours/psnr": 18.0}, "adapted": {"ours/psnr": 20.5, "ours/csim": 91.0}}
    return {"clips": [{"sha256": sha256}], "scores": {"people": {"anna": scores}}}


def test_an_adapter_is_a_version_traced_to_its_clips_and_forgotten_whole(dry_project, adapter):
    assert adapters.register("anna", adapter, record("a" * 64)) == 1
    assert adapters.register("ben", adapter, record("c" * 64)) == 2
    assert adapters.register("anna", adapter, record("a" * 64)) == 3
    server = mlflow.MlflowClient()
    version = server.get_model_version(adapters.MODEL, "1")
    assert version.tags["adapter.clips"] == "a" * 16 and version.tags["adapter.base"] == "b" * 64
    run = server.get_run(version.run_id)
    assert run.data.metrics["adapted/ours/psnr/anna"] == 20.5
    files = list((dry_project / "mlruns").rglob("adapter.safetensors"))
    assert len(files) == 3

    gone = adapters.forget("anna")
    assert len(gone) == 4  # two versions, two runs
    assert [one.version for one in server.search_model_versions(f"name='{adapters.MODEL}'")] in ([2], ["2"])
    assert len(list((dry_project / "mlruns").rglob("adapter.safetensors"))) == 1
    with sqlite3.connect(dry_project / "mlruns/mlflow.db") as database:
        for table in ("tags", "model_version_tags"):
            (left,) = database.execute(f"SELECT count(*) FROM {table} WHERE value IN ('anna', '{'a' * 16}')").fetchone()
            assert left == 0, f"what was deleted is only hidden in {table}"
    assert adapters.forget("anna") == []


def test_without_a_registry_nothing_is_registered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert adapters.register("anna", tmp_path, record("a" * 64)) is None and adapters.forget("anna") == []
