"""The gate after annotations: are the tables sound, and does in each dataset move what must and stay what must not?

Rules are plain rows (`rules.py`). They run as Great Expectations on the roll-up of `rollup.py` and `fits.py`, in five
phases: the schema, the structure of each clip, its motion (Table 4) and fit, the identities, and each dataset as a
whole. A critical failure stops the chain and leaves no tables behind; a warning sends the identity to quarantine with a
reason, and the rest goes on. A warning about a whole dataset is told and stops nobody.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import atomic_path, write_json
from fportrait.dataset.data_docs import Phase, run_phase, write_data_docs
from fportrait.dataset.rules import PHASES, Rule, ValidationConfig, rules
from fportrait.errors import UserError
from fportrait.tables.agreement import clip_agreement
from fportrait.tables.annotations import MARK, VERSION, has_checks
from fportrait.tables.fits import dataset_rollup, leave_out_other_bodies
from fportrait.tables.rollup import (
    checked_clips,
    clip_motion,
    clip_structure,
    connect,
    disagreeing_rows,
    identity_rollup,
    motions_sql,
    rows_in_order,
)
from fportrait.tables.schema import compare_schema

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

MEASURED_ROWS = 100_000  # of a table with so few, every list is measured, whatever its check columns say


def validate_tables(
    tracks_folder: str | Path, out_folder: str | Path, config: ValidationConfig, manifest: str | Path | None = None
) -> dict[str, Any]:
    """Check `frames.parquet` and `identities.parquet`; copy them, less quarantined identities, to `out_folder`.

    `out_folder` gets `report.json`, `quarantine.json` and `data_docs/`, and, only when nothing critical failed and
    not too many identities are quarantined, the two tables.

    Args:
        manifest: `manifest.parquet` of the videos that were annotated: every clip must be there with all its frames,
            unless `quarantine.json` beside the tables says why not.

    Returns:
        The report: rules with their failures, quarantined identities with reasons, warnings about whole datasets.

    Raises:
        UserError: a critical rule failed (table, clip, rule and the way to mend it are named), or more
            identities than `max_quarantined` (or all) are in quarantine.
    """
    tracks_folder, out_folder = Path(tracks_folder), Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    sources = {table: tracks_folder / f"{table}.parquet" for table in ("frames", "identities")}
    for table in sources:
        (out_folder / f"{table}.parquet").unlink(missing_ok=True)

    every_rule = rules(config)
    phases: list[Phase] = []
    database: duckdb.DuckDBPyConnection | None = None
    structure: pd.DataFrame | None = None
    motion: pd.DataFrame | None = None
    people: pd.DataFrame | None = None
    lost: dict[str, int] = {}
    for name in PHASES:
        if name == "schema":
            table = _schema_table(sources)
        elif name == "structure":
            database = connect(sources["frames"], sources["identities"])
            structure, motion = _clips(database, sources["frames"])
            structure, lost = against_manifest(structure, tracks_folder, manifest)
            table = structure
            if table.empty:
                raise UserError(
                    f"no rows in {sources['frames']}", "at least one clip", "read quarantine.json beside it"
                )
        elif name == "motion":
            assert database is not None
            motion = clip_motion(database) if motion is None else motion
            assert structure is not None
            motion = motion.merge(clip_agreement(database, structure), on=["dataset", "clip"], how="left")
            table = motion = leave_out_other_bodies(database, motion)
        elif name == "identities":
            assert database is not None and structure is not None and motion is not None
            table = people = identity_rollup(database, structure, motion)
        else:
            assert database is not None and structure is not None and motion is not None and people is not None
            marked = has_checks(sources["frames"]) and not structure["disagreeing_rows"].any()
            table = dataset_rollup(database, structure, motion, people, motions_sql(marked), lost)
        phases.append(run_phase(name, table, [rule for rule in every_rule if rule.phase == name]))
        if _failures(phases[-1], "critical"):
            break

    quarantined: dict[str, list[str]] = {}
    warnings = []
    for phase in phases:
        for rule, row in _failures(phase, "warning"):
            if phase.name == "datasets":
                warnings.append(f"{_measured(rule, row)}; expected {_bounds(rule)} ({rule.title}): {rule.fix}")
                continue
            reasons = quarantined.setdefault(f"{row['dataset']}/{row['identity']}", [])
            reasons.append(f"{rule.title}: {_measured(rule, row)}; expected {_bounds(rule)}. To fix it: {rule.fix}")
    critical = [failure for phase in phases for failure in _failures(phase, "critical")]
    reached_motion = len(phases) > 2
    identities = len(motion[["dataset", "identity"]].drop_duplicates()) if reached_motion and motion is not None else 0
    too_many = len(quarantined) >= identities or len(quarantined) > config.max_quarantined * identities
    report = {
        "passed": not critical and not too_many,
        "thresholds": {key: value for key, value in asdict(config).items() if key != "severities"},
        "rules": [summary for phase in phases for summary in phase.summaries],
        "identities": identities,
        "quarantined": quarantined,
        "warnings": warnings,
    }
    write_data_docs(out_folder / "data_docs", phases, quarantined)
    write_json(out_folder / "report.json", report)
    held = [
        dict(zip(("dataset", "identity"), name.split("/", 1), strict=True), reason="; ".join(reasons))
        for name, reasons in sorted(quarantined.items())
    ]
    write_json(out_folder / "quarantine.json", held)
    if critical:
        rule, row = critical[0]
        more = f" (and {len(critical) - 1} more, see {out_folder}/data_docs/index.html)" if len(critical) > 1 else ""
        raise UserError(f"{_measured(rule, row)}{more}", f"{_bounds(rule)} by the rule '{rule.title}'", rule.fix)
    if too_many:
        name, reasons = next(iter(quarantined.items()))
        raise UserError(
            f"{len(quarantined)} of {identities} identities in quarantine, for example {name} by '{reasons[0]}'",
            f"at most {config.max_quarantined:.0%} of them, and one sound identity",
            f"read {out_folder}/data_docs/index.html; mend the captures or the thresholds of validate",
        )
    assert database is not None and structure is not None
    for table, source in sources.items():
        target = out_folder / f"{table}.parquet"
        in_order = table == "frames" and rows_in_order(structure)
        if in_order and not quarantined:  # sorting a large table would cost more than all checks of it
            with atomic_path(target) as path:
                shutil.copyfile(source, path)
        else:
            _copy_without(database, table, quarantined, target, in_order, table == "frames" and has_checks(source))
    return report


def _clips(database: duckdb.DuckDBPyConnection, frames: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Structure of the clips, and their motion if the table's check columns told it in the same pass."""
    import pyarrow.parquet as pq

    if pq.read_metadata(frames).num_rows > MEASURED_ROWS and has_checks(frames):
        structure, motion = checked_clips(database)
        if structure["in_order"].all() and not structure["not_finite"].any():
            structure["disagreeing_rows"] = disagreeing_rows(database, structure)
            return structure, motion
    return clip_structure(database), None


