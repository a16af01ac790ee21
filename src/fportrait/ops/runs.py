"""One MLflow run per stage, all stages of one launch under one parent, and the record of what the stage used and made.

Runs are written with explicit ids through the client, so no global "active run" can race with another.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from fportrait.ops import describe, headline, lineage
from fportrait.ops.headline import flatten
from fportrait.ops.resources import MIB, Watch

EXPERIMENT = "fportrait"
PARENT_VARIABLE = "FPORTRAIT_PARENT_RUN"
PARENT_TAG, LAUNCHER_TAG, STAGES_TAG = "mlflow.parentRunId", "fportrait.launcher", "fportrait.stages"
TABLE = "all_metrics.json"
SYSTEM = "system/"  # MLflow shows what begins so on a page of its own, apart from curves and scores
_FLUSH_SECONDS = 5.0
_current: StageRun | None = None


def client() -> Any:
    """A client of the tracking server that `conf/base/mlflow.yml` (or `MLFLOW_TRACKING_URI`) names."""
    import mlflow

    return mlflow.MlflowClient()


def experiment_id(server: Any) -> str:
    found = server.get_experiment_by_name(EXPERIMENT)
    if not found:
        return server.create_experiment(EXPERIMENT, tags={describe.NOTE: describe.EXPERIMENT})
    if describe.NOTE not in found.tags:  # made by kedro-mlflow, or by a version before this one
        server.set_experiment_tag(found.experiment_id, describe.NOTE, describe.EXPERIMENT)
    return found.experiment_id


def launcher() -> str:
    """Names the process that started this stage: the `dvc` above it, or this process itself.

    Every stage of one `dvc repro` is a process of its own; what they share is the first ancestor that does not yet
    carry `DVC_STAGE`.
    """
    process = psutil.Process()
    if os.environ.get("DVC_STAGE"):
        for ancestor in process.parents():
            try:
                inside = "DVC_STAGE" in ancestor.environ()
            except psutil.Error:
                break
            process = ancestor
            if not inside:
                break
    return f"{process.pid}-{int(process.create_time() * 100)}"


def find_or_start_parent(server: Any, experiment: str) -> str:
    """The run that all stages of this launch share: the one named by `FPORTRAIT_PARENT_RUN`, else the launcher's."""
    named = os.environ.get(PARENT_VARIABLE)
    if named:
        return named
    key = launcher()
    found = server.search_runs([experiment], f"tags.`{LAUNCHER_TAG}` = '{key}'", max_results=1)
    if found:
        return found[0].info.run_id
    tags = {LAUNCHER_TAG: key, describe.NOTE: describe.CHAIN, "git_commit": lineage.git_commit(), **lineage.dvc_keys()}
    tags.pop("DVC_STAGE", None)
    return server.create_run(experiment, run_name=describe.launch([]), tags=tags).info.run_id


def name_parent(server: Any, parent: str, stage: str, environment: str) -> None:
    """Name a launch after the stages that ran in it so far; a parent that somebody else named keeps its name."""
    tags = server.get_run(parent).data.tags
    if LAUNCHER_TAG not in tags:
        return
    stages = [name for name in tags.get(STAGES_TAG, "").split(",") if name and name != stage] + [stage]
    server.set_tag(parent, STAGES_TAG, ",".join(stages))
    server.set_tag(parent, "mlflow.runName", describe.launch(stages, environment, tags.get("DVC_EXP_NAME", "")))


