"""Kedro's commands in this project: `run` prints a mistake of the user as one line, with exit code 2; `mlflow ui` ends
when it is told to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from fportrait.errors import UserError, nearest_name

LAUNCH = "launch"  # a folder of conf/ that is no environment


class FriendlyRun(click.Command):
    """`kedro run`; anything but a mistake of the user keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from fportrait.ops.mistakes import user_error

        try:
            check_folders(ctx.params)
            return super().invoke(ctx)
        except Exception as error:
            known: object = user_error(error) or explained(error, ctx.params)
            if known is None:
                raise
            click.echo(f"fportrait: {known}", err=True)
            ctx.exit(2)


def check_folders(asked: dict[str, Any]) -> None:
    """Refuse an environment that does not exist, before anything falls back to defaults without it.

    Raises:
        UserError: there is none; the nearest environment is named.
    """
    source = asked.get("conf_source")
    conf = Path(source) if source else Path("conf")
    environment = asked.get("env")
    if environment and conf.is_dir() and not (conf / environment).is_dir():
        there = sorted(entry.name for entry in conf.iterdir() if entry.is_dir() and entry.name != LAUNCH)
        raise no_such("the environment", [environment], there, f"a folder {conf}/{environment}", "--env")


def explained(error: Exception, asked: dict[str, Any]) -> UserError | str | None:
    """The sentence for an error that Kedro or a configuration's parser raised about what the user asked for."""
    from kedro.framework.project import pipelines

    text = " ".join(str(error).split())
    if text.startswith("Failed to find the pipeline named"):
        return text  # names the nearest ones itself
    parsed = parser_error(error)
    if parsed is not None:
        return parsed
    if not isinstance(error, ValueError) or not text.startswith("Pipeline "):
        return None
    whole = pipelines["__default__"]
    missing = re.findall(r"'([^']*)'", text)
    if "contains no nodes" in text and asked.get("tags"):
        tags = sorted({tag for node in whole.nodes for tag in node.tags})
        return no_such("no node with the tag", asked["tags"], tags, "a tag of a node", "--tags")
    if "nodes named" in text:
        return no_such("the node", missing, [node.name for node in whole.nodes], "a node", "--nodes, --from-nodes")
    if "datasets named" in text:
        return no_such("the data set", missing, sorted(whole.datasets()), "a data set of the pipeline", "the name")
    if "namespaces" in text:
        return UserError(f"the namespace {', '.join(missing)}", "no namespace: there are none", "leave it out")
    if "contains no nodes" in text:
        return UserError("filters that leave no node to run", "one node at least", "drop one of the options")
    return None


def parser_error(error: BaseException | None) -> UserError | None:
    """What is wrong in a configuration file, if that is at the bottom of a chain of causes."""
    import yaml

    text, found = " ".join(str(error).split()), None
    while error is not None:
        if isinstance(error, yaml.YAMLError) and (found is None or getattr(error, "problem_mark", None)):
            found = error
        error = error.__cause__ or error.__context__
    if found is None:
        return None
    mark, problem = getattr(found, "problem_mark", None), getattr(found, "problem", None) or "it cannot be parsed"
    named = re.search(r"(\S+\.(?:ya?ml|json))", text)
    place = named.group(1) if named else "a configuration file"
    line = f", line {mark.line + 1}," if mark else ""
    if "'\\t'" in problem:
        return UserError(f"{place}{line} with a tab ({problem})", "indentation by spaces", "replace the tab by spaces")
    return UserError(f"{place}{line} that is not YAML ({problem})", "keys and values", "mend that line")


def no_such(what: str, given: Iterable[str], known: list[str], expected: str, option: str) -> UserError:
    """The error for names that do not exist; the nearest known one is named."""
    names = [str(name) for name in given]
    near = nearest_name(names[0], known) if names else None
    listed = ", ".join(known[:20]) or "none"
    fix = f"write '{near}'" if near else f"correct {option}"
    return UserError(f"{what} '{', '.join(names)}'", f"{expected}; there are {listed}", fix)


@click.group(name="fportrait")
def cli() -> None:
    """Commands that replace Kedro's own in this project."""


cli.add_command(
    FriendlyRun(
        name="run", callback=kedro_run.callback, params=kedro_run.params, help=kedro_run.help or "Run the pipeline."
    )
)


def open_runs(env: str, port: str | None, host: str | None) -> None:
    """MLflow's page of this project's runs, where conf/ENV/mlflow.yml says they are.

    This process becomes MLflow's, which ends its server when it is told to end. The plugin's command waits beside it:
    one that is ended by a service manager or `kill` leaves the server running.
    """
    import webbrowser

    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    project = find_kedro_project(Path.cwd()) or Path.cwd()
    bootstrap_project(project)
    with KedroSession.create(project_path=project, env=env) as session:
        settings: Any = session.load_context().mlflow  # type: ignore[attr-defined]  # kedro-mlflow's hook sets it
        store = settings.server.mlflow_tracking_uri
        place = ["--host", host or settings.ui.host, "--port", str(port or settings.ui.port)]
    if store.startswith("http"):
        webbrowser.open(store)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, *place])


class MlflowGroup(click.Group):
    """The commands of kedro-mlflow, which is imported when one is asked for, with `ui` replaced by `open_runs`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from kedro_mlflow.framework.cli.cli import mlflow_commands

        return list(mlflow_commands.list_commands(ctx))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from kedro_mlflow.framework.cli.cli import mlflow_commands

        found: click.Command | None = mlflow_commands.get_command(ctx, cmd_name)
        if cmd_name != "ui" or found is None:
            return found
        return click.Command("ui", callback=open_runs, params=found.params, help=found.help)


cli.add_command(MlflowGroup(name="mlflow", help="Use mlflow-specific commands inside kedro project."))
