"""The landmark refiner: it moves strangers' landmarks to their places, knows whom it does not know, and its file is
checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fportrait.body.model import load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.errors import UserError
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.making import refinement
from fportrait.tracking.making.refinement import faces, remaining, train_refiner
from fportrait.tracking.refinement import STRANGE, LandmarkRefiner, shipped_refiner
from fportrait.tracking.segments import track_segments

BODY = load_body()
STRANGERS = range(2_000_000, 2_000_010)  # numbers of people that nothing was trained on


@pytest.fixture(scope="module")
def strangers():
    return faces(STRANGERS, 6, BODY)


def test_landmarks_of_strangers_come_nearer_to_their_places(strangers):
    found = remaining(shipped_refiner(), strangers)
    assert 0.02 < found["as_seen"] < 0.06  # the network's own error, which there must be
    assert found["refined"] < 0.65 * found["as_seen"]


def test_frames_without_a_face_and_landmarks_without_a_place_stay(strangers):
    landmarks = strangers.landmarks[:3].copy()
    landmarks[1] = np.nan
    refined = shipped_refiner().refine(landmarks, strangers.crops[:3])
    assert np.isnan(refined[1]).all()
    off_mesh = np.setdiff1d(np.arange(478), shipped_refiner().valid.numpy())
    assert np.array_equal(refined[[0, 2]][:, off_mesh], landmarks[[0, 2]][:, off_mesh])
    alone = shipped_refiner().refine(strangers.landmarks[2:3], strangers.crops[2:3])
    assert np.allclose(refined[2], alone[0], atol=1e-3)


def test_rendered_people_are_familiar_and_a_photograph_is_left_as_it_came(strangers, photograph):
    seen = shipped_refiner().strangeness(strangers.landmarks)
    lowest = [np.quantile(seen[strangers.person == person], 0.1) for person in np.unique(strangers.person)]
    assert np.mean(np.array(lowest) < STRANGE) >= 0.9  # heads at their limits, seen from aside: a clip is milder
    intrinsics = intrinsics_from_fov(50.0, 320, 320)
    clip = Clip("photograph", "photograph", "", "phone", 320, 320, intrinsics, None)
    poses = []
    for refine in (True, False):
        config = TrackConfig(refine_landmarks=refine)
        read = read_landmarks([photograph[:320, 60:380]] * 2, "photograph", 48, config)
        assert (read.refined is not None) == refine
        shape, (track,) = track_segments([[(clip, read)]], LandmarkModel(BODY), config)
        poses.append((shape, track.rotations, track.translations))
    assert shipped_refiner().strangeness(read.landmarks).min() > STRANGE
    assert all(np.array_equal(a, b) for a, b in zip(*poses, strict=True))


def test_it_learns_and_reads_back(strangers, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "MODES", 8)
    torch.manual_seed(0)
    model = train_refiner(strangers, shipped_refiner().valid.numpy(), epochs=40, batch=16)
    found = remaining(model, strangers)
    assert found["refined"] < 0.75 * found["as_seen"]  # of faces it has seen
    model.save(tmp_path / "refiner.safetensors")
    again = LandmarkRefiner.load(tmp_path / "refiner.safetensors")
    refined = [one.refine(strangers.landmarks, strangers.crops) for one in (model, again)]
    assert np.allclose(*refined, atol=0.1)  # pixels; matrices are in half precision
    with pytest.raises(UserError, match="at least"):
        train_refiner(refinement.Faces(*(getattr(strangers, name)[:4] for name in vars(strangers))), np.arange(9))


def test_broken_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="no file"):
        LandmarkRefiner.load(tmp_path / "nothing.safetensors")
    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="refiner"):
        LandmarkRefiner.load(tmp_path / "other.safetensors")
    state = shipped_refiner().state_dict()
    save_file({**state, "mean": torch.zeros(3)}, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="tensors"):
        LandmarkRefiner.load(tmp_path / "short.safetensors")


def test_a_wild_persons_landmarks_have_their_places_on_that_very_head():
    wild = faces(range(2_000_003, 2_000_005), 3, BODY, 1.0)
    distance = np.linalg.norm((wild.landmarks - wild.places)[:, BODY.landmark_valid], axis=-1).mean(1)
    size = np.ptp(wild.places, axis=1).max(1)
    assert np.sort(distance / size)[1] < 0.04  # of five; on the others the network's points lie beside the face
    plain = faces(range(2_000_003, 2_000_004), 3, BODY)
    assert (plain.crops[0] != wild.crops[0]).mean() > 0.5
