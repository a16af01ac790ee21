"""Annotation tables to one row of numbers per clip and per identity, by DuckDB over the Parquet files.

Fifty million frames never enter pandas: lists are reduced inside the database, and what comes out has one row per clip.
What rules ask of a row's lists is in `ROW_CHECKS`. `annotations.write_frames` writes these numbers beside the lists,
and then the roll-up reads them (`checked_clips`) and leaves the lists alone, but for a sample that it measures again
(`disagreeing_rows`); of any other table it measures every list (`clip_structure`, `clip_motion`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fportrait.tables.fits import CLIP_FITS, FIT_CHECKS, FIT_STARTS
from fportrait.tables.fits import MACROS as FIT_MACROS
from fportrait.tables.schema import list_columns

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

MEMORY_LIMIT = "3GB"  # of the database; more spills to disk
# Rotations are lists of nine and cameras lists of sixteen, row major (`s` is the length of a row); DuckDB counts from
# one. Elements are taken from the lists one by one: building lists in between costs several times the arithmetic.
MACROS = (
    """
CREATE MACRO dot3(a, i, b, j) AS a[i] * b[j] + a[i + 1] * b[j + 1] + a[i + 2] * b[j + 2];
CREATE MACRO rotation_error(r, s) AS greatest(
    abs(dot3(r, 1, r, 1) - 1), abs(dot3(r, 1 + s, r, 1 + s) - 1), abs(dot3(r, 1 + 2 * s, r, 1 + 2 * s) - 1),
    abs(dot3(r, 1, r, 1 + s)), abs(dot3(r, 1, r, 1 + 2 * s)), abs(dot3(r, 1 + s, r, 1 + 2 * s)));
CREATE MACRO determinant(r, s) AS r[1] * (r[2 + s] * r[3 + 2 * s] - r[3 + s] * r[2 + 2 * s])
    - r[2] * (r[1 + s] * r[3 + 2 * s] - r[3 + s] * r[1 + 2 * s])
    + r[3] * (r[1 + s] * r[2 + 2 * s] - r[2 + s] * r[1 + 2 * s]);
CREATE MACRO cosine(a, b, s) AS
    (dot3(a, 1, b, 1) + dot3(a, 1 + s, b, 1 + s) + dot3(a, 1 + 2 * s, b, 1 + 2 * s) - 1) / 2;
CREATE MACRO degrees_of(cosine) AS degrees(acos(greatest(-1.0, least(1.0, cosine))));
CREATE MACRO centre(m, i) AS -(m[i] * m[4] + m[4 + i] * m[8] + m[8 + i] * m[12]);
CREATE MACRO distance3(x, y, z, a, b, c) AS sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2);
CREATE MACRO element(a, i, b, j) AS a[i] * b[j] + a[i + 1] * b[j + 3] + a[i + 2] * b[j + 6];
CREATE MACRO product(a, b) AS [
    element(a, 1, b, 1), element(a, 1, b, 2), element(a, 1, b, 3), element(a, 4, b, 1), element(a, 4, b, 2),
    element(a, 4, b, 3), element(a, 7, b, 1), element(a, 7, b, 2), element(a, 7, b, 3)];
"""
    + FIT_MACROS
)
# Per row, given its clip's first row (names that end in 0). Angles in degrees, lengths in metres.
ROW_CHECKS = {
    "rotation_error": "greatest(rotation_error(body_rotation, 3), rotation_error(head_rotation, 3), "
    "rotation_error(world_to_camera, 4))",
    "determinant_error": "greatest(abs(determinant(body_rotation, 3) - 1), abs(determinant(head_rotation, 3) - 1), "
    "abs(determinant(world_to_camera, 4) - 1))",
    "last_row_error": "abs(world_to_camera[13]) + abs(world_to_camera[14]) + abs(world_to_camera[15]) "
    "+ abs(world_to_camera[16] - 1)",
    "focal_length": "least(intrinsics[1], intrinsics[5])",
    "crop_size": "crop[3]",
    "camera_degrees": "degrees_of(cosine(world_to_camera, w0, 4))",
    "camera_metres": "distance3(centre(world_to_camera, 1), centre(world_to_camera, 2), centre(world_to_camera, 3), "
    "x0, y0, z0)",
    "expression_motion": "list_distance(expression_code, c0) / sqrt(128)",
    "pose_degrees": "degrees_of(cosine(product(body_rotation, head_rotation), p0, 3))",
    "pose_metres": "list_distance(body_translation, t0)",
    "constants_changed": "(crop <> crop0 OR intrinsics <> k0)::INT",
} | FIT_CHECKS
MINIMA = ("focal_length", "crop_size")  # a clip's number is the minimum of these, the maximum of the others
CHECK_PREFIX = "check_"
STARTS = f"""
    SELECT dataset, clip, world_to_camera AS w0, expression_code AS c0, body_translation AS t0, crop AS crop0,
        intrinsics AS k0, product(body_rotation, head_rotation) AS p0,
        centre(world_to_camera, 1) AS x0, centre(world_to_camera, 2) AS y0, centre(world_to_camera, 3) AS z0,
        {FIT_STARTS}
    FROM {{table}} WHERE frame = 0"""
TEXTS = ("dataset", "identity", "clip", "camera", "segment", "split", "path", "frame", "width", "height")
PLACES, ROWS_PER_PLACE = 16, 1250  # of the sample whose lists are measured again
TOLERANCE = 1e-4  # between a check as written (float32) and as measured, relative above one


def connect(frames: Path, identities: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the two tables as views (and their `file_row_number`) and the rotation macros."""
    import duckdb

    database = duckdb.connect(":memory:")
    database.execute(f"SET enable_progress_bar = false; SET memory_limit = '{MEMORY_LIMIT}'")
    for name, path in (("frames", frames), ("identities", identities)):
        quoted = str(path).replace("'", "''")
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{quoted}', file_row_number = true)")
    database.execute(MACROS)
    return database


