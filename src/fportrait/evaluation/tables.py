"""The table of results in the shape of the paper's Table 3 (methods down, metrics across, one block per dataset).

Every column of a metric that looks through a network names that network: AED by one network is not AED by another.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fportrait.atomic_io import write_text
from fportrait.evaluation.comparison import COLUMNS, TITLES, value_of
from fportrait.evaluation.metrics import METRICS
from fportrait.evaluation.types import OWN_CLIPS
from fportrait.tables.schema import DATASETS

GROUPS = (*DATASETS, OWN_CLIPS)
DIGITS = {"psnr": 2, "ssim": 2, "csim": 2, "iqa": 2, "lpips": 4, "aed": 4, "fid_vid": 2, "fvd": 2}
BEYOND = "†"
ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", BEYOND: r"$^\dagger$"}


class Row(NamedTuple):
    """One method on one dataset: `values` by metric over `clips`, those in `fewer` over as many only; `beyond`: metrics
    by which ours is better than the codec's limit."""

    dataset: str
    method: str
    clips: int
    values: dict[str, float]
    fewer: dict[str, int]
    beyond: tuple[str, ...]


class Table(NamedTuple):
    """Rows, the columns that anybody has a number in, each column's head without its arrow, and notes below."""

    rows: list[Row]
    columns: tuple[str, ...]
    heads: dict[str, str]
    notes: list[str]

    def head(self, column: str) -> str:
        return f"{self.heads[column]} {'↑' if METRICS[column].higher_is_better else '↓'}"

    def cell(self, row: Row, column: str, dash: str = "–") -> str:
        if column not in row.values:
            return dash
        few = f" (n={row.fewer[column]})" if column in row.fewer else ""
        return f"{row.values[column]:.{DIGITS[column]}f}{BEYOND if column in row.beyond else ''}{few}"


def table_of(summary: Mapping[str, Any]) -> Table:
    """The table of a summary's `comparison`."""
    rows = []
    for dataset in GROUPS:
        entry = summary.get("comparison", {}).get(dataset)
        for method, cells in entry["methods"].items() if entry else ():
            rows.append(
                Row(
                    dataset,
                    method,
                    entry["clips"],
                    {name: value_of(cell) for name, cell in cells.items()},
                    {name: cell["clips"] for name, cell in cells.items() if cell.get("clips", 10**9) < entry["clips"]},
                    tuple(entry["beyond_codec"]) if method == TITLES["ours"] else (),
                )
            )
    columns = tuple(name for name in COLUMNS if any(name in row.values for row in rows))
    networks = summary.get("backbones", {})
    heads = {
        name: f"{METRICS[name].title} ({networks[name]['name']})"
        if METRICS[name].network and name in networks
        else METRICS[name].title
        for name in columns
    }
    return Table(rows, columns, heads, _notes(summary, rows, heads))


def _notes(summary: Mapping[str, Any], rows: Sequence[Row], heads: Mapping[str, str]) -> list[str]:
    notes = []
    seen: dict[str, list[str]] = {}
    for row in rows:
        for name in row.beyond:
            seen.setdefault(name, []).append(row.dataset)
    if seen:
        size = summary.get("settings", {}).get("size")
        where = "; ".join(f"{heads[name]} on {', '.join(datasets)}" for name, datasets in seen.items())
        notes.append(
            f"{BEYOND} better than the codec's limit, which no frame of ours can be: {where}. At "
            f"{f'{size} pixels' if size else 'this size'} such a column does not rank methods."
        )
    for dataset, entry in summary.get("comparison", {}).items():
        if entry["left_out"]:
            total = entry["clips"] + len(entry["left_out"])
            notes.append(f"{dataset}: over the {entry['clips']} of {total} clips that every method has.")
    return notes


def to_csv(table: Table) -> str:
    """Plain numbers; an empty cell was not measured. `not_ranked`: metrics by which ours beats the codec's limit."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    counts = [f"clips {name}" for name in table.columns if any(name in row.fewer for row in table.rows)]
    heads = [table.heads[name].replace(METRICS[name].title, name, 1) for name in table.columns]
    writer.writerow(["dataset", "method", "clips", *heads, *counts, "not_ranked"])
    for row in table.rows:
        numbers = [row.values.get(name, "") for name in table.columns]
        few = [row.fewer.get(name.removeprefix("clips "), row.clips) for name in counts]
        writer.writerow([row.dataset, row.method, row.clips, *numbers, *few, " ".join(row.beyond)])
    return sink.getvalue()


def to_markdown(table: Table) -> str:
    heads = [table.head(name).replace("|", "\\|") for name in table.columns]
    lines = [
        "| dataset | method | clips | " + " | ".join(heads) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(table.columns),
    ]
    for row in table.rows:
        cells = " | ".join(table.cell(row, column) for column in table.columns)
        lines.append(f"| {row.dataset} | {row.method.replace('|', chr(92) + '|')} | {row.clips} | {cells} |")
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """A `tabular` for booktabs."""
    width = len(table.columns) + 3
    lines = [
        r"\begin{tabular}{llr" + "r" * len(table.columns) + "}",
        r"\toprule",
        "Dataset & Method & Clips & " + " & ".join(_escape(table.head(name)) for name in table.columns) + r" \\",
    ]
    last = None
    for row in table.rows:
        lines += [r"\midrule"] if row.dataset != last else []
        cells = " & ".join(_escape(table.cell(row, column, "--")) for column in table.columns)
        shown = row.dataset if row.dataset != last else ""
        lines.append(f"{shown} & {_escape(row.method)} & {row.clips} & {cells}" + r" \\")
        last = row.dataset
    lines.append(r"\bottomrule")
    lines += [rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {_escape(note)}}} \\" for note in table.notes]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    escaped = "".join("\\" + c if c in "&%$#_{}" else c for c in text)
    for arrow, command in ARROWS.items():
        escaped = escaped.replace(arrow, command)
    return escaped


def write_tables(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """`table.csv`, `table.md` and `table.tex` in `folder`."""
    table = table_of(summary)
    return [
        write_text(folder / "table.csv", to_csv(table)),
        write_text(folder / "table.md", to_markdown(table)),
        write_text(folder / "table.tex", to_latex(table)),
    ]
