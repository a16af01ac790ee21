"""The gate after annotations: are the tables sound, and does in each dataset move what must and stay what must not?

Rules are plain rows (`rules`). They run as Great Expectations on the roll-up of `rollup.py`, in four phases: the
schema, the structure of each clip, its motion (Table 4), and the identities. A critical failure stops the chain and
leaves no tables behind; a warning sends the identity to quarantine with a reason, and the rest goes on.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.atomic_io import atomic_path, write_json
from fportrait.dataset.annotations import MARK, VERSION, has_checks
from fportrait.dataset.data_docs import Phase, run_phase, write_data_docs
from fportrait.dataset.rollup import (
    checked_clips,
    clip_motion,
    clip_structure,
    connect,
    disagreeing_rows,
    identity_rollup,
    rows_in_order,
)
from fportrait.dataset.schema import DATASETS, compare_schema
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.parameters import settings_from

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

SEVERITIES = ("critical", "warning")
CAPTURES, SWEEPS = DATASETS[:2], DATASETS[2:]
MEASURED_ROWS = 100_000  # of a table with so few, every list is measured, whatever its check columns say


@dataclass(frozen=True)
class ValidationConfig:
    """Thresholds in degrees, metres, and standard deviations of the code; the defaults leave room for tracker noise."""

    rotation_tolerance: float = 1e-4  # |R Rᵀ − I| and |det R − 1|
    still_camera_degrees: float = 0.5
    still_camera_metres: float = 0.005
    moving_camera_degrees: float = 3.0
    still_expression: float = 0.25
    moving_expression: float = 0.25
    still_pose_degrees: float = 1.0
    still_pose_metres: float = 0.005
    moving_pose_degrees: float = 1.0
    min_confidence: float = 0.3  # mean over a clip
    max_quarantined: float = 0.5  # share of the identities; more means that something is wrong with all of them
    severities: dict[str, str] = field(default_factory=dict)  # rule name -> critical or warning, where not the default

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ValidationConfig:
        return settings_from(cls, values, "the parameters of validate")


@dataclass(frozen=True)
class Rule:
    """`low <= column <= high` for every row of one phase's table, of one dataset or all."""

    name: str
    phase: str
    column: str
    severity: str
    fix: str
    low: float | None = None
    high: float | None = None
    dataset: str | None = None

    @property
    def title(self) -> str:
        return f"{self.dataset}: {self.name}" if self.dataset else self.name