def measure_rows(table: str) -> str:
    """SQL that gives every row of a table of sound structure its `ROW_CHECKS`, in the order of `file_row_number`."""
    checks = ", ".join(f"({sql})::FLOAT AS {CHECK_PREFIX}{name}" for name, sql in ROW_CHECKS.items())
    return (
        f"WITH starts AS ({STARTS.format(table=table)}) "
        f"SELECT {checks} FROM {table} JOIN starts USING (dataset, clip) ORDER BY file_row_number"
    )


def motions_sql(marked: bool) -> str:
    """SQL (`moves`) of the rows of `chosen` clips of a `{dataset}`: how far code and face are from frame 0.

    Args:
        marked: the table has check columns; else the lists are measured.
    """
    if marked:
        columns, source = [CHECK_PREFIX + name for name in ("expression_motion", "face_motion")], ""
    else:
        columns = [f"({ROW_CHECKS[name]})" for name in ("expression_motion", "face_motion")]
        source = f"JOIN ({STARTS.format(table='frames')} AND dataset = '{{dataset}}') USING (dataset, clip)"
    return (
        f"moves AS (SELECT clip, frame, {columns[0]} AS code, {columns[1]} AS face FROM frames "
        f"JOIN chosen USING (clip) {source} WHERE dataset = '{{dataset}}')"
    )


