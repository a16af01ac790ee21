"""The registry gate: what a model must show before `models:/fportrait@champion` points at it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fportrait.bundle import SHIPPED_BASE, bundle_hashes
from fportrait.errors import UserError
from fportrait.ops import lineage, runs

MODEL = "fportrait"
CHAMPION, PREVIOUS = "champion", "previous"
DATABASE = Path("mlruns/mlflow.db")
REQUIREMENTS = (
    *("torch", "diffusers", "safetensors", "numpy", "scipy", "numba", "pandas", "pyarrow", "av", "opencv-python"),
    *("ai-edge-litert", "click", "mlflow"),
)


def refusals(metrics: Mapping[str, float], floors: Mapping[str, float], stages: Sequence[str]) -> list[str]:
    """Why a model may not be promoted; empty when it may.

    Args:
        metrics: flat names to values, higher is better.
        floors: flat names to the least value that passes; a metric named here must exist.
        stages: the stages whose records must form an unbroken line.
    """
    reasons = lineage.gaps(list(stages))
    for name, floor in floors.items():
        value = metrics.get(name)
        if value is None:
            reasons.append(f"the evaluation has no '{name}'")
        elif not value >= floor:
            reasons.append(f"{name} is {value:.4g}, below its floor {floor:.4g}")
    return reasons


def promote(
    bundle: Path, metrics: Mapping[str, float], floors: Mapping[str, float], stages: Sequence[str]
) -> dict[str, Any]:
    """Register `bundle` as the next version of the model and, when the gate is passed, move `champion` to it.

    The version that was champion becomes `previous`. Returns `version`, `run_id` and the bundle's hashes.

    Raises:
        UserError: the gate refuses; the message states every reason, nothing is registered and no alias moves.
    """
    reasons = refusals(metrics, floors, stages)
    if reasons:
        raise UserError(
            f"a model that may not be promoted: {'; '.join(reasons)}",
            "an unbroken lineage and metrics above their floors",
            "train further, run the named stages again, or change promote.floors knowingly",
        )
    server, run_id = runs.client(), runs.current_run_id()
    if run_id is None:
        raise RuntimeError("promote runs inside a stage, which owns the MLflow run that the model belongs to")
    uri = log_model(bundle, run_id, metrics)
    tags = {f"record.{stage}": (lineage.read_record(stage) or {})["run_id"] for stage in stages}
    return {**register(server, uri, run_id, tags), "hashes": bundle_hashes(bundle)}


def log_model(bundle: Path, run_id: str, metrics: Mapping[str, float]) -> str:
    """Log the bundle as a models-from-code Python model with signature and requirements; returns its URI."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = DataType.string
    signature = ModelSignature(
        inputs=Schema([ColSpec(text, name) for name in ("portrait", "driving", "camera", "output")]),
        outputs=Schema([ColSpec(text, name) for name in ("video", "picture")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )
    package = Path(__file__).resolve().parents[1]
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(package)],  # the version keeps animating with the code it was made with
            signature=signature,
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
            metadata={"metrics": dict(metrics), "bundle": bundle_hashes(bundle)},
        )
    return info.model_uri


def register(server: Any, uri: str, run_id: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Make `uri` the next version; `champion` moves to it and the former champion becomes `previous`."""
    import mlflow

    version = mlflow.register_model(uri, MODEL, tags=dict(tags)).version
    former = champion_version(server)
    if former is not None:
        server.set_registered_model_alias(MODEL, PREVIOUS, former)
    server.set_registered_model_alias(MODEL, CHAMPION, version)
    return {"model": MODEL, "version": int(version), "previous": int(former) if former else None, "run_id": run_id}


def champion_version(server: Any) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return server.get_model_version_by_alias(MODEL, CHAMPION).version
    except MlflowException:
        return None


def default_model() -> Path:
    """The bundle of the champion in this project's registry, or the shipped base when none was promoted yet."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and not DATABASE.is_file():
        return SHIPPED_BASE
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(uri or f"sqlite:///{DATABASE.resolve()}")
    if champion_version(mlflow.MlflowClient()) is None:
        return SHIPPED_BASE
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@{CHAMPION}"))
    bundles = sorted(path.parent for path in folder.glob("artifacts/*/bundle.json"))
    if not bundles:
        raise UserError(f"no bundle in {folder}", "the promoted model's files", "run `kedro run --pipelines=promote`")
    return bundles[0]
