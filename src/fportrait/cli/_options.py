"""Options and output that commands share."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
force_option = click.option("--force", is_flag=True, help="Replace files that fportrait did not write.")
path_type = click.Path(path_type=Path)


def _choose_device(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        from fportrait.devices import use_device

        context.with_resource(use_device(name))


device_option = click.option(
    "--device",
    expose_value=False,
    is_eager=True,
    callback=_choose_device,
    help="Where networks run: auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N. "
    "Default: FPORTRAIT_DEVICE, else auto.",
)


def picture_options(command: Any) -> Any:
    """`--size` and `--aspect` of the picture that a model draws (`animate.sizes.chosen_picture`)."""
    size = click.option(
        "--size",
        metavar="PIXELS|WIDTHxHEIGHT",
        help="The model's picture: the side of a square that it was trained at (bundle.json), or a rectangle with such "
        "a short side, which shows more above and below, or beside, the head. Default: the model's own square.",
    )
    aspect = click.option(
        "--aspect",
        metavar="WIDTH:HEIGHT|portrait",
        help="The picture's shape in place of its pixels: 9:16, 3:4, 4:3, 16:9, or 'portrait' for the portrait's "
        "own; the nearest that the model draws is taken, and said. With --size PIXELS that is its short side.",
    )
    return size(aspect(command))


SEED = click.IntRange(0, 2**31 - 1)


def print_json(value: Any) -> None:
    """One JSON document on standard output; paths and dates as text."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def promoted_or_shipped(model: Path | None) -> Path:
    """The model folder that was asked for, else the champion, else the shipped base; says which, and why."""
    if model is not None:
        click.echo(f"model: {model}, as asked", err=True)
        return model
    from fportrait.ops.registry import chosen_model

    chosen = chosen_model()
    click.echo(f"model: {chosen.words}", err=True)
    return chosen.bundle


def student(model: Path | None = None) -> Path:
    """The model folder that was asked for, else the promoted student, else the shipped one; says which, and why."""
    if model is not None:
        return promoted_or_shipped(model)
    from fportrait.ops.registry import chosen_student

    chosen = chosen_student()
    click.echo(f"model: {chosen.words}", err=True)
    return chosen.bundle


class Bars:
    """Shows reports `(what, done, total)` as one progress bar after another, with the time left; notes as lines.

    Bars go to standard error. Where that is no terminal, a line every few seconds says how far it is: in a log or a
    pipe nobody shall wonder whether anything happens.

    Args:
        every: seconds between two such lines.
    """

    def __init__(self, every: float = 5.0) -> None:
        self._bar: Any = None
        self._what = ""
        self._every, self._said, self._started = every, 0.0, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith("note: "):
            self.close()
            click.echo(what, err=True)
        elif sys.stderr.isatty():
            self._draw(what, done, total)
        else:
            self._tell(what, done, total)

    def _draw(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if what != self._what:
            self.close()
            self._bar, self._what = tqdm(total=total, desc=what, leave=False), what
        self._bar.update(done - self._bar.n)

    def _tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._said = what, now, now
        elif now - self._said >= self._every and done:
            left = (now - self._started) / done * (total - done)
            self._said = now
            click.echo(f"{what}: {done} of {total}, about {left:.0f} s left", err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""