def clip_structure(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Per clip: rows, holes and doubles among frame numbers, rows with wrong lengths, NaN or empty cells, constants."""
    import duckdb

    try:
        return _structure(database, finite_lists("isfinite(list_inner_product({0}, {0}))"))
    except duckdb.Error:  # an empty cell inside a list, which a product does not take
        return _structure(database, finite_lists("isfinite(list_sum({0})) AND list_count({0}) = len({0})"))


def right_lengths() -> str:
    """SQL: has every list of a row its length?"""
    return " AND ".join(f"coalesce(len({name}), 0) = {length}" for name, length in list_columns("frames").items())


def finite_lists(finite: str) -> str:
    """SQL: are the numbers of all lists of a row finite?

    A product with itself, or a sum, is finite exactly when every number is (up to overflow, far from what is real).
    The product is three times faster, and reads 956 landmarks at the speed of unpacking them.
    """
    return " AND ".join(f"coalesce({finite.format(name)}, false)" for name in list_columns("frames"))


def _structure(database: duckdb.DuckDBPyConnection, sound: str) -> pd.DataFrame:
    constants = ("identity", "split", "camera", "segment", "path", "width", "height", "crop", "intrinsics")
    constant = f"hash({', '.join(constants)})"  # one comparison instead of nine; a collision needs 2^-64 of luck
    nulls = " OR ".join(f"{name} IS NULL" for name in TEXTS)
    return database.execute(
        f"""
        SELECT coalesce(dataset, '') AS dataset, coalesce(any_value(identity), '') AS identity,
            coalesce(clip, '') AS clip, any_value(split) AS split,
            count(*) AS frames, coalesce(min(frame), -1) AS first_frame,
            count(*) - count(DISTINCT frame) AS repeated_frames,
            coalesce(max(frame) - min(frame) + 1 - count(DISTINCT frame), 0) AS missing_frames,
            count(*) FILTER (NOT ({right_lengths()})) AS lists_of_wrong_length,
            count(*) FILTER (NOT ({sound} AND coalesce(isfinite(confidence), false))) AS not_finite,
            min(file_row_number) AS first_row, min(file_row_number - frame) = max(file_row_number - frame) AS in_order,
            count(*) FILTER ({nulls}) AS empty_cells, (min({constant}) <> max({constant}))::INT AS changing_constants,
            0 AS disagreeing_rows
        FROM frames GROUP BY dataset, clip ORDER BY dataset, clip
        """
    ).df()


def rows_in_order(structure: pd.DataFrame) -> bool:
    """Do the rows of the file lie by dataset, clip and frame, as `clip_structure` lists them?"""
    return bool(structure["in_order"].all() and structure["first_row"].is_monotonic_increasing)


def _motion_columns(check: str) -> str:
    """SQL of a clip's motion, from its rows' checks; `check` makes a column's name, or its formula, of a check's."""
    numbers = {
        name: ("min" if name in MINIMA else "max", name)
        for name in ROW_CHECKS
        if name != "constants_changed" and name not in FIT_CHECKS
    } | CLIP_FITS
    checks = ", ".join(
        f"{aggregate}({check.format(name=source, sql=ROW_CHECKS[source])})::DOUBLE AS {name}"
        for name, (aggregate, source) in numbers.items()
    )
    return (
        f"{checks}, min(least(width, height)) AS picture_size, min(confidence) AS lowest_confidence, "
        "max(confidence) AS highest_confidence, avg(confidence) AS mean_confidence"
    )


def clip_motion(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Per clip of a table of sound structure: errors of rotations, and how far camera, code and pose move from frame 0.

    Angles in degrees, lengths in metres; `expression_motion` is the root mean square difference over the 128 numbers of
    a standardised code, so 1 means one standard deviation; the pose is the head's rotation in the world and the root's
    place.
    """
    return database.execute(
        f"""
        WITH starts AS ({STARTS.format(table="frames")})
        SELECT dataset, any_value(identity) AS identity, clip, {_motion_columns("{sql}")}
        FROM frames JOIN starts USING (dataset, clip) GROUP BY dataset, clip ORDER BY dataset, clip
        """
    ).df()


def checked_clips(database: duckdb.DuckDBPyConnection) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `clip_structure` and `clip_motion` give, from the check columns: one pass, and no list is read.

    A table whose rows do not lie clip by clip and frame by frame, or whose checks are not numbers, says so in
    `in_order` and `not_finite`: it has to be measured.
    """
    checks = [CHECK_PREFIX + name for name in ROW_CHECKS]
    constant = "hash(identity, split, camera, segment, path, width, height)"
    nulls = " OR ".join(f"{name} IS NULL" for name in TEXTS)
    clips = database.execute(
        f"""
        SELECT coalesce(dataset, '') AS dataset, coalesce(any_value(identity), '') AS identity,
            coalesce(clip, '') AS clip, any_value(split) AS split,
            count(*) AS frames, coalesce(min(frame), -1) AS first_frame, 0 AS repeated_frames, 0 AS missing_frames,
            0 AS lists_of_wrong_length,
            count(*) FILTER (NOT coalesce(isfinite({" + ".join(checks)} + confidence), false)) AS not_finite,
            min(file_row_number) AS first_row,
            min(file_row_number - frame) = max(file_row_number - frame)
                AND max(frame) - min(frame) + 1 = count(*) AS in_order,
            count(*) FILTER ({nulls}) AS empty_cells,
            greatest((min({constant}) <> max({constant}))::INT, max({CHECK_PREFIX}constants_changed)::INT)
                AS changing_constants,
            0 AS disagreeing_rows, {_motion_columns(CHECK_PREFIX + "{name}")}
        FROM frames GROUP BY dataset, clip ORDER BY dataset, clip
        """
    ).df()
    shared = ["dataset", "identity", "clip"]
    first_motion = clips.columns.get_loc("disagreeing_rows") + 1
    return clips.iloc[:, :first_motion], clips[shared + list(clips.columns[first_motion:])]


def disagreeing_rows(database: duckdb.DuckDBPyConnection, structure: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Per clip of `structure` (rows in order), its sampled rows whose lists are not what their checks say.

    `PLACES` seeded runs of whole clips, `ROWS_PER_PLACE` rows or one clip each, are measured again, lengths and
    finiteness of all lists included.
    """
    rng = np.random.default_rng(seed)
    ordered = structure.sort_values("first_row")
    starts, lengths = ordered["first_row"].to_numpy(), ordered["frames"].to_numpy()
    wrong = ordered["disagreeing_rows"].astype("int64")
    for first in rng.choice(len(ordered), min(PLACES, len(ordered)), replace=False):
        last = min(int(np.searchsorted(starts, starts[first] + ROWS_PER_PLACE)), len(ordered))
        last = max(last, first + 1)
        until = starts[last - 1] + lengths[last - 1]
        database.execute(
            f"CREATE OR REPLACE TEMP TABLE sampled AS SELECT * FROM frames "
            f"WHERE file_row_number >= {starts[first]} AND file_row_number < {until}"
        )
        rows = _disagreeing(database)
        wrong.iloc[first:last] = np.add.reduceat(rows, starts[first:last] - starts[first])
    return wrong.reindex(structure.index)


def _disagreeing(database: duckdb.DuckDBPyConnection) -> np.ndarray:
    """For every row of the table `sampled`, 1 where a list is broken or its checks are not what is measured."""
    sound = finite_lists("isfinite(list_sum({0})) AND list_count({0}) = len({0})")
    broken = database.execute(
        f"SELECT NOT ({right_lengths()} AND {sound}) AS broken FROM sampled ORDER BY file_row_number"
    ).df()["broken"]
    if broken.any():  # lists of wrong lengths cannot be measured
        return broken.to_numpy().astype(int)
    names = ", ".join(CHECK_PREFIX + name for name in ROW_CHECKS)
    written = database.execute(f"SELECT {names} FROM sampled ORDER BY file_row_number").df().to_numpy(np.float64)
    measured = database.execute(measure_rows("sampled")).df().to_numpy(np.float64)
    if measured.shape != written.shape:
        return np.ones(len(written), int)
    return (abs(written - measured) > TOLERANCE * np.maximum(1, abs(measured))).any(axis=1).astype(int)


def identity_rollup(database: duckdb.DuckDBPyConnection, structure: pd.DataFrame, motion: pd.DataFrame) -> pd.DataFrame:
    """Per identity that either table names: its rows, its reference, and the maximum that anything moves in its clips.

    Everything comes from the rows per clip: of a sound clip the identity and split are constant, the frames 0 to n - 1.
    """
    database.register("clip_structure", structure)
    database.register("clip_motion", motion)
    return database.execute(
        """
        WITH listed AS (
            SELECT dataset, identity, count(*) AS listed, any_value(split) AS split, max(len(shape)) AS shape_length,
                sum((NOT coalesce(isfinite(list_sum(shape)), false) OR list_count(shape) <> len(shape))::INT)
                    AS bad_shapes,
                max(coalesce(greatest(list_max(shape), -list_min(shape)), 0)) AS largest_shape,
                any_value(body_model) AS body_model, any_value(reference_clip) AS reference_clip,
                any_value(reference_frame) AS reference_frame
            FROM identities GROUP BY dataset, identity),
        seen AS (
            SELECT dataset, identity, sum(frames) AS frames, count(*) AS clips,
                count(DISTINCT split) AS splits, any_value(split) AS frames_split
            FROM clip_structure GROUP BY dataset, identity),
        reference AS (
            SELECT DISTINCT clips.dataset, clips.identity FROM clip_structure AS clips JOIN listed
            ON clips.dataset = listed.dataset AND clips.identity = listed.identity
                AND clip = reference_clip AND reference_frame BETWEEN 0 AND clips.frames - 1),
        motion AS (
            SELECT dataset, identity, max(camera_degrees) AS camera_degrees, max(camera_metres) AS camera_metres,
                max(expression_motion) AS expression_motion, max(pose_degrees) AS pose_degrees,
                max(body_degrees) - max(head_degrees) AS root_over_head
            FROM clip_motion GROUP BY dataset, identity),
        lengths AS (SELECT body_model, mode(shape_length) AS usual_length FROM listed GROUP BY body_model)
        SELECT dataset, identity, coalesce(listed, 0) AS listed, coalesce(clips, 0) AS clips,
            coalesce(frames, 0) AS frames,
            coalesce(splits, 1) - 1 + coalesce((split <> frames_split)::INT, 0) AS split_conflicts,
            coalesce(bad_shapes, 0) + coalesce((shape_length <> usual_length)::INT, 0) AS bad_shapes,
            (reference.identity IS NULL AND listed IS NOT NULL)::INT AS missing_reference,
            coalesce(largest_shape, 0) AS largest_shape, coalesce(root_over_head, 0) AS root_over_head,
            coalesce(split, frames_split) AS split, camera_degrees, camera_metres, expression_motion, pose_degrees
        FROM listed FULL JOIN seen USING (dataset, identity) LEFT JOIN motion USING (dataset, identity)
            LEFT JOIN reference USING (dataset, identity) LEFT JOIN lengths USING (body_model)
        ORDER BY dataset, identity
        """
    ).df()
