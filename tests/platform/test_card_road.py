"""The road of docs/gpu.md on one card, walked at tiny sizes: from a download of Wan to a promoted model that animates.

A project of its own, with `conf/gpu` as it is but for sizes, runs as a user runs it. The stages before `encode` have
fabricated records; everything from the download on is real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fportrait.body.model import load_body
from fportrait.capture.video_io import read_video, write_video
from fportrait.ops import runs
from fportrait.ops.smoke import write_inputs
from helpers.fabricated import ROOT, git
from helpers.tables import clip_rows, identity_row, write_tables
from helpers.wan_downloads import write_diffusers

DATA = Path("data/gpu")
BASE, MODELS, RECORDS = DATA / "06_models/base", DATA / "06_models", DATA / "08_reporting/lineage"
CHAIN = "pretrain,encode,train_stage1,train_stage2,train_stage3,train_stage4,evaluate,promote"
LORA = {"rank": 2, "alpha": 2}
STAGE = {"lora": LORA, "batch_size": 2, "warmup": 0, "held_out": 2, "checkpoint_every": 1, "sample_every": 0}
TINY: dict[str, dict[str, Any]] = {
    "encode": {
        "encoding": {"size": 64, "window": 9, "stride": 9, "test_stride": 9, "references": 2, "encode_batch": 2},
        "workers": 1,
    },
    **{
        f"train_stage{number}": {**STAGE, "frames": frames, "iterations": 3, "accumulation": min(number, 2)}
        for number, frames in ((1, 5), (2, 5), (3, 9), (4, 9))
    },
    "evaluate": {
        "protocol": {"records": 1, "steps": 2},
        "probes": {"people": 1, "factors": ["jaw", "view"]},
        "modes": {"people": 0},
        "cross": {"pairs": 0},
    },
    # These weights were drawn at random and draw noise: what is walked here is the road, not the quality.
    "promote": {"frames": 9, "slice_floors": {}, "against_champion": {}, "floors": {}},
}


def merged(old: Any, new: Any) -> Any:
    return {**old, **{k: merged(old.get(k), v) for k, v in new.items()}} if isinstance(old, dict) and new else new


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone's files in a repository of their own, with a download of Wan beside it."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("src", "pipelines", "conf"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name in ("pyproject.toml", "dvc.yaml", ".gitignore"):
        shutil.copy(ROOT / name, root)
    for name in ("conf/local", "mlruns"):
        (root / name).mkdir()
    for stage, values in TINY.items():
        for environment in ("base", "gpu"):
            path = root / f"conf/{environment}/parameters_{stage}.yml"
            there = yaml.safe_load(path.read_text())
            there[stage] = merged(there[stage], values)
            if stage == "evaluate":
                there[stage]["protocol"]["metrics"] = {"psnr": "auto"}
            path.write_text(yaml.safe_dump(there))
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "project")
    write_diffusers(tmp_path / "Wan2.1-T2V-tiny")
    return root


def run(*command: str, ends: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def annotated(folder: Path, datasets: tuple[str, ...], films: Path) -> None:
    """What `validate` or `render_sweeps` leaves: two people of each dataset, one of them held out, with videos."""
    films.mkdir(parents=True, exist_ok=True)
    rows, people, rng = [], [], np.random.default_rng(0)
    for dataset in datasets:
        for identity, split in (("a", "train"), ("b", "test")):
            name = f"{dataset[0].lower()}{identity}"
            path = films / f"{dataset}-{identity}.mp4"
            picture = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            write_video(path, np.stack([np.roll(picture, t, 1) for t in range(9)]), 25.0, crf=4)
            rows += clip_rows(dataset, name, "s0", 9, split, seed=len(rows), path=str(path))
            people.append(identity_row(dataset, name, split, f"{name}/s0/cam", load_body().identity_dim))
    write_tables(folder, rows, people)


def done_before() -> None:
    """Records of the stages that are not walked."""
    mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
    annotated(DATA / "03_primary/validated", ("PhoneCapture", "StudioCapture"), DATA / "films")
    annotated(DATA / "03_primary/sweeps", ("ViewSweep", "DynamicSweep"), DATA / "films")
    for name in ("ingest", "track", "validate", "fit_avatars", "render_sweeps"):
        one = runs.StageRun(name, "gpu")
        one.records = RECORDS
        one.finish()
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def kill_at_a_checkpoint(stage: str) -> None:
    """SIGKILL as soon as the stage's first checkpoint is whole."""
    command = [sys.executable, "-m", "kedro", "run", "--env=gpu", f"--pipelines={stage}"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not list(DATA.glob(".units/checkpoints/**/step-00000001/*.safetensors")):
        assert running.poll() is None and time.monotonic() < until, "no checkpoint before the end"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (MODELS / stage.removeprefix("train_") / "transformer").exists(), "it had ended already"


@pytest.mark.slow
def test_a_download_of_wan_becomes_a_promoted_model_by_lora_and_another_base_under_it_is_refused(project, tmp_path):
    said = run("fportrait", "weights", "import-wan", str(tmp_path / "Wan2.1-T2V-tiny"), "--env=gpu")
    assert "next: kedro run --env=gpu --pipelines=pretrain" in said
    done_before()
    run("kedro", "run", "--env=gpu", "--pipelines=pretrain,encode")
    kill_at_a_checkpoint("train_stage1")
    said = run("kedro", "run", "--env=gpu", f"--pipelines={CHAIN.removeprefix('pretrain,encode,')}")
    assert "resum" in said

    stages = [json.loads((MODELS / f"stage{n}/training.json").read_text()) for n in (1, 2, 3, 4)]
    assert [one["steps"] for one in stages] == [3, 3, 3, 3]
    adapters = [json.loads((MODELS / f"stage{n}/adapter/adapter.json").read_text()) for n in (1, 2, 3, 4)]
    assert len({one["base"] for one in adapters}) == 4, "each stage adapts what the one before left"
    bundle = json.loads((MODELS / "final/bundle/bundle.json").read_text())
    assert (bundle["size"], bundle["frames"], bundle["scheduler"]) == (64, 9, "unipc")
    server = mlflow.MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    version = server.get_model_version_by_alias("fportrait", "champion")
    assert version.tags["adapter.base"] == adapters[3]["base"]

    portrait, driving, _ = write_inputs(tmp_path)
    asked = ("fportrait", "animate", f"--portrait={portrait}", f"--driving={driving}", "--scale=1", "--steps=2")
    run(*asked, "-o", "champion.mp4")
    assert read_video(Path("champion.mp4")).shape[:3] == (9, 64, 64)
    adapted = (f"--model={BASE}", f"--adapter={MODELS / 'stage1'}")
    run(*asked, *adapted, "-o", "adapted.mp4")
    assert read_video(Path("adapted.mp4")).shape[:3] == (9, 64, 64)

    # The base is exchanged underneath: by a finger's breadth, with the same names and shapes.
    weights = next((BASE / "transformer").glob("*.safetensors"))
    state = load_file(weights)
    name = next(name for name in state if name.endswith("to_q.weight"))
    state[name] = state[name] + 1e-3 * torch.ones_like(state[name])
    save_file(state, weights, metadata={"format": "pt"})
    assert "of the base" in run(*asked, *adapted, "-o", "other.mp4", ends=2)
    assert not Path("other.mp4").exists()
    said = run("kedro", "run", "--env=gpu", "--pipelines=promote", ends=2)
    assert f"{BASE} is not what the record" in said
