"""Tables that are sound in form and wrong in every number: each way of it is seen, and what is right passes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fportrait.body.model import load_body
from fportrait.dataset.rules import ValidationConfig
from fportrait.dataset.validation import validate_tables
from fportrait.errors import UserError
from fportrait.tables.annotations import write_frames
from fportrait.tables.fits import HEAD_JOINT, HEAD_POINTS, NECK_JOINT, NECK_SHARE
from helpers.tables import clip_rows, head, identity_row, landmarks_of, turn, write_tables

FRAMES = 40
PEOPLE = {"ph0": "train", "ph1": "train", "ph2": "test"}


def nod(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@pytest.fixture(scope="module")
def sound() -> tuple[list[dict], list[dict]]:
    """Three people of a studio (so that a camera is not its own inverse), each in two clips; heads nod and turn."""
    rows, people = [], []
    side = np.eye(4)
    side[:3, :3], side[:3, 3] = np.diag([1.0, -1, -1]) @ turn(-35) @ nod(15), [0.01, -0.02, 0.8]
    for number, (name, split) in enumerate(PEOPLE.items()):
        for take in ("s0", "s1"):
            clip = clip_rows("StudioCapture", name, take, FRAMES, split, seed=number)
            rng = np.random.default_rng([number, int(take[1])])
            moved = np.convolve(rng.normal(size=FRAMES + 4), np.ones(5) / 5, "valid")
            change = rng.normal(size=128)
            for t, row in enumerate(clip):
                opened = 0.3 * (moved[t] - moved.min())
                row["world_to_camera"] = side.ravel()
                row["head_rotation"] = (turn(12 * np.sin(t / 6)) @ nod(14 * np.sin(t / 9))).ravel()
                row["expression_code"] = (rng.normal(0, 0.02, 128) + 0.6 * change * (1 + 3 * opened)).astype(np.float32)
                row["landmarks"] = landmarks_of(row, 0.02 * opened)
            rows += clip
        people.append(identity_row("StudioCapture", name, split, f"{name}/s0/cam"))
    return rows, people


def copied(sound):
    return [dict(row) for row in sound[0]], [dict(row) for row in sound[1]]


def gate(folder: Path, rows, people, **options):
    write_tables(folder / "tracks", rows, people)
    return validate_tables(folder / "tracks", folder / "out", ValidationConfig(), **options)


def change(column, of):
    def corrupt(rows, people):
        for row in rows:
            row[column] = np.asarray(of(np.asarray(row[column], np.float64))).astype(row[column].dtype)

    corrupt.__name__ = column
    return corrupt


def camera(of):
    return change("world_to_camera", lambda m: of(m.reshape(4, 4)).ravel())


def millimetres(matrix):
    matrix = matrix.copy()
    matrix[:3, 3] *= 1000
    return matrix


def transposed(matrix):
    matrix = matrix.copy()
    matrix[:3, :3] = matrix[:3, :3].T
    return matrix


def both(*corruptions):
    def corrupt(rows, people):
        for one in corruptions:
            one(rows, people)

    return corrupt


def exchanged(rows, people):
    for row in rows:
        row["head_rotation"], row["body_rotation"] = row["body_rotation"], row["head_rotation"]


def by_clip(of):
    def corrupt(rows, people):
        for first in range(0, len(rows), FRAMES):
            codes = of([row["expression_code"] for row in rows[first : first + FRAMES]])
            for row, code in zip(rows[first : first + FRAMES], codes, strict=True):
                row["expression_code"] = code

    return corrupt


def shuffled(codes):
    return [codes[i] for i in np.random.default_rng(0).permutation(len(codes))]


def renamed(rows, people):
    for row in rows + people:
        row["dataset"] = "StudioCaptures"


def zoom(factor):
    return change("intrinsics", lambda k: k * [factor, 1, 1, 1, factor, 1, 1, 1, 1])


CORRUPTIONS = {
    "body in millimetres": (change("body_translation", lambda t: 1000 * (t + 0.05)), "miles away|meshes lie"),
    "body and cameras in millimetres": (
        both(change("body_translation", lambda t: 1000 * t), camera(millimetres)),
        "miles away",
    ),
    "cameras in millimetres": (camera(millimetres), "miles away"),
    "camera to world": (camera(np.linalg.inv), "meshes lie"),
    "OpenGL axes": (camera(lambda m: np.diag([1.0, -1, -1, 1]) @ m), "meshes lie"),
    "mirrored world": (camera(lambda m: m @ np.diag([-1.0, 1, -1, 1])), "meshes lie"),
    "transposed cameras": (camera(transposed), "meshes lie"),
    "transposed heads": (change("head_rotation", lambda r: r.reshape(3, 3).T.ravel()), "meshes lie"),
    "head and body exchanged": (exchanged, "the head turns|meshes lie"),
    "focal length halved": (zoom(0.5), "meshes lie"),
    "focal length doubled": (zoom(2), "meshes lie"),
    "codes five frames late": (by_clip(lambda codes: [codes[0]] * 5 + codes[:-5]), "codes follow faces"),
    "codes five frames early": (by_clip(lambda codes: codes[5:] + [codes[-1]] * 5), "codes follow faces"),
    "codes shuffled": (by_clip(shuffled), "codes follow faces"),
    "codes reversed": (by_clip(lambda codes: codes[::-1]), "codes follow faces"),
    "codes times ten": (change("expression_code", lambda c: 10 * c), "standardised"),
    "codes over a hundred": (change("expression_code", lambda c: c / 100), "standardised|expression moves"),
    "landmarks from 0 to 1": (change("landmarks", lambda p: p / 64), "landmarks are pixels"),
    "landmarks as y, x": (change("landmarks", lambda p: p.reshape(-1, 2)[:, ::-1].ravel()), "meshes lie"),
    "landmarks of half the picture": (change("landmarks", lambda p: p / 2), "meshes lie"),
    "dataset renamed": (renamed, "known datasets"),
}


def test_what_is_right_passes(tmp_path, sound):
    report = gate(tmp_path, *copied(sound))
    assert report["passed"] and report["quarantined"] == {} and report["warnings"] == []


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_corruption_of_everything_is_refused_in_words(tmp_path, sound, name):
    corrupt, rule = CORRUPTIONS[name]
    rows, people = copied(sound)
    corrupt(rows, people)
    with pytest.raises(UserError, match=rule):
        gate(tmp_path, rows, people)


def test_it_is_refused_too_when_the_table_brings_its_check_columns(tmp_path, sound, monkeypatch):
    import fportrait.dataset.validation as validation

    monkeypatch.setattr(validation, "MEASURED_ROWS", 0)
    for name in ("transposed cameras", "codes shuffled", "focal length halved"):
        corrupt, rule = CORRUPTIONS[name]
        rows, people = copied(sound)
        corrupt(rows, people)
        folder = write_tables(tmp_path / name, rows, people)
        write_frames(folder / "frames.parquet", pd.read_parquet(folder / "frames.parquet"))
        with pytest.raises(UserError, match=rule):
            validate_tables(folder, tmp_path / "out", ValidationConfig())


def test_a_shape_a_hundred_times_too_large_is_refused(tmp_path, sound):
    rows, people = copied(sound)
    people[1]["shape"] = np.array([0.3, -210.0, 0, 1])
    with pytest.raises(UserError, match=r"largest_shape 210 .*plausible shape"):
        gate(tmp_path, rows, people)


def test_one_bad_person_is_quarantined_and_the_rest_goes_on(tmp_path, sound):
    rows, people = copied(sound)
    bad = [row for row in rows if row["identity"] == "ph1"]
    zoom(0.3)(bad, people)
    config = ValidationConfig(max_typical_reprojection=1)
    write_tables(tmp_path / "tracks", rows, people)
    report = validate_tables(tmp_path / "tracks", tmp_path / "out", config)
    assert list(report["quarantined"]) == ["StudioCapture/ph1"]
    assert "the mesh lies on the landmarks" in report["quarantined"]["StudioCapture/ph1"][0]


def test_a_table_without_held_out_people_is_warned_about_and_passes(tmp_path, sound):
    rows, people = copied(sound)
    for row in rows + people:
        row["split"] = "train"
    report = gate(tmp_path, rows, people)
    assert report["passed"] and report["quarantined"] == {}
    assert len(report["warnings"]) == 1 and "people held out" in report["warnings"][0]


def manifest_of(folder: Path, rows) -> Path:
    table = pd.DataFrame(rows)[["dataset", "identity", "clip"]]
    table.groupby(["dataset", "identity", "clip"]).size().reset_index(name="frames").to_parquet(
        folder / "manifest.parquet"
    )
    return folder / "manifest.parquet"


def test_a_truncated_tail_a_lost_clip_and_a_stale_clip_are_seen_beside_the_manifest(tmp_path, sound):
    rows, people = copied(sound)
    manifest = manifest_of(tmp_path, rows)
    assert gate(tmp_path / "whole", rows, people, manifest=manifest)["passed"]
    with pytest.raises(UserError, match=r"frames_off_manifest 3 in clip ph2/s1/cam.*as many frames as the manifest"):
        gate(tmp_path / "tail", rows[:-3], people, manifest=manifest)
    with pytest.raises(UserError, match=r"lost_clips 1 of StudioCapture as a whole.*no clips lost"):
        gate(tmp_path / "clip", rows[:-FRAMES], people, manifest=manifest)
    with pytest.raises(UserError, match=r"frames_off_manifest 40 in clip ph2/s1/cam"):
        gate(tmp_path / "stale", rows, people, manifest=manifest_of(tmp_path, rows[:-FRAMES]))


def test_clips_and_people_set_aside_by_the_tracker_are_not_lost(tmp_path, sound):
    rows, people = copied(sound)
    manifest = manifest_of(tmp_path, rows)
    for name, entry, kept in (
        ("clip", {"identity": "ph2", "clip": "ph2/s1/cam"}, [r for r in rows if r["clip"] != "ph2/s1/cam"]),
        ("person", {"identity": "ph1"}, [r for r in rows if r["identity"] != "ph1"]),
    ):
        some = [person for person in people if any(row["identity"] == person["identity"] for row in kept)]
        (tmp_path / name / "tracks").mkdir(parents=True)
        aside = [{"dataset": "StudioCapture", "reason": "no face", **entry}]
        (tmp_path / name / "tracks/quarantine.json").write_text(json.dumps(aside))
        assert gate(tmp_path / name, kept, some, manifest=manifest)["passed"]


def test_people_of_another_body_are_not_judged_by_the_embedded_one(tmp_path, sound):
    rows, people = copied(sound)
    zoom(0.5)(rows, people)
    for person in people:
        person["body_model"] = "smplx"
    assert gate(tmp_path, rows, people)["passed"]


def test_the_points_of_the_mean_head_are_those_of_the_body():
    body, points = head()
    joints = load_body().rest_joints(np.zeros(body.identity_dim))
    for number, place in HEAD_POINTS.items():
        assert np.abs(points[number] - place).max() < 2e-4
        assert body.landmark_valid[number]
    for joint, place in zip(joints[1:], (NECK_JOINT, HEAD_JOINT), strict=True):
        assert np.abs(joint - place).max() < 2e-4
    from fportrait.body import pose

    assert pose.NECK_SHARE == NECK_SHARE


def sharing(sound):
    """The same people with codes that say the same of everybody's mouth."""
    rows, people = copied(sound)
    says = np.random.default_rng(9).normal(size=128)
    for row in rows:
        points = row["landmarks"].reshape(478, 2)
        opened = np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[33] - points[263])
        noise = np.random.default_rng(row["frame"]).normal(0, 0.02, 128)
        row["expression_code"] = (3 * opened * says + noise).astype(np.float32)
    return rows, people


