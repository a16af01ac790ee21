"""The one writer of `frames.parquet`: the annotation schema, and beside the lists what the gate asks of them.

Of a row's 1,142 numbers the gate's rules need twenty-three (`rollup.ROW_CHECKS`): is a rotation one, how far has the
camera moved since the clip's first frame. Whoever writes a table has these numbers at hand, so they are measured then,
by the very formulas of the gate, and stored as narrow columns; the gate reads these, and the wide lists of a sample.

A mark in the file's metadata says that the columns are there and that, when it was written, every list had its length
and only finite numbers. pandas and DuckDB drop the mark of a table that they write anew, so an edited table is measured
in full; a writer that keeps it is left to the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fportrait.atomic_io import atomic_path
from fportrait.tables.rollup import CHECK_PREFIX, MACROS, ROW_CHECKS, finite_lists, measure_rows, right_lengths
from fportrait.tables.schema import list_columns

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MARK, VERSION = b"fportrait.checks", b"3"
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


def join_frames(target: str | Path, parts: Iterable[Path]) -> int:
    """Write the rows of many tables of the frame schema as one, as `write_frames` would; returns the rows written.

    Row groups are written as they fill, so memory is that of one group and one part, however many there are. A clip's
    rows lie in one part; a part that `write_frames` wrote brings its checks, and is not measured again.

    Raises:
        UserError: the disk is full.
    """
    parts = list(parts)
    with atomic_path(target) as path:
        rows = _join(path, parts, checked=True)
        if rows is None:
            rows = _join(path, parts, checked=False)
    assert rows is not None
    return rows


def _join(path: Path, parts: Sequence[Path], checked: bool) -> int | None:
    """Rows written; None when checks are asked for and a part is too broken to have any."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, rows = None, 0
    try:
        for table in _row_groups(parts, checked):
            if table is None:
                return None
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema), row_group_size=2 * ROW_GROUP)
            rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        pq.write_table(pa.table({}), path)
    return rows


def _row_groups(parts: Sequence[Path], checked: bool) -> Iterator[pa.Table | None]:
    """Whole parts together, until there are `ROW_GROUP` rows; None for a part that has no checks and can get none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: list[pa.Table] = []
    for part in parts:
        table = pq.read_table(part)
        if not checked:
            table = table.select([name for name in table.column_names if not name.startswith(CHECK_PREFIX)])
            table = table.replace_schema_metadata(None)
        elif not has_checks(part):
            table = with_checks(table)
            if MARK not in (table.schema.metadata or {}):
                yield None
                return
        kept.append(table.replace_schema_metadata({MARK: VERSION} if checked else None))
        if sum(map(len, kept)) >= ROW_GROUP:
            yield pa.concat_tables(kept, promote_options="permissive")
            kept = []
    if kept:
        yield pa.concat_tables(kept, promote_options="permissive")


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
