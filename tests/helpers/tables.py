"""Small annotation tables that keep the contract, for tests of what reads them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fportrait.body.model import BodyModel, Pose, load_body
from fportrait.camera.cameras import project
from fportrait.tracking.fit import LandmarkModel

LISTS = {
    "world_to_camera": pa.list_(pa.float64()),
    "intrinsics": pa.list_(pa.float64()),
    "crop": pa.list_(pa.float64()),
    "body_rotation": pa.list_(pa.float64()),
    "head_rotation": pa.list_(pa.float64()),
    "body_translation": pa.list_(pa.float64()),
    "expression_code": pa.list_(pa.float32()),
    "landmarks": pa.list_(pa.float32()),
    "shape": pa.list_(pa.float64()),
}
OTHERS = {
    "frame": pa.int32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "confidence": pa.float32(),
    "reference_frame": pa.int32(),
}
MOVES = {  # camera, expression, pose
    "PhoneCapture": (False, True, True),
    "StudioCapture": (False, True, True),
    "ViewSweep": (True, False, False),
    "DynamicSweep": (True, True, True),
}


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def camera(degrees: float, distance: float = 0.55) -> np.ndarray:
    """A camera on a circle around the head, looking at it."""
    front = np.diag([1.0, -1.0, -1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = front @ turn(-degrees)
    matrix[:3, 3] = [0, 0, distance]
    return matrix


@functools.cache
def head() -> tuple[BodyModel, np.ndarray]:
    """The embedded body and its mean landmarks at rest, `478 3`."""
    body = load_body()
    return body, LandmarkModel(body).at(np.zeros(body.identity_dim))


def landmarks_of(row: dict, opened: float) -> np.ndarray:
    """`956`: where the mean head's landmarks lie in a row's picture; `opened` moves lips and lids, metres."""
    body, points = head()
    points = points.copy()
    points[[14, 145, 374], 1] -= opened
    body_rotation, head_rotation = (np.reshape(row[name], (3, 3)) for name in ("body_rotation", "head_rotation"))
    pose = Pose(body_rotation, row["body_translation"], head_rotation)
    rotations, shifts = body.bone_transforms(np.zeros(body.identity_dim), pose)
    camera, intrinsics = np.reshape(row["world_to_camera"], (4, 4)), np.reshape(row["intrinsics"], (3, 3))
    return project(points @ rotations[2].T + shifts[2], camera, intrinsics)[0].astype(np.float32).ravel()


def clip_rows(
    dataset: str, identity: str, segment: str, frames: int, split: str, seed: int, path="v.mp4"
) -> list[dict]:
    rng = np.random.default_rng(seed)
    camera_moves, expression_moves, pose_moves = MOVES[dataset]
    start, change = rng.normal(size=128), rng.normal(size=128)
    rows = []
    for t in range(frames):
        moved = expression_moves * (t / frames + 0.2 * np.sin(2.3 * t) ** 2)
        code = start + change * moved
        rows.append(
            {
                **{"dataset": dataset, "identity": identity, "clip": f"{identity}/{segment}/cam", "camera": "cam"},
                **{"segment": segment, "split": split, "path": path, "frame": t, "width": 64, "height": 64},
                "world_to_camera": camera(2.0 * t * camera_moves).ravel(),
                "intrinsics": np.array([90.0, 0, 32, 0, 90, 32, 0, 0, 1]),
                "crop": np.array([0.0, 0, 64]),
                "body_rotation": np.eye(3).ravel(),
                "head_rotation": turn(1.5 * t * pose_moves).ravel(),
                "body_translation": np.array([0.0, 0, 0.001 * t * pose_moves]),
                "expression_code": code.astype(np.float32),
                "confidence": 0.9,
            }
        )
        rows[-1]["landmarks"] = landmarks_of(rows[-1], 0.01 * moved)
    return rows


def identity_row(dataset: str, identity: str, split: str, clip: str, shape_length: int = 4) -> dict:
    return {
        "dataset": dataset,
        "identity": identity,
        "split": split,
        "shape": np.zeros(shape_length),
        "body_model": "embedded",
        "reference_clip": clip,
        "reference_frame": 0,
    }


def sound_tables(datasets=tuple(MOVES), identities=2, clips=2, frames=9) -> tuple[list[dict], list[dict]]:
    rows, people = [], []
    for dataset in datasets:
        for i in range(identities):
            name, split = f"{dataset[:2].lower()}{i}", "test" if i == identities - 1 else "train"
            for c in range(clips):
                rows += clip_rows(dataset, name, f"s{c}", frames, split, seed=100 * i + c)
            people.append(identity_row(dataset, name, split, f"{name}/s0/cam"))
    return rows, people


def write_tables(folder: Path, rows: list[dict], people: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("frames", rows), ("identities", people)):
        frame = pd.DataFrame(table)
        schema = pa.schema([(column, LISTS.get(column) or OTHERS.get(column) or pa.string()) for column in frame])
        pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), folder / f"{name}.parquet")
    return folder


def small_codec(seed: int = 0):
    """A codec of the real class on random orthonormal bases: fitting takes seconds, and no test here needs it good."""
    import torch

    from fportrait.diffusion.codec import BlockCodec

    generator = torch.Generator().manual_seed(seed)
    codec = BlockCodec(refiner_blocks=0)
    for basis in (codec.frame_basis, codec.group_basis):
        basis.copy_(torch.linalg.qr(torch.randn(basis.shape, generator=generator)).Q)
    return codec.eval()
