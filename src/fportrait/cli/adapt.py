"""`fportrait adapt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import Bars, device_option, json_option, path_type, print_json, promoted_or_shipped


@click.command()
@click.argument("clips", required=False, type=path_type)
@click.option("--name", help="Of the adapter, and of the person whose videos lie at the top of CLIPS.")
@click.option("--model", type=path_type, help="The bundle to adapt. Default: the promoted one, else the shipped base.")
@click.option("--steps", default=60, show_default=True, type=click.IntRange(1), help="Training steps.")
@click.option("--rank", default=16, show_default=True, type=click.IntRange(1), help="Of the low-rank updates.")
@click.option("--rate", default=1e-3, show_default=True, type=click.FloatRange(0, min_open=True), help="Learning rate.")
@click.option("--embedded", default=40, show_default=True, type=click.IntRange(0, 99), help="% of embedded clips.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--no-gains", is_flag=True, help="Do not measure the controls before and after (saves half a minute).")
@click.option("--require-consent", is_flag=True, help="Leave people out whose folder has no consent file.")
@click.option("--keep-worse", is_flag=True, help="Keep an adapter that is no better than the base on clips held out.")
@click.option("--list", "listing", is_flag=True, help="List the adapters of this project.")
@click.option("--delete", metavar="NAME", help="Remove an adapter and everything made from it (consent withdrawn).")
@click.option(
    "--videos", multiple=True, type=path_type, help="With --delete: folders (or videos) to search for what it made."
)
@device_option
@json_option
def adapt(
    clips: Path | None,
    name: str | None,
    model: Path | None,
    steps: int,
    rank: int,
    rate: float,
    embedded: int,
    seed: int,
    no_gains: bool,
    require_consent: bool,
    keep_worse: bool,
    listing: bool,
    delete: str | None,
    videos: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Adapt the model to a few clips of one person, or of several: minutes on a laptop.

    CLIPS is a folder of videos of one person, or a folder with a subfolder per person; look at it with `fportrait
    check` first. One clip of everyone is held out: an adapter that is worse there than the model as it is, or than the
    first frame repeated, is refused, and so is one that gains nothing and carries no pictures of a side or an open
    mouth, from which `animate` paints what a portrait does not show. What is made lies in
    data/06_models/adapters/NAME and is registered with the SHA-256 of every clip. The exit code is 3 when clips or
    people were left out.

    \b
    Examples:
      fportrait adapt clips/ --name anna
      fportrait animate --portrait anna.jpg --driving talk.mp4 --adapter anna -o out.mp4
      fportrait adapt --list
      fportrait adapt --delete anna --videos results/
    """
    from fportrait.animate.adapt import read_record
    from fportrait.animate.adapters import adapters, fitting
    from fportrait.errors import UserError
    from fportrait.ops.store import home

    if listing:
        found = {one: read_record(folder) for one, folder in adapters(home()).items()}
        fit = fitting(promoted_or_shipped(model), home())
        if as_json:
            print_json({one: {**record, "fits": one in fit} for one, record in found.items()})
        else:
            folders = adapters(home())
            told = "\n".join(
                f"{one}{'' if one in fit else unfit(folders[one])}: {summary(record)}" for one, record in found.items()
            )
            click.echo(told or "no adapters yet: fportrait adapt CLIPS --name NAME")
        return
    if delete is not None:
        remove(delete, videos, as_json)
        return
    if clips is None or name is None:
        raise UserError(
            "no clips" if clips is None else "no name",
            "fportrait adapt CLIPS --name NAME",
            "see fportrait adapt --help",
        )
    train(clips, name, model, locals(), as_json)


def train(clips: Path, name: str, model: Path | None, given: dict[str, Any], as_json: bool) -> None:
    from fportrait.animate.adapt import AdaptSettings, adapt, words
    from fportrait.animate.adapters import FOLDER, WORK
    from fportrait.animate.film import PREFIX
    from fportrait.cli import EXIT_PARTIAL
    from fportrait.ops.adapters import register
    from fportrait.ops.store import home

    settings = AdaptSettings(
        steps=given["steps"],
        rank=given["rank"],
        learning_rate=given["rate"],
        embedded=given["embedded"],
        seed=given["seed"],
        gains=not given["no_gains"],
    )
    bars, root = Bars(), home()
    try:
        record = adapt(
            clips,
            name,
            promoted_or_shipped(model),
            root / FOLDER / name,
            root / WORK,
            settings,
            bars,
            given["require_consent"],
            given["keep_worse"],
        )
    finally:
        bars.close()
    version = register(name, root / FOLDER / name, record)
    if as_json:
        print_json({**record, "version": version, "folder": root / FOLDER / name})
    else:
        for note in record["notes"]:
            click.echo(f"note: {note}", err=True)
        click.echo(words(record["scores"]).replace("; ", "\n"))
        shown = [picture["shows"] for picture in record["pictures"]]
        if filmed := sum(name.startswith(PREFIX) for name in shown):
            click.echo(f"it carries {filmed} frames from which it paints faces in the clips' own scene")
        if shows := sorted(name for name in {*shown} - {"front"} if not name.startswith(PREFIX)):
            click.echo(f"it carries pictures of what a portrait may not show: {', '.join(shows)}")
        if not record["better"]:
            # It may well have gained on the base, and be below the first frame repeated.
            why = "not better than both base and first frame repeated on every clip held out"
            click.echo(why + (": those pictures are what it brings" if shows else ""))
        for label, gains in record["scores"]["gains"].items():
            click.echo(f"gains, {label}: " + ", ".join(f"{key} {value:.2f}" for key, value in gains.items()))
        click.echo(", ".join(f"{what} {seconds:.0f} s" for what, seconds in record["seconds"].items()))
        click.echo(f"adapter: {root / FOLDER / name}" + (f", version {version}" if version else ""))
        click.echo(f"use it: fportrait animate --adapter {name} …")
    if record["notes"]:
        sys.exit(EXIT_PARTIAL)


def remove(name: str, videos: tuple[Path, ...], as_json: bool) -> None:
    from fportrait.animate.adapters import delete
    from fportrait.ops.adapters import forget, hashes
    from fportrait.ops.store import home

    found = delete(name, home(), videos, hashes(name))
    gone = [*map(str, found["removed"]), *forget(name)]
    if as_json:
        print_json({"deleted": name, "hash": found["hash"], "removed": gone})
        return
    for one in gone:
        click.echo(f"removed: {one}")
    named = " or ".join(found["hashes"]) or "of that name"
    click.echo(
        f"Your clips stay where they are. Videos made with it that lie elsewhere say adapter {named} in "
        "`fportrait provenance`; name their folders with --videos to remove them too."
    )


def summary(record: dict[str, Any]) -> str:
    from fportrait.animate.adapt import words

    if not record:
        return "no record beside it"
    try:
        return f"{len(record['clips'])} clips; {words(record['scores'])}"
    except (LookupError, TypeError, AttributeError):  # anybody may have written into it
        return "a broken record beside it"


def unfit(folder: Path) -> str:
    """Why an adapter of the project is not used."""
    from fportrait.diffusion.lora import read_adapter
    from fportrait.errors import UserError

    try:
        read_adapter(folder)
    except UserError as error:
        return f" ({error.found}: adapt again)"
    return " (of another base: adapt again, or pass its base with --model)"
