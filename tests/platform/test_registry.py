"""Registering a bundle, moving the aliases, finding the champion again, and the way back."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.atomic_io import write_json, write_text
from fportrait.bundle import SHIPPED_BASE, bundle_hashes
from fportrait.errors import UserError
from fportrait.ops import code, gate, lineage, promotion, registry, runs

ROOT = Path(__file__).resolve().parents[2]
FLOORS = gate.GateSettings(floors={"psnr": 19.0}, against_champion={"ours/psnr": 0.1})
NOTHING = gate.GateSettings()


def make_bundle(folder: Path, weight: str) -> Path:
    for part in ("transformer", "vae", "expression_encoder"):
        write_text(folder / part / "config.json", "{}")
        write_text(folder / part / "weights.safetensors", f"{part} {weight}")
    write_json(folder / "bundle.json", {"size": 64})
    return folder


def per_clip(value: float, holdout: str = "h") -> dict:
    return {"holdout": holdout, "clips": {f"c{i}": {"ours/psnr": value + i} for i in range(4)}}


@pytest.fixture
def stage_run(dry_project, monkeypatch):
    """A stage's MLflow run in the dry project, open while the test runs."""
    uri = f"sqlite:///{dry_project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    # The package beside each version is the real one; copying it is what costs time here.
    monkeypatch.setattr(code, "PACKAGE", dry_project / "conf")
    server = runs.client()
    server.create_experiment("fportrait", artifact_location=str(dry_project / "mlruns/artifacts"))
    run = runs.StageRun("promote")
    yield run
    run.fail(RuntimeError("the test is over"))


def promote(folder: Path, weight: str, psnr: float = 20.0, holdout: str = "h", settings=FLOORS, **more):
    candidate = promotion.Candidate({"psnr": psnr}, per_clip(psnr, holdout), [], None)
    return promotion.promote(make_bundle(folder / weight, weight), candidate, settings, **more)


def aliases() -> tuple[str | None, str | None]:
    server = runs.client()
    return registry.champion_version(server), registry.alias_version(server, "previous")


def test_promotion_refusal_and_rollback_from_one_model_to_the_next(stage_run, tmp_path):
    assert registry.default_model() == SHIPPED_BASE
    with pytest.raises(UserError, match=r"psnr is 18, asked for is at least 19"):
        promote(tmp_path, "low", 18.0)
    assert runs.client().search_registered_models() == []

    one = promote(tmp_path, "one")
    assert (one["version"], one["previous"]) == (1, None) and aliases() == ("1", None)
    assert bundle_hashes(registry.default_model()) == bundle_hashes(tmp_path / "one")
    with pytest.raises(UserError, match=r"tolerated -0\.1"):
        promote(tmp_path, "worse", 19.5)
    two = promote(tmp_path, "two", 21.0)
    assert (two["version"], two["previous"]) == (2, 1) and aliases() == ("2", "1")
    info = mlflow.models.get_model_info("models:/fportrait@champion")
    (job,) = info.signature.inputs.input_types()
    assert {item.name for item in job.properties} == {
        *("portrait", "driving", "output", "expression", "camera", "seed", "steps", "guidance", "size", "aspect")
    }
    assert {item.name for item in job.properties if item.required} == {"portrait", "driving"}
    assert "| data set |" not in runs.client().get_registered_model("fportrait").description  # nothing was measured
    assert "## Limits" in runs.client().get_registered_model("fportrait").description
    assert stage_run.run_id in runs.client().get_model_version("fportrait", "2").description
    assert bundle_hashes(registry.default_model()) == bundle_hashes(tmp_path / "two")

    back = registry.rollback("mouths stay shut")
    assert back == {"version": 1, "rolled_back": 2, "previous": None} and aliases() == ("1", None)
    tags = runs.client().get_model_version("fportrait", "2").tags
    assert (tags[registry.STATE_TAG], tags[registry.REASON_TAG]) == ("rolled back", "mouths stay shut")
    assert bundle_hashes(registry.default_model()) == bundle_hashes(tmp_path / "one")
    with pytest.raises(UserError, match="nothing to go back to"):
        registry.rollback()
    assert registry.rollback(to="2")["version"] == 2 and aliases() == ("2", "1")
    with pytest.raises(UserError, match="no version 9"):
        registry.rollback(to="9")


