import json

import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.avatar.ply import read_ply
from fportrait.capture.video_io import read_image, write_video
from fportrait.cli.avatar import avatar
from fportrait.errors import UserError


@pytest.fixture
def project(capture, truth, tmp_path, monkeypatch):
    """A folder with the tiny capture's videos and tables, and its true avatar as `ada`."""
    tables = tmp_path / "data/03_primary/validated"
    tables.mkdir(parents=True)
    for path, pictures in capture.videos.items():
        write_video(tmp_path / path, pictures, 25.0, crf=10)
    capture.frames.to_parquet(tables / "frames.parquet")
    person = {"dataset": "StudioCapture", "identity": "ada", "body_model": "embedded", "shape": capture.shape.tolist()}
    pd.DataFrame([person]).to_parquet(tables / "identities.parquet")
    truth.save(tmp_path / "data/06_models/avatars/ada")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(avatar, [str(argument) for argument in arguments], catch_exceptions=False)


def test_fit_writes_an_avatar_with_its_contact_sheet(project):
    answer = run("fit", "ada", "--prior", "none", "--steps", 2, "--size", 40, "-o", "fitted", "--json")
    assert answer.exit_code == 0
    scores = json.loads(answer.stdout)
    assert scores["steps"] == 2 and scores["stopped"] is None
    assert (project / "fitted/avatar.safetensors").is_file()
    assert read_image(project / "fitted/contact_sheet.png").std() > 10


def test_sheet_and_export_write_what_they_are_asked_for(project):
    assert run("sheet", "ada", "-o", "sheet.png", "--size", 40, "--expressions", 2).exit_code == 0
    assert read_image(project / "sheet.png").shape[1] > 4 * 2 * 40
    assert run("export", "ada", "-o", "frame.ply", "--frame", 2).exit_code == 0
    assert run("export", "ada", "-o", "rest.ply", "--rest").exit_code == 0
    frame, rest = read_ply(project / "frame.ply"), read_ply(project / "rest.ply")
    assert len(rest["x"]) == 700 and abs(frame["y"] - rest["y"]).max() > 0.005


def test_an_unknown_name_and_frame_say_what_there_is(project):
    with pytest.raises(UserError, match="ada"):
        run("sheet", "adda", "-o", "sheet.png")
    with pytest.raises(UserError, match="0 to 5"):
        run("export", "ada", "-o", "x.ply", "--frame", 99)
