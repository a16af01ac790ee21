"""The landmark calibration: offsets put into sightings are found again, and its file is checked."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import Pose, load_body, rotation_matrix
from fportrait.camera.cameras import intrinsics_from_fov, look_at, project
from fportrait.errors import UserError
from fportrait.tracking.calibration import Calibration
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.making.calibration import Sighting, calibrate

BODY = load_body()


def test_known_offsets_are_found_again():
    rng = np.random.default_rng(0)
    offset = np.zeros((478, 3))
    offset[:, 1], offset[:, 2] = 0.004, rng.normal(0, 0.002, 478)
    model = LandmarkModel(BODY, Calibration(offset, np.full(478, 0.02)))
    intrinsics, sightings = intrinsics_from_fov(35.0, 256, 256), []
    for _ in range(40):
        identity, pose = 0.5 * rng.normal(size=BODY.identity_dim), Pose.rest()
        pose = Pose(pose.body_rotation, pose.body_translation, rotation_matrix(rng.uniform(-0.3, 0.3, 3)))
        yaw = rng.uniform(-0.8, 0.8)
        camera = look_at(0.6 * np.array([np.sin(yaw), 0, np.cos(yaw)]), np.zeros(3))
        rotations, shifts = BODY.bone_transforms(identity, pose)
        points = model.at(identity) @ rotations[2].T + shifts[2]
        pixels = project(points, camera, intrinsics)[0] + rng.normal(0, 0.3, (478, 2))
        sightings.append(Sighting(pixels, identity, np.zeros(52), pose, camera, intrinsics))
    found = calibrate(sightings, BODY)
    seen = BODY.landmark_valid & (found.sigmas < 0.1)
    assert seen.sum() > 300
    assert np.median(np.linalg.norm(found.offsets - offset, axis=1)[seen]) < 0.001
    assert np.median(found.sigmas[seen]) < 0.02


def test_too_few_sightings_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="sightings"):
        calibrate([], BODY)
    with pytest.raises(UserError, match="no file"):
        Calibration.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "short.npz", offsets=np.zeros((4, 3)), sigmas=np.ones(4))
    with pytest.raises(UserError, match="478"):
        Calibration.load(tmp_path / "short.npz")


def test_a_saved_calibration_reads_back_and_the_shipped_one_is_millimetres(tmp_path):
    Calibration.none().save(tmp_path / "c.npz")
    assert not Calibration.load(tmp_path / "c.npz").offsets.any()
    shipped = Calibration.load()
    assert 0.0005 < np.linalg.norm(shipped.offsets, axis=1)[BODY.landmark_valid].mean() < 0.01