class StageRun:
    """A running stage. `finish` writes tags, metrics and the lineage record; `fail` marks the run as failed."""

    def __init__(self, stage: str, environment: str = "base", parent: str | None = None):
        global _current
        self.stage, self.environment, self.records = stage, environment, lineage.FOLDER
        self._client = client()
        experiment = experiment_id(self._client)
        self.parent = parent or find_or_start_parent(self._client, experiment)
        self._commit = lineage.git_commit()
        tags = {
            **describe.note(stage),
            **describe.source(stage, environment),
            PARENT_TAG: self.parent,
            "stage": stage,
            "environment": environment,
            "git_commit": self._commit,
        }
        run = self._client.create_run(experiment, run_name=stage, tags={**tags, **lineage.dvc_keys()})
        self.run_id: str = run.info.run_id
        name_parent(self._client, self.parent, stage, environment)
        self._inputs: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, dict[str, Any]] = {}
        self._parameters: dict[str, Any] = {}
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()
        _current = self
        self._watch = Watch()

    def add_inputs(self, paths: Mapping[str, str]) -> None:
        self._inputs.update({path: lineage.describe(path) for path in paths.values()})
        for name, path in paths.items():
            self._client.set_tag(self.run_id, f"input.{name}", self._inputs[path]["hash"])
        if paths:
            self._client.log_inputs(self.run_id, [self._dataset(name, path) for name, path in paths.items()])

    def _dataset(self, name: str, path: str) -> Any:
        """What MLflow shows as an input: the catalog's name, the record's hash as digest, the folder as source."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = self._inputs[path]
        profile = json.dumps({"bytes": entry["bytes"], "files": entry["files"]})
        dataset = Dataset(name, entry["hash"], "local", json.dumps({"uri": path}), profile=profile)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", describe.context(self.stage))])

    def add_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._parameters.update(parameters)
        params = [Param(key, str(value)[:6000]) for key, value in flatten(parameters).items()]
        self._client.log_batch(self.run_id, params=params)

    def add_outputs(self, paths: Mapping[str, str]) -> None:
        self._outputs.update({path: {} for path in paths.values()})

    def add_report(self, report: Mapping[str, Any]) -> None:
        """Log a report's numbers; of a long one the named ones, and all of them as one table."""
        self.log_metrics(headline.logged(self.stage, report), 0)
        if self.stage in headline.NAMED:
            self._client.log_table(self.run_id, headline.table(report), TABLE)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep points of curves; they are sent together every few seconds, because each write is a transaction."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(metric_name(name), float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def log_artifact(self, path: str | Path, folder: str = "samples") -> None:
        """Copy a file, or the files of a folder, into the run's artifacts."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def _flush(self) -> None:
        for start in range(0, len(self._waiting), 1000):
            self._client.log_batch(self.run_id, metrics=self._waiting[start : start + 1000])
        self._waiting, self._flushed = [], time.monotonic()

    def finish(self) -> None:
        seconds, peak = self._close()
        self._outputs = {path: lineage.describe(path) for path in self._outputs}
        bytes_in = sum(entry["bytes"] for entry in self._inputs.values())
        bytes_out = sum(entry["bytes"] for entry in self._outputs.values())
        costs = {"seconds": seconds, "peak_memory_mib": peak, "bytes_in": bytes_in, "bytes_out": bytes_out}
        self.log_metrics({f"{SYSTEM}{name}": value for name, value in costs.items()}, 0)
        self._flush()
        record = {
            "stage": self.stage,
            "environment": self.environment,
            "run_id": self.run_id,
            "parent_run_id": self.parent,
            "git_commit": self._commit,
            **lineage.dvc_keys(),
            "parameters": self._parameters,
            "inputs": self._inputs,
            "outputs": self._outputs,
            "seconds": round(seconds, 2),
            "peak_memory_mib": round(peak, 1),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }
        path = lineage.write_record(self.stage, record, self.records)
        self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id)
        self._client.set_terminated(self.parent)
        logging.getLogger(__name__).info(
            "%s: %.1f s, peak memory %.0f MiB, %.1f MiB in, %.1f MiB out",
            *(self.stage, seconds, peak, bytes_in / MIB, bytes_out / MIB),
        )

    def fail(self, error: BaseException) -> None:
        self._close()
        self._flush()
        self._client.set_tag(self.run_id, "error", str(error)[:4000])
        self._client.set_terminated(self.run_id, "FAILED")
        self._client.set_terminated(self.parent, "FAILED")

    def _close(self) -> tuple[float, float]:
        global _current
        _current = None
        return self._watch.stop()


def metric_name(name: str) -> str:
    """MLflow allows letters, digits and `_-. :/`."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def log_metrics(metrics: Mapping[str, float], step: int) -> None:
    """Log points of curves to the stage that runs in this process; outside a stage, do nothing."""
    if _current is not None:
        _current.log_metrics(metrics, step)


def log_artifact(path: str | Path, folder: str = "samples") -> None:
    """Keep a file or folder with the stage that runs in this process; outside a stage, do nothing."""
    if _current is not None:
        _current.log_artifact(path, folder)


def current_run_id() -> str | None:
    """The MLflow run of the stage that runs in this process."""
    return _current.run_id if _current is not None else None


def current_records() -> Path:
    """The folder of lineage records of the stage that runs in this process; an environment may have its own."""
    return _current.records if _current is not None else lineage.FOLDER


def tag(name: str, value: str) -> None:
    """Tag the stage that runs in this process; outside a stage, do nothing."""
    if _current is not None:
        client().set_tag(_current.run_id, name, value)
