"""Annotation tables to one row of numbers per clip and per identity, by DuckDB over the Parquet files.

Fifty million frames never enter pandas: lists are reduced inside the database, and what comes out has one row per clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fportrait.dataset.schema import list_columns

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# Rotations are lists of nine, row major; DuckDB counts from one.
MACROS = """
CREATE MACRO dot3(a, i, b, j) AS a[i] * b[j] + a[i + 1] * b[j + 1] + a[i + 2] * b[j + 2];
CREATE MACRO rotation_error(r) AS greatest(
    abs(dot3(r, 1, r, 1) - 1), abs(dot3(r, 4, r, 4) - 1), abs(dot3(r, 7, r, 7) - 1),
    abs(dot3(r, 1, r, 4)), abs(dot3(r, 1, r, 7)), abs(dot3(r, 4, r, 7)));
CREATE MACRO determinant(r) AS r[1] * (r[5] * r[9] - r[6] * r[8]) - r[2] * (r[4] * r[9] - r[6] * r[7])
    + r[3] * (r[4] * r[8] - r[5] * r[7]);
CREATE MACRO angle(a, b) AS degrees(acos(greatest(-1.0, least(1.0,
    (dot3(a, 1, b, 1) + dot3(a, 4, b, 4) + dot3(a, 7, b, 7) - 1) / 2))));
CREATE MACRO rotation_of(m) AS [m[1], m[2], m[3], m[5], m[6], m[7], m[9], m[10], m[11]];
CREATE MACRO centre_of(m) AS [
    -(m[1] * m[4] + m[5] * m[8] + m[9] * m[12]), -(m[2] * m[4] + m[6] * m[8] + m[10] * m[12]),
    -(m[3] * m[4] + m[7] * m[8] + m[11] * m[12])];
CREATE MACRO row_by(a, i, b) AS [
    a[i] * b[1] + a[i + 1] * b[4] + a[i + 2] * b[7], a[i] * b[2] + a[i + 1] * b[5] + a[i + 2] * b[8],
    a[i] * b[3] + a[i + 1] * b[6] + a[i + 2] * b[9]];
CREATE MACRO product(a, b) AS list_concat(list_concat(row_by(a, 1, b), row_by(a, 4, b)), row_by(a, 7, b));
"""


def connect(frames: Path, identities: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the two tables as views and the rotation macros."""
    import duckdb

    database = duckdb.connect(":memory:")
    database.execute("SET enable_progress_bar = false; SET threads = 2")
    for name, path in (("frames", frames), ("identities", identities)):
        quoted = str(path).replace("'", "''")
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{quoted}')")
    database.execute(MACROS)
    return database