def test_a_failing_smoke_animation_gives_both_aliases_back(stage_run, tmp_path):
    promote(tmp_path, "one")
    promote(tmp_path, "two", 21.0)

    def broken(model):
        raise RuntimeError("it draws nothing")

    with pytest.raises(UserError, match=r"draws nothing.*version 2 again"):
        promote(tmp_path, "three", 22.0, smoke=broken)
    assert aliases() == ("2", "1")
    assert runs.client().get_model_version("fportrait", "3").tags[registry.STATE_TAG] == "failed"
    slow = gate.GateSettings(limits={"smoke.seconds": 1.0})
    with pytest.raises(UserError, match=r"smoke.seconds is 3, limit 1"):
        promote(tmp_path, "three", settings=slow, smoke=lambda model: {"seconds": 3.0})
    assert aliases() == ("2", "1")
    done = promote(tmp_path, "four", 22.0, smoke=lambda model: {"seconds": 3.0})
    assert aliases() == ("5", "2") and "seconds 3" in done["checks"][-1]["detail"]


def test_a_model_is_logged_without_a_warning_and_checks_what_it_is_asked_for(stage_run, tmp_path, capfd, recwarn):
    before = {path.name for path in tmp_path.iterdir()}
    uri = promotion.log_model(SHIPPED_BASE, stage_run.run_id)
    assert {path.name for path in tmp_path.iterdir()} == before  # MLflow ran the input example
    assert "warn" not in capfd.readouterr().err.lower()
    assert not [str(one.message) for one in recwarn if "type hint" in str(one.message) or "example" in str(one.message)]
    model = mlflow.pyfunc.load_model(uri)
    with pytest.raises(mlflow.MlflowException, match="driving"):
        model.predict([{"portrait": "me.jpg", "output": "out.mp4"}])
    row = {"portrait": str(tmp_path / "me.jpg"), "driving": "talk.mp4", "output": "out.mp4", "seed": 3}
    asked = [[row], pd.DataFrame([row]), [{**row, "guidance": {"pose": 2.0}, "steps": 3}]]
    for jobs in [*asked, pd.DataFrame([row, {**row, "camera": "spin"}])]:  # the table's first camera is empty
        with pytest.raises(UserError, match=r"me\.jpg"):
            model.predict(jobs)
    for words in ({"size": "100"}, {"aspect": "9:99"}):  # refused by the model's own rule for pictures
        with pytest.raises(UserError, match=r"picture of 100 pixels|one side is 11 times"):
            model.predict([{**row, **words}])
    with pytest.raises(mlflow.MlflowException, match="camra"):
        model.predict([{**row, "camra": "spin"}])
    (example,) = (
        model.input_example.to_dict("records") if hasattr(model.input_example, "to_dict") else model.input_example
    )
    assert example["portrait"] == "example/portrait.png"
    own = model.unwrap_python_model()
    assert own.path(example["portrait"]).is_file() and own.path(example["driving"]).is_file()
    assert str(own.path("example/../../secret")) == "example/../../secret"


def test_of_two_promotions_at_once_exactly_one_wins(stage_run, tmp_path):
    promote(tmp_path, "one")
    server, base = runs.client(), "1"
    bundles = [make_bundle(tmp_path / name, name) for name in ("two", "three")]
    uris = [promotion.log_model(bundle, stage_run.run_id) for bundle in bundles]
    gatepost, outcomes = threading.Barrier(2), []

    def arrive(uri: str) -> None:
        gatepost.wait()
        try:
            outcomes.append(promotion.register(server, uri, stage_run.run_id, {}, base)["version"])
        except UserError as error:
            outcomes.append(error.found)

    threads = [threading.Thread(target=arrive, args=(uri,)) for uri in uris]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in outcomes if isinstance(one, int)]
    assert len(winners) == 1 and aliases() == (str(winners[0]), "1")
    (told,) = [one for one in outcomes if not isinstance(one, int)]
    assert f"version {winners[0]}" in told or "promoted while" in told


def test_a_promoter_that_died_blocks_nobody_for_long(stage_run, tmp_path, monkeypatch):
    uri = promotion.log_model(make_bundle(tmp_path / "one", "one"), stage_run.run_id)
    mlflow.register_model(uri, "fportrait", tags={registry.BASE_TAG: "none", registry.STATE_TAG: registry.CLAIMED})
    with pytest.raises(UserError, match="version 1, which was promoted while"):
        promotion.register(runs.client(), uri, stage_run.run_id, {}, None)
    monkeypatch.setattr(promotion, "CLAIM_SECONDS", 0)
    assert promotion.register(runs.client(), uri, stage_run.run_id, {}, None)["version"] == 3


