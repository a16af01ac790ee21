"""Kedro hooks: parameters are checked before anything runs, and every stage becomes one MLflow run."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines

from fportrait.ops import stopped
from fportrait.ops.mistakes import user_error
from fportrait.ops.parameters import check_kinds, check_nested_keys, check_parameters, known_parameters


class ParameterHooks:
    """Unknown and missing keys, wherever they come from (files, `--params`), stop the run."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        os.chdir(context.project_path)  # paths in the catalog and in reports are relative to the project
        logging.getLogger("kedro").addFilter(_quiet_user_errors)
        for name in ("kedro.pipeline.node", "kedro.runner.runner", "kedro.runner.sequential_runner"):
            logging.getLogger(name).addFilter(_quiet_user_errors)
        requested = pipelines._requested_pipelines
        pipelines.set_requested(None)
        check_parameters(context.params, known_parameters(pipelines.values()))
        pipelines.set_requested(requested)
        written_out = OmegaConfigLoader(context.config_loader.conf_source, base_env="base", default_run_env="base")
        check_nested_keys(context.params, written_out["parameters"])
        check_kinds(context.params, written_out["parameters"])
        # Resolvers are global and the last loader made owns them: an environment with folders of its own would
        # silently work in the base's.
        context.config_loader._register_globals_resolver()


class RunHooks:
    """Opens a stage's run before its node and closes it, with its lineage record, when its report is saved.

    Every stage is one node whose last output is its report (`fportrait.pipelines.wiring`).
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._at_work: Any = None
        self._catalog: Any = None
        self._parent: str | None = None
        self._environment = "base"
        self._given: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._done: dict[str, float] = {}

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: Any) -> None:
        self._catalog, self._parent = catalog, None
        self._environment = run_params.get("env") or "base"
        self._given = run_params.get("runtime_params") or run_params.get("extra_params") or {}
        self._began, self._done = {}, {}

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._tell_dvc()

    @hook_impl
    def before_node_run(self, node: Any, inputs: dict[str, Any]) -> None:
        from fportrait.ops.runs import StageRun
        from fportrait.ops.work_lock import share

        name = _stage_of(node)
        self._at_work = share()
        self._began[name] = time.time()
        self._run = StageRun(name, environment=self._environment, parent=self._parent)
        self._parent = self._run.parent
        self._run.records = Path(self._path(f"{name}_report")).parent / "lineage"  # an environment may have its own
        self._run.add_inputs({entry: self._path(entry) for entry in inputs if not entry.startswith("params:")})
        prefix = f"params:{name}."
        own = {entry.removeprefix(prefix): value for entry, value in inputs.items() if entry.startswith(prefix)}
        self._run.add_parameters(own)

    @hook_impl
    def after_node_run(self, node: Any, outputs: dict[str, Any]) -> None:
        report = f"{_stage_of(node)}_report"
        self._run.add_outputs({entry: self._path(entry) for entry in outputs})
        self._run.add_report(outputs[report])

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        if self._run is not None and dataset_name == f"{self._run.stage}_report":
            self._run.finish()
            stopped.forget(self._run.stage, self._run.records)
            self._done[self._run.stage] = self._began[self._run.stage]
            self._run = None
            self._rest()

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        if self._run is not None:
            stopped.write(self._run.stage, self._run.records, error)
            self._run.fail(error)
            self._run = None
        self._rest()
        self._tell_dvc()

    def _rest(self) -> None:
        """The stage is over: what wants the project's data alone may have it."""
        if self._at_work is not None:
            self._at_work.close()
            self._at_work = None

    def _tell_dvc(self) -> None:
        """What is done is done, whatever came after it."""
        from fportrait.ops.dvc_lock import tell_dvc

        done, self._done = self._done, {}
        if done:
            tell_dvc(done, self._environment, self._given)

    def _path(self, entry: str) -> str:
        path = Path(self._catalog[entry]._describe()["filepath"])
        return path.relative_to(Path.cwd()).as_posix() if path.is_absolute() else path.as_posix()


def _stage_of(node: Any) -> str:
    return next(iter(node.tags))


def _quiet_user_errors(record: logging.LogRecord) -> bool:
    """Drop what Kedro logs about a mistake of the user: the command prints it once, in one line."""
    return record.levelno < logging.WARNING or user_error(sys.exc_info()[1]) is None
