"""Latent shards: random access, prefixes, checksums, and refusals by name."""

import numpy as np
import pytest
import torch

from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.errors import UserError


def window(seed: int, frames: int = 9, video: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent_frames = (frames + 3) // 4
    tensors = {
        "latents": torch.randn(16, latent_frames, 4, 4, generator=generator),
        "normals": torch.randn(16, latent_frames, 4, 4, generator=generator),
        "codes": torch.randn(frames, 128, generator=generator),
        "world_to_camera": torch.eye(4).repeat(frames, 1, 1),
        "intrinsics": torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]),
    }
    if video:
        tensors["video"] = torch.randint(0, 256, (frames, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return tensors


def references(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(2, 16, 1, 4, 4, generator=generator),
        "world_to_camera": torch.eye(4).repeat(2, 1, 1),
        "intrinsics": torch.eye(3).repeat(2, 1, 1),
        "images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
    }


def write_folder(folder, identities=2, records=3):
    writer = ShardWriter(folder / "shards", "vae0", {"window": 9})
    for i in range(identities):
        rows = write_shard(
            folder / "unit.safetensors",
            dataset="PhoneCapture",
            identity=f"p{i}",
            split="train",
            records=[(f"r{r}", f"p{i}/s/phone", 3 * r, window(10 * i + r)) for r in range(records)],
            references=references(i),
        )
        writer.add(folder / "unit.safetensors", rows)
        (folder / "unit.safetensors").unlink()
    writer.finish()
    return folder / "shards"


def test_what_is_written_is_read_back_and_a_short_window_is_its_prefix(tmp_path):
    reader = ShardReader(write_folder(tmp_path))
    assert reader.sizes() == {"PhoneCapture": 6}
    assert reader.vae_hash == "vae0"
    record = reader.records()["PhoneCapture"][4]
    assert record.id == "PhoneCapture/p1/r1"
    truth = window(11)
    for name, tensor in reader.read(record).items():
        assert torch.equal(tensor, truth[name])
    short = reader.read(record, 5)
    assert torch.equal(short["latents"], truth["latents"][:, :2])
    assert torch.equal(short["codes"], truth["codes"][:5])
    assert short["intrinsics"].shape == (3, 3)
    assert torch.equal(reader.references(record)["latents"], references(1)["latents"])


def test_every_flipped_byte_is_refused_by_the_name_of_its_record(tmp_path):
    folder = write_folder(tmp_path, identities=1, records=2)
    shard = folder / "PhoneCapture" / "p0.safetensors"
    good = shard.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for position in np.random.default_rng(0).integers(header, len(good), 25):
        bad = bytearray(good)
        bad[position] ^= 0x10
        shard.write_bytes(bytes(bad))
        reader = ShardReader(folder)
        refused = []
        for record in reader.records()["PhoneCapture"]:
            for touch in (reader.read, reader.references):
                try:
                    touch(record)
                except UserError as error:
                    refused.append(str(error))
        assert refused
        assert all("PhoneCapture/p0" in message and "checksum" in message for message in refused)


def test_a_truncated_or_missing_shard_is_refused_by_name(tmp_path):
    folder = write_folder(tmp_path, identities=2)
    (folder / "PhoneCapture/p0.safetensors").write_bytes((folder / "PhoneCapture/p0.safetensors").read_bytes()[:-100])
    (folder / "PhoneCapture/p1.safetensors").unlink()
    reader = ShardReader(folder)
    for item in (0, 3):
        with pytest.raises(UserError, match=r"PhoneCapture/p[01].safetensors"):
            reader.read(reader.records()["PhoneCapture"][item])


def test_nan_is_refused_with_the_name_of_the_clip(tmp_path):
    bad = window(0)
    bad["latents"][3, 1, 2, 2] = float("nan")
    with pytest.raises(UserError, match="p0/talk/phone"):
        write_shard(
            tmp_path / "x.safetensors",
            dataset="PhoneCapture",
            identity="p0",
            split="train",
            records=[("r0", "p0/talk/phone", 0, bad)],
            references=references(0),
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_frames_beyond_the_window_and_lengths_other_than_4k_plus_1_are_refused(tmp_path):
    reader = ShardReader(write_folder(tmp_path))
    record = reader.records()["PhoneCapture"][0]
    for frames in (13, 8):
        with pytest.raises(UserError, match="4k"):
            reader.read(record, frames)


def test_a_folder_whose_index_was_never_written_is_no_shard_folder(tmp_path):
    ShardWriter(tmp_path, "vae0", {})
    with pytest.raises(UserError, match="encode"):
        ShardReader(tmp_path)


def test_the_hash_changes_with_the_vae_and_with_a_record(tmp_path):
    one = ShardReader(write_folder(tmp_path / "a")).hash
    assert one == ShardReader(write_folder(tmp_path / "b")).hash
    assert one != ShardReader(write_folder(tmp_path / "c", records=2)).hash
