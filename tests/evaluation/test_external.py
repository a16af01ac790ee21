"""Other methods' videos: exported, made by a command, scored on the same clips; what does not fit is listed."""

import csv
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.capture.video_io import probe, read_image, read_video, write_video
from fportrait.cli.evaluation import evaluate as command
from fportrait.dataset.crops import crop_picture
from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError
from fportrait.evaluation.export import clip_path, export_inputs, holdout_of
from fportrait.evaluation.external import run_method
from fportrait.evaluation.run import chosen_records, evaluate
from helpers.houses import PROTOCOL, film, write_films, write_house

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def house(films, tmp_path_factory):
    return write_house(tmp_path_factory.mktemp("house"), functools.partial(film, films))


@pytest.fixture(scope="module")
def sources(films, house):
    return write_films(films, house)


@pytest.fixture(scope="module")
def exported(house, sources, tmp_path_factory):
    reader, folder = ShardReader(house / "shards"), tmp_path_factory.mktemp("inputs")
    chosen = chosen_records(reader, 3, 5)
    assert export_inputs(reader, [sources], chosen, folder) == 5
    return folder, chosen


def test_every_clip_is_exported_as_it_was_filmed_and_as_long_as_the_model_makes_it(house, exported):
    folder, chosen = exported
    reader = ShardReader(house / "shards")
    for record, frames in chosen:
        place = folder / clip_path(record)
        video, portrait = read_video(place / "driving.mp4"), read_image(place / "portrait.png")
        assert frames == 5 and video.shape == (5, 128, 128, 3) and portrait.shape == (128, 128, 3)
        assert probe(place / "driving.mp4").fps == 25
        small = np.stack([crop_picture(picture, (0, 0, 128), 32) for picture in video]).astype(int)
        assert np.abs(small - reader.read(record, 5)["video"].numpy()).mean() < 4
        cameras = json.loads((place / "cameras.json").read_text())["frames"]
        # A principal point of (80, 70) lies at (70, 64) of the square that begins at (10, 6), in pixels as filmed.
        assert len(cameras) == 5 and cameras[0]["intrinsics"] == [[500, 0, 70], [0, 500, 64], [0, 0, 1]]
        assert cameras[4]["world_to_camera"] != cameras[0]["world_to_camera"]


def test_what_an_export_says_is_what_it_holds(exported):
    folder, chosen = exported
    listed = json.loads((folder / "clips.json").read_text())
    readme = (folder / "README.md").read_text()
    assert listed["holdout"] == holdout_of(chosen) and listed["holdout"] in readme
    assert [one["id"] for one in listed["clips"]] == [record.id for record, _ in chosen]
    for said in ("5 clips", "squares of 128 pixels", "5 frames long", f"RESULTS/{chosen[0][0].id}.mp4"):
        assert said in readme
    for record, _ in chosen:
        own = (folder / clip_path(record) / "README.md").read_text()
        assert f"`{record.id}.mp4`" in own and "5 frames" in own and "128 x 128" in own


def test_sources_that_are_gone_or_show_something_else_are_refused(house, sources, tmp_path):
    reader = ShardReader(house / "shards")
    chosen = chosen_records(reader, 3, 5)[:1]
    record = chosen[0][0]
    frames = pd.read_parquet(sources / "frames.parquet")
    shutil.copy(sources / "identities.parquet", tmp_path)
    path = tmp_path / "other.mp4"
    own = frames["clip"] == record.clip

    def annotated(to: Path) -> Path:
        frames.assign(path=frames["path"].where(~own, str(to))).to_parquet(tmp_path / "frames.parquet")
        return tmp_path

    with pytest.raises(UserError, match=r"no video .*other.mp4"):
        export_inputs(reader, [annotated(path)], chosen, tmp_path / "out")
    write_video(path, 255 - read_video(frames[own]["path"].iloc[0]), 30, 0)
    with pytest.raises(UserError, match=f"another video of {record.id}"):
        export_inputs(reader, [annotated(path)], chosen, tmp_path / "out")
    write_video(path, read_video(frames[own]["path"].iloc[0])[:3], 30, 0)
    with pytest.raises(UserError, match="3 frames in"):
        export_inputs(reader, [annotated(path)], chosen, tmp_path / "out")


def test_a_methods_command_is_run_per_clip_and_failures_are_told(exported, tmp_path):
    folder, chosen = exported
    copy = f'{sys.executable} -c "{COPY}" {{driving}} {{output}}'
    done = run_method("mine", tmp_path, folder, tmp_path / "theirs", copy)
    assert done == {"done": 5, "failed": {}}
    videos = sorted((tmp_path / "theirs").rglob("*.mp4"))
    before = [path.stat().st_mtime_ns for path in videos]
    assert run_method("mine", tmp_path, folder, tmp_path / "theirs", copy) == done
    assert [path.stat().st_mtime_ns for path in videos] == before  # what is there is kept
    assert json.loads((tmp_path / "theirs/method.json").read_text())["holdout"] == holdout_of(chosen)
    assert run_method("mine", tmp_path, folder, tmp_path / "theirs", "false")["done"] == 0  # unless others made it
    assert not any(path.exists() for path in videos)
    failed = run_method(
        "mine", tmp_path, folder, tmp_path / "no", f"{sys.executable} -c \"raise SystemExit('no GPU')\""
    )
    assert failed["done"] == 0 and set(failed["failed"].values()) == {"no GPU"}
    with pytest.raises(UserError, match="'gagavatar'"):
        run_method("gagavater", tmp_path, folder, tmp_path / "x")
    with pytest.raises(UserError, match="No such file"):
        run_method("mine", tmp_path, folder, tmp_path / "y", "no-such-program")
    for written, expected in (
        ('{"holdout": "x", "clips": [{"id": "../../x/y"}]}', r"DATASET/IDENTITY/RECORD"),
        ('["PhoneCapture/p0/r0"]', "lists no clips"),
        ("{", "lists no clips"),
    ):
        (tmp_path / "evil").mkdir(exist_ok=True)
        (tmp_path / "evil/clips.json").write_text(written)
        with pytest.raises(UserError, match=expected):
            run_method("mine", tmp_path, tmp_path / "evil", tmp_path / "z", copy)


