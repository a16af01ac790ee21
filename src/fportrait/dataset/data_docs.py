"""Rules as Great Expectations, and their Data Docs as pages that need no network.

Great Expectations renders its pages for a web server: styles and scripts from six hosts, times and random identifiers
inside. Here the same pages get a small style of their own, no script, no outside address, and no number that changes
from run to run, so that equal tables give equal bytes.
"""

from __future__ import annotations

import functools
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import atomic_folder

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.dataset.validation import Rule

NAMED_FAILURES = 50  # per rule, in the report
QUESTIONS = {
    "schema": "Are the tables' columns there, with their types?",
    "structure": "Is every clip whole: all frames, finite numbers, real rotations?",
    "motion": "Does in each clip move what must, and stay what must not?",
    "identities": "Are the people plausible, and split without overlap?",
    "datasets": "Do the datasets as a whole look like what they are said to be?",
}
HEAD = "<table><tr><th>Rule<th>Severity<th>Measured<th>Bounds<th>Rows<th>Result</tr>"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem;color:#1c2024;background:#fff}
a{color:#0b62c4;text-decoration:none}table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde1e6;vertical-align:top;overflow-wrap:anywhere}
h1{font-size:1.4rem}h2,h5{font-size:1.1rem;margin:1rem 0 .3rem}ul,ol{padding-left:1.2rem}
.alert{background:#eef1f4;padding:.5rem 1rem;border-radius:.3rem}
.ok,.text-success{color:#17803d}.bad,.text-danger{color:#b42318}
.text-warning{color:#9a6700}.text-success::before{content:"\\2713"}.text-danger::before{content:"\\2717"}
.text-warning::before{content:"!"}.sticky ul{columns:3;list-style:none}.badge{background:#eef1f4;padding:0 .3rem}
@media (prefers-color-scheme:dark){body{background:#15181c;color:#e6e9ec}.alert,.badge{background:#242a31}
th,td{border-color:#363d45}a{color:#7ab4ff}}
"""


@dataclass
class Phase:
    """What one phase found: failing rows by rule, a summary per rule for the report, and its page."""

    name: str
    rows: int
    failures: list[tuple[Rule, list[dict[str, Any]]]] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)
    page: str = ""


def run_phase(name: str, table: pd.DataFrame, rules: Sequence[Rule]) -> Phase:
    """Run the rules on a roll-up as one expectation suite."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when great_expectations is imported
    import great_expectations as gx
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("roll-up").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = gx.ExpectationSuite(name=name)
    present = set(table["dataset"]) if "dataset" in table else set()
    for number, rule in enumerate(rules):
        condition: dict[str, Any] = {}
        if table.empty or (rule.dataset and rule.dataset not in present):
            continue  # Great Expectations would call a rule that nothing was asked of passed
        if rule.dataset:
            condition = {"row_condition": f'col("dataset")=="{rule.dataset}"', "condition_parser": "great_expectations"}
        suite.add_expectation(
            gx.expectations.ExpectColumnValuesToBeBetween(
                column=rule.column,
                min_value=rule.low,
                max_value=rule.high,
                severity=rule.severity,  # type: ignore[arg-type]
                meta={"rule": number},
                **condition,
            )
        )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite))
    )
    keys = [key for key in ("dataset", "identity", "clip", "table", "column", "expected", "found") if key in table]
    result = definition.run(
        batch_parameters={"dataframe": table},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": keys},
    )

    phase = Phase(name, len(table))
    by_rule: dict[int, Any] = {}
    for result_of_rule in result.results:
        assert result_of_rule.expectation_config is not None
        by_rule[result_of_rule.expectation_config.meta["rule"]] = result_of_rule
    for number, rule in enumerate(rules):
        answer = by_rule.get(number)  # None: the table has no row of the rule's dataset
        if answer and answer.exception_info and answer.exception_info.get("raised_exception"):
            raise RuntimeError(f"the rule '{rule.title}' could not run: {answer.exception_info['exception_message']}")
        # Great Expectations passes empty cells; a number that could not be measured must fail.
        mask = table[rule.column].isna()
        if rule.dataset:
            mask &= table["dataset"] == rule.dataset
        unexpected = (answer.result["unexpected_index_list"] or []) if answer else []
        rows = [{key: _plain(value) for key, value in row.items()} for row in unexpected]
        unmeasured = table[mask][keys].to_dict("records")
        rows += [{**row, rule.column: float("nan")} for row in unmeasured]
        if rows:
            phase.failures.append((rule, rows))
        checked = len(table) if rule.dataset is None else int((table["dataset"] == rule.dataset).sum())
        phase.summaries.append(
            {
                "rule": rule.title,
                "phase": name,
                "column": rule.column,
                "severity": rule.severity,
                "low": rule.low,
                "high": rule.high,
                "checked": checked,
                "failed": len(rows),
                "failures": [{**row, rule.column: str(row[rule.column])} for row in rows[:NAMED_FAILURES]],
            }
        )
    phase.page = with_words(phase, rules, _offline(_page_view().render(ValidationResultsPageRenderer().render(result))))
    return phase


@functools.lru_cache(maxsize=1)
def _page_view() -> Any:
    """Kept, because it compiles some seventy templates the first time."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _offline(page: str) -> str:
    """A page without scripts, outside addresses, times and random identifiers, with our style inside."""
    for tag in ("script", "style", "footer"):
        page = re.sub(rf"<{tag}\b.*?</{tag}>", "", page, flags=re.S)
    page = re.sub(r"<link\b[^>]*>|<img\b[^>]*>", "", page)
    page = re.sub(r'\s(?:onclick|onload)="[^"]*"', "", page)
    buttons = r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>.*?'
    page = re.sub(buttons + '(?=<div class="card d-md)', "", page, flags=re.S)
    page = re.sub(r'<a href="[^"#]*"[^>]*>(.*?)</a>', r"\1", page, flags=re.S)
    page = re.sub(r"\d{8}T\d{6}\.\d+Z|\d{4}-\d\d-\d\dT[:\d]{8}[.\d]*Z|\d{4}/\d\d/\d\d [:\d]{8} UTC", "–", page)
    identifiers: dict[str, str] = {}
    page = re.sub(
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        lambda match: identifiers.setdefault(match[0], f"id{len(identifiers)}"),
        page,
    )
    home = '<p><a href="index.html">All checks</a></p>'
    page = re.sub(r"<nav class=\"navbar.*?</nav>\s*</div>\s*</nav>", home, page, count=1, flags=re.S)
    page = page.replace("</head>", f"<style>{STYLE}</style></head>", 1)
    return re.sub(r"\n\s*\n+", "\n", page)


def with_words(phase: Phase, rules: Sequence[Rule], page: str) -> str:
    """The page with, before what Great Expectations says, each rule in our words, what broke it and what to do."""
    told = "".join(
        f"<p><b>{html.escape(rule.title)}</b>: {html.escape(rule.fix)}</p><ul>"
        + "".join(f"<li>{html.escape(_row_words(row))}</li>" for row in rows[:NAMED_FAILURES])
        + "</ul>"
        for rule, rows in phase.failures
    )
    lead = (
        f"<h1>{html.escape(QUESTIONS.get(phase.name, phase.name))}</h1>{verdict(phase)}{HEAD}"
        + "".join(_row(summary) for summary in phase.summaries)
        + f"</table>{told}<h2>The same as Great Expectations' own page</h2>"
    )
    title = f"<title>{html.escape(QUESTIONS.get(phase.name, phase.name))}</title>"
    page = re.sub(r"<title>.*?</title>", lambda match: title, page, count=1, flags=re.S)
    top = r'<body[^>]*>\s*(?:<p><a href="index\.html">[^<]*</a></p>)?'
    return re.sub(top, lambda match: match[0] + lead, page, count=1)


def verdict(phase: Phase) -> str:
    """How many rules passed, failed, and had nothing to check, in a sentence."""
    unasked = sum(not summary["checked"] for summary in phase.summaries)
    failed = sum(bool(summary["failed"]) for summary in phase.summaries)
    passed = len(phase.summaries) - unasked - failed
    words = [f"{passed} rule{'s' if passed != 1 else ''} passed", f"{failed} failed"]
    words += [f"{unasked} had nothing to check, which is no pass"] if unasked else []
    return f"<p>{', '.join(words)}.</p>"


def _row_words(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.6g}" if isinstance(value, float) else f"{value}" for key, value in row.items())


def _row(summary: dict[str, Any], page: str = "") -> str:
    """A rule as a row of a table: its words, severity, column, bounds, rows and result; `page` is linked."""
    bounds = " … ".join("" if summary[side] is None else f"{summary[side]:g}" for side in ("low", "high"))
    failed = summary["failed"]
    mark = "<span class=ok>✓ passed</span>" if not failed else f"<span class=bad>✗ {failed} failed</span>"
    if not summary["checked"]:  # nothing was there to be asked: that is no pass
        mark = "– nothing to check"
    title = html.escape(summary["rule"])
    cells = [
        f'<a href="{page}">{title}</a>' if page else title,
        summary["severity"],
        html.escape(summary["column"]),
        bounds,
        str(summary["checked"]),
        mark,
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def write_data_docs(folder: Path, phases: Sequence[Phase], quarantined: dict[str, list[str]]) -> Path:
    """`index.html` with every rule and what it found, and one page per phase."""
    tables = "".join(
        f"<h2>{html.escape(QUESTIONS.get(phase.name, phase.name))}</h2>{verdict(phase)}{HEAD}"
        + "".join(_row(summary, f"{phase.name}.html") for summary in phase.summaries)
        + "</table>"
        for phase in phases
    )
    held = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape('; '.join(reasons))}</td></tr>"
        for name, reasons in sorted(quarantined.items())
    )
    index = (
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Data Docs</title><style>{STYLE}</style></head><body><h1>Checks of the annotations</h1>{tables}"
        "<h2>Quarantined identities</h2>" + (f"<table>{held}</table>" if held else "<p>None.</p>") + "</body></html>\n"
    )
    with atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(index, encoding="utf-8")
        for phase in phases:
            (temporary / f"{phase.name}.html").write_text(phase.page, encoding="utf-8")
    return folder / "index.html"
