"""Kedro's project settings."""

import os

from kedro.config import OmegaConfigLoader

from fportrait.hooks import ParameterHooks, RunHooks

# Nothing that a user runs here may call home; set before any of these libraries is imported.
for name, value in {
    "DO_NOT_TRACK": "true",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(name, value)

HOOKS = (ParameterHooks(), RunHooks())
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},  # conf/local may hold one key of a section, not the whole section
    "custom_resolvers": {"env": os.environ.get},
}
