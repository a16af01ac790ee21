"""`fportrait forget`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fportrait.cli._options import json_option, print_json

if TYPE_CHECKING:
    from fportrait.ops.forget import Item


@click.command()
@click.argument("person")
@click.option("--captures", is_flag=True, help="Remove their clips in the raw folder, too: yours, and not made again.")
@click.option("--models", is_flag=True, help="Remove models that were trained on them, too, with their versions.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would go, and what would stay and why.")
@json_option
def forget(person: str, captures: bool, models: bool, dry_run: bool, as_json: bool) -> None:
    """Take PERSON, whose consent is withdrawn, out of the whole project.

    PERSON is the name of their folder in data/01_raw/phone or data/01_raw/studio. Gone are their part of every table,
    their avatar, sweeps, shards, held-out clips and working folders, adapters that learned from their clips, and
    evaluations, runs' pictures and videos that show them. Their clips stay, and no later run takes them in
    (data/01_raw/withdrawn.json), unless --captures removes them; models that were trained on them stay, because no
    model can unlearn, and are named, unless --models removes them. Only files inside the project are touched, and
    what a link leads to is not. While a stage runs, or an adapter is trained, nothing is removed.

    \b
    Afterwards:
      fportrait status                          what must run again
      dvc repro                                 goes on without the person
      dvc gc --workspace --force                drops the old bytes that DVC keeps

    \b
    Exit codes: 0 nothing of the person is left (with --dry-run: would be); 3 something is left, which is named;
    2 nothing was done: no such name, or a stage at work.

    \b
    Examples:
      fportrait forget anna --dry-run
      fportrait forget anna
      fportrait forget anna --captures --models
    """
    from fportrait.cli import EXIT_PARTIAL
    from fportrait.ops.forget import forget as take_out

    found = take_out(person, captures, models, dry_run)
    gone, left = found.gone, found.left
    if as_json:
        told = {key: [item.as_dict() for item in items] for key, items in (("gone", gone), ("left", left))}
        print_json({"person": person, "dry_run": dry_run, **told})
    else:
        _table("would go" if dry_run else "gone", gone)
        _table("would stay" if dry_run else "left", left)
        if not gone and not left:
            near = f" (there is {found.near})" if found.near else ""
            click.echo(f"nothing of {person} is left here{near}")
        elif not gone:
            click.echo("\nnothing more is to be removed")
        elif not dry_run:
            click.echo("\nnext: `fportrait status` says what must run again, and `dvc repro` goes on without them")
    if left:
        sys.exit(EXIT_PARTIAL)


def _table(title: str, items: list[Item]) -> None:
    """A line a thing; many of one kind in one folder share one."""
    if not items:
        return
    size = sum(item.bytes for item in items) / 2**20
    click.echo(f"{title}: {len(items)}" + (f", {size:.1f} MiB" if size >= 0.05 else ""))
    rows: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        rows.setdefault((item.kind, item.where.rpartition("/")[0], item.why), []).append(item)
    for (kind, folder, why), same in rows.items():
        where = same[0].where if len(same) == 1 else f"{folder}/ ({len(same)})"
        click.echo(f"  {kind:<9} {where}  {why}")
