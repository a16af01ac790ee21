"""`fportrait weights`."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import json_option, print_json


@click.group()
def weights() -> None:
    """Pretrained weights of the metrics' networks: list them, add your own, check them.

    Nothing is downloaded. Files are read without running code; their SHA-256 stands in every result.

    \b
    Examples:
      fportrait weights list
      fportrait weights add arcface backbone.pth
    """


@weights.command("list")
@json_option
def list_weights(as_json: bool) -> None:
    """Which weights are known, which are there, and where the others come from."""
    from fportrait.evaluation.weights import KNOWN, find, folder

    rows = []
    for name, entry in KNOWN.items():
        stored = find(name)
        rows.append(
            {
                "name": name,
                "metric": entry.metric,
                "what": entry.what,
                "sha256": stored.sha256 if stored else None,
                "from": stored.source if stored else entry.source,
            }
        )
    if as_json:
        print_json({"folder": folder(), "weights": rows})
        return
    for row in rows:
        state = f"there ({row['sha256'][:12]}, {row['from']})" if row["sha256"] else f"missing; {row['from']}"
        click.echo(f"{row['name']:<20}{row['metric']:<22}{row['what']:<32}{state}")
    click.echo(f"added weights lie in {folder()}")


@weights.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put them in place of the ones that are there.")
def add(name: str, file: Path, replace: bool) -> None:
    """Check FILE against the architecture of NAME and keep it."""
    from fportrait.evaluation.weights import add as keep

    stored = keep(name, file, replace)
    click.echo(f"{name}: {stored.path}, SHA-256 {stored.sha256}")


@weights.command()
@click.argument("names", nargs=-1)
@json_option
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Load weights as a metric would (all that are there, or NAMES)."""
    from fportrait.evaluation.weights import KNOWN, find, known, load, require

    good = {}
    for name in names or [name for name in KNOWN if find(name) is not None]:
        good[name] = require(name).sha256
        if known(name).build is not None:
            load(name)
        if not as_json:
            click.echo(f"{name}: good, SHA-256 {good[name]}")
    if as_json:
        print_json(good)


@weights.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget added weights."""
    from fportrait.evaluation.weights import remove as forget

    click.echo(f"{name}: removed" if forget(name) else f"{name}: none were added")