def scored(house, out: Path, others: dict[str, Path]) -> dict:
    protocol = {**PROTOCOL, "metrics": {"psnr": "auto", "aed": "blendshapes"}}
    return evaluate(house / "model/transformer", house / "base", house / "shards", out, protocol, 1, external=others)


def test_other_videos_are_scored_beside_ours_and_missing_or_wrong_ones_listed(house, tmp_path):
    theirs, reader = tmp_path / "theirs", ShardReader(house / "shards")
    chosen = chosen_records(reader, 3, None)
    for index, (record, _) in enumerate(chosen):
        truth = reader.read(record, 9)["video"].numpy()
        target = theirs / clip_path(record).with_suffix(".mp4")
        if index == 0:
            write_video(target, np.kron(truth, np.ones((1, 2, 2, 1), np.uint8)), 25, 10)  # twice the size
        elif index == 1:
            write_video(target, truth[:7], 25, 10)
        elif index == 2:
            write_video(target, truth, 12, 10)
        elif index == 3:
            write_video(target, truth, 25, 10)
    (theirs / "method.json").write_text('{"alignment": "cropped by its own detector"}')
    metrics = scored(house, tmp_path / "out", {"Theirs": theirs})
    found = metrics["external"]["Theirs"]
    assert (found["scored"], found["missing"]) == (2, [chosen[4][0].id])
    assert found["refused"] == {
        chosen[1][0].id: "7 frames in r0.mp4",
        chosen[2][0].id: "12.00 frames per second in r1.mp4",
    }
    assert found["alignment"] == "cropped by its own detector; resized from 64 pixels"
    page = (tmp_path / "out/report.html").read_text()
    assert "Theirs: ViewSweep" in page and "1 missing, 2 refused" in page
    # Everybody is averaged over the clips that everybody has: two of three people's clips are left out for all.
    for dataset, clips, left in (("PhoneCapture", 1, 2), ("ViewSweep", 1, 1)):
        entry = metrics["comparison"][dataset]
        assert (entry["clips"], len(entry["left_out"])) == (clips, left)
        assert {"fportrait", "codec's limit", "repeated portrait", "Theirs"} == set(entry["methods"])
        assert {cells["psnr"]["clips"] for cells in entry["methods"].values()} == {clips}
    scores = json.loads((tmp_path / "out/scores.json").read_text())["clips"]
    mean = metrics["comparison"]["PhoneCapture"]["methods"]["fportrait"]["psnr"]["mean"]
    assert mean == pytest.approx(scores[chosen[0][0].id]["ours/psnr"], abs=1e-4)
    assert mean != pytest.approx(metrics["PhoneCapture"]["ours"]["psnr"]["mean"], abs=2e-4)
    markdown, latex = ((tmp_path / f"out/table.{kind}").read_text() for kind in ("md", "tex"))
    rows = list(csv.DictReader((tmp_path / "out/table.csv").open()))
    assert "| ViewSweep | Theirs | 1 |" in markdown and "over the 1 of 3 clips that every method has" in markdown
    assert r"\midrule" in latex and "over the 1 of 3 clips" in latex
    assert [row["clips"] for row in rows] == ["1"] * 8
    for refused, reason in (
        ('{"algnment": ""}', "'alignment'"),
        ('{"holdout": "another"}', "holdout another"),
        ("[", "cannot be read"),
        ('{"fps": "quick"}', "cannot be read"),
    ):
        (theirs / "method.json").write_text(refused)
        with pytest.raises(UserError, match=reason):
            scored(house, tmp_path / "o2", {"T": theirs})


def test_the_command_scores_a_stage_and_exits_with_three_when_clips_are_missing(house, sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fportrait.cli.evaluation.ANNOTATIONS", (sources,))
    (tmp_path / "data/06_models").mkdir(parents=True)
    (tmp_path / "data/06_models/base").symlink_to(house / "base")
    model = ["--model", str(house / "model"), "--shards", str(house / "shards"), "--records", "1"]
    arguments = [*model, "--steps", "1", "--metric", "psnr", "--metric", "iqa=brisque"]
    arguments += ["--probes", "0", "--modes", "0", "-o", "report"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "| PhoneCapture | fportrait | 1 |" in done.output and Path("report/report.html").is_file()
    Path("theirs").mkdir()
    assert CliRunner().invoke(command, [*arguments, "--external", "X=theirs"]).exit_code == 3
    exported = CliRunner().invoke(command, [*model, "--export", "inputs"])
    assert "2 clips in inputs" in exported.output, exported.output
    listed = json.loads(Path("inputs/clips.json").read_text())
    assert listed["holdout"] == json.loads(Path("report/metrics.json").read_text())["holdout"]
