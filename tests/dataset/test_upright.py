"""Clips that a phone filmed on its side or upside down are encoded, compared and exported as upright ones."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.capture.video_io import read_video, write_video
from fportrait.dataset.encode import EncodeConfig, encode_tables
from fportrait.dataset.shards import ShardReader
from fportrait.dataset.upright import TURNS, quarter_turns, upright
from fportrait.evaluation.cross import Annotations
from fportrait.evaluation.export import source_of
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.segments import front_camera
from helpers.tables import clip_rows, identity_row, landmarks_of, small_codec, write_tables

WIDTH, HEIGHT, FRAMES = 96, 64, 9
CROPS = {0: (16, -4, 60), 1: (64 - -4 - 60, 16, 60), 2: (96 - 16 - 60, 64 - -4 - 60, 60), 3: (-4, 96 - 16 - 60, 60)}


def filmed(root, identity: str, turns: int) -> list[dict]:
    """Rows of a clip whose file is rolled by so many quarter turns, clockwise; the same pictures for every `turns`."""
    rng, path = np.random.default_rng(0), root / f"{identity}.mp4"
    frames = np.kron(rng.integers(0, 256, (FRAMES, 8, 12, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    write_video(path, [np.ascontiguousarray(np.rot90(frame, -turns)) for frame in frames], crf=2)
    rows = clip_rows("PhoneCapture", identity, "s0", FRAMES, "test", seed=0, path=str(path))
    width, height = (WIDTH, HEIGHT) if turns % 2 == 0 else (HEIGHT, WIDTH)
    lens = np.array([90.0, 0, width / 2, 0, 90, height / 2, 0, 0, 1])
    camera = front_camera(TrackConfig(), turns).ravel()
    for row in rows:
        crop = np.array(CROPS[turns], float)
        row.update(width=width, height=height, crop=crop, intrinsics=lens, world_to_camera=camera)
        row["landmarks"] = landmarks_of(row, 0.002)
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root, rows, people = tmp_path_factory.mktemp("turned"), [], []
    for turns in range(4):
        rows += filmed(root, f"p{turns}", turns)
        people.append(identity_row("PhoneCapture", f"p{turns}", "test", f"p{turns}/s0/cam", load_body().identity_dim))
    write_tables(root / "tables", rows, people)
    small_codec().save_pretrained(root / "vae")
    config = EncodeConfig(size=32, window=9, test_stride=9, references=1, warped=True)
    encode_tables([root / "tables"], root / "vae", root / "shards", root / "units", config)
    return root, ShardReader(root / "shards")


@pytest.mark.parametrize("turns", range(4))
def test_rows_of_a_rolled_clip_become_those_of_the_upright_one(world, turns):
    annotations = Annotations([world[0] / "tables"])
    table = annotations.frames
    rolled = table[table["identity"] == f"p{turns}"]
    assert quarter_turns(rolled["world_to_camera"].iloc[0].reshape(4, 4)) == turns
    found, truth = upright(rolled), table[table["identity"] == "p0"]
    assert set(found[TURNS]) == {turns} and found.dtypes.drop(TURNS).equals(truth.dtypes)
    for name in ("width", "height", "crop", "intrinsics", "world_to_camera", "landmarks", "head_rotation"):
        assert np.allclose(np.stack(found[name].to_list()), np.stack(truth[name].to_list()), atol=1e-4), name


@pytest.mark.parametrize("turns", (1, 2, 3))
def test_shards_and_exports_of_a_rolled_clip_are_those_of_the_upright_one(world, turns):
    root, reader = world
    by_person = {record.identity: record for record in reader.records("test")["PhoneCapture"]}
    one, other = by_person["p0"], by_person[f"p{turns}"]
    for name, near in (("video", 6.0), ("painted", 6.0), ("normals", 1e-3), ("latents", 0.06), ("warped", 0.06)):
        a, b = (reader.read(record)[name].float() for record in (one, other))
        assert a.shape == b.shape and (a - b).abs().mean() <= near, name
    for name in ("world_to_camera", "intrinsics", "focus", "landmark_codes"):
        a, b = (reader.read(record)[name].float() for record in (one, other))
        assert np.allclose(a, b, atol=1e-3), name
    a, b = (reader.references(record)["images"].float() for record in (one, other))
    assert (a - b).abs().mean() <= 6
    source = source_of(reader, Annotations([root / "tables"]), other, FRAMES)
    frames = np.stack([np.rot90(frame, turns) for frame in read_video(root / f"p{turns}.mp4")])
    assert np.array_equal(source.video[:, 4:], frames[:, :56, 16:76])


def test_a_studio_s_camera_stays_as_it_is_mounted(world):
    table = Annotations([world[0] / "tables"]).frames.assign(dataset="StudioCapture")
    rolled = table[table["identity"] == "p1"]
    assert upright(rolled).drop(columns=TURNS).equals(rolled)