@pytest.mark.parametrize(
    ("of", "rule"),
    [
        (lambda codes: [codes[0]] * 5 + codes[:-5], "the codes are of these frames|the codes say what"),
        (shuffled, "the codes say what the face does"),
        (lambda codes: [code * (9 / np.sqrt(np.mean(np.square(codes)))) for code in codes], "codes of one size"),
    ],
    ids=["late", "shuffled", "nine deviations"],
)
def test_one_clip_of_one_person_is_set_aside_and_the_rest_goes_on(tmp_path, sound, of, rule):
    rows, people = sharing(sound)
    assert gate(tmp_path / "sound", rows, people)["quarantined"] == {}
    codes = of([row["expression_code"] for row in rows[:FRAMES]])
    for row, code in zip(rows[:FRAMES], codes, strict=True):
        row["expression_code"] = code
    report = gate(tmp_path / "partial", rows, people)
    assert list(report["quarantined"]) == ["StudioCapture/ph0"]
    assert re.search(rule, report["quarantined"]["StudioCapture/ph0"][0])


def some(frames, column, of):
    """Corrupts these frames of the first clip alone; in whole tables it would be refused, in a mean it goes under."""

    def corrupt(rows, people):
        change(column, of)(rows[frames], people)

    return corrupt


CLIP, FIVE, ONE = slice(0, FRAMES), slice(18, 23), slice(20, 21)
HALF = np.array([0.5, 1, 0.5, 1, 0.5, 0.5, 1, 1, 1])
PARTIAL = {
    "one clip: focal length halved": (
        some(CLIP, "intrinsics", lambda k: k * [0.5, 1, 1, 1, 0.5, 1, 1, 1, 1]),
        "smaller",
    ),
    "one clip: landmarks and intrinsics of half the picture": (
        both(some(CLIP, "landmarks", lambda p: p / 2), some(CLIP, "intrinsics", lambda k: k * HALF)),
        "middle|crop",
    ),
    "one clip: a camera much nearer": (
        some(CLIP, "world_to_camera", lambda m: m - 0.3 * np.eye(1, 16, 11)[0]),
        "larger",
    ),
    "one clip: a crop of a tenth": (some(CLIP, "crop", lambda c: c * [1, 1, 0.1]), "crop"),
    "one clip: the crop of another video": (
        some(CLIP, "crop", lambda c: c + np.array([50, 0, 0])),
        "the face lies in the crop",
    ),
    "one clip: a crop in which a face is lost": (some(CLIP, "crop", lambda c: c * 5 - [140, 140, 0]), "room around"),
    "one clip: pixels that are not square": (
        some(CLIP, "intrinsics", lambda k: k * np.array([1, 1, 1, 1, 1.3, 1, 1, 1, 1])),
        "pixels are square",
    ),
    "five frames: body in centimetres": (
        some(FIVE, "body_translation", lambda t: 100 * (t + 0.002)),
        "every frame|smaller",
    ),
    "five frames: landmarks of half the picture": (some(FIVE, "landmarks", lambda p: p / 2), "every frame|larger|crop"),
    "five frames: landmarks as y, x": (
        some(FIVE, "landmarks", lambda p: p.reshape(-1, 2)[:, ::-1].ravel()),
        "every frame",
    ),
    "five frames: the body turned by its transpose": (
        some(FIVE, "body_rotation", lambda r: turn(60).ravel()),
        "every frame",
    ),
    "five frames: codes times ten": (some(FIVE, "expression_code", lambda c: 10 * c), "codes of one size"),
    "one frame: the body 30 cm aside": (
        some(ONE, "body_translation", lambda t: t + np.array([0.3, 0, 0])),
        "every frame",
    ),
}


@pytest.mark.parametrize("name", list(PARTIAL))
def test_a_corruption_of_one_clip_or_of_some_frames_sets_that_person_aside(tmp_path, sound, name):
    corrupt, rule = PARTIAL[name]
    rows, people = copied(sound)
    corrupt(rows, people)
    report = gate(tmp_path, rows, people)
    assert list(report["quarantined"]) == ["StudioCapture/ph0"]
    assert re.search(rule, " ".join(report["quarantined"]["StudioCapture/ph0"])), report["quarantined"]
