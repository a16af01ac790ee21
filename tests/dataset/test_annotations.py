"""Check columns: they say what the gate would measure, the gate reads them, and edited lists do not get past it."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fportrait.dataset.validation as validation
import fportrait.tables.rollup as rollup
from fportrait.dataset.rules import ValidationConfig
from fportrait.dataset.validation import validate_tables
from fportrait.errors import UserError
from fportrait.tables.annotations import MARK, has_checks, join_frames, write_frames
from fportrait.tables.rollup import CHECK_PREFIX, ROW_CHECKS, checked_clips, clip_motion, clip_structure, connect
from fportrait.tables.schema import check_schema
from helpers import broken_tables as broken
from helpers.tables import sound_tables, turn, write_tables

DATASETS = ("DynamicSweep", "PhoneCapture", "ViewSweep")


@pytest.fixture
def columns_only(monkeypatch):
    """The gate as it treats a large table, whatever its size."""
    monkeypatch.setattr(validation, "MEASURED_ROWS", 0)


def written(folder, change=None, datasets=DATASETS, **size):
    rows, people = sound_tables(datasets, **size)
    if change:
        change(rows, people)
    write_tables(folder, rows, people)
    write_frames(folder / "frames.parquet", pd.read_parquet(folder / "frames.parquet"))
    return folder


def measuring_forbidden(database):
    raise AssertionError("the gate measured every list")


def test_the_check_columns_tell_what_measuring_every_list_tells(tmp_path):
    def wobble(rows, people):
        rng = np.random.default_rng(0)
        for row in rows:
            row["head_rotation"] = row["head_rotation"] + rng.normal(0, 1e-3, 9)
            row["world_to_camera"] = row["world_to_camera"] + rng.normal(0, 1e-3, 16)
            row["confidence"] = rng.uniform(0.2, 1)

    folder = written(tmp_path, wobble)
    database = connect(folder / "frames.parquet", folder / "identities.parquet")
    structure, motion = checked_clips(database)
    pd.testing.assert_frame_equal(structure, clip_structure(database), check_dtype=False)
    measured = clip_motion(database)
    assert set(motion.columns) == set(measured.columns)
    pd.testing.assert_frame_equal(motion[measured.columns], measured, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_the_table_keeps_the_schema_and_its_rows_and_a_large_one_passes_without_a_look_at_every_list(
    tmp_path, columns_only, monkeypatch
):
    folder = written(tmp_path / "tracks")
    check_schema("frames", folder / "frames.parquet")
    rows, people = sound_tables(DATASETS)
    write_tables(tmp_path / "plain", rows, people)
    plain = pd.read_parquet(tmp_path / "plain/frames.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "frames.parquet")[plain.columns], plain)
    monkeypatch.setattr(validation, "clip_structure", measuring_forbidden)
    monkeypatch.setattr(validation, "clip_motion", measuring_forbidden)
    assert validate_tables(folder, tmp_path / "out", ValidationConfig())["passed"]
    assert has_checks(tmp_path / "out/frames.parquet")
    with pytest.raises(AssertionError, match="measured every list"):
        validate_tables(tmp_path / "plain", tmp_path / "out", ValidationConfig())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (broken.mirror, "determinants of 1"),
        (broken.shear, "orthonormal rotations"),
        (broken.infinite_landmark, "finite numbers"),
        (broken.short_code, "list lengths"),
        (broken.hole, "no missing frames"),
        (broken.double, "unique keys"),
        (broken.moving_phone, "PhoneCapture: camera does not turn"),
        (broken.wandering_crop, "constants of a clip"),
        (broken.two_splits, "one split"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_broken_table_is_refused_by_the_same_rule_with_check_columns(tmp_path, columns_only, change, rule):
    folder = written(tmp_path / "tracks", change, ("PhoneCapture",))
    with pytest.raises(UserError, match=f"'{rule}'"):
        validate_tables(folder, tmp_path / "out", ValidationConfig())


def poison(folder, row, keep_mark, column="landmarks", value=np.nan):
    """Edit one number of one row's list, with a writer that keeps the file's metadata or one that does not."""
    path = folder / "frames.parquet"
    table = pd.read_parquet(path)
    cell = np.array(table.at[row, column])
    cell[0] = value
    table.at[row, column] = cell
    if not keep_mark:
        table.to_parquet(path, index=False)
        return
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), path)
    assert pq.read_metadata(path).metadata[MARK]


def test_a_table_edited_with_pandas_or_duckdb_is_measured_again_in_full(tmp_path, columns_only):
    folder = written(tmp_path / "tracks", datasets=("PhoneCapture",))
    poison(folder, 4, keep_mark=False)
    assert not has_checks(folder / "frames.parquet")
    with pytest.raises(UserError, match=r"not_finite 1 in clip ph0/s0/cam.*'finite numbers'"):
        validate_tables(folder, tmp_path / "out", ValidationConfig())
    again = written(tmp_path / "again", datasets=("PhoneCapture",)) / "frames.parquet"
    duckdb.execute(f"COPY (SELECT * FROM '{again}') TO '{tmp_path / 'copy.parquet'}' (FORMAT parquet)")
    assert has_checks(again) and not has_checks(tmp_path / "copy.parquet")


@pytest.mark.parametrize(
    ("column", "value"), [("landmarks", np.nan), ("body_translation", 3.0), ("head_rotation", 0.2)]
)
def test_a_list_that_its_checks_belie_is_refused_where_the_sample_sees_it(tmp_path, columns_only, column, value):
    folder = written(tmp_path / "tracks", datasets=("PhoneCapture",))
    poison(folder, 13, keep_mark=True, column=column, value=value)
    with pytest.raises(UserError, match=r"disagreeing_rows 1 in clip ph0/s1/cam.*'checks agree with the lists'"):
        validate_tables(folder, tmp_path / "out", ValidationConfig())


def test_the_sample_is_of_whole_clips_and_names_the_right_one_wherever_it_falls(tmp_path, monkeypatch):
    monkeypatch.setattr(rollup, "PLACES", 3)
    monkeypatch.setattr(rollup, "ROWS_PER_PLACE", 12)
    folder = written(tmp_path, datasets=("PhoneCapture",), identities=5, clips=3)
    poison(folder, 40, keep_mark=True)  # the fifth clip
    database = connect(folder / "frames.parquet", folder / "identities.parquet")
    structure, _ = checked_clips(database)
    found = [rollup.disagreeing_rows(database, structure, seed).to_numpy() for seed in range(8)]
    assert all(set(np.flatnonzero(one)) <= {4} for one in found)
    assert 0 < sum(one[4] == 1 for one in found) < 8  # some samples miss it: the sample is one


def test_a_warning_takes_the_person_out_and_leaves_the_others_their_checks(tmp_path, columns_only):
    def freeze(rows, people):
        for row in rows:
            if row["identity"] == "ph0":
                row["head_rotation"] = np.eye(3).ravel()

    folder = written(tmp_path / "tracks", freeze, ("PhoneCapture",))
    assert list(validate_tables(folder, tmp_path / "out", ValidationConfig())["quarantined"]) == ["PhoneCapture/ph0"]
    assert has_checks(tmp_path / "out/frames.parquet")
    kept = pd.read_parquet(tmp_path / "out/frames.parquet")
    assert set(kept["identity"]) == {"ph1"}
    assert validate_tables(tmp_path / "out", tmp_path / "twice", ValidationConfig())["passed"]


def test_checks_are_measured_anew_when_a_table_that_has_them_is_written_again(tmp_path):
    folder = written(tmp_path, datasets=("PhoneCapture",))
    table = pd.read_parquet(folder / "frames.parquet")
    assert table[f"{CHECK_PREFIX}pose_degrees"].max() == pytest.approx(12, rel=1e-4)
    table.at[3, "head_rotation"] = turn(40).ravel()
    write_frames(folder / "frames.parquet", table)
    again = pd.read_parquet(folder / "frames.parquet")
    assert list(again.columns) == list(table.columns)
    assert again[f"{CHECK_PREFIX}pose_degrees"].max() == pytest.approx(40, rel=1e-4)
    assert {CHECK_PREFIX + name for name in ROW_CHECKS} <= set(again.columns)


def parts_of(folder, change=None):
    """One table per clip, as units leave them."""
    rows, people = sound_tables(DATASETS)
    if change:
        change(rows, people)
    write_tables(folder, rows, people)
    table = pd.read_parquet(folder / "frames.parquet")
    paths = []
    for number, (_, part) in enumerate(table.groupby(["dataset", "clip"], sort=True)):
        paths.append(folder / f"{number:03d}.parquet")
        part.to_parquet(paths[-1], index=False)
    return paths, table


def test_joining_parts_gives_the_rows_of_one_table_with_their_checks_in_groups(tmp_path, monkeypatch):
    import fportrait.tables.annotations as annotations

    paths, table = parts_of(tmp_path)
    write_frames(tmp_path / "whole.parquet", table)
    for size in (1, 20, 10**6):
        monkeypatch.setattr(annotations, "ROW_GROUP", size)
        assert join_frames(tmp_path / "joined.parquet", paths) == len(table)
        assert has_checks(tmp_path / "joined.parquet")
        whole, joined = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "joined"))
        order = ["dataset", "clip", "frame"]
        pd.testing.assert_frame_equal(
            joined.sort_values(order, ignore_index=True), whole.sort_values(order, ignore_index=True)
        )
    assert pq.read_metadata(tmp_path / "joined.parquet").num_row_groups == 1
    monkeypatch.setattr(annotations, "ROW_GROUP", 20)
    join_frames(tmp_path / "joined.parquet", paths)
    assert pq.read_metadata(tmp_path / "joined.parquet").num_row_groups == len(table) // 27


def test_a_broken_part_is_joined_as_it_is_for_the_gate_to_name(tmp_path):
    def cut(rows, people):
        rows[3]["expression_code"] = np.zeros(5, np.float32)

    paths, table = parts_of(tmp_path, cut)
    assert join_frames(tmp_path / "frames.parquet", paths) == len(table)
    assert not has_checks(tmp_path / "frames.parquet")
    with pytest.raises(UserError, match="lists_of_wrong_length 1"):
        validate_tables(tmp_path, tmp_path / "out", ValidationConfig())
