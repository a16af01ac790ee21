"""`fportrait status`."""

from __future__ import annotations

from typing import Any

import click

from fportrait.cli._options import json_option, print_json

COLOURS = {"fresh": "green", "changed": "yellow", "stopped": "red", "elsewhere": "yellow", "waits": "yellow"}


@click.command()
@click.option("--fast", is_flag=True, help="Do not ask DVC what changed (it reads every input).")
@click.option("--env", "environment", default="base", show_default=True, help="Folder of conf/ whose stages to show.")
@click.option("--all", "everything", is_flag=True, help="All quarantined items, not the first five.")
@json_option
def status(fast: bool, environment: str, everything: bool, as_json: bool) -> None:
    """Stages, champion, quarantine and last study on one screen.

    \b
    A stage is
      fresh      done, and nothing that it reads has changed
      changed    by what the last column names: `dvc repro` runs it
      waits      unchanged itself, but a stage above it, which is named, must run first; `dvc repro` then
                 runs it if that one's results differ. (`dvc status` looks at each stage alone: it lists
                 changed stages, not those that wait.)
      stopped    by a reason, printed below; never run; elsewhere (promoted in another copy of the project)
      ?          DVC was not asked (--fast), or cannot tell

    The exit code is 0 whatever the states are, and 2 where there is no project or no such environment; scripts read
    --json (`state`, `why`, `waits_for` of every stage).

    \b
    Examples:
      fportrait status
      fportrait status --fast
      fportrait status --env gpu
      fportrait status --json
    """
    from fportrait.errors import UserError
    from fportrait.ops.status import collect

    names = chain()
    if not names:
        raise UserError("no dvc.yaml here", "the project's folder", "cd into a clone of the repository")
    report = collect(names, ask_dvc=not fast, environment=environment)
    if as_json:
        print_json(report)
        return
    _stages(report["stages"], fast)
    _models(report["models"], any(row["state"] == "elsewhere" for row in report["stages"]))
    _quarantine(report["quarantine"], everything)
    _study(report["study"])


def chain() -> list[str]:
    """The stages in the order of dvc.yaml; empty outside a project."""
    from pathlib import Path

    from fportrait.ops.status import chain_of

    return list(chain_of(Path("dvc.yaml")))


def _stages(rows: list[dict[str, Any]], fast: bool) -> None:
    from fportrait.ops.status import STOPPED, UNKNOWN, WAITS, ago

    click.echo(f"{'stage':<16}{'state':<11}{'ran':<12}{'seconds':>9}{'MiB':>7}  why")
    for row in rows:
        state = click.style(f"{row['state']:<11}", fg=COLOURS.get(row["state"]))
        after = f"after {', '.join(row['waits_for'])}" if row["waits_for"] and row["state"] != WAITS else ""
        if "finished" not in row:
            click.echo(f"{row['stage']:<16}{state}{'':<28}  {after}".rstrip())
            continue
        numbers = f"{row['seconds']:>9.1f}{row['peak_memory_mib']:>7.0f}"
        why = "" if row["state"] in (STOPPED, UNKNOWN) else row["why"]  # those in full below
        why = "; ".join(filter(None, (after, why)))
        why = why if len(why) <= 60 else why[:59] + "…"
        click.echo(f"{row['stage']:<16}{state}{ago(row['finished']):<12}{numbers}  {why}".rstrip())
    for row in rows:
        if row["state"] == STOPPED:
            click.echo(f"\n{row['stage']:<16}stopped: {row['why']}")
    if any(row["state"] == WAITS for row in rows):
        click.echo("\nwaits       `dvc repro` runs what is named first; these only if its results come out different.")
    unknown = next((row["why"] for row in rows if row["state"] == UNKNOWN), None)
    if unknown and not fast:
        click.echo(f"\n?           DVC cannot tell what has changed. {unknown}")


def _models(found: dict[str, Any] | None, elsewhere: bool) -> None:
    from fportrait.ops.status import ago

    if found is None or not (found.get("champion") or found.get("error")):
        if elsewhere:
            click.echo("\nchampion    none here: a model was promoted elsewhere, and the shipped base is used.")
            click.echo(
                "            Bring it: `fportrait registry export FILE` there, `fportrait registry import FILE` here."
            )
            click.echo("            Or anew: `dvc repro --force --single-item evaluate`, then the same with promote.")
            return
        click.echo("\nchampion    none yet: the shipped base is used (`dvc repro` trains, evaluates and promotes one)")
        return
    click.echo()
    if found.get("error"):
        click.echo(f"champion    {found['error']}")
        return
    for alias in ("champion", "previous"):
        if alias in found:
            entry = found[alias]
            click.echo(f"{alias:<12}version {entry['version']}, {ago(entry['created'])}, run {entry['run_id'][:8]}")


def _quarantine(rows: list[dict[str, Any]], everything: bool) -> None:
    click.echo(f"\nquarantine  {len(rows) or 'nothing'}")
    for row in rows if everything else rows[:5]:
        click.echo(f"  {row['who'] or row['where']}: {row['reason']}")
    if len(rows) > 5 and not everything:
        click.echo(f"  … and {len(rows) - 5} more: fportrait status --all")


def _study(found: dict[str, Any] | None) -> None:
    if found is None:
        click.echo("\nlast study  none (`kedro run --pipelines=study` makes one)")
        return
    if found.get("error"):
        click.echo(f"\nlast study  {found['error']}")
        return
    trials = ", ".join(f"{count} {state}" for state, count in found["trials"].items())
    best = "" if found["best_value"] is None else f"; best {found['best_value']:.4g}"
    click.echo(f"\nlast study  {found['study']}: {trials}{best}")
    for name, value in found["best"].items():
        click.echo(f"  {name} = {value:.4g}" if isinstance(value, float) else f"  {name} = {value}")