def clip_structure(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Per clip: rows, holes and doubles among frame numbers, lists of a wrong length, numbers that are not finite.

    A sum is finite exactly when every summand is (up to overflow), so one sum per list replaces a walk over it.
    """
    lists = list_columns("frames")
    wrong = " + ".join(f"(coalesce(len({name}), 0) <> {length})::INT" for name, length in lists.items())
    bad = " + ".join(f"(NOT coalesce(isfinite(list_sum({name})), false) OR list_count({name}) <> len({name}))::INT"
                     for name in lists)  # fmt: skip
    constants = ("identity", "split", "camera", "segment", "path", "width", "height", "crop", "intrinsics")
    changing = " + ".join(f"(count(DISTINCT {name}) - 1)" for name in constants)
    texts = ("dataset", "identity", "clip", "camera", "segment", "split", "path", "frame", "width", "height")
    nulls = " + ".join(f"({name} IS NULL)::INT" for name in texts)
    return database.execute(
        f"""
        SELECT coalesce(dataset, '') AS dataset, coalesce(any_value(identity), '') AS identity,
            coalesce(clip, '') AS clip,
            count(*) AS frames, coalesce(min(frame), -1) AS first_frame,
            count(*) - count(DISTINCT frame) AS repeated_frames,
            coalesce(max(frame) - min(frame) + 1 - count(DISTINCT frame), 0) AS missing_frames,
            sum({wrong}) AS lists_of_wrong_length,
            sum({bad} + (NOT coalesce(isfinite(confidence), false))::INT) AS not_finite,
            sum({nulls}) AS empty_cells, {changing} AS changing_constants
        FROM frames GROUP BY dataset, clip ORDER BY dataset, clip
        """
    ).df()


def clip_motion(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Per clip of a sound table: errors of rotations, and how far camera, code and pose move from the first frame.

    Angles in degrees, lengths in metres; `expression_motion` is the root mean square difference over the 128 numbers of
    a standardised code, so 1 means one standard deviation; the pose is the head's rotation in the world and the root's
    place.
    """
    return database.execute(
        """
        WITH starts AS (
            SELECT dataset, clip, arg_min(world_to_camera, frame) AS w0, arg_min(expression_code, frame) AS c0,
                arg_min(body_translation, frame) AS t0, arg_min(product(body_rotation, head_rotation), frame) AS p0
            FROM frames GROUP BY dataset, clip)
        SELECT dataset, any_value(identity) AS identity, clip,
            max(greatest(rotation_error(body_rotation), rotation_error(head_rotation),
                rotation_error(rotation_of(world_to_camera)))) AS rotation_error,
            max(greatest(abs(determinant(body_rotation) - 1), abs(determinant(head_rotation) - 1),
                abs(determinant(rotation_of(world_to_camera)) - 1))) AS determinant_error,
            max(abs(world_to_camera[13]) + abs(world_to_camera[14]) + abs(world_to_camera[15])
                + abs(world_to_camera[16] - 1)) AS last_row_error,
            min(least(intrinsics[1], intrinsics[5])) AS focal_length, min(crop[3]) AS crop_size,
            min(least(width, height)) AS picture_size,
            max(angle(rotation_of(world_to_camera), rotation_of(w0))) AS camera_degrees,
            max(list_distance(centre_of(world_to_camera), centre_of(w0))) AS camera_metres,
            max(list_distance(expression_code, c0)) / sqrt(128) AS expression_motion,
            max(angle(product(body_rotation, head_rotation), p0)) AS pose_degrees,
            max(list_distance(body_translation, t0)) AS pose_metres,
            min(confidence) AS lowest_confidence, max(confidence) AS highest_confidence,
            avg(confidence) AS mean_confidence
        FROM frames JOIN starts USING (dataset, clip) GROUP BY dataset, clip ORDER BY dataset, clip
        """
    ).df()


def identity_rollup(database: duckdb.DuckDBPyConnection, clips: pd.DataFrame) -> pd.DataFrame:
    """Per identity that either table names: its rows, its reference, and the most that anything moves in its clips."""
    database.register("clip_motion", clips)
    return database.execute(
        """
        WITH listed AS (
            SELECT dataset, identity, count(*) AS listed, any_value(split) AS split, max(len(shape)) AS shape_length,
                sum((NOT coalesce(isfinite(list_sum(shape)), false) OR list_count(shape) <> len(shape))::INT)
                    AS bad_shapes,
                any_value(body_model) AS body_model, any_value(reference_clip) AS reference_clip,
                any_value(reference_frame) AS reference_frame
            FROM identities GROUP BY dataset, identity),
        seen AS (
            SELECT dataset, identity, count(*) AS frames, count(DISTINCT clip) AS clips,
                count(DISTINCT split) AS splits, any_value(split) AS frames_split
            FROM frames GROUP BY dataset, identity),
        reference AS (
            SELECT DISTINCT frames.dataset, frames.identity FROM frames JOIN listed
            ON frames.dataset = listed.dataset AND frames.identity = listed.identity
                AND clip = reference_clip AND frame = reference_frame),
        motion AS (
            SELECT dataset, identity, max(camera_degrees) AS camera_degrees, max(camera_metres) AS camera_metres,
                max(expression_motion) AS expression_motion, max(pose_degrees) AS pose_degrees
            FROM clip_motion GROUP BY dataset, identity),
        lengths AS (SELECT body_model, mode(shape_length) AS usual_length FROM listed GROUP BY body_model)
        SELECT dataset, identity, coalesce(listed, 0) AS listed, coalesce(clips, 0) AS clips,
            coalesce(frames, 0) AS frames,
            coalesce(splits, 1) - 1 + coalesce((split <> frames_split)::INT, 0) AS split_conflicts,
            coalesce(bad_shapes, 0) + coalesce((shape_length <> usual_length)::INT, 0) AS bad_shapes,
            (reference.identity IS NULL AND listed IS NOT NULL)::INT AS missing_reference,
            camera_degrees, camera_metres, expression_motion, pose_degrees
        FROM listed FULL JOIN seen USING (dataset, identity) LEFT JOIN motion USING (dataset, identity)
            LEFT JOIN reference USING (dataset, identity) LEFT JOIN lengths USING (body_model)
        ORDER BY dataset, identity
        """
    ).df()
