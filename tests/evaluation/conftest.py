"""A rendered clip with a face, and one of somebody else; a tiny house to evaluate in, and its people's annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.evaluation.embedded import action_vector
from helpers.houses import write_annotations, write_house

FRAMES, SIZE = 6, 128


def talking(seed: int, frames: int = FRAMES, size: int = SIZE) -> np.ndarray:
    """A person who opens the mouth, smiles and turns a little, `T S S 3` uint8."""
    body = load_body()
    person = sample_person(seed, body)
    camera, intrinsics = orbit_camera(0, 0, 0.55, HEAD_TARGET), intrinsics_from_fov(30, size, size)
    video = []
    for t in range(frames):
        share = t / max(frames - 1, 1)
        actions = action_vector({"jawOpen": share, "mouthSmileLeft": 1 - share, "mouthSmileRight": 1 - share}, body)
        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(10 * share - 5, 0, 0))
        video.append(render(person, actions, pose, camera, intrinsics, size, 1, body))
    return np.stack(video)


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    return talking(170_000_001)


@pytest.fixture(scope="session")
def stranger() -> np.ndarray:
    return talking(170_000_002)


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    return write_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def annotations(tmp_path) -> Path:
    return write_annotations(tmp_path)