def test_a_champion_scored_on_another_holdout_is_scored_again(stage_run, tmp_path):
    promote(tmp_path, "one", holdout="old")
    asked = []

    def rescore(bundle: Path):
        asked.append(bundle_hashes(bundle))
        return per_clip(25.0)

    with pytest.raises(UserError, match="tolerated"):
        promote(tmp_path, "two", 21.0, rescore=rescore)
    assert asked == [bundle_hashes(tmp_path / "one")]
    with pytest.raises(UserError, match="holdout old"):
        promote(tmp_path, "three", 21.0)


def test_a_champion_whose_files_vanished_or_changed_is_named(stage_run, dry_project, tmp_path):
    promote(tmp_path, "one")
    promote(tmp_path, "two", 21.0)
    kept = sorted((dry_project / "mlruns/artifacts").rglob("artifacts/*/vae/weights.safetensors"))
    by_bytes = {path.read_text(): path for path in kept}
    by_bytes["vae two"].write_text("vae 2wo")
    with pytest.raises(UserError, match=r"vae/weights.safetensors of version 2 missing or changed"):
        registry.default_model()
    shutil.rmtree(by_bytes["vae one"].parents[3])
    with pytest.raises(UserError, match=r"version 1 without its files|no bundle"):
        registry.rollback()
    assert aliases() == ("2", "1")  # nothing moved


def test_a_locked_or_broken_store_is_a_message(stage_run, dry_project, tmp_path, monkeypatch):
    promote(tmp_path, "one")
    database = dry_project / "mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}?timeout=0.05")
    other = sqlite3.connect(database)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match=r"database is locked.*wait until"):
        registry.default_model()
    other.rollback()
    write_text(tmp_path / "broken.db", "this is no database " * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(UserError, match=r"not a database.*MLFLOW_TRACKING_URI"):
        registry.default_model()


def test_the_lineage_is_printed_back_to_the_captures(stage_run, dry_project, tmp_path):
    import pandas as pd

    from fportrait.cli.models import lineage as command

    folder = dry_project / "data/02_intermediate/ingest"
    folder.mkdir(parents=True)
    rows = [
        {
            "dataset": "PhoneCapture",
            "identity": "anna",
            "split": "train",
            "clip": f"anna/{i}",
            "frames": 50,
            "sha256": str(i),
        }
        for i in range(2)
    ]
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    common = {"git_commit": "abcdef0123456789", "seconds": 2.0, "peak_memory_mib": 100.0, "run_id": "r" * 32}
    lineage.write_record(
        "ingest",
        {
            **common,
            "inputs": {},
            "outputs": {"data/02_intermediate/ingest": {"hash": "h1", "bytes": 9}},
            "parameters": {"source": "phone"},
        },
    )
    lineage.write_record(
        "track",
        {
            **common,
            "inputs": {"data/02_intermediate/ingest": {"hash": "h1", "bytes": 9}},
            "outputs": {},
            "parameters": {"a": {"b": 3}},
        },
    )
    candidate = promotion.Candidate({"psnr": 20.0}, None, ["ingest", "track"], None)
    promotion.promote(make_bundle(tmp_path / "one", "one"), candidate, NOTHING)
    shown = CliRunner().invoke(command, [])
    assert shown.exit_code == 0, shown.output
    for words in (
        "fportrait version 1",
        "track  run rrrrrrrr  code abcdef012345",
        "made by ingest",
        "a.b = 3",
        "source = phone",
        "capture PhoneCapture/anna  2 clips, 100 frames, train",
    ):
        assert words in shown.output
    refused = CliRunner().invoke(command, ["7"])
    assert isinstance(refused.exception, UserError) and "no model '7'" in str(refused.exception)


def test_the_documented_lines_load_the_champion_in_a_fresh_shell_and_leave_no_stray_database(stage_run, dry_project):
    page = (ROOT / "docs/promotion.md").read_text()
    shell = re.search(r"^export MLFLOW_TRACKING_URI=.*$", page, re.M)[0]
    python = re.search(r"```python\n(import mlflow.*?)```", page, re.S)[1]
    promotion.promote(SHIPPED_BASE, promotion.Candidate({}, None, [], None), NOTHING)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    (dry_project / "example.py").write_text(python)
    before = {path.name for path in dry_project.iterdir()}
    run = subprocess.run(
        ["bash", "-ec", f"{shell}\npython example.py"],
        cwd=dry_project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (made,) = ast.literal_eval(run.stdout.splitlines()[-1])
    assert Path(made["video"]).name == "animated.mp4" and not Path(made["video"]).parent.exists()  # went with the model
    assert {path.name for path in dry_project.iterdir()} == before
