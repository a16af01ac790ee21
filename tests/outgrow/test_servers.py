"""More than one machine: each configuration of conf/outgrow against the real thing."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import yaml

from helpers.servers import PASSWORD, ROOT, free_port, node_of, read_environment, wait_for


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    return tmp_path


def dvc(*arguments: str) -> str:
    run = subprocess.run(
        ["dvc", *arguments], capture_output=True, text=True, env=os.environ | {"DVC_NO_ANALYTICS": "1"}
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_results_go_to_object_storage_and_come_back_to_another_machine(project, storage):
    dvc("init", "-q")
    config = (ROOT / "conf/outgrow/dvc.config").read_text().replace("http://storage:9000", storage)
    (project / ".dvc/config.local").write_text(config)
    shard = project / "data/shard.bin"
    shard.parent.mkdir()
    shard.write_bytes(os.urandom(3_000_000))
    before = shard.read_bytes()
    dvc("add", "-q", "data/shard.bin")
    dvc("push", "-q")
    shutil.rmtree(project / ".dvc/cache")
    shard.unlink()
    dvc("pull", "-q")
    assert shard.read_bytes() == before
    assert "in sync" in dvc("status", "--cloud")


@pytest.fixture
def trainer(mlflow_server, monkeypatch) -> str:
    """A user who is not the administrator, as conf/outgrow/mlflow-client.env names one."""
    from mlflow.server.auth.client import AuthServiceClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    AuthServiceClient(mlflow_server).create_user("trainer", PASSWORD + "2")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "trainer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD + "2")
    return mlflow_server


def test_a_stage_and_a_model_are_kept_on_postgres_and_object_storage_and_only_for_who_has_a_password(
    project, trainer, storage, monkeypatch
):
    import boto3
    import mlflow
    from mlflow.exceptions import MlflowException

    from fportrait.ops import registry, runs

    mlflow.set_tracking_uri(trainer)
    source = project / "data/in"
    source.mkdir(parents=True)
    (source / "x").write_text("captures")
    run = runs.StageRun("track")
    run.add_inputs({"manifest": "data/in"})
    run.add_parameters({"workers": 2})
    run.log_metrics({"loss": 0.5}, 1)
    run.add_outputs({"tracks": "data/in"})
    run.finish()
    server = mlflow.MlflowClient()
    stored = server.get_run(run.run_id)
    assert stored.data.metrics["loss"] == 0.5 and stored.data.params["workers"] == "2"
    assert "track.json" in Path(mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path="track.json")).name
    listing = boto3.client("s3", endpoint_url=storage).list_objects_v2(Bucket="fportrait-mlflow")
    assert any(item["Key"].endswith("track.json") for item in listing["Contents"])

    server.create_registered_model(registry.MODEL)
    version = server.create_model_version(registry.MODEL, f"runs:/{run.run_id}/model", run.run_id).version
    server.set_registered_model_alias(registry.MODEL, registry.CHAMPION, version)
    assert registry.champion_version(mlflow.MlflowClient()) == version

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guess")
    with pytest.raises(MlflowException, match=r"401|authenticated"):
        mlflow.MlflowClient().search_experiments()


def test_units_run_on_a_ray_cluster_of_a_head_and_a_worker(tmp_path, monkeypatch):
    if importlib.util.find_spec("ray") is None:  # it reads its settings when it is imported, so not yet
        pytest.skip("the extra 'ray' is not installed")
    from fportrait.scale.engines import use_engine
    from fportrait.scale.map_engine import map_units

    # Short, because Ray makes sockets in it.
    folder, port = tempfile.mkdtemp(prefix="ray-"), free_port()
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    token = tmp_path / "token"
    token.write_text(os.urandom(32).hex())
    for name, value in (read_environment("ray.env") | {"RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": paths}).items():
        monkeypatch.setenv(name, value)  # of this process too: it is the driver
    resources = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--block"]
    here = "--node-ip-address=127.0.0.1"
    nodes = (
        ["--head", here, f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"],
        [here, f"--address=127.0.0.1:{port}"],
    )
    running = []
    try:
        for arguments in nodes:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *resources]
            log = open(tmp_path / f"node{len(running)}.log", "w")  # noqa: SIM115 - the node's own
            running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path))
            wait_for(lambda log=log: "Ray runtime started" in Path(log.name).read_text(), f"a node: {log.name}")
        import ray

        with use_engine("ray", f"127.0.0.1:{port}"):
            report = map_units(node_of, list(range(8)), cache_folder=tmp_path / "units", key=lambda unit: unit)
        ray.shutdown()
        assert not report.failures and len(report.results) == 8
        places = {result.value["node"] for result in report.results}
        assert len(places) == 2, "one of the two nodes did nothing"
    finally:
        for node in reversed(running):  # these and nothing else: `ray stop` would end every Ray of this machine
            os.killpg(node.pid, signal.SIGTERM)
        for node in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_machines_train_one_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    from fportrait.dataset.encode import vae_hash
    from fportrait.diffusion.codec import BlockCodec
    from fportrait.training.launch import launch
    from fportrait.training.run import Job
    from helpers.small import Journal, shards, transformer

    BlockCodec(refiner_blocks=0).save_pretrained(tmp_path / "base/vae")
    transformer().save_pretrained(tmp_path / "base/transformer")
    shards(tmp_path / "shards", vae_hash=vae_hash(tmp_path / "base/vae"))

    def train(name: str, **settings):
        values = {
            "name": "stage1",
            "frames": 5,
            "iterations": 4,
            "learning_rate": 1e-3,
            "batch_size": 4,
            "warmup": 2,
            "precision": "fp32",
            "mixture": {"PhoneCapture": 50, "ViewSweep": 50},
            "log_every": 1,
            **settings,
        }
        out, journal = tmp_path / name, Journal()
        folders = {"start": "base", "base": "base", "shards": "shards"}
        paths = {key: str(tmp_path / folder) for key, folder in folders.items()}
        job = Job(values, **paths, out=str(out), checkpoints=str(out / "checkpoints"))
        launch(job, tmp_path / f"{name}-launch", journal)
        return journal.losses

    join = [sys.executable, "-m", "fportrait.training.launch", str(tmp_path / "two-launch/job.json"), "--join", "1"]
    other = threading.Thread(target=subprocess.run, args=(join,), kwargs={"capture_output": True})
    other.start()  # before the first machine: it waits for the job
    two = train("two", nodes=2, processes=1, rendezvous=f"127.0.0.1:{free_port()}")
    other.join(300)
    one = train("one", processes=1, nodes=1)
    assert not other.is_alive()
    assert two == pytest.approx(one, rel=1e-4)


def test_the_outgrow_environment_overrides_base_in_known_keys_only():
    from fportrait.scale.engines import ENGINES
    from fportrait.training.config import StageConfig

    scale = yaml.safe_load((ROOT / "conf/outgrow/parameters_scale.yml").read_text())["scale"]
    known = yaml.safe_load((ROOT / "conf/base/parameters_scale.yml").read_text())["scale"]
    assert set(scale) <= set(known) and scale["engine"] in ENGINES
    stages = yaml.safe_load((ROOT / "conf/outgrow/parameters_train.yml").read_text())
    for name in ("train_stage1", "train_stage2", "train_stage3", "train_stage4"):
        base = yaml.safe_load((ROOT / f"conf/base/parameters_{name}.yml").read_text())[name]
        assert set(stages[name]) <= set(base)
        assert StageConfig.from_dict({"name": name, **base, **stages[name]}).nodes == 2
