"""`fportrait registry`: bring registry and runs along, and what else is done to them by hand."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import json_option, path_type, print_json


@click.group()
def registry() -> None:
    """Bring registry and runs along to another machine; fix the anchor; set places right.

    \b
    Examples:
      fportrait registry export runs.tar              in the project that has them
      fportrait registry import runs.tar              in a clone
      fportrait registry anchor 3 --reason "measured by hand"
      export MLFLOW_TRACKING_URI=$(fportrait registry uri)    for MLflow alone
    """


@registry.command()
@click.argument("file", type=path_type)
@json_option
def export(file: Path, as_json: bool) -> None:
    """Write registry, runs and their artifacts into one tar file."""
    from fportrait.ops.archive import export as write

    found = write(file)
    if as_json:
        print_json(found)
        return
    champion = f"champion version {found['champion']}" if found["champion"] else "no champion"
    size = f"{found['bytes'] / 2**20:.1f} MiB"
    click.echo(f"{file}: {found['runs']} runs, {found['versions']} versions, {champion}, {size}")


@registry.command("import")
@click.argument("file", type=path_type)
@click.option("--replace", is_flag=True, help="Move a registry that is here aside, to mlruns.before-DATE.")
@json_option
def import_archive(file: Path, replace: bool, as_json: bool) -> None:
    """Unpack what `export` wrote into this project's mlruns/.

    `fportrait` reads weights and settings of what was imported, never its code. MLflow's own `load_model` runs the code
    that lies with a version: use it only on registries of people you trust.
    """
    from fportrait.ops.archive import unpack

    found = unpack(file, replace)
    if as_json:
        print_json(found)
        return
    champion = f"champion version {found['champion']}" if found["champion"] else "no champion"
    click.echo(f"{found['runs']} runs, {found['versions']} versions, {champion}")
    if found["before"]:
        click.echo(f"what was here lies in {found['before']}")


@registry.command()
@click.argument("version", type=click.IntRange(1))
@click.option("--reason", default="", help="Kept with the version.")
@json_option
def anchor(version: int, reason: str, as_json: bool) -> None:
    """Make a version the anchor: the fixed model that every candidate is compared with beside the champion.

    The first champion is the anchor until another is named here.
    """
    from fportrait.cli.models import need_store
    from fportrait.ops.registry import set_anchor

    need_store(write=True)
    found = set_anchor(str(version), reason)
    if as_json:
        print_json(found)
    else:
        click.echo(f"version {found['anchor']} is the anchor; before: {found['before'] or 'none'}")


@registry.command()
@json_option
def relocate(as_json: bool) -> None:
    """Give places of artifacts that name an earlier folder this project's.

    Every command does so when it opens the registry; this one says how many there were.
    """
    from fportrait.errors import UserError
    from fportrait.ops import store

    path = store.database()
    if not path.is_file():
        raise UserError(f"no {store.DATABASE} in {store.home()}", "a registry", "run this in the project that has one")
    store.check_schema(path)
    if not store.writable(path):
        raise UserError(f"a store that is read-only ({path})", "a writable mlruns/", "copy the project, or mount it so")
    count = store.reroot(path)
    if as_json:
        print_json({"relocated": count})
    else:
        click.echo(f"{count} places relocated" if count else "all places are this project's")


@registry.command()
def uri() -> None:
    """Print where MLflow finds this project's runs and models, with places set right.

    \b
    A shell or notebook that uses MLflow alone needs it, because MLflow would else make an empty mlflow.db:
      export MLFLOW_TRACKING_URI=$(fportrait registry uri)
      python -c 'import mlflow; mlflow.pyfunc.load_model("models:/fportrait@champion")'
    """
    from fportrait.cli.models import need_store
    from fportrait.errors import UserError
    from fportrait.ops import store

    need_store()
    if any(character in str(store.database()) for character in "%?"):
        raise UserError(
            f"{store.home()}, a path that MLflow cannot be given", "a path without % and ?", "rename the folder"
        )
    click.echo(store.tracking_uri())
