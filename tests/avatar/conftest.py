"""A tiny capture whose truth is itself an avatar: quick to draw, and a fit can in principle reach it exactly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from fportrait.avatar.model import AvatarConfig, GaussianAvatar
from fportrait.body.model import Pose, load_body, rotation_matrix
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.camera.paths import orbit

SIZE, FRAMES, CAMERAS = 40, 6, 4


@pytest.fixture(scope="session")
def body():
    return load_body()


@pytest.fixture(scope="session")
def truth(body):
    """An avatar with painted normals, whose first code dimension opens the jaw."""
    avatar = GaussianAvatar(np.zeros(body.identity_dim), body, AvatarConfig(gaussians=700, latents=2))
    with torch.no_grad():
        avatar.colour.copy_(0.5 + 0.4 * avatar._rest_frames[:, :, 2])
        avatar.action_weight[body.action_names.index("jawOpen"), 0] = 0.4
    return avatar


@pytest.fixture(scope="session")
def capture(body, truth):
    """`frames` table, `videos` by path, `shape`: four cameras, one segment, jaw and head moving."""
    intrinsics = intrinsics_from_fov(30.0, SIZE, SIZE)
    cameras = orbit(np.array([-40.0, -10.0, 15.0, 45.0]), np.zeros(4), np.full(4, 0.7))
    rows, videos = [], {}
    for number in range(CAMERAS):
        path = f"data/cam{number:02d}.mp4"
        pictures = []
        for frame in range(FRAMES):
            code = np.zeros(128, dtype=np.float32)
            code[0] = 2.0 * (frame % 3) / 2
            pose = Pose(np.eye(3), np.zeros(3), rotation_matrix(np.array([0.0, 0.04 * frame, 0.0])))
            pictures.append(truth.render(code, pose, cameras[number], intrinsics, SIZE))
            strengths = truth.expression(torch.from_numpy(code)).actions.detach().clamp(0, 1).numpy()
            marks = body.landmarks(body.vertices(truth.shape, strengths, pose))
            pixels, _ = project(marks, cameras[number], intrinsics)
            rows.append(
                {
                    "dataset": "StudioCapture",
                    "identity": "ada",
                    "clip": f"ada/s0/cam{number:02d}",
                    "camera": f"cam{number:02d}",
                    "segment": "s0",
                    "split": "train",
                    "path": path,
                    "frame": frame,
                    "width": SIZE,
                    "height": SIZE,
                    "world_to_camera": cameras[number].ravel().tolist(),
                    "intrinsics": intrinsics.ravel().tolist(),
                    "crop": [0.0, 0.0, float(SIZE)],
                    "body_rotation": pose.body_rotation.ravel().tolist(),
                    "head_rotation": pose.head_rotation.ravel().tolist(),
                    "body_translation": [0.0, 0.0, 0.0],
                    "expression_code": code,
                    "landmarks": pixels.astype(np.float32).ravel(),
                    "confidence": 1.0,
                }
            )
        videos[path] = np.stack(pictures)
    return SimpleNamespace(frames=pd.DataFrame(rows), videos=videos, shape=truth.shape)


@pytest.fixture
def reader(capture, tmp_path):
    """A video reader that serves the tiny capture below `tmp_path`."""
    return lambda path: capture.videos[path.relative_to(tmp_path.resolve()).as_posix()]
