"""Other methods' videos: exported, made by a command, scored on the same clips; what does not fit is listed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.capture.video_io import read_video, write_video
from fportrait.cli.evaluation import evaluate as command
from fportrait.dataset.sampling import held_out
from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError
from fportrait.evaluation.external import clip_path, export_inputs, run_method
from fportrait.evaluation.run import evaluate
from fportrait.evaluation.tables import rows_of, to_csv, to_latex, to_markdown
from helpers.houses import PROTOCOL

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


@pytest.fixture(scope="module")
def exported(house, tmp_path_factory):
    reader, folder = ShardReader(house / "shards"), tmp_path_factory.mktemp("inputs")
    chosen = [(record, 9) for name in ("PhoneCapture", "ViewSweep") for record in held_out(reader, name, 3, 9)]
    assert export_inputs(reader, chosen, folder) == 5
    return folder, chosen


def test_every_clip_is_exported_with_portrait_video_and_cameras(exported):
    folder, chosen = exported
    for record, _ in chosen:
        place = folder / clip_path(record)
        assert read_video(place / "driving.mp4").shape == (9, 32, 32, 3)
        assert (
            len(json.loads((place / "cameras.json").read_text())["frames"]) == 9 and (place / "portrait.png").is_file()
        )


def test_a_methods_command_is_run_per_clip_and_failures_are_told(exported, tmp_path):
    folder, _ = exported
    copy = f'{sys.executable} -c "{COPY}" {{driving}} {{output}}'
    done = run_method("mine", tmp_path, folder, tmp_path / "theirs", copy)
    assert done == {"done": 5, "failed": {}}
    videos = sorted((tmp_path / "theirs").rglob("*.mp4"))
    before = [path.stat().st_mtime_ns for path in videos]
    assert run_method("mine", tmp_path, folder, tmp_path / "theirs", copy) == done
    assert [path.stat().st_mtime_ns for path in videos] == before  # what is there is kept
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
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/clips.json").write_text('["../../x/y"]')
    with pytest.raises(UserError, match=r"DATASET/IDENTITY/RECORD"):
        run_method("mine", tmp_path, tmp_path / "evil", tmp_path / "z", copy)


def test_other_videos_are_scored_beside_ours_and_missing_or_wrong_ones_listed(house, exported, tmp_path):
    _, chosen = exported
    theirs = tmp_path / "theirs"
    reader = ShardReader(house / "shards")
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
    metrics = evaluate(
        house / "model/transformer",
        house / "base",
        house / "shards",
        tmp_path / "out",
        PROTOCOL,
        1,
        external={"Theirs": theirs},
    )
    found = metrics["external"]["Theirs"]
    assert (found["scored"], found["missing"]) == (2, [chosen[4][0].id])
    assert found["refused"] == {
        chosen[1][0].id: "7 frames in r0.mp4",
        chosen[2][0].id: "12.00 frames per second in r1.mp4",
    }
    assert found["alignment"] == "cropped by its own detector; resized from 64 pixels"
    assert found["datasets"]["ViewSweep"]["ours"]["psnr"]["mean"] > metrics["ViewSweep"]["ours"]["psnr"]["mean"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Theirs: ViewSweep" in page and "1 missing, 2 refused" in page
    rows = rows_of(metrics)
    assert [method for dataset, method, _ in rows if dataset == "ViewSweep"] == [
        "fportrait",
        "codec's limit",
        "repeated portrait",
        "Theirs",
    ]
    assert "| ViewSweep | Theirs |" in to_markdown(rows) and "Theirs" in to_csv(rows) and r"\midrule" in to_latex(rows)
    (theirs / "method.json").write_text('{"algnment": ""}')
    with pytest.raises(UserError, match="'alignment'"):
        evaluate(
            house / "model/transformer",
            house / "base",
            house / "shards",
            tmp_path / "o2",
            PROTOCOL,
            1,
            external={"T": theirs},
        )


def test_the_command_scores_a_stage_and_exits_with_three_when_clips_are_missing(house, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/06_models").mkdir(parents=True)
    (tmp_path / "data/06_models/base").symlink_to(house / "base")
    arguments = [
        "--model",
        str(house / "model"),
        "--shards",
        str(house / "shards"),
        "--records",
        "1",
        "--steps",
        "1",
        "--metric",
        "psnr",
        "--metric",
        "iqa=brisque",
        "--probes",
        "0",
        "--modes",
        "0",
        "-o",
        "report",
    ]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "| PhoneCapture | fportrait |" in done.output and Path("report/report.html").is_file()
    Path("theirs").mkdir()
    assert CliRunner().invoke(command, [*arguments, "--external", "X=theirs"]).exit_code == 3
    exported = CliRunner().invoke(command, ["--shards", str(house / "shards"), "--export", "inputs", "--records", "1"])
    assert "2 clips in inputs" in exported.output
