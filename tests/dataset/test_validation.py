"""The gate: sound tables pass, each violation is refused by table, clip and rule, warnings quarantine."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fportrait.dataset.rules import ValidationConfig, rules
from fportrait.dataset.validation import validate_tables
from fportrait.errors import UserError
from fportrait.tables.rollup import clip_motion, connect
from fportrait.tables.schema import check_schema, read_schema
from helpers import broken_tables as broken
from helpers.tables import sound_tables, turn, write_tables

STRICT = ValidationConfig()


def gate(tmp_path, change=None, config=STRICT, datasets=("PhoneCapture", "ViewSweep", "DynamicSweep")):
    rows, people = sound_tables(datasets)
    if change:
        rows, people = change(rows, people) or (rows, people)
    write_tables(tmp_path / "tracks", rows, people)
    return validate_tables(tmp_path / "tracks", tmp_path / "out", config)


def test_sound_tables_pass_and_are_copied_with_their_schema(tmp_path):
    report = gate(tmp_path, datasets=("PhoneCapture", "StudioCapture", "ViewSweep", "DynamicSweep"))
    assert report["passed"]
    assert report["quarantined"] == {}
    assert report["identities"] == 8
    for table in ("frames", "identities"):
        check_schema(table, tmp_path / "out" / f"{table}.parquet")
        assert read_schema(tmp_path / "out" / f"{table}.parquet") == read_schema(
            tmp_path / "tracks" / f"{table}.parquet"
        )
    assert len(pd.read_parquet(tmp_path / "out" / "frames.parquet", columns=["frame"])) == 8 * 2 * 9
    assert all(rule["checked"] > 0 for rule in report["rules"])
    assert {rule["rule"] for rule in report["rules"]} == {rule.title for rule in rules(STRICT)}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (broken.mirror, "determinants of 1"),
        (broken.shear, "orthonormal rotations"),
        (broken.nan_code, "finite numbers"),
        (broken.infinite_landmark, "finite numbers"),
        (broken.short_code, "list lengths"),
        (broken.hole, "no missing frames"),
        (broken.late_start, "first frame is 0"),
        (broken.double, "unique keys"),
        (broken.moving_phone, "PhoneCapture: camera does not turn"),
        (broken.travelling_phone, "PhoneCapture: camera does not travel"),
        (broken.blinking_view_sweep, "ViewSweep: expression is frozen"),
        (broken.nodding_view_sweep, "ViewSweep: pose does not turn"),
        (broken.still_view_sweep, "ViewSweep: camera moves"),
        (broken.frozen_dynamic_sweep, "DynamicSweep: expression moves"),
        (broken.wandering_crop, "constants of a clip"),
        (broken.two_splits, "one split"),
        (broken.listed_twice, "listed once"),
        (broken.unlisted, "listed once"),
        (broken.lost_reference, "reference exists"),
        (broken.bad_shape, "sound shape"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_violation_stops_the_chain_naming_clip_and_rule(tmp_path, change, rule):
    for table in ("frames", "identities"):  # tables of an earlier run must go too
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / f"{table}.parquet").touch()
    dataset = next((name for name in ("ViewSweep", "DynamicSweep") if name in rule), "PhoneCapture")
    with pytest.raises(UserError) as caught:
        gate(tmp_path, change, datasets=(dataset,))
    assert f"'{rule}'" in str(caught.value)
    assert re.search(r"clip \w+/s\d/cam of |of \w+/\w+ in identities", str(caught.value))
    assert not (tmp_path / "out" / "frames.parquet").exists()
    assert not (tmp_path / "out" / "identities.parquet").exists()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["passed"]
    assert rule in {entry["rule"] for entry in report["rules"] if entry["failed"]}


def test_noise_of_a_tracker_passes(tmp_path):
    def shake(rows, people):
        rng = np.random.default_rng(0)
        for row in rows:
            row["expression_code"] = (row["expression_code"] + rng.normal(0, 0.08, 128)).astype(np.float32)
            row["head_rotation"] = (row["head_rotation"].reshape(3, 3) @ turn(rng.normal(0, 0.1))).ravel()
            row["body_translation"] = row["body_translation"] + rng.normal(0, 0.0004, 3)

    assert gate(tmp_path, shake)["passed"]


def test_a_person_who_does_not_move_is_quarantined_with_a_reason_and_the_rest_goes_on(tmp_path):
    def freeze(rows, people):
        for row in rows:
            if row["identity"] == "ph0":
                row["head_rotation"] = np.eye(3).ravel()

    report = gate(tmp_path, freeze)
    assert list(report["quarantined"]) == ["PhoneCapture/ph0"]
    assert "pose moves" in report["quarantined"]["PhoneCapture/ph0"][0]
    frames = pd.read_parquet(tmp_path / "out" / "frames.parquet", columns=["identity"])
    people = pd.read_parquet(tmp_path / "out" / "identities.parquet", columns=["identity"])
    assert "ph0" not in set(frames["identity"]) | set(people["identity"])
    assert "ph1" in set(people["identity"])
    (held,) = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert (held["dataset"], held["identity"]) == ("PhoneCapture", "ph0") and "pose moves" in held["reason"]


def test_too_many_quarantined_identities_stop_the_chain(tmp_path):
    def freeze(rows, people):
        for row in rows:
            if row["identity"] in ("ph0", "st1"):
                row["head_rotation"] = np.eye(3).ravel()

    datasets = ("PhoneCapture", "StudioCapture")
    assert len(gate(tmp_path / "a", freeze, datasets=datasets)["quarantined"]) == 2  # half of four
    with pytest.raises(UserError, match=r"2 of 4 identities in quarantine.*ph0.*pose moves.*at most 25%"):
        gate(tmp_path / "b", freeze, ValidationConfig(max_quarantined=0.25), datasets)
    assert not (tmp_path / "b/out/frames.parquet").exists()
    assert not json.loads((tmp_path / "b/out/report.json").read_text())["passed"]


def test_severities_can_be_changed_by_rule_and_unknown_rules_are_refused(tmp_path):
    severities = {f"PhoneCapture: camera does not {verb}": "warning" for verb in ("turn", "travel")}
    config = ValidationConfig.from_dict({"severities": severities})
    assert list(gate(tmp_path, broken.moving_phone, config)["quarantined"]) == ["PhoneCapture/ph0"]
    with pytest.raises(UserError, match="camera does not turn"):
        rules(ValidationConfig(severities={"PhoneCapture: camera does not trun": "warning"}))
    with pytest.raises(UserError, match="critical or warning"):
        rules(ValidationConfig(severities={"columns": "fatal"}))
    with pytest.raises(UserError, match="still_expression"):
        ValidationConfig.from_dict({"still_expresion": 1})


def test_a_missing_or_mistyped_column_and_a_missing_table_are_refused(tmp_path):
    rows, people = sound_tables(("PhoneCapture",))
    for row in rows:
        del row["crop"]
    write_tables(tmp_path / "tracks", rows, people)
    with pytest.raises(UserError, match=r"column crop of frames\.parquet as missing"):
        validate_tables(tmp_path / "tracks", tmp_path / "out", STRICT)
    (tmp_path / "tracks" / "identities.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"identities.parquet"):
        validate_tables(tmp_path / "tracks", tmp_path / "out", STRICT)


def written_frames(folder):
    return pd.read_parquet(folder / "frames.parquet", columns=["dataset", "identity", "clip", "frame"])


def test_rows_come_out_in_order_whatever_their_order_was_and_whoever_is_dropped(tmp_path):
    rng = np.random.default_rng(3)

    def shuffle(rows, people):
        rng.shuffle(rows)
        rng.shuffle(people)

    def freeze(rows, people):
        for row in rows:
            if row["identity"] == "ph0":
                row["head_rotation"] = np.eye(3).ravel()

    datasets = ("DynamicSweep", "PhoneCapture")  # in the order in which their writers sort them
    gate(tmp_path / "a", datasets=datasets)
    expected = written_frames(tmp_path / "a/tracks")
    assert (tmp_path / "a/out/frames.parquet").read_bytes() == (tmp_path / "a/tracks/frames.parquet").read_bytes()
    gate(tmp_path / "b", shuffle, datasets=datasets)
    assert not written_frames(tmp_path / "b/tracks").equals(expected)
    gate(tmp_path / "c", freeze, datasets=datasets)
    keys = ["dataset", "clip", "frame"]
    assert written_frames(tmp_path / "b/out").equals(expected.sort_values(keys, ignore_index=True))
    kept = expected[expected.identity != "ph0"].reset_index(drop=True)
    assert written_frames(tmp_path / "c/out").equals(kept)


def test_an_empty_cell_inside_a_list_is_found(tmp_path):
    def empty(rows, people):
        code = rows[2]["expression_code"].tolist()
        rows[2]["expression_code"] = [*code[:5], None, *code[6:]]

    with pytest.raises(UserError, match=r"not_finite 1 in clip ph0/s0/cam.*'finite numbers'"):
        gate(tmp_path, empty)


def euler(rng):
    """A random rotation."""
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def test_the_roll_up_agrees_with_the_same_measures_in_numpy(tmp_path):
    rng = np.random.default_rng(1)
    rows, people = sound_tables(("DynamicSweep",), identities=2, clips=2, frames=5)
    for row in rows:
        for key in ("body_rotation", "head_rotation"):
            row[key] = (euler(rng) + rng.normal(0, 1e-3, (3, 3))).ravel()
        row["world_to_camera"] = np.block([[euler(rng), rng.normal(size=(3, 1))], [rng.normal(0, 0.1, (1, 4))]]).ravel()
        row["body_translation"] = rng.normal(size=3)
        row["expression_code"] = rng.normal(size=128).astype(np.float32)
    write_tables(tmp_path, rows, people)
    database = connect(tmp_path / "frames.parquet", tmp_path / "identities.parquet")
    measured = clip_motion(database).set_index("clip")
    for clip, found in measured.iterrows():
        mine = [row for row in rows if row["clip"] == clip]
        cameras = np.stack([row["world_to_camera"].reshape(4, 4) for row in mine])
        body, head = (np.stack([row[f"{key}_rotation"].reshape(3, 3) for row in mine]) for key in ("body", "head"))
        every = np.concatenate([cameras[:, :3, :3], body, head])
        products = every @ every.transpose(0, 2, 1) - np.eye(3)
        centres = -np.einsum("nji,nj->ni", cameras[:, :3, :3], cameras[:, :3, 3])
        poses = body @ head
        codes = np.stack([row["expression_code"] for row in mine]).astype(np.float64)
        places = np.stack([row["body_translation"] for row in mine])

        def turned(rotations):
            traces = np.einsum("nij,ij->n", rotations, rotations[0])
            return np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1))).max()

        expected = {
            "rotation_error": np.abs(products).max(),
            "determinant_error": np.abs(np.linalg.det(every) - 1).max(),
            "last_row_error": np.abs(cameras[:, 3] - [0, 0, 0, 1]).sum(axis=1).max(),
            "camera_degrees": turned(cameras[:, :3, :3]),
            "camera_metres": np.linalg.norm(centres - centres[0], axis=1).max(),
            "expression_motion": np.sqrt(((codes - codes[0]) ** 2).mean(axis=1)).max(),
            "pose_degrees": turned(poses),
            "pose_metres": np.linalg.norm(places - places[0], axis=1).max(),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def test_data_docs_need_no_network_and_are_the_same_bytes_twice(tmp_path):
    gate(tmp_path / "a")
    gate(tmp_path / "b")
    pages = sorted((tmp_path / "a/out/data_docs").iterdir())
    assert [page.name for page in pages] == [
        "datasets.html",
        "identities.html",
        "index.html",
        "motion.html",
        "schema.html",
        "structure.html",
    ]
    for page in pages:
        text = page.read_text()
        assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(|<script""", text), page.name
        assert text == (tmp_path / "b/out/data_docs" / page.name).read_text()
        links = re.findall(r'href="([^"#]+)', text)
        assert all((page.parent / link).is_file() for link in links)
    assert "camera_degrees" in (tmp_path / "a/out/data_docs/motion.html").read_text()
    assert "PhoneCapture: camera does not turn" in (tmp_path / "a/out/data_docs/index.html").read_text()
    assert (tmp_path / "a/out/report.json").read_text() == (tmp_path / "b/out/report.json").read_text()
    page = (tmp_path / "a/out/data_docs/motion.html").read_text()
    assert page.index("<title>Does in each clip move what must") < page.index("Great Expectations")
    assert page.index("PhoneCapture: camera does not turn") < page.index("Great Expectations")


def test_a_rule_that_nothing_was_asked_of_is_not_passed():
    from fportrait.dataset.data_docs import run_phase, verdict

    some = [rule for rule in rules(ValidationConfig()) if rule.phase == "identities" and rule.dataset is None][:2]
    empty = pd.DataFrame({"dataset": pd.Series(dtype=str), **{rule.column: pd.Series(dtype=float) for rule in some}})
    phase = run_phase("identities", empty, some)
    assert [summary["checked"] for summary in phase.summaries] == [0, 0]
    assert "0 rules passed" in verdict(phase) and "2 had nothing to check" in verdict(phase)
    assert "passed</span>" not in phase.page and "nothing to check" in phase.page
