"""A dry project: two small real stages, the real hooks, catalog types and MLflow, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.pipeline import Pipeline

from fportrait.atomic_io import write_text
from fportrait.errors import UserError
from fportrait.pipelines.wiring import stage

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"numbers": "data/numbers", "sums": "data/sums"}


def count(numbers: Path, *, upto: int) -> dict[str, Any]:
    write_text(numbers / "numbers.txt", "\n".join(map(str, range(upto))))
    return {"count": upto}


def add(numbers: Path, sums: Path, *, scale: float, shares: dict[str, float]) -> dict[str, Any]:
    from fportrait.ops.runs import log_metrics

    if scale < 0:
        raise UserError(f"scale {scale}", "a positive number", "raise add.scale")
    values = [int(line) for line in (numbers / "numbers.txt").read_text().split()]
    for step, value in enumerate(values):
        log_metrics({"partial": value * scale}, step)
    write_text(sums / "sum.txt", str(sum(values) * scale * shares["first"]))
    return {"sum": sum(values) * scale}


def dry_pipelines() -> dict[str, Pipeline]:
    first = stage("count", count, reads={}, writes={"numbers": "numbers"})
    second = stage("add", add, reads={"numbers": "numbers"}, writes={"sums": "sums"})
    return {"__default__": first + second, "count": first, "add": second}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once; making them takes a second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def dry_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A project folder that Kedro accepts, with MLflow in it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    base = tmp_path / "conf" / "base"
    (tmp_path / "conf" / "local").mkdir(parents=True)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns" / "mlflow.db")
    (tmp_path / "src").mkdir()  # Kedro wants one; the package is the real one
    base.mkdir()
    mlflow_yml = (ROOT / "conf/base/mlflow.yml").read_text().replace("[__default__,", "[__default__, count, add,")
    (base / "mlflow.yml").write_text(mlflow_yml)
    entries = {"numbers": "count", "sums": "add"}
    catalog = {
        name: {"type": "fportrait.ops.datasets.Folder", "filepath": FOLDERS[name], "made_by": maker}
        for name, maker in entries.items()
    }
    catalog["{stage}_report"] = {
        "type": "fportrait.ops.datasets.Report",
        "filepath": "data/08_reporting/{stage}.json",
        "made_by": "{stage}",
    }
    (base / "catalog.yml").write_text(yaml.safe_dump(catalog))
    (base / "parameters.yml").write_text(
        yaml.safe_dump(
            {
                "folders": FOLDERS,
                "count": {"upto": 5},
                "add": {"scale": 2.0, "shares": {"first": 1}},
                "scale": {"device": "auto"},
            }
        )
    )
    monkeypatch.setattr("fportrait.pipeline_registry.register_pipelines", dry_pipelines)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow exports it itself, for its child processes
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kedro_run(dry_project: Path) -> Callable[..., Any]:
    """`kedro run` in this process: `kedro_run("add", scale=3)` gives the click result."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from fportrait.ops.kedro_cli import cli

    def run(*arguments: str) -> Any:
        metadata = bootstrap_project(dry_project)
        before = {path.name for path in dry_project.iterdir()}
        result = CliRunner().invoke(cli, ["run", *arguments], obj=metadata)
        known = {"data", "mlruns", ".viz", "dvc.lock"}  # Kedro-Viz notes each run, and DVC is told of it
        strays = {path.name for path in dry_project.iterdir()} - before - known
        assert not strays, f"a stage wrote {strays} into the project's root"
        return result

    return run
