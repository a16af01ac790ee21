"""The search on tiny shards: one MLflow run per trial, pruning, resumption, and a file the next run can use."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import torch
import yaml

from fportrait.dataset.shards import ShardWriter, write_shard
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError
from fportrait.ops import runs
from fportrait.ops.study import Search, run_study

FRAMES = 5
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "sigmas": {"choices": ["uniform", "logit_normal"]}}
SETTINGS = {
    **{"frames": FRAMES, "iterations": 1000, "learning_rate": 1e-3, "mixture": {"PhoneCapture": 100}},
    **{"batch_size": 2, "precision": "fp32", "warmup": 0, "sigmas": "uniform", "seed": 1},
}


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


def test_a_stopped_search_goes_on_prunes_and_leaves_parameters_for_the_next_run(
    material, dry_project, monkeypatch, tmp_path
):
    shards, start = material
    uri = f"sqlite:///{dry_project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    stage = runs.StageRun("study")
    storage = tmp_path / "optuna.db"

    def search(trials: int):
        settings = Search(trials, iterations=4, report_every=2, held_out=3, space=SPACE, seed=0)
        return run_study(settings, SETTINGS, shards, start, tmp_path / "out", storage)

    first = search(2)
    assert first["trials"] == 2
    second = search(8)
    stage.finish()
    assert second["trials"] == 8 and second["pruned"] >= 1
    assert second["default_loss"] == first["default_loss"] >= second["best_loss"]
    assert search(8) == second  # nothing left to do

    children = [r for r in runs.client().search_runs(["1"]) if r.data.tags.get("stage") == "trial"]
    assert len(children) == 8
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {stage.run_id}
    assert sum(run.info.status == "KILLED" for run in children) == second["pruned"]
    written = yaml.safe_load((tmp_path / "out/best_parameters.yml").read_text())
    assert written == {"train_stage1": second["best"]}
    assert set(written["train_stage1"]) == set(SPACE)


def test_a_setting_that_stages_do_not_have_is_refused_with_the_nearest_name(material, tmp_path):
    search = Search(1, 2, 1, 1, {"learning_rat": {"low": 0.1, "high": 1.0}})
    with pytest.raises(UserError, match="learning_rate"):
        run_study(search, SETTINGS, *material, tmp_path / "out", tmp_path / "optuna.db")
