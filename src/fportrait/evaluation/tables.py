"""The table of results in the shape of the paper's Table 3 (methods down, metrics across, one block per dataset)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_text
from fportrait.evaluation.metrics import METRICS
from fportrait.tables.schema import DATASETS

COLUMNS = ("psnr", "ssim", "lpips", "csim", "aed", "iqa", "fid_vid", "fvd")
OWN_CLIPS = "own clips"  # the group of clips that come from a user's folder and not from shards
GROUPS = (*DATASETS, OWN_CLIPS)
TITLES = {"ours": "fportrait", "codec_limit": "codec's limit", "repeated_portrait": "repeated portrait"}
DIGITS = {"psnr": 2, "ssim": 2, "csim": 2, "iqa": 2, "lpips": 4, "aed": 4, "fid_vid": 2, "fvd": 2}
Rows = list[tuple[str, str, dict[str, float]]]


def rows_of(summary: Mapping[str, Any]) -> Rows:
    """(dataset, method, metric → value) of everything that was scored; absent metrics are not measured."""
    rows: Rows = []
    for dataset in GROUPS:
        entry = summary.get(dataset)
        if not entry:
            continue
        external = {name: found["datasets"].get(dataset) for name, found in summary.get("external", {}).items()}
        blocks = {
            **{TITLES[m]: (entry.get(m, {}), entry.get("frechet", {}).get(m, {})) for m in TITLES},
            **{
                name: (found.get("ours", {}), found.get("frechet", {}).get("ours", {}))
                for name, found in external.items()
                if found
            },
        }
        for method, (means, frechet) in blocks.items():
            values = {name: cell["mean"] for name, cell in means.items() if name in COLUMNS}
            values |= {name: cell["value"] for name, cell in frechet.items() if name in COLUMNS}
            if values:
                rows.append((dataset, method, values))
    return rows


def heads() -> list[str]:
    return [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in COLUMNS]


def _cell(values: Mapping[str, float], name: str, dash: str = "–") -> str:
    return f"{values[name]:.{DIGITS[name]}f}" if name in values else dash


def to_csv(rows: Rows) -> str:
    """Plain numbers; an empty cell was not measured."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["dataset", "method", *COLUMNS])
    for dataset, method, values in rows:
        writer.writerow([dataset, method, *(values.get(name, "") for name in COLUMNS)])
    return sink.getvalue()


def to_markdown(rows: Rows) -> str:
    lines = ["| dataset | method | " + " | ".join(heads()) + " |", "| --- | --- |" + " ---: |" * len(COLUMNS)]
    for dataset, method, values in rows:
        name = method.replace("|", "\\|")
        lines.append(f"| {dataset} | {name} | " + " | ".join(_cell(values, column) for column in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def to_latex(rows: Rows) -> str:
    """A `tabular` for booktabs."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    head = [title.replace(title[-1], arrows[title[-1]]) for title in heads()]
    lines = [
        r"\begin{tabular}{ll" + "r" * len(COLUMNS) + "}",
        r"\toprule",
        "Dataset & Method & " + " & ".join(head) + r" \\",
    ]
    last = None
    for dataset, method, values in rows:
        lines += [r"\midrule"] if dataset != last else []
        shown = dataset if dataset != last else ""
        lines.append(f"{shown} & {_escape(method)} & " + " & ".join(_cell(values, c, "--") for c in COLUMNS) + r" \\")
        last = dataset
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


def write_tables(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """`table.csv`, `table.md` and `table.tex` in `folder`."""
    rows = rows_of(summary)
    return [
        write_text(folder / "table.csv", to_csv(rows)),
        write_text(folder / "table.md", to_markdown(rows)),
        write_text(folder / "table.tex", to_latex(rows)),
    ]
