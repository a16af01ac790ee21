"""Buckets: nothing squashed, every batch of one shape, and the mixture as exact as without them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.camera.cameras import project
from fportrait.capture.video_io import read_video, write_video
from fportrait.dataset.batches import Batches
from fportrait.dataset.buckets import Bucket, BucketOrder, bucket_crop, nearest_bucket, parse_buckets, shares
from fportrait.dataset.crops import crop_rectangle
from fportrait.dataset.encode import EncodeConfig, encode_tables
from fportrait.dataset.mixing import sample_at, samples_at
from fportrait.dataset.shards import ShardReader, trained_buckets
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.errors import UserError
from fportrait.pipelines.promote.nodes import further_pictures
from fportrait.pixels import to_model_range
from helpers.small import bucket_shards
from helpers.tables import clip_rows, identity_row, small_codec, write_tables

SQUARE, TALL, WIDE = Bucket(32, 32), Bucket(48, 32), Bucket(32, 56)
MIXTURE = {"PhoneCapture": 61, "ViewSweep": 39, "StudioCapture": 0}
ITEMS = {"PhoneCapture": [SQUARE] * 37 + [TALL] * 5, "ViewSweep": [WIDE] * 3 + [SQUARE] * 8 + [TALL]}


def test_many_draws_at_once_are_the_single_ones():
    sizes = {dataset: len(items) for dataset, items in ITEMS.items()} | {"StudioCapture": 1}
    for start, stop in ((0, 700), (12_345, 12_400)):
        found = {}
        for dataset, rows, items in samples_at(3, start, stop, MIXTURE, sizes):
            found |= {start + int(row): (dataset, int(item)) for row, item in zip(rows, items, strict=True)}
        single = [sample_at(3, index, MIXTURE, sizes) for index in range(start, stop)]
        assert [found[index] for index in range(start, stop)] == [(one.dataset, one.item) for one in single]


@pytest.mark.parametrize("batch", [1, 4, 24])
def test_every_batch_is_of_one_bucket_and_the_mixture_is_the_same_but_for_what_waits(batch):
    order, count = BucketOrder(5, MIXTURE, ITEMS, batch), 200
    draws = [order(sample) for sample in range(count * batch)]
    assert len(set(draws)) == len(draws), "nothing is drawn twice"
    sizes = {dataset: len(items) for dataset, items in ITEMS.items()}
    samples = [sample_at(5, draw, MIXTURE, sizes) for draw in draws]
    shapes = [ITEMS[sample.dataset][sample.item] for sample in samples]
    assert all(len(set(shapes[first : first + batch])) == 1 for first in range(0, len(shapes), batch))
    waiting = set(range(max(draws) + 1)) - set(draws)
    assert len(waiting) <= 3 * (batch - 1), "fewer than one batch of each bucket waits"
    for dataset, share in {"PhoneCapture": 0.61, "ViewSweep": 0.39}.items():
        drawn = sum(sample.dataset == dataset for sample in samples)
        assert abs(drawn - share * len(samples)) <= len(waiting) + 1
    late = BucketOrder(5, MIXTURE, ITEMS, batch)  # as a run that goes on asks
    assert [late(sample) for sample in range(150 * batch, 152 * batch)] == draws[150 * batch : 152 * batch]


def test_the_share_of_a_bucket_follows_from_the_datasets_shares():
    found = shares(MIXTURE, ITEMS)
    assert found == pytest.approx(
        {SQUARE: 0.61 * 37 / 42 + 0.39 * 8 / 12, TALL: 0.61 * 5 / 42 + 0.39 / 12, WIDE: 0.0975}
    )
    assert sum(found.values()) == pytest.approx(1)


def test_a_clip_goes_to_the_nearest_shape_and_to_the_largest_picture_that_it_fills():
    large, larger = Bucket(64, 64), Bucket(96, 64)
    buckets = (SQUARE, large, TALL, larger, WIDE)
    assert nearest_bucket((1080, 1080), 60, buckets) == SQUARE
    assert nearest_bucket((1080, 1080), 64, buckets) == large
    assert nearest_bucket((1080, 1080), 9, buckets) == SQUARE, "the smallest, when the crop fills none"
    assert nearest_bucket((1920, 1080), 200, buckets) == larger
    assert nearest_bucket((1080, 1920), 200, buckets) == WIDE
    assert nearest_bucket((480, 600), 200, (SQUARE, WIDE)) == SQUARE


@settings(max_examples=60, deadline=None)
@given(
    *(st.integers(-30, 300), st.integers(-30, 300), st.integers(1, 200)),
    *(st.sampled_from([SQUARE, TALL, WIDE]), st.integers(20, 400), st.integers(20, 400)),
)
def test_a_crop_has_the_buckets_shape_holds_the_square_and_stays_in_the_frame_where_it_can(x, y, side, bucket, h, w):
    x0, y0, width, height = bucket_crop((x, y, side), bucket, (h, w))
    assert abs(width - side * bucket.width / 32) <= 0.5 and abs(height - side * bucket.height / 32) <= 0.5
    assert x0 <= x and x + side <= x0 + width and y0 <= y and y + side <= y0 + height
    if x >= 0 and x + side <= w and width <= w:
        assert x0 >= 0 and x0 + width <= w
    if y >= 0 and y + side <= h and height <= h:
        assert y0 >= 0 and y0 + height <= h
    if bucket == SQUARE:
        assert (x0, y0, width, height) == (x, y, side, side)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [("96x64", "a list"), (["96"], "HEIGHTxWIDTH"), (["60x64"], "divide by 8"), (["32x32"], "twice"), ([7], "HEIGHT")],
)
def test_mistakes_in_buckets_are_named(buckets, message):
    with pytest.raises(UserError, match=message):
        EncodeConfig.from_dict({"size": 32, "buckets": buckets})
    assert parse_buckets(32, ["48x32"]) == (SQUARE, TALL)


CONFIG = EncodeConfig(size=32, window=5, stride=4, test_stride=5, references=2, buckets=("48x32", "32x56"))
FILMS = {"square": (96, 96), "upright": (160, 96), "lying": (96, 160)}  # height, width


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A person of training with three films of three shapes, and one held out, as shards of three buckets."""
    root = tmp_path_factory.mktemp("buckets")
    rng, body = np.random.default_rng(0), load_body()
    rows, people = [], []
    for identity, split in (("a", "train"), ("b", "test")):
        for name, (height, width) in FILMS.items():
            path = root / f"{identity}-{name}.mp4"
            small = rng.integers(0, 256, (5, height // 8, width // 8, 3))
            write_video(path, np.kron(small, np.ones((1, 8, 8, 1))).astype(np.uint8), crf=4)
            added = clip_rows("PhoneCapture", identity, name, 5, split, seed=len(rows), path=str(path))
            for row in added:
                row.update(width=width, height=height, crop=np.array([16.0, 8.0, 64.0]))
                row["intrinsics"] = np.array([90.0, 0, width / 2, 0, 90, height / 2, 0, 0, 1])
            rows += added
        people.append(identity_row("PhoneCapture", identity, split, f"{identity}/square/cam", body.identity_dim))
    write_tables(root / "tables", rows, people)
    small_codec().save_pretrained(root / "vae")
    report = encode_tables([root / "tables"], root / "vae", root / "shards", root / "units", CONFIG)
    return root, rows, report


def test_each_clip_is_encoded_unsquashed_in_its_bucket_with_camera_landmarks_and_portraits_to_match(world):
    root, rows, report = world
    assert report["buckets"] == {"32x32": 1, "32x56": 1, "48x32": 1}
    reader = ShardReader(root / "shards")
    codec = BlockCodec.from_pretrained(root / "vae").eval()
    for record in reader.records()["PhoneCapture"]:
        name = record.clip.split("/")[1]
        bucket = {"square": SQUARE, "upright": TALL, "lying": WIDE}[name]
        assert (record.height, record.width) == bucket
        assert record.shard == f"PhoneCapture/{'' if name == 'square' else f'{bucket}/'}a.safetensors"
        x0, y0, width, height = bucket_crop((16, 8, 64), bucket, FILMS[name])
        assert (width / bucket.width, height / bucket.height) == (2, 2), "both sides by the same factor"
        tensors, portraits = reader.read(record), reader.references(record)
        cut = np.stack([crop_rectangle(f, (x0, y0, width, height), bucket) for f in read_video(root / f"a-{name}.mp4")])
        assert torch.allclose(tensors["latents"], encode_video(codec, to_model_range(cut[None]))[0], atol=1e-5)
        assert tensors["normals"].shape == tensors["latents"].shape == (16, 2, bucket.height // 8, bucket.width // 8)
        row = next(row for row in rows if row["clip"] == record.clip)
        point = np.array([[0.02, 0.03, 0.0]])
        camera = np.asarray(row["world_to_camera"]).reshape(4, 4)
        whole, _ = project(point, camera, row["intrinsics"].reshape(3, 3))
        inside, _ = project(point, camera, tensors["intrinsics"].double().numpy())
        assert np.allclose(inside, (whole - [x0, y0]) / 2, atol=1e-4)
        assert portraits["images"].shape == (2, *bucket, 3)
        assert portraits["latents"].shape == (2, 16, 1, bucket.height // 8, bucket.width // 8)
    held_out = reader.records("test")["PhoneCapture"]
    assert {(record.height, record.width) for record in held_out} == {SQUARE}, "scores are taken of squares"
    assert all(reader.read(record)["video"].shape == (5, 32, 32, 3) for record in held_out)


def test_a_batch_of_any_bucket_is_whole(world):
    root, _, _ = world
    batches = Batches(ShardReader(root / "shards"), {"PhoneCapture": 100}, 5, 0, focus_gain=2.0, batch_size=2)
    seen = set()
    for first in range(0, 12, 2):
        batch = batches([first, first + 1])
        height, width = batch["latents"].shape[-2:]
        seen.add((height, width))
        assert batch["conditions"].rays.shape == (2, 24, 2, height, width)
        assert batch["weights"].shape == (2, 1, 2, height, width)
    assert seen == set(batches.shapes()) == {(4, 4), (6, 4), (4, 7)}


def test_without_buckets_index_and_parameters_are_as_ever(world, tmp_path):
    import json

    import pandas as pd

    root, _, _ = world
    config = EncodeConfig(size=32, window=5, stride=4, test_stride=5, references=2)
    encode_tables([root / "tables"], root / "vae", tmp_path / "shards", root / "units", config)
    assert "height" not in pd.read_parquet(tmp_path / "shards/index.parquet").columns
    assert "buckets" not in json.loads((tmp_path / "shards/encode.json").read_text())["parameters"]
    reader = ShardReader(tmp_path / "shards")
    assert Batches(reader, {"PhoneCapture": 100}, 5, 0).order is None
    assert reader.hash != ShardReader(root / "shards").hash


def test_shards_of_buckets_name_their_shapes(tmp_path):
    reader = bucket_shards(tmp_path)
    assert reader.shapes()["ViewSweep"].count((48, 32)) == 2 and reader.shapes()["ViewSweep"].count((32, 32)) == 4
    assert trained_buckets(tmp_path) == [(48, 32)] and trained_buckets(tmp_path / "none") == []
    write_json(tmp_path / "bundle.json", {"sizes": [96], "shapes": ["64x48", "48x32"]})  # of the base
    assert further_pictures(tmp_path, tmp_path) == {"sizes": [96], "shapes": ["48x32", "64x48"]}
    assert further_pictures(tmp_path, tmp_path / "none") == {"sizes": [], "shapes": ["48x32"]}
    assert further_pictures(tmp_path / "none", tmp_path)["shapes"] == ["48x32", "64x48"]
