"""Registering a bundle, moving the aliases, and finding the champion again."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from fportrait.atomic_io import write_json, write_text
from fportrait.bundle import SHIPPED_BASE, bundle_hashes
from fportrait.errors import UserError
from fportrait.ops import registry, runs


def make_bundle(folder: Path, weight: str) -> Path:
    for part in ("transformer", "vae", "expression_encoder"):
        write_text(folder / part / "config.json", "{}")
        write_text(folder / part / "weights.safetensors", f"{part} {weight}")
    write_json(folder / "bundle.json", {"size": 64})
    return folder


@pytest.fixture
def stage_run(dry_project, monkeypatch):
    """A stage's MLflow run in the dry project, open while the test runs."""
    uri = f"sqlite:///{dry_project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    server = runs.client()
    server.create_experiment("fportrait", artifact_location=str(dry_project / "mlruns/artifacts"))
    run = runs.StageRun("promote")
    yield run
    run.fail(RuntimeError("the test is over"))


def test_a_promoted_model_becomes_champion_keeps_the_former_one_and_is_found_byte_for_byte(stage_run, tmp_path):
    assert registry.default_model() == SHIPPED_BASE
    first, second = make_bundle(tmp_path / "one", "1"), make_bundle(tmp_path / "two", "2")
    one = registry.promote(first, {"psnr": 20.0}, {"psnr": 19.0}, [])
    assert (one["version"], one["previous"]) == (1, None)
    assert bundle_hashes(registry.default_model()) == bundle_hashes(first)
    two = registry.promote(second, {"psnr": 21.0}, {"psnr": 19.0}, [])
    assert (two["version"], two["previous"]) == (2, 1)
    assert bundle_hashes(registry.default_model()) == bundle_hashes(second)

    server = runs.client()
    assert server.get_model_version_by_alias("fportrait", "previous").version in (1, "1")  # a string for some stores
    info = mlflow.models.get_model_info("models:/fportrait@champion")
    assert [column.name for column in info.signature.inputs] == ["portrait", "driving", "camera", "output"]
    loaded = mlflow.pyfunc.load_model("models:/fportrait@champion").unwrap_python_model()
    assert bundle_hashes(loaded.bundle) == bundle_hashes(second)


def test_a_refused_model_leaves_no_version_and_no_alias(stage_run, tmp_path):
    with pytest.raises(UserError, match=r"psnr is 18, below its floor 19.*no 'ssim'"):
        registry.promote(make_bundle(tmp_path / "one", "1"), {"psnr": 18.0}, {"psnr": 19.0, "ssim": 1.0}, [])
    assert runs.client().search_registered_models() == []
    assert registry.default_model() == SHIPPED_BASE
