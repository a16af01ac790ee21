"""The one writer of `frames.parquet`: the annotation schema, and beside the lists what the gate asks of them.

Of a row's 1,142 numbers the gate's rules need eighteen (`rollup.ROW_CHECKS`): is a rotation one, how far has the
camera moved since the clip's first frame. Whoever writes a table has these numbers at hand, so they are measured then,
by the very formulas of the gate, and stored as narrow columns; the gate reads these, and the wide lists of a sample.

A mark in the file's metadata says that the columns are there and that, when it was written, every list had its length
and only finite numbers. pandas and DuckDB drop the mark of a table that they write anew, so an edited table is measured
in full; a writer that keeps it is left to the sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fportrait.atomic_io import atomic_path
from fportrait.dataset.rollup import CHECK_PREFIX, MACROS, ROW_CHECKS, finite_lists, measure_rows, right_lengths
from fportrait.dataset.schema import list_columns

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MARK, VERSION = b"fportrait.checks", b"2"
ROW_GROUP = 20_000  # rows: 90 MB of lists


def write_frames(target: str | Path, table: pd.DataFrame) -> Path:
    """Write rows of the frame schema (docs/data-contracts.md), with their checks if every list is sound.

    Rows of a clip should lie together, in the order of their frames: only then does the gate make use of the checks.
    A broken table is written as it is, for the gate to say what is wrong with it.

    Raises:
        UserError: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = table.drop(columns=[CHECK_PREFIX + name for name in ROW_CHECKS], errors="ignore")
    rows = pa.Table.from_pandas(plain, preserve_index=False)
    with atomic_path(target) as path:
        pq.write_table(with_checks(rows), path, row_group_size=ROW_GROUP)
    return Path(target)


def with_checks(rows: pa.Table) -> pa.Table:
    """The same rows with their checks and the mark, or unchanged if a list, a key or a first frame is missing."""
    import duckdb
    import numpy as np
    import pyarrow as pa

    if not {"dataset", "clip", "frame", *list_columns("frames")} <= set(rows.column_names) or not len(rows):
        return rows
    database = duckdb.connect(":memory:")
    database.execute("SET enable_progress_bar = false")
    database.execute(MACROS)
    database.register("rows", rows.append_column("file_row_number", pa.array(np.arange(len(rows)))))
    sound = finite_lists("isfinite(list_sum({0})) AND list_count({0}) = len({0})")
    try:
        broken = f"SELECT count(*) FROM rows WHERE NOT ({right_lengths()} AND {sound})"
        if database.execute(broken).fetchall() != [(0,)]:
            return rows
        checks = database.sql(measure_rows("rows")).to_arrow_table()
    except duckdb.BinderException:  # a column is not one of lists of numbers
        return rows
    if len(checks) != len(rows):  # a clip without a first frame, or with two
        return rows
    for name in checks.column_names:
        rows = rows.append_column(name, checks[name])
    return rows.replace_schema_metadata({**(rows.schema.metadata or {}), MARK: VERSION})


def has_checks(path: str | Path) -> bool:
    """Was this table written by `write_frames`, with the checks of today's formulas?"""
    import pyarrow.parquet as pq

    file = pq.read_metadata(path)
    columns = set(file.schema.to_arrow_schema().names)
    return (file.metadata or {}).get(MARK) == VERSION and {CHECK_PREFIX + name for name in ROW_CHECKS} <= columns