def rules(config: ValidationConfig) -> list[Rule]:
    """Every rule of the gate, in the order of its phases.

    Raises:
        UserError: `severities` names an unknown rule or severity.
    """
    track = "run `kedro run --pipelines=track` again"
    listed = [
        Rule("columns", "schema", "mismatch", "critical", f"{track}; docs/data-contracts.md has the schema", high=0),
        Rule("filled cells", "structure", "empty_cells", "critical", track, high=0),
        Rule("unique keys", "structure", "repeated_frames", "critical", "keep one row per clip and frame", high=0),
        Rule("first frame is 0", "structure", "first_frame", "critical", "number frames from 0", low=0, high=0),
        Rule("no missing frames", "structure", "missing_frames", "critical", "annotate every frame", high=0),
        Rule("list lengths", "structure", "lists_of_wrong_length", "critical", track, high=0),
        Rule("finite numbers", "structure", "not_finite", "critical", "quarantine or track that clip again", high=0),
        Rule(
            "checks agree with the lists",
            "structure",
            "disagreeing_rows",
            "critical",
            "write that table with fportrait.dataset.annotations.write_frames, or without its check columns",
            high=0,
        ),
        Rule(
            "constants of a clip",
            "structure",
            "changing_constants",
            "critical",
            "give the clip one identity, split, camera, path, size, crop and intrinsics",
            high=0,
        ),
        Rule(
            "orthonormal rotations",
            "motion",
            "rotation_error",
            "critical",
            "store rotation matrices, row major",
            high=config.rotation_tolerance,
        ),
        Rule(
            "determinants of 1",
            "motion",
            "determinant_error",
            "critical",
            "remove the mirror from that rotation",
            high=4 * config.rotation_tolerance,
        ),
        Rule(
            "last rows of cameras",
            "motion",
            "last_row_error",
            "critical",
            "store world_to_camera 4x4, row major, last row 0 0 0 1",
            high=config.rotation_tolerance,
        ),
        Rule("focal lengths", "motion", "focal_length", "critical", "store intrinsics in pixels", low=1),
        Rule("crops", "motion", "crop_size", "critical", "store crops as x0, y0, size in pixels", low=1),
        Rule("picture sizes", "motion", "picture_size", "critical", "store the video's size", low=1),
        Rule("lowest confidence", "motion", "lowest_confidence", "critical", "store confidence from 0 to 1", low=0),
        Rule("highest confidence", "motion", "highest_confidence", "critical", "store confidence from 0 to 1", high=1),
        Rule(
            "confident tracking",
            "motion",
            "mean_confidence",
            "warning",
            "look at that clip; lower min_confidence if it is good",
            low=config.min_confidence,
        ),
    ]
    for dataset in CAPTURES:
        still = "the camera of a capture stands still; leave that clip out of the captures"
        listed += [
            Rule(
                "camera does not turn",
                "motion",
                "camera_degrees",
                "critical",
                still,
                high=config.still_camera_degrees,
                dataset=dataset,
            ),
            Rule(
                "camera does not travel",
                "motion",
                "camera_metres",
                "critical",
                still,
                high=config.still_camera_metres,
                dataset=dataset,
            ),
            Rule(
                "expression moves",
                "identities",
                "expression_motion",
                "warning",
                "capture clips in which the face moves",
                low=config.moving_expression,
                dataset=dataset,
            ),
            Rule(
                "pose moves",
                "identities",
                "pose_degrees",
                "warning",
                "capture clips in which the head turns",
                low=config.moving_pose_degrees,
                dataset=dataset,
            ),
        ]
    again = "run `kedro run --pipelines=render_sweeps` again"
    for dataset in SWEEPS:
        listed.append(
            Rule(
                "camera moves",
                "motion",
                "camera_degrees",
                "critical",
                again,
                low=config.moving_camera_degrees,
                dataset=dataset,
            )
        )
    listed += [
        Rule(
            "expression is frozen",
            "motion",
            "expression_motion",
            "critical",
            again,
            high=config.still_expression,
            dataset="ViewSweep",
        ),
        Rule(
            "pose does not turn",
            "motion",
            "pose_degrees",
            "critical",
            again,
            high=config.still_pose_degrees,
            dataset="ViewSweep",
        ),
        Rule(
            "pose does not travel",
            "motion",
            "pose_metres",
            "critical",
            again,
            high=config.still_pose_metres,
            dataset="ViewSweep",
        ),
        Rule(
            "expression moves",
            "motion",
            "expression_motion",
            "critical",
            again,
            low=config.moving_expression,
            dataset="DynamicSweep",
        ),
        Rule(
            "pose moves",
            "motion",
            "pose_degrees",
            "critical",
            again,
            low=config.moving_pose_degrees,
            dataset="DynamicSweep",
        ),
        Rule("listed once", "identities", "listed", "critical", "write one row per identity", low=1, high=1),
        Rule("has clips", "identities", "clips", "critical", "drop identities without frames from the table", low=1),
        Rule("one split", "identities", "split_conflicts", "critical", "give an identity one split", high=0),
        Rule("sound shape", "identities", "bad_shapes", "critical", "fit the shape of that identity again", high=0),
        Rule(
            "reference exists",
            "identities",
            "missing_reference",
            "critical",
            "name a clip and frame that the frames table has",
            high=0,
        ),
    ]
    titles = [rule.title for rule in listed]
    refuse_unknown_keys(config.severities, titles, "validate.severities")
    wrong = [value for value in config.severities.values() if value not in SEVERITIES]
    if wrong:
        raise UserError(f"the severity '{wrong[0]}'", "critical or warning", "correct validate.severities")
    return [Rule(**asdict(rule) | {"severity": config.severities.get(rule.title, rule.severity)}) for rule in listed]


def validate_tables(tracks_folder: str | Path, out_folder: str | Path, config: ValidationConfig) -> dict[str, Any]:
    """Check `frames.parquet` and `identities.parquet`; copy them, less quarantined identities, to `out_folder`.

    `out_folder` gets `report.json`, `quarantine.json` and `data_docs/`, and, only when nothing critical failed and
    not too many identities are quarantined, the two tables.

    Returns:
        The report: rules with their failures, quarantined identities with reasons, rows before and after.

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
    for name in ("schema", "structure", "motion", "identities"):
        if name == "schema":
            table = _schema_table(sources)
        elif name == "structure":
            database = connect(sources["frames"], sources["identities"])
            structure, motion = _clips(database, sources["frames"])
            table = structure
            if table.empty:
                raise UserError(
                    f"no rows in {sources['frames']}", "at least one clip", "read quarantine.json beside it"
                )
        elif name == "motion":
            assert database is not None
            table = motion = clip_motion(database) if motion is None else motion
        else:
            assert database is not None and structure is not None and motion is not None
            table = identity_rollup(database, structure, motion)
        phases.append(run_phase(name, table, [rule for rule in every_rule if rule.phase == name]))
        if _failures(phases[-1], "critical"):
            break

    quarantined: dict[str, list[str]] = {}
    for phase in phases:
        for rule, row in _failures(phase, "warning"):
            reasons = quarantined.setdefault(f"{row['dataset']}/{row['identity']}", [])
            reasons.append(f"{rule.title}: {_measured(rule, row)}")
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


def _schema_table(sources: dict[str, Path]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([row for table, path in sources.items() for row in compare_schema(table, path)])


def _failures(phase: Phase, severity: str) -> list[tuple[Rule, dict[str, Any]]]:
    return [(rule, row) for rule, rows in phase.failures if rule.severity == severity for row in rows]


def _measured(rule: Rule, row: dict[str, Any]) -> str:
    if rule.phase == "schema":
        return f"the column {row['column']} of {row['table']}.parquet as {row['found']} instead of {row['expected']}"
    value = f"{row[rule.column]:.6g}".removesuffix(".0")
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
