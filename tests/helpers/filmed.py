"""People of known shape and pose, filmed by known cameras: the body fit's truth, as projected landmarks."""

from __future__ import annotations

import numpy as np

from fportrait.body.model import Pose, load_body, rotation_matrix, rotation_vector
from fportrait.camera.cameras import intrinsics_from_fov, look_at, project
from fportrait.tracking.calibration import Calibration
from fportrait.tracking.fit import LandmarkModel, Observations

BODY = load_body()
MODEL = LandmarkModel(BODY, Calibration.none())  # truth here is the embedding itself
SIZE = 512


def camera(yaw_degrees: float, distance: float = 0.6) -> np.ndarray:
    yaw = np.radians(yaw_degrees)
    return look_at(distance * np.array([np.sin(yaw), 0.0, np.cos(yaw)]), np.zeros(3))


def filmed(identity, poses, actions, yaws, noise=0.0, seed=0) -> Observations:
    """Landmarks of a known person by known cameras, through the body model's own skinning."""
    cameras, intrinsics = np.stack([camera(y) for y in yaws]), intrinsics_from_fov(35.0, SIZE, SIZE)
    points = np.stack(
        [
            np.stack([project(BODY.landmarks(BODY.vertices(identity, a, p)), c, intrinsics)[0] for c in cameras])
            for p, a in zip(poses, actions, strict=True)
        ]
    )
    points = points + np.random.default_rng(seed).normal(0, noise, points.shape)
    return Observations(
        points, cameras, np.stack([intrinsics] * len(cameras))
    ).alone()  # the regression knows real ones


def degrees_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.linalg.norm(rotation_vector(a @ np.swapaxes(b, -1, -2)), axis=-1))


def person(seed: int, frames: int = 6, reach: float = 0.35):
    """Identity, poses and actions, drawn."""
    rng = np.random.default_rng(seed)
    poses = [
        Pose(np.eye(3), rng.normal(0, 0.01, 3), rotation_matrix(rng.uniform(-reach, reach, 3))) for _ in range(frames)
    ]
    actions = np.where(rng.random((frames, 52)) < 0.06, rng.uniform(0, 0.8, (frames, 52)), 0)
    return 0.8 * rng.normal(size=BODY.identity_dim), poses, actions
