"""How Kedro reads `conf/`: what its settings name, and what commands that read it by themselves use too."""

from __future__ import annotations

from fportrait.ops.store import home, tracking_uri


def in_project(path: str) -> str:
    """An absolute path, because MLflow remembers where relative ones led when they were first used."""
    return str(home() / path)


CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},  # conf/local may hold one key of a section, not the whole section
    "custom_resolvers": {"in_project": in_project, "tracking_uri": tracking_uri},
}
