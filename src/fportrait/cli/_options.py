"""Options and output that commands share."""

from __future__ import annotations

import json
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """One JSON document on standard output; paths and dates as text."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))
