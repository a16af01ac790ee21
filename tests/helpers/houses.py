"""What an evaluation needs, made tiny: a base, a model, shards with held-out people, and their annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fportrait.body.model import load_body
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.video_io import read_video, write_video
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.dataset.crops import crop_picture
from fportrait.dataset.encode import vae_hash
from fportrait.dataset.shards import ShardReader, ShardWriter, write_shard
from fportrait.diffusion.codec import BlockCodec, encode_video
from fportrait.pixels import to_model_range
from helpers.small import moving_picture, record, references, transformer

PROTOCOL = {"records": 3, "steps": 2, "batch": 2, "control": False}
PEOPLE = {"p0": 0.5, "p1": -0.5, "p2": 0.0}


def write_house(root: Path, picture: Callable[[int], np.ndarray] = moving_picture) -> Path:
    """base/vae, base/expression_encoder absent, model/transformer, and shards with three held-out people.

    Args:
        picture: a person's video `T S S 3`, by number.
    """
    codec = BlockCodec(refiner_blocks=0)
    codec.fit_pca([to_model_range(np.stack([moving_picture(seed) for seed in range(8)]))])
    codec.save_pretrained(root / "base/vae")
    transformer().save_pretrained(root / "base/transformer")
    transformer(1).save_pretrained(root / "model/transformer")
    writer = ShardWriter(root / "shards", vae_hash(root / "base/vae"), {"window": 9})
    for dataset, identity, split in (
        ("PhoneCapture", "p0", "test"),
        ("PhoneCapture", "p1", "test"),
        ("ViewSweep", "v0", "test"),
        ("PhoneCapture", "p2", "train"),
        ("ViewSweep", "v1", "train"),
    ):
        records = []
        for r in range(2):
            tensors = record(r, 9)
            video = picture(number_of(identity, r))
            tensors["latents"] = encode_video(codec, to_model_range(video[None]))[0]
            if split == "test":
                tensors["video"] = torch.from_numpy(video)
                tensors["landmarks"] = torch.rand(9, 478, 2) * 32
            records.append((f"r{r}", f"{identity}/s{r}/cam", 0, tensors))
        portraits = references(0)
        portraits["images"] = torch.from_numpy(picture(number_of(identity, 0))[:2])
        rows = write_shard(
            root / "unit.safetensors",
            dataset=dataset,
            identity=identity,
            split=split,
            records=records,
            references=portraits,
        )
        writer.add(root / "unit.safetensors", rows)
        (root / "unit.safetensors").unlink()
    writer.finish()
    return root


def number_of(identity: str, take: int) -> int:
    return 10 * take + sum(map(ord, identity))


def film(folder: Path, number: int, scale: int = 4) -> np.ndarray:
    """What is read back of a person's video, filmed `scale` times larger into `folder`, with a border around it."""
    path = folder / f"{number}.mp4"
    if not path.is_file():
        large = np.kron(moving_picture(number), np.ones((1, scale, scale, 1), np.uint8))
        write_video(path, np.pad(large, ((0, 0), (6, 2), (10, 4), (0, 0))), 30)
    side = moving_picture(number).shape[1]
    return np.stack([crop_picture(picture, (10, 6, scale * side), side) for picture in read_video(path)])


def write_films(folder: Path, house: Path) -> Path:
    """Annotations of the held-out clips of a house that was made with `film(folder, …)`."""
    frames, identities = [], []
    for dataset, records in ShardReader(house / "shards").records("test").items():
        for one in records:
            path = folder / f"{number_of(one.identity, int(one.record[1:]))}.mp4"
            for t in range(one.frames):
                frames.append(
                    {
                        "dataset": dataset,
                        "identity": one.identity,
                        "clip": one.clip,
                        "frame": t,
                        "path": str(path),
                        "crop": [10.0, 6.0, 128.0],
                        "world_to_camera": orbit_camera(t, 0, 0.55, HEAD_TARGET).ravel(),
                        "intrinsics": np.array([[500.0, 0, 80], [0, 500, 70], [0, 0, 1]]).ravel(),
                    }
                )
        for person in sorted({one.identity for one in records}):
            identities.append(
                {"dataset": dataset, "identity": person, "reference_clip": f"{person}/s0/cam", "reference_frame": 0}
            )
    pd.DataFrame(frames).to_parquet(folder / "frames.parquet")
    pd.DataFrame(identities).to_parquet(folder / "identities.parquet")
    return folder


def write_annotations(folder: Path) -> Path:
    """Frames and identities of the house's people; p1 turns the head, and films a metre beside the others' world."""
    body, frames, identities = load_body(), [], []
    for person, first in PEOPLE.items():
        shape = np.zeros(body.identity_dim)
        shape[0] = first
        away = np.array([1.0, 0, 0]) * (person == "p1")
        camera = orbit_camera(0, 0, 0.55, HEAD_TARGET + away)
        for segment in range(2):
            for t in range(9):
                turn = rotation_from_degrees(3 * t * (person == "p1"), 0, 0)
                frames.append(
                    {
                        "dataset": "PhoneCapture",
                        "identity": person,
                        "clip": f"{person}/s{segment}/cam",
                        "frame": t,
                        "world_to_camera": camera.ravel(),
                        "body_rotation": np.eye(3).ravel(),
                        "body_translation": away,
                        "head_rotation": turn.ravel(),
                        "expression_code": np.full(128, t / 9),
                    }
                )
        identities.append(
            {
                "dataset": "PhoneCapture",
                "identity": person,
                "shape": shape,
                "body_model": "embedded",
                "reference_clip": f"{person}/s0/cam",
                "reference_frame": 0,
            }
        )
    pd.DataFrame(frames).to_parquet(folder / "frames.parquet")
    pd.DataFrame(identities).to_parquet(folder / "identities.parquet")
    return folder
