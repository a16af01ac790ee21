"""`fportrait import`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fportrait.cli import EXIT_PARTIAL
from fportrait.cli._options import SEED, json_option, print_json

SHOWN = 20  # quarantined entries on the screen; all of them are in import.json


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "folder", "phone", "studio", "ava256", "nersemble", "seamless"]),
    help="How the source is laid out; docs/captures.md has the exact trees.",
)
@click.option(
    "--to",
    "target",
    default="data/01_raw",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where captures go.",
)
@click.option("--copy", is_flag=True, help="Copy the videos instead of linking to them.")
@click.option(
    "--cameras",
    default=11,
    show_default=True,
    type=click.IntRange(1),
    help="Cameras to draw from a studio, spread over the sphere.",
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of that draw.")
@click.option("--identity", help="Name of the person, for --layout folder. Default: the folder's name.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that place captures.")
@json_option
def import_captures(
    source: Path,
    layout: str,
    target: Path,
    copy: bool,
    cameras: int,
    seed: int,
    identity: str | None,
    workers: int,
    as_json: bool,
) -> None:
    """Bring phone clips or a studio data set into the project.

    Faulty captures are left out with a reason, and the exit code is then 3. A second import does only what is missing.

    \b
    Examples:
      fportrait import ~/clips --identity anna
      fportrait import /data/nersemble --layout nersemble --cameras 11
      kedro run --pipelines=ingest --params=ingest.source=folder
    """
    from fportrait.capture.importers.place import import_captures as run_import
    from fportrait.capture.importers.plan import Options
    from fportrait.scale.process_map import process_map

    options = Options(cameras, seed, identity)
    apply = process_map(workers) if workers > 1 else map
    report = run_import(source, target, layout, copy=copy, options=options, map_function=apply)
    if as_json:
        print_json(report.__dict__)
    else:
        click.echo(
            f"layout {report.layout}: {len(report.placed)} placed, {len(report.unchanged)} unchanged, "
            f"{len(report.resampled)} resampled, {len(report.quarantine)} left out"
        )
        for note in report.notes[:SHOWN]:
            click.echo(f"  note: {note}", err=True)
        if len(report.notes) > SHOWN:
            click.echo(f"  and {len(report.notes) - SHOWN} notes more in {target / 'import.json'}", err=True)
        for entry in report.quarantine[:SHOWN]:
            click.echo(f"  left out: {entry['path']}: {entry['reason']}", err=True)
        if len(report.quarantine) > SHOWN:
            click.echo(f"  and {len(report.quarantine) - SHOWN} more in {target / 'import.json'}", err=True)
        click.echo("next: kedro run --pipelines=ingest --params=ingest.source=folder")
    if report.quarantine:
        sys.exit(EXIT_PARTIAL)
