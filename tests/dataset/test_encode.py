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
from fportrait.dataset.batches import Batches
from fportrait.dataset.encode import EncodeConfig, crop_picture, encode_tables
from fportrait.dataset.identities import identity_units, window_starts
from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.diffusion.conditions import Reads
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.points import landmark_codes
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
    video = np.stack([crop_picture(frame, (16, -4, 64), 32) for frame in frames])
    assert np.array_equal(tensors["video"].numpy(), video)
    assert (video[:, :1] < 30).all()  # the crop reaches above the frame
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
    assert np.array_equal(portraits["images"][0].numpy(), crop_picture(frame, (16, -4, 64), 32))
    assert portraits["latents"].shape == (3, 16, 1, 4, 4)
    assert not torch.equal(portraits["images"][1], portraits["images"][2])


def test_a_batch_has_the_contract_s_shapes_and_depends_only_on_its_indices(world):
    root, _, _ = world
    reader = ShardReader(root / "shards")
    batches = Batches(reader, {"PhoneCapture": 100}, frames=5, seed=3)
    batch = batches(range(4))
    assert batch["latents"].shape == (4, 16, 2, 4, 4) and set(batch) == {"latents", "conditions", "ids", "datasets"}
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
