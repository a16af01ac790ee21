"""What is no face is told from faces, and faces of any roll are tracked upright."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from skimage import data

from fportrait.capture.image_io import write_image
from fportrait.cli.track import track
from fportrait.errors import UserError
from fportrait.tracking.clips import read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.landmarks import quarter_turns, roll_of
from fportrait.tracking.segments import front_camera
from fportrait.tracking.unlikeness import DOUBTFUL, REFUSED, refuse_unlike


def rolled(picture: np.ndarray, degrees: float) -> np.ndarray:
    """Turned clockwise on screen on a canvas that holds all of it, grey around."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width)) + 2
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    matrix[:, 2] += [(side - width) / 2, (side - height) / 2]
    return cv2.warpAffine(picture, matrix, (side, side), borderValue=(90, 90, 90))


@pytest.mark.parametrize("degrees", [60, 90, 135, 180, 225, 270, 315])
def test_a_face_of_any_roll_is_seen_upright(photograph, landmarker, face, degrees):
    (found,) = landmarker.detect(rolled(photograph, degrees))
    turn = np.degrees(roll_of(found.landmarks) - roll_of(face.landmarks)) - degrees
    assert abs((turn + 180) % 360 - 180) < 6
    assert landmarker.unlikeness(rolled(photograph, degrees), found) < 0.02


def test_quarter_turns_are_counted_clockwise(photograph, landmarker):
    for quarters in (1, 2, 3):
        (found,) = landmarker.detect(np.ascontiguousarray(np.rot90(photograph, -quarters)))
        assert quarter_turns(found.landmarks) % 4 == quarters


def test_the_camera_is_rolled_and_the_head_stands_upright(photograph, tmp_path, encoder_folder):
    rotations = {}
    for quarters in (0, 1, 2):
        write_image(tmp_path / "face.png", np.rot90(photograph, -quarters))
        arguments = [str(tmp_path / "face.png"), "-o", str(tmp_path / "out"), "--base", str(encoder_folder), "--json"]
        run = CliRunner().invoke(track, arguments)
        assert run.exit_code == 0, run.output
        (result,) = json.loads(run.stdout)["tracked"]
        assert result["rolled_degrees"] == 90 * quarters and result["reprojection_error_percent_of_face"] < 1.5
        row = pd.read_parquet(tmp_path / "out/frames.parquet").iloc[0]
        camera = np.reshape(row["world_to_camera"], (4, 4))
        assert np.allclose(camera, front_camera(TrackConfig(), quarters))
        rotations[quarters] = np.reshape(row["head_rotation"], (3, 3))
    for quarters in (1, 2):
        difference = rotations[quarters].T @ rotations[0]
        assert np.degrees(np.arccos(np.clip((np.trace(difference) - 1) / 2, -1, 1))) < 3


def test_a_rolled_video_is_followed_upright(photograph):
    frames = [np.ascontiguousarray(np.roll(photograph[:320, 60:380], shift, 0)[::-1, ::-1]) for shift in range(3)]
    seen = read_landmarks(frames, "video", 48, TrackConfig())
    assert seen.quarter_turns == 2 and seen.unlike < 0.02


def test_cats_coins_and_cells_are_unlike_a_face_and_a_photograph_is_not(photograph, landmarker, face):
    assert landmarker.unlikeness(photograph, face) < DOUBTFUL / 2
    for picture in (data.chelsea(), data.cell(), data.coins()):
        picture = np.ascontiguousarray(picture if picture.ndim == 3 else np.stack([picture] * 3, -1))
        for found in landmarker.detect(picture):
            assert landmarker.unlikeness(picture, found) > REFUSED


def test_a_cat_is_refused_and_forced(tmp_path, encoder_folder):
    write_image(tmp_path / "cat.png", data.chelsea())
    arguments = [str(tmp_path / "cat.png"), "-o", str(tmp_path / "out"), "--base", str(encoder_folder)]
    run = CliRunner().invoke(track, arguments)
    assert isinstance(run.exception, UserError) and "nothing like a face in cat.png" in str(run.exception)
    assert not (tmp_path / "out").exists()
    run = CliRunner().invoke(track, [*arguments, "--force", "--json"])
    assert run.exit_code == 0, run.output
    (result,) = json.loads(run.stdout)["tracked"]
    assert result["unlike_a_face_percent"] > 7 and "little like a face" in result["notes"][0]


def test_what_is_doubtful_is_said_and_what_is_plain_is_not():
    assert refuse_unlike(0.01, "a.png", False) is None
    assert "covered" in str(refuse_unlike(0.05, "a.png", False))
    with pytest.raises(UserError, match="--force"):
        refuse_unlike(0.09, "a.png", False)


def test_something_that_swims_beside_a_face_is_not_a_second_person(photograph):
    cat = cv2.resize(data.chelsea(), (451 * 2 // 3, 300 * 2 // 3))
    picture = np.full((320, 640, 3), 120, np.uint8)
    picture[:, :320], picture[60 : 60 + cat.shape[0], 330 : 330 + cat.shape[1]] = photograph[:320, 60:380], cat
    seen = read_landmarks([picture], "both", 48, TrackConfig())
    assert seen.landmarks[0, :, 0].max() < 320


def looked(degrees: float, evidence: float):
    """A face as `_better` sees it: which way its eyes say is up, and what speaks for it."""
    from fportrait.tracking.landmarks import Face

    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(0).uniform(-20, 20, (478, 2))
    points[[33, 263]] = [[-20, 0], [20, 0]]
    face = Face((points @ turn.T + 100).astype(np.float32), np.zeros(52, np.float32), 1.0)
    face.__dict__["evidence"] = evidence
    return face


@pytest.mark.parametrize(
    ("seen", "other", "better"),
    [
        ((0, -9.0), (180, 8.2), True),  # a photograph upside down
        ((57, -19.9), (-92, 5.4), True),  # a painting on its side
        ((-20, -15.6), (75, -9.0), False),  # a side view, filmed upright
        ((0, -8.0), (180, 1.0), False),  # too little for so much
        ((-20, -15.6), (-18, -12.0), True),  # another crop
        ((-20, -15.6), (-18, -14.0), False),
    ],
)
def test_another_way_up_needs_more_to_speak_for_it_than_another_crop(seen, other, better):
    from fportrait.tracking.landmarks import _better

    first = looked(*seen)
    assert _better(looked(*other), first, first) is better


def test_a_poor_crop_on_the_way_does_not_raise_the_bar_for_the_right_way_up():
    from fportrait.tracking.landmarks import _better

    assert _better(looked(-92, 5.4), looked(86, -3.1), looked(57, -19.9))
