"""Tracking of loose files, its command, and the matte of a real person."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fportrait.capture.video_io import probe, write_image, write_video
from fportrait.cli import EXIT_PARTIAL
from fportrait.cli.track import track
from fportrait.errors import UserError
from fportrait.tracking.files import track_file
from fportrait.tracking.matting import matte, matte_around


@pytest.fixture(scope="module")
def tracked_picture(tmp_path_factory, photograph, encoder_folder):
    folder = tmp_path_factory.mktemp("picture")
    write_image(folder / "astronaut.png", photograph)
    return folder, track_file(folder / "astronaut.png", folder / "out", encoder_folder)


def test_a_real_face_is_tracked_and_drawn(tracked_picture):
    folder, result = tracked_picture
    assert result["frames"] == result["frames_with_face"] == 1
    assert result["reprojection_error_percent_of_face"] < 1.5
    assert {p.name for p in (folder / "out").iterdir()} == {"frames.parquet", "identity.json", "overlay.png"}


def test_the_matte_holds_the_head_and_hair_and_not_the_corners(tracked_picture, photograph):
    folder, _ = tracked_picture
    row = pd.read_parquet(folder / "out/frames.parquet").iloc[0]
    alpha = matte(photograph)
    assert alpha.shape == photograph.shape[:2] and alpha.min() >= 0 and alpha.max() <= 1
    nose = np.reshape(row["landmarks"], (478, 2))[4].astype(int)
    assert alpha[nose[1], nose[0]] > 0.95
    assert alpha[:20, :20].max() < 0.05 and alpha[:20, -20:].max() < 0.05
    points = np.reshape(row["landmarks"], (478, 2))
    assert np.array_equal(matte_around(photograph, points), alpha)
    wall = np.full_like(photograph, 128)
    assert matte_around(wall, points) is None  # a face that the network does not know
    assert matte_around(photograph, points - 10_000) is None


def test_a_folder_tracks_what_it_can_and_names_the_rest(tmp_path, photograph, encoder_folder):
    write_video(tmp_path / "in/talk.mp4", [photograph[:256, 96:352]] * 3, 25.0)
    write_image(tmp_path / "in/empty.png", np.full((96, 96, 3), 120, np.uint8))
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--base", str(encoder_folder), "--json"]
    run = CliRunner().invoke(track, arguments)
    assert run.exit_code == EXIT_PARTIAL, run.output
    assert len(json.loads(run.stdout)["tracked"]) == 1
    (entry,) = json.loads((tmp_path / "out/quarantine.json").read_text())
    assert entry["file"] == "empty.png" and "face" in entry["reason"]
    assert probe(tmp_path / "out/talk.mp4/overlay.mp4").frames == 3


def test_other_files_and_impossible_lenses_are_refused(tmp_path, encoder_folder):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt"):
        track_file(tmp_path / "notes.txt", tmp_path / "out", encoder_folder)
    with pytest.raises(UserError, match="field of view"):
        track_file(tmp_path / "a.mp4", tmp_path / "out", encoder_folder, fov_degrees=190)
