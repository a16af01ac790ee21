"""From annotated clips to shards: right pixels, right normals, right windows, named by what made them."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import crop_intrinsics
from fportrait.capture.video_io import read_video, write_video
from fportrait.dataset import shards
from fportrait.dataset.batches import Batches
from fportrait.dataset.crops import crop_picture
from fportrait.dataset.encode import EncodeConfig, encode_tables
from fportrait.dataset.identities import identity_units, window_starts
from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.diffusion.conditions import Reads
from fportrait.errors import UserError
from fportrait.evaluation.cross import Annotations
from fportrait.evaluation.export import source_of
from fportrait.pixels import to_model_range
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.points import landmark_codes
from fportrait.tracking.segments import front_camera
from helpers.tables import clip_rows, identity_row, small_codec, write_tables

CONFIG = EncodeConfig(size=32, window=9, stride=4, test_stride=9, references=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two people of two datasets with textured videos, a codec, and their shards."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    body = load_body()
    rows, people = [], []
    for dataset, identity, split in (("PhoneCapture", "a", "train"), ("DynamicSweep", "b", "test")):
        for segment, frames in (("s0", 15), ("s1", 9), ("short", 5)):
            path = root / f"{identity}-{segment}.mp4"
            big = np.kron(rng.integers(0, 256, (frames, 12, 12, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)[
                :, :64, :96
            ]
            write_video(path, big, crf=4)
            added = clip_rows(dataset, identity, segment, frames, split, seed=len(rows), path=str(path))
            for row in added:
                row.update(
                    width=96,
                    height=64,
                    crop=np.array([16.0, -4, 64]),
                    intrinsics=np.array([90.0, 0, 48, 0, 90, 32, 0, 0, 1]),
                )
            rows += added
        people.append(identity_row(dataset, identity, split, f"{identity}/s1/cam", len(np.zeros(body.identity_dim))))
        people[-1]["reference_frame"] = 4
    write_tables(root / "tables", rows, people)
    small_codec().save_pretrained(root / "vae")
    report = encode_tables([root / "tables"], root / "vae", root / "shards", root / "units", CONFIG)
    return root, rows, report


def test_windows_cover_the_clip_and_short_clips_are_reported(world):
    root, _, report = world
    assert window_starts(15, 9, 4) == [0, 4, 6]
    assert window_starts(9, 9, 4) == [0]
    assert window_starts(8, 9, 4) == []
    assert report["records"] == {"PhoneCapture": {"train": 4}, "DynamicSweep": {"test": 3}}
    assert report["short_clips"] == ["DynamicSweep/b/short/cam", "PhoneCapture/a/short/cam"]
    assert report["failures"] == {}
    info = json.loads((root / "shards/encode.json").read_text())
    assert info["vae_hash"] == report["vae_hash"]
    assert info["parameters"]["window"] == 9


def test_a_record_holds_the_latents_of_the_cropped_pixels_and_of_the_posed_neutral_body(world):
    root, rows, _ = world
    reader = ShardReader(root / "shards")
    record = next(r for r in reader.records("test")["DynamicSweep"] if r.clip == "b/s0/cam" and r.first_frame == 6)
    tensors = reader.read(record)
    truth = [row for row in rows if row["clip"] == record.clip][6:15]
    frames = read_video(root / "b-s0.mp4", 6, 15)
    video = np.stack([crop_picture(frame, (16, -4, 64), 32, filled=True) for frame in frames])
    assert np.array_equal(tensors["video"].numpy(), video)
    assert np.array_equal(video[:, 0], video[:, 1])  # the crop reaches above the frame, whose edge goes on
    assert tensors["inside"].tolist() == reader.read(record, 1)["inside"].tolist() == [0, 2, 32, 32]
    codec = BlockCodec.from_pretrained(root / "vae").eval()
    assert torch.allclose(tensors["latents"], encode_video(codec, to_model_range(video[None]))[0], atol=1e-5)

    intrinsics = crop_intrinsics(truth[0]["intrinsics"].reshape(3, 3), (16, -4, 64), 32)
    assert np.allclose(tensors["intrinsics"], intrinsics)
    body = load_body()
    maps = []
    for row in truth:
        pose = Pose(row["body_rotation"].reshape(3, 3), row["body_translation"], row["head_rotation"].reshape(3, 3))
        camera = row["world_to_camera"].reshape(4, 4)
        vertices = body.vertices(np.zeros(body.identity_dim), None, pose)
        maps.append(normal_map(vertices, body.faces, camera, intrinsics, 32, 32, 2, body.weld))
    assert np.stack(maps).any(axis=(1, 2, 3)).all()  # somebody is in the picture
    assert torch.allclose(tensors["normals"], encode_video(codec, to_model_range(np.stack(maps)[None]))[0], atol=1e-5)
    assert np.array_equal(tensors["codes"].numpy(), np.stack([row["expression_code"] for row in truth]))
    landmarks = (truth[3]["landmarks"].reshape(478, 2) - [16, -4]) / 2
    assert np.allclose(tensors["landmarks"][3].numpy(), landmarks, atol=1e-4)
    points = tensors["landmark_codes"]
    assert points.shape == (9, 476) and points.dtype == torch.float16
    assert np.allclose(points[3].float().numpy(), landmark_codes(landmarks[None], 32)[0], atol=2e-3, rtol=1e-3)


def test_painted_portraits_are_drawn_frame_by_frame_alike_whatever_number_of_windows_lies_in_memory(world, tmp_path):
    root, rows, _ = world
    for batch in (1, 8):
        config = dataclasses.replace(CONFIG, warped=True, encode_batch=batch, test_stride=4)
        encode_tables([root / "tables"], root / "vae", tmp_path / f"{batch}", tmp_path / f"units{batch}", config)
    one, eight = (ShardReader(tmp_path / name) for name in ("1", "8"))
    for record in one.records("test")["DynamicSweep"]:
        alone, together = one.read(record), eight.read(record)
        assert torch.equal(alone["painted"], together["painted"])
        assert alone["warped"].shape == (3, 16, 3, 4, 4) and torch.allclose(alone["warped"], together["warped"])
    record = next(r for r in one.records("test")["DynamicSweep"] if r.clip == "b/s0/cam" and r.first_frame == 6)
    body, image = load_body(), one.references(record)["images"][0].numpy()
    picture = next(row for row in rows if row["clip"] == "b/s1/cam" and row["frame"] == 4)
    paint, *own = (
        [before_the_camera(body, row), crop_intrinsics(row["intrinsics"].reshape(3, 3), (16, -4, 64), 32)]
        for row in (picture, *[row for row in rows if row["clip"] == record.clip][6:15])
    )
    painter = PortraitPainter(body, image, *paint)
    assert np.array_equal(one.read(record)["painted"].numpy(), np.stack([painter(*frame) for frame in own]))


def before_the_camera(body, row):
    pose = Pose(row["body_rotation"].reshape(3, 3), row["body_translation"], row["head_rotation"].reshape(3, 3))
    camera = row["world_to_camera"].reshape(4, 4)
    vertices = body.vertices(np.zeros(body.identity_dim), None, pose)
    return (vertices @ camera[:3, :3].T + camera[:3, 3]).astype(np.float32)


def test_the_first_portrait_is_the_identity_s_reference_frame(world):
    root, _, _ = world
    reader = ShardReader(root / "shards")
    portraits = reader.references(reader.records()["PhoneCapture"][0])
    frame = read_video(root / "a-s1.mp4", 4, 5)[0]
    assert np.array_equal(portraits["images"][0].numpy(), crop_picture(frame, (16, -4, 64), 32, filled=True))
    assert portraits["latents"].shape == (3, 16, 1, 4, 4)
    assert not torch.equal(portraits["images"][1], portraits["images"][2])


def test_a_batch_has_the_contract_s_shapes_and_depends_only_on_its_indices(world):
    root, _, _ = world
    reader = ShardReader(root / "shards")
    batches = Batches(reader, {"PhoneCapture": 100}, frames=5, seed=3)
    batch = batches(range(4))
    assert batch["latents"].shape == (4, 16, 2, 4, 4)
    assert set(batch) == {"latents", "conditions", "ids", "datasets", "filmed"}
    assert batch["filmed"] == [(slice(1, 4), slice(0, 4))] * 4  # two pixels of the upper latents were not filmed
    conditions = batch["conditions"]
    assert {name: tuple(value.shape) for name, value in conditions.inputs().items()} == {
        "reference": (4, 16, 1, 4, 4),
        "rays": (4, 24, 2, 4, 4),
        "normals": (4, 16, 2, 4, 4),
        "codes": (4, 5, 128),
    }
    assert sorted(batch["ids"]) == sorted(record.id for record in reader.records()["PhoneCapture"])
    points = Batches(reader, {"PhoneCapture": 100}, frames=5, seed=3, reads=Reads(expression="landmarks"))
    assert points(range(4))["conditions"].codes.shape == (4, 5, 476)  # of training records too
    assert points.like("train", {"PhoneCapture": 100}, 3)([1])["conditions"].codes.shape == (1, 5, 476)
    again = Batches(reader, {"PhoneCapture": 100}, frames=5, seed=3)([2, 3])
    assert again["ids"] == batch["ids"][2:]
    assert torch.equal(again["conditions"].rays, conditions.rays[2:])
    assert torch.equal(again["conditions"].reference, conditions[2:].reference)


def test_the_rays_of_the_portrait_s_own_camera_start_at_its_centre(world):
    root, _, _ = world
    batches = Batches(
        ShardReader(root / "shards"), {"DynamicSweep": 100}, 5, 0, split="test", reads=Reads(reference_rays="identity")
    )
    own = batches([0])["conditions"].reference_rays[0, :6, 0]
    assert torch.allclose(own[:3], torch.zeros(3, 4, 4), atol=1e-6)  # o × d = 0 at the origin
    assert torch.allclose(own[3:].norm(dim=0), torch.ones(4, 4), atol=1e-5)


def test_a_second_run_encodes_nothing_and_another_vae_encodes_everything(world, monkeypatch):
    root, _, report = world
    from fportrait.dataset import encode

    def refuse(*_, **__):
        raise AssertionError("nothing should be encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_windows", refuse)
        encode_tables([root / "tables"], root / "vae", root / "again", root / "units", CONFIG)
    assert ShardReader(root / "again").hash == ShardReader(root / "shards").hash
    small_codec(1).save_pretrained(root / "vae2")
    changed = encode_tables([root / "tables"], root / "vae2", root / "other", root / "units", CONFIG)
    assert changed["vae_hash"] != report["vae_hash"]
    assert ShardReader(root / "other").hash != ShardReader(root / "shards").hash


def test_another_body_file_of_the_users_names_the_unit_anew(world, tmp_path, monkeypatch):
    _, rows, _ = world
    bodies = tmp_path / "bodies/smplx"
    bodies.mkdir(parents=True)
    (bodies / "SMPLX_NEUTRAL.npz").write_bytes(b"one")
    monkeypatch.setenv("FPORTRAIT_BODIES", str(tmp_path / "bodies"))
    people = [identity_row(row["dataset"], row["identity"], row["split"], row["clip"]) for row in (rows[0], rows[-1])]
    people[0]["body_model"] = "smplx"
    write_tables(tmp_path / "tables", rows, people)

    def units():
        return {unit.identity: unit for unit in identity_units(tmp_path / "tables", tmp_path / "hashes")}

    before = units()
    (bodies / "SMPLX_NEUTRAL.npz").write_bytes(b"another")
    after = units()
    assert before["a"].body != after["a"].body and before["a"].rows_hash == after["a"].rows_hash
    assert before["b"] == after["b"] and before["b"].body == ""
    monkeypatch.delenv("FPORTRAIT_BODIES")
    with pytest.raises(UserError, match="'smplx' without its files"):
        units()


def test_a_broken_video_fails_its_identity_by_name_and_the_rest_goes_on(world, tmp_path):
    root, rows, _ = world
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((root / "a-s0.mp4").read_bytes()[:200])
    changed = [dict(row, path=str(broken)) if row["clip"] == "a/s0/cam" else row for row in rows]
    people = [
        identity_row("PhoneCapture", "a", "train", "a/s1/cam", load_body().identity_dim),
        identity_row("DynamicSweep", "b", "test", "b/s1/cam", load_body().identity_dim),
    ]
    write_tables(tmp_path / "tables", changed, people)
    report = encode_tables([tmp_path / "tables"], root / "vae", tmp_path / "shards", tmp_path / "units", CONFIG)
    assert list(report["failures"]) == ["PhoneCapture/a"]
    assert "broken.mp4" in report["failures"]["PhoneCapture/a"]
    assert report["records"] == {"DynamicSweep": {"test": 3}}


def test_bad_settings_are_refused(world, tmp_path):
    root, _, _ = world
    with pytest.raises(UserError, match="4k"):
        EncodeConfig(window=10)
    with pytest.raises(UserError, match="divide by 8"):
        EncodeConfig(size=60)
    with pytest.raises(UserError, match="'references'"):
        EncodeConfig.from_dict({"reference": 3})
    with pytest.raises(UserError, match="pretrain"):
        encode_tables([root / "tables"], tmp_path, tmp_path / "s", tmp_path / "u", CONFIG)
    with pytest.raises(UserError, match="window of 21"):
        encode_tables([root / "tables"], root / "vae", tmp_path / "s", tmp_path / "u", {"size": 32, "window": 21})


def test_a_crop_of_few_pixels_is_enlarged_without_blocks():
    picture = np.repeat(np.linspace(20, 220, 8)[None, :, None], 8, 0).repeat(3, 2).astype(np.uint8)
    row = crop_picture(picture, (0, 0, 8), 64)[32, 4:-4, 0].astype(int)
    assert np.diff(row).max() < 8 and np.unique(row).size > 40  # by area it was eight steps
    assert np.array_equal(crop_picture(picture, (0, 0, 8), 8), picture)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """One person's narrow film, on its side in the file, and a wide one; and the same held out."""
    root, body, rows, people = tmp_path_factory.mktemp("narrow"), load_body(), [], []
    rng = np.random.default_rng(1)
    tall = np.kron(rng.integers(40, 256, (9, 12, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)  # 96 by 48
    wide = np.kron(rng.integers(40, 256, (9, 12, 12, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    for identity, split in (("a", "train"), ("b", "test")):
        for segment, video, turns, crop in (
            ("lying", tall, 1, (0, -8, 60)),  # upright: the square at -8, 36; beyond both sides
            ("wide", wide, 0, (8, 4, 60)),
        ):
            path = root / f"{identity}-{segment}.mp4"
            write_video(path, [np.ascontiguousarray(np.rot90(frame, -turns)) for frame in video], crf=2)
            height, width = video.shape[1:3] if not turns else video.shape[2:0:-1]
            added = clip_rows("PhoneCapture", identity, segment, 9, split, seed=len(rows), path=str(path))
            for row in added:
                row.update(width=width, height=height, crop=np.array(crop, float))
                row["intrinsics"] = np.array([90.0, 0, width / 2, 0, 90, height / 2, 0, 0, 1])
                row["world_to_camera"] = front_camera(TrackConfig(), turns).ravel()
            rows += added
        people.append(identity_row("PhoneCapture", identity, split, f"{identity}/lying/cam", body.identity_dim))
    write_tables(root / "tables", rows, people)
    small_codec().save_pretrained(root / "vae")
    encode_tables([root / "tables"], root / "vae", root / "shards", root / "units", CONFIG)
    return root, ShardReader(root / "shards"), tall


def test_a_clip_on_its_side_has_the_mask_of_its_upright_picture_and_one_within_its_file_has_none(narrow):
    _, reader, tall = narrow
    lying, wide = sorted(reader.records("test")["PhoneCapture"], key=lambda record: record.clip)
    assert "inside" not in reader.read(wide)
    tensors = reader.read(lying)
    left, top, right, bottom = tensors["inside"].tolist()
    assert (top, bottom) == (0, 32) and left == pytest.approx(8 * 32 / 60) and right == pytest.approx(56 * 32 / 60)
    cut = np.stack([crop_picture(frame, (-8, 36, 60), 32, filled=True) for frame in tall])
    assert np.abs(tensors["video"].numpy().astype(int) - cut).mean() < 4
    portraits = reader.references(lying)["images"][0].numpy().astype(int)
    assert np.ptp(portraits[:, :4], axis=1).max() < 3, "its edge goes on in the portrait, too"


def test_a_batch_says_of_every_clip_where_it_was_filmed_and_nothing_where_all_are_whole(narrow, tmp_path):
    _, reader, _ = narrow
    batch = Batches(reader, {"PhoneCapture": 100}, 9, 0)(range(2))
    found = dict(zip([name.split("/")[-1] for name in batch["ids"]], batch["filmed"], strict=True))
    lying, wide = sorted(reader.records()["PhoneCapture"], key=lambda record: record.clip)
    assert found == {lying.record: (slice(0, 4), slice(1, 3)), wide.record: (slice(None), slice(None))}
    old = ShardWriter(tmp_path, reader.vae_hash, {})  # shards from before there were masks
    for record in (lying, wide):
        tensors = {name: value for name, value in reader.read(record).items() if name != "inside"}
        one = [(record.record, record.clip, 0, tensors)]
        names = {"dataset": record.dataset, "identity": record.record, "split": "train"}
        rows = write_shard(tmp_path / "unit", **names, records=one, references=reader.references(record))
        old.add(tmp_path / "unit", rows)
    old.finish()
    assert "filmed" not in Batches(ShardReader(tmp_path), {"PhoneCapture": 100}, 9, 0)(range(2))


@pytest.mark.parametrize(
    "told",
    [
        [-4.0, 0, 28, 32],
        [0, 0, 33, 32],
        [8, 0, 8, 32],
        [24, 0, 8, 32],
        [float("nan"), 0, 32, 32],
        [0, 0, float("inf"), 32],
        [0, 32, 32],
        [],
        [[0, 0, 16, 32], [0, 0, 16, 32]],
    ],
)
def test_a_forged_mask_is_refused_by_the_name_of_its_shard_and_trains_nothing(narrow, tmp_path, monkeypatch, told):
    monkeypatch.setattr(shards, "_refuse_not_finite", lambda *_: None)  # the writer's own look
    _, reader, _ = narrow
    record = reader.records()["PhoneCapture"][0]
    tensors = reader.read(record) | {"inside": torch.tensor(told)}
    writer = ShardWriter(tmp_path, reader.vae_hash, {})
    names = {"dataset": record.dataset, "identity": record.identity, "split": "train"}
    one = [(record.record, record.clip, 0, tensors)]
    writer.add(
        tmp_path / "unit", write_shard(tmp_path / "unit", **names, records=one, references=reader.references(record))
    )
    writer.finish()
    with pytest.raises(UserError, match=r"what was filmed of PhoneCapture/a.*within 32×32.*a\.safetensors"):
        Batches(ShardReader(tmp_path), {"PhoneCapture": 100}, 9, 0)([0])


def test_an_export_is_compared_with_shards_whose_crops_go_beyond_the_file(narrow):
    root, reader, _ = narrow
    for record in reader.records("test")["PhoneCapture"]:
        source = source_of(reader, Annotations([root / "tables"]), record, 9)
        assert source.video.shape == (9, 60, 60, 3) and source.video.min() > 20, "nothing black is given to others"
