"""Kedro's project settings."""

import logging
import os
import warnings

from kedro.config import OmegaConfigLoader

from fportrait.hooks import ParameterHooks, RunHooks
from fportrait.ops.config_loader import CONFIG_LOADER_ARGS as CONFIG_LOADER_ARGS

# Nothing that a user runs here may call home; set before any of these libraries is imported.
for name, value in {
    "DO_NOT_TRACK": "true",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # `kedro mlflow ui` serves one person: of MLflow's four server processes, restarted after five busy seconds without
    # an answer, one is enough, and nothing here uses its runner of jobs for judges of language models.
    "MLFLOW_WORKERS": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}.items():
    os.environ.setdefault(name, value)
logging.getLogger("kedro_mlflow.framework.hooks.mlflow_hook").setLevel(logging.WARNING)


def import_kedro_mlflow() -> None:
    """Import the plugin, and drop what MLflow says about one class of it.

    `KedroPipelineModel.predict` has no type hints, and MLflow warns of that when the class is defined, under a filter
    of its own that overrules ours. Our model (`fportrait.ops.served_model`) has them; other warnings are passed on.
    """
    with warnings.catch_warnings(record=True) as said:
        import kedro_mlflow.mlflow  # noqa: F401
    for one in said:
        if "Add type hints to the `predict` method" not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


import_kedro_mlflow()


HOOKS = (ParameterHooks(), RunHooks())
CONFIG_LOADER_CLASS = OmegaConfigLoader
