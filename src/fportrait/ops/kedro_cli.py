"""Kedro's `run`, with a mistake of the user printed as one line and exit code 2."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run


class FriendlyRun(click.Command):
    """`kedro run`; anything but a `UserError` keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from fportrait.ops.mistakes import user_error

        try:
            return super().invoke(ctx)
        except Exception as error:
            known: object = user_error(error)
            if known is None and str(error).startswith("Failed to find the pipeline named"):
                known = " ".join(str(error).split())  # names the nearest ones itself
            if known is None:
                raise
            click.echo(f"fportrait: {known}", err=True)
            ctx.exit(2)


@click.group(name="fportrait")
def cli() -> None:
    """Commands that replace Kedro's own in this project."""


cli.add_command(
    FriendlyRun(
        name="run", callback=kedro_run.callback, params=kedro_run.params, help=kedro_run.help or "Run the pipeline."
    )
)
