"""The Kedro project around the working folder, for commands that need one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fportrait.errors import UserError


def enter_project() -> Path:
    """Change into the project that the working folder lies in, ready for `parameters` and `run_pipeline`.

    Raises:
        UserError: there is none.
    """
    from kedro.utils import find_kedro_project

    root = find_kedro_project(Path.cwd())
    if root is None:
        raise UserError(
            f"no fportrait project in {Path.cwd()}", "a folder with pyproject.toml and conf/", "change into the project"
        )
    os.chdir(root)  # before Kedro is imported: it looks for conf/logging.yml here, and else logs to standard output
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(root)
    return root


def parameters() -> dict[str, Any]:
    """All parameters of the project, by section."""
    from kedro.framework.session import KedroSession

    with KedroSession.create() as session:
        return session.load_context().params  # type: ignore[attr-defined]


def read_parameters(environment: str | None = None) -> dict[str, Any]:
    """The same, read from the files alone: no plugin starts, and nothing is made in `mlruns/`."""
    from kedro.config import OmegaConfigLoader

    from fportrait.ops.config_loader import CONFIG_LOADER_ARGS

    arguments: dict[str, Any] = CONFIG_LOADER_ARGS | ({"default_run_env": environment} if environment else {})
    return OmegaConfigLoader(str(Path.cwd() / "conf"), **arguments)["parameters"]


def run_pipeline(name: str) -> None:
    """`kedro run --pipelines=NAME` in this process.

    Raises:
        UserError: what stopped a node, where the user can mend it.
    """
    from kedro.framework.session import KedroSession
    from kedro.runner import SequentialRunner

    from fportrait.ops.mistakes import user_error

    try:
        with KedroSession.create() as session:
            session.run(pipeline_names=[name], runner=SequentialRunner())  # type: ignore[call-arg]
    except Exception as error:
        known = user_error(error)
        if known is None or isinstance(error, UserError):
            raise
        raise known from None
