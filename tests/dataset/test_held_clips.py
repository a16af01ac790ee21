"""A clip of each of one's own people is judged and never trained on: out of the tables, beside the shards."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from fportrait.body.model import load_body
from fportrait.capture import colour
from fportrait.capture.video_io import probe, read_video, write_video
from fportrait.dataset.held_clips import choose, hold_out
from fportrait.dataset.rules import ValidationConfig
from fportrait.dataset.shards import ShardReader
from fportrait.dataset.validation import validate_tables
from fportrait.evaluation.run import evaluate
from fportrait.pipelines.encode.nodes import encode
from fportrait.pipelines.validate.nodes import validate
from fportrait.tables.annotations import has_checks, write_frames
from helpers.clips import as_hdr, cut_at, moving_frames, write_clip
from helpers.houses import PROTOCOL
from helpers.small import transformer
from helpers.tables import clip_rows, identity_row, landmarks_of, small_codec, turn, write_tables

WINDOW = 9
ENCODING = {"size": 32, "window": WINDOW, "stride": 4, "test_stride": 9, "references": 2}
CLIPS = {  # person: frames and degrees a frame of every clip
    "anna": {"still": (9, 0.4), "some": (12, 1.5), "wide": (12, 3.0)},
    "ben": {"only": (30, 2.0)},
    "cora": {"short": (12, 1.5)},
    "phone0000": {"one": (9, 1.5), "two": (9, 2.0)},
    "tom": {"one": (9, 1.5)},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after `track`: own people anna, ben and cora, one of the demo's, and tom, who is held out whole."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    rows, people = [], []
    for number, (person, clips) in enumerate(CLIPS.items()):
        split = "test" if person == "tom" else "train"
        for name, (frames, degrees) in clips.items():
            path = root / f"raw/{person}/{name}.mp4"
            blocks = rng.integers(0, 256, (frames, 8, 8, 3))
            write_video(path, np.kron(blocks, np.ones((1, 8, 8, 1))).astype(np.uint8), crf=4)
            added = clip_rows("PhoneCapture", person, name, frames, split, number, str(path))
            for row in added:
                row["head_rotation"] = turn(degrees * row["frame"]).ravel()
                opened = row["frame"] / frames + 0.2 * np.sin(2.3 * row["frame"]) ** 2  # as the codes change
                row["landmarks"] = landmarks_of(row, 0.01 * opened)
            rows += added
        first = f"{person}/{'some' if person == 'anna' else next(iter(clips))}/cam"
        people.append(identity_row("PhoneCapture", person, split, first, load_body().identity_dim))
    write_tables(root / "tracks", rows, people)
    write_frames(root / "tracks/frames.parquet", pd.read_parquet(root / "tracks/frames.parquet"))
    listed = pd.DataFrame(rows).groupby(["dataset", "identity", "clip"]).agg(frames=("frame", "size")).reset_index()
    (root / "manifest").mkdir()
    listed.to_parquet(root / "manifest/manifest.parquet")
    (root / "manifest/own_people.json").write_text(json.dumps(["anna", "ben", "cora", "gone"]))
    return root


@pytest.fixture(scope="module")
def validated(project):
    report = validate(project / "manifest", project / "tracks", project / "validated", WINDOW, thresholds={})
    return project / "validated", report


def clips_in(folder):
    table = pd.read_parquet(folder / "frames.parquet", columns=["clip", "frame"])
    return table.groupby("clip")["frame"].max().add(1).to_dict()


def test_the_middle_clip_by_turn_goes_and_of_an_only_clip_its_end(validated):
    folder, report = validated
    assert report["held_out"] == {"anna": "anna/some/cam", "ben": "ben/only/cam-end"}
    assert "12 frames" in report["not_held_out"]["cora"] and list(report["not_held_out"]) == ["cora"]
    left, held = clips_in(folder), clips_in(folder / "held_out")
    assert held == {"anna/some/cam": 12, "ben/only/cam-end": 9}
    assert left == {
        **{"anna/still/cam": 9, "anna/wide/cam": 12, "ben/only/cam": 21, "cora/short/cam": 12},
        **{"phone0000/one/cam": 9, "phone0000/two/cam": 9, "tom/one/cam": 9},
    }


def test_what_is_left_and_what_is_held_out_both_pass_the_gate_again(validated, tmp_path):
    folder, _ = validated
    assert has_checks(folder / "frames.parquet") and has_checks(folder / "held_out/frames.parquet")
    for tables in (folder, folder / "held_out"):
        report = validate_tables(tables, tmp_path / tables.name, ValidationConfig())
        assert report["passed"], report
    people = pd.read_parquet(folder / "identities.parquet").set_index("identity")
    assert people.loc["anna", "reference_clip"] in ("anna/still/cam", "anna/wide/cam"), (
        "her portrait went with the clip"
    )
    assert people.loc["ben", "reference_clip"] == "ben/only/cam"


def test_the_end_of_an_only_clip_is_a_video_of_its_own_with_those_pictures(project, validated):
    folder, _ = validated
    rows = pd.read_parquet(folder / "held_out/frames.parquet", filters=[("identity", "==", "ben")])
    path = rows["path"].iloc[0]
    assert rows["frame"].tolist() == list(range(9)) and probe(path).frames == 9
    whole = read_video(project / "raw/ben/only.mp4")
    assert (
        np.abs(read_video(path).astype(int) - whole[21:]).mean()
        < 8
        < np.abs(whole[12:21].astype(int) - whole[21:]).mean()
    )
    angles = json.loads((folder / "held_out/angles.json").read_text())["ben/only/cam-end"]
    assert len(angles["yaw"]) == 9 and abs(angles["trained"]["yaw"][0]) <= 43 < max(map(abs, angles["yaw"]))


def test_shards_to_train_on_hold_nothing_of_it_and_the_report_tells_it_by_person(project, validated, tmp_path):
    folder, _ = validated
    base = tmp_path / "base"
    small_codec().save_pretrained(base / "vae")
    nothing = tmp_path / "sweeps"
    write_tables(
        nothing,
        clip_rows("ViewSweep", "phone0000", "sweep", 9, "train", 1, str(project / "raw/phone0000/one.mp4")),
        [identity_row("ViewSweep", "phone0000", "train", "phone0000/sweep/cam", load_body().identity_dim)],
    )
    report = encode(folder, nothing, base, tmp_path / "shards", tmp_path / "units", encoding=ENCODING, workers=0)
    assert report["held_out"]["records"] == {"PhoneCapture": {"test": 3}}
    reader = ShardReader(tmp_path / "shards")
    trained = {record.clip for some in reader.records("train").values() for record in some}
    assert trained and not trained & {"anna/some/cam", "ben/only/cam-end"}
    assert max(r.first_frame + r.frames for r in reader.records("train")["PhoneCapture"] if r.identity == "ben") == 21
    transformer(1).save_pretrained(tmp_path / "model/transformer")
    found = evaluate(
        tmp_path / "model/transformer", base, tmp_path / "shards", tmp_path / "out", {**PROTOCOL, "own_clips": 2}
    )
    assert found["own clips"]["clips"] == 2 and list(found["people"]) == ["anna", "ben"]
    assert found["people"]["ben"]["trained"]["yaw"] != found["people"]["ben"]["held_out"]["yaw"]
    assert set(found["slices"]["shown"]) == {"angles trained on", "beyond them"}
    assert found["PhoneCapture"]["identities"] == 1, "tom alone is nobody the model knows"
    kept = json.loads((tmp_path / "out/scores.json").read_text())
    assert {"own clips/anna/some-cam/00000", "own clips/ben/only-cam-end/00000"} < set(kept["clips"])
    page = (tmp_path / "out/report.html").read_text()
    assert "By person" in page and "2 of your own clips" in page and "shown: beyond them" in page
    without = evaluate(
        tmp_path / "model/transformer", base, tmp_path / "shards", tmp_path / "less", {**PROTOCOL, "own_clips": 0}
    )
    assert "own clips" not in without and without["PhoneCapture"] == found["PhoneCapture"]
    assert without["holdout"] != found["holdout"]


def test_a_project_without_people_of_ones_own_keeps_its_tables_byte_for_byte(project, tmp_path):
    shutil.copytree(project / "tracks", tmp_path / "same")
    before = {name: (tmp_path / f"same/{name}.parquet").read_bytes() for name in ("frames", "identities")}
    assert hold_out(tmp_path / "same", [], WINDOW) == {"held_out": {}, "not_held_out": {}}
    assert {name: (tmp_path / f"same/{name}.parquet").read_bytes() for name in before} == before
    assert not (tmp_path / "same/held_out").exists()


def test_too_little_to_learn_and_to_judge_holds_nothing_out():
    def clip(frames, degrees=1.0):
        return np.stack([degrees * np.arange(frames), np.zeros(frames)], 1)

    assert choose({"a": clip(17)}, WINDOW) is None
    assert choose({"a": clip(18)}, WINDOW).start == 9
    assert choose({"a": clip(100)}, WINDOW).start == 70
    assert choose({"a": clip(8), "b": clip(8)}, WINDOW) is None
    assert choose({"a": clip(8), "b": clip(30)}, WINDOW) == ("b", 21), "a clip too short to train on spares no other"
    assert choose({"a": clip(9, 2), "b": clip(9, 1)}, WINDOW) == ("b", 0), "of two the lesser"


@pytest.mark.parametrize("kind", ["trimmed", "hdr"])
def test_the_end_of_an_only_clip_is_cut_from_what_a_player_shows(tmp_path, kind):
    """A phone trims by an edit list and films in HDR; the rows count what is shown, in ordinary colours."""
    path = tmp_path / "a.mp4"
    if kind == "trimmed":
        write_clip(path, moving_frames(35), "libx264", "yuv420p", options={"g": "12", "bf": "3", "crf": "1"})
        cut_at(path, 5)
    else:
        path = write_clip(
            path.with_suffix(".mkv"),
            as_hdr(moving_frames(30), colour.HLG, 203),
            layout="yuv444p10le",
            source="rgb48le",
            matrix=colour.BT2020,
            color_primaries=colour.BT2020,
            color_trc=colour.HLG,
        )
    rows = clip_rows("PhoneCapture", "anna", "a", probe(path).frames, "train", 0, str(path))
    write_tables(
        tmp_path / "tables",
        rows,
        [identity_row("PhoneCapture", "anna", "train", "anna/a/cam", load_body().identity_dim)],
    )
    assert hold_out(tmp_path / "tables", ["anna"], WINDOW)["held_out"] == {"anna": "anna/a/cam-end"}
    held = pd.read_parquet(tmp_path / "tables/held_out/frames.parquet")
    shown = read_video(path)[21:].astype(int)
    assert len(held) == 9 and np.abs(read_video(held["path"].iloc[0]) - shown).mean() < 6
    assert probe(held["path"].iloc[0]).notes in ((), []), "the copy has nothing left that must be told"
