"""`fportrait bench`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import json_option, print_json
from fportrait.errors import UserError, nearest_name

FOLDER = Path("benchmarks")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--run", is_flag=True, help="Run the named benchmarks (all without a name) before showing them.")
@json_option
def bench(names: tuple[str, ...], run: bool, as_json: bool) -> None:
    """Show the figures of benchmarks/, and whether their bounds hold; or measure them again on this machine.

    \b
    Examples:
      fportrait bench
      fportrait bench splats --run
      fportrait bench --json
    """
    if not FOLDER.is_dir():
        raise UserError(f"no {FOLDER}/ here", "the project's folder", "cd into a clone of the repository")
    scripts = {path.stem: path for path in sorted(FOLDER.glob("[a-z]*.py"))}
    wanted = names or tuple(scripts)
    for name in wanted:
        if name not in scripts:
            near = nearest_name(name, scripts)
            raise UserError(
                f"no benchmark '{name}'", "one of " + ", ".join(scripts), f"write '{near}'" if near else "choose one"
            )
    for name in wanted if run else ():
        click.echo(f"== {name}", err=True)
        ended = subprocess.run([sys.executable, str(scripts[name])]).returncode
        if ended:
            raise UserError(
                f"benchmark '{name}' that ended with code {ended}", "a finished run", "read its output above"
            )
    rows = [row for name in wanted for row in results_of(name, scripts[name])]
    if as_json:
        print_json(rows)
        return
    click.echo(f"{'benchmark':<22}{'ours':>12} {'unit':<8}{'peer':>10}{'ratio':>8}{'bound':>8}  holds")
    for row in rows:
        holds = {"True": "yes", "False": "NO"}.get(str(row.get("holds")), "not run")
        numbers = f"{_number(row.get('ours')):>12} {row.get('unit') or '':<8.8}{_number(row.get('theirs')):>10}"
        ratios = f"{_number(row.get('ratio')):>8}{_number(row.get('bound')):>8}"
        click.echo(f"{row['name']:<22.21}{numbers}{ratios}  {holds}")


def results_of(name: str, script: Path) -> list[dict[str, Any]]:
    """The results that a benchmark's script names, or one row that says it was not run."""
    text = script.read_text(encoding="utf-8")
    rows = []
    for path in sorted((FOLDER / "results").glob("*.json")):
        if path.stem == name or re.search(rf'write_result\(\s*(?:name=)?"{re.escape(path.stem)}"', text):
            value = json.loads(path.read_text(encoding="utf-8"))
            rows.append(value if isinstance(value, dict) and "name" in value else {"name": path.stem})
    return rows or [{"name": name}]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
