"""The schema of the annotation tables, as `docs/data-contracts.md` describes it, and its check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fportrait.errors import UserError

DATASETS = ("PhoneCapture", "StudioCapture", "ViewSweep", "DynamicSweep")


@dataclass(frozen=True)
class Column:
    """`kind` is `string`, `int32`, `float32` or `list<…>`; `length` is the length of every list, None for any."""

    kind: str
    length: int | None = None


FRAMES = {
    **dict.fromkeys(("dataset", "identity", "clip", "camera", "segment", "split", "path"), Column("string")),
    "frame": Column("int32"),
    "width": Column("int32"),
    "height": Column("int32"),
    "world_to_camera": Column("list<float64>", 16),
    "intrinsics": Column("list<float64>", 9),
    "crop": Column("list<float64>", 3),
    "body_rotation": Column("list<float64>", 9),
    "head_rotation": Column("list<float64>", 9),
    "body_translation": Column("list<float64>", 3),
    "expression_code": Column("list<float32>", 128),
    "landmarks": Column("list<float32>", 956),
    "confidence": Column("float32"),
}
IDENTITIES = {
    **dict.fromkeys(("dataset", "identity", "split"), Column("string")),
    "shape": Column("list<float64>"),
    "body_model": Column("string"),
    "reference_clip": Column("string"),
    "reference_frame": Column("int32"),
}
TABLES = {"frames": FRAMES, "identities": IDENTITIES}


def list_columns(table: str) -> dict[str, int | None]:
    """List columns of a table and their length."""
    return {name: column.length for name, column in TABLES[table].items() if column.kind.startswith("list")}


def read_schema(path: str | Path) -> dict[str, str]:
    """Column names and kinds of a Parquet file, in the words of `Column.kind`.

    Raises:
        UserError: no such file, or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise UserError(
            f"no readable table {path} ({type(error).__name__})",
            "a Parquet table",
            "run the stage that writes it again",
        ) from None
    return {field.name: _kind(field.type) for field in found}


def _kind(type_) -> str:
    import pyarrow as pa

    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return f"list<{_kind(type_.value_type)}>"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "string"
    return {"double": "float64", "float": "float32"}.get(str(type_), str(type_))


def compare_schema(table: str, path: str | Path) -> list[dict[str, object]]:
    """One row per column of `table`: `table, column, expected, found, mismatch`; the file may have further columns."""
    found = read_schema(path)
    return [
        {
            "table": table,
            "column": name,
            "expected": column.kind,
            "found": found.get(name, "missing"),
            "mismatch": int(found.get(name) != column.kind),
        }
        for name, column in TABLES[table].items()
    ]


def check_schema(table: str, path: str | Path) -> None:
    """Raise `UserError` for the first column that is missing or of another type."""
    for row in compare_schema(table, path):
        if row["mismatch"]:
            raise UserError(
                f"the column {row['column']} of {path} as {row['found']}",
                str(row["expected"]),
                "write the table in the schema of docs/data-contracts.md",
            )
