"""`fportrait doctor`."""

from __future__ import annotations

import click

from fportrait.cli._options import json_option, print_json

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check the environment: packages, devices, memory, disk, weights and stores; name the fix for what is missing.

    Exits with 2 when something that every run needs is missing; what is optional only warns.

    \b
    Examples:
      fportrait doctor
      fportrait doctor --json
    """
    from fportrait.ops.doctor import FAIL, examine

    checks = examine()
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            state = click.style(f"{check.state:<4}", fg=COLOURS[check.state])
            click.echo(f"{state}  {check.name:<{width}}  {check.found}")
            if check.fix and check.state != "ok":
                click.echo(f"{'':<{width + 8}}→ {check.fix}")
    if any(check.state == FAIL for check in checks):
        raise SystemExit(2)