def against_manifest(
    structure: pd.DataFrame, tracks_folder: Path, manifest: str | Path | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """`structure` with `frames_off_manifest` per clip, and per dataset the clips of the manifest that are nowhere.

    Clips and people in the tables' `quarantine.json` are accounted for.
    """
    import json

    import pandas as pd

    structure["frames_off_manifest"] = 0
    if manifest is None:
        return structure, {}
    videos = pd.read_parquet(manifest, columns=["dataset", "identity", "clip", "frames"])
    filmed = videos.set_index(["dataset", "clip"])["frames"]
    keys = pd.MultiIndex.from_frame(structure[["dataset", "clip"]])
    expected = filmed.reindex(keys).to_numpy()
    # a clip that the manifest does not know is of videos that are no longer there: off by all its frames
    structure["frames_off_manifest"] = (structure["frames"] - pd.Series(expected).fillna(0)).abs().astype(int)
    listed = tracks_folder / "quarantine.json"
    aside = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    people = {(entry["dataset"], entry["identity"]) for entry in aside if "clip" not in entry}
    clips = {(entry["dataset"], entry["clip"]) for entry in aside if "clip" in entry}
    nowhere = ~pd.MultiIndex.from_frame(videos[["dataset", "clip"]]).isin(keys)
    accounted = [
        (row.dataset, row.identity) in people or (row.dataset, row.clip) in clips for row in videos.itertuples()
    ]
    lost = videos[nowhere & ~pd.Series(accounted, dtype=bool).to_numpy()]
    return structure, {str(name): int(count) for name, count in lost["dataset"].value_counts().items()}


def _schema_table(sources: dict[str, Path]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([row for table, path in sources.items() for row in compare_schema(table, path)])


def _failures(phase: Phase, severity: str) -> list[tuple[Rule, dict[str, Any]]]:
    return [(rule, row) for rule, rows in phase.failures if rule.severity == severity for row in rows]


def _measured(rule: Rule, row: dict[str, Any]) -> str:
    if rule.phase == "schema":
        return f"the column {row['column']} of {row['table']}.parquet as {row['found']} instead of {row['expected']}"
    value = f"{row[rule.column]:.6g}".removesuffix(".0")
    if rule.phase == "datasets":
        return f"{rule.column} {value} of {row['dataset']} as a whole"
    if rule.phase == "identities":
        return f"{rule.column} {value} of {row['dataset']}/{row['identity']} in identities.parquet"
    return f"{rule.column} {value} in clip {row['clip']} of {row['dataset']} in frames.parquet"


def _bounds(rule: Rule) -> str:
    if rule.low == rule.high:
        return f"{rule.column} of {rule.low:g}"
    parts = [f"at least {rule.low:g}"] if rule.low is not None else []
    parts += [f"at most {rule.high:g}"] if rule.high is not None else []
    return f"{rule.column} of {' and '.join(parts)}"


def _copy_without(
    database: duckdb.DuckDBPyConnection,
    table: str,
    quarantined: dict[str, list[str]],
    target: Path,
    in_order: bool,
    marked: bool,
) -> None:
    """Stream a table to `target` without the quarantined identities, in a fixed order, in the same column types.

    Whole identities go, so what is left keeps its checks, and with `marked` the mark that says so.
    """
    database.execute("CREATE OR REPLACE TABLE dropped (name VARCHAR)")
    if quarantined:
        database.executemany("INSERT INTO dropped VALUES (?)", [[name] for name in quarantined])
    order = "" if in_order else f"ORDER BY {'dataset, clip, frame' if table == 'frames' else 'dataset, identity'}"
    with atomic_path(target) as path:
        quoted = str(path).replace("'", "''")
        kept = f"SELECT * EXCLUDE (file_row_number) FROM {table} WHERE concat(dataset, '/', identity) NOT IN"
        mark = f", KV_METADATA {{'{MARK.decode()}': '{VERSION.decode()}'}}" if marked else ""
        database.execute(f"COPY ({kept} (FROM dropped) {order}) TO '{quoted}' (FORMAT parquet{mark})")
