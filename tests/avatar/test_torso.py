import numpy as np
import pandas as pd
import pytest
import torch

from fportrait.avatar.captures import read_capture
from fportrait.avatar.model import AvatarConfig, Expression, GaussianAvatar
from fportrait.avatar.prior import AvatarPrior, PriorConfig
from fportrait.avatar.torso import register_torso
from fportrait.body.model import Pose
from fportrait.body.rasterizer import vertex_normals
from fportrait.camera.cameras import intrinsics_from_fov, project
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.tracking.fit import to_pose

SIZE, FRAMES, YAWS = 96, 4, (-50.0, -25.0, 0.0, 25.0, 50.0)
SEED = 43_215_000  # somebody in upright stripes
CONFIG = AvatarConfig(gaussians=4000, torso_density=0.7, latents=2)


@pytest.fixture(scope="module")
def person(body):
    return sample_person(SEED, body)


@pytest.fixture(scope="module")
def swaying(body, person):
    """Somebody sways, tracked as by the face: the head right, an average torso upright. Table, videos, true poses."""
    intrinsics = intrinsics_from_fov(24.0, SIZE, SIZE)
    rows, videos, poses = [], {}, []
    for frame in range(FRAMES):
        turn = rotation_from_degrees(2.5 - frame, 2.0, 0.5 * frame)
        poses.append(Pose(turn, np.array([0.0, 0.0, 0.004]), np.eye(3)))
    for number, yaw in enumerate(YAWS):
        camera = orbit_camera(yaw, 6.0 * (-1) ** number, 0.9, HEAD_TARGET)
        path = f"data/cam{number}.mp4"
        videos[path] = np.stack([render(person, None, pose, camera, intrinsics, SIZE, 2, body) for pose in poses])
        for frame, true in enumerate(poses):
            rotations, shifts = body.bone_transforms(person.identity, true)
            pose = to_pose(body, np.zeros(body.identity_dim), rotations[2], shifts[2])
            pixels, _ = project(body.landmarks(body.vertices(person.identity, None, true)), camera, intrinsics)
            rows.append(
                {
                    "dataset": "StudioCapture",
                    "identity": "bo",
                    "clip": f"bo/s/{number}",
                    "camera": f"cam{number}",
                    "segment": "s",
                    "path": path,
                    "frame": 10 * frame,
                    "world_to_camera": camera.ravel(),
                    "intrinsics": intrinsics.ravel(),
                    "crop": [0.0, 0.0, float(SIZE)],
                    "body_rotation": pose.body_rotation.ravel(),
                    "head_rotation": pose.head_rotation.ravel(),
                    "body_translation": pose.body_translation,
                    "expression_code": np.zeros(128, np.float32),
                    "landmarks": pixels.ravel(),
                    "confidence": 1.0,
                }
            )
        videos[path] = np.repeat(videos[path], 10, axis=0)  # ten frames apart: sway is slow
    return pd.DataFrame(rows), videos, poses


@pytest.fixture
def swaying_capture(swaying, body, tmp_path):
    frames, videos, _ = swaying
    reader = lambda path: videos[path.relative_to(tmp_path.resolve()).as_posix()]  # noqa: E731
    return read_capture(frames, np.zeros(body.identity_dim), body, CONFIG, SIZE, 100, root=tmp_path, read_video=reader)


def torso_places(capture, frame):
    avatar = capture.avatar
    rest = Expression(torch.zeros(avatar.action_bias.shape), torch.zeros(2))
    with torch.no_grad():
        means = avatar.without_view(rest, capture.guides[frame])[0].means.numpy()
    front = (avatar.parts == "torso") & (avatar.layout.centre[:, 1] > -0.2) & (avatar.layout.centre[:, 2] > 0.0)
    return means[front]


def millimetres_off(places, person, pose, body):
    """Median distance of places from the garment's vertices along their normals."""
    from scipy.spatial import cKDTree

    vertices = body.vertices(person.identity, None, pose)
    normals = vertex_normals(vertices, body.faces, body.weld)
    garment = vertices + normals * person.puff[:, None]
    nearest = cKDTree(garment).query(places)[1]
    return 1e3 * np.median(np.abs(((places - garment[nearest]) * normals[nearest]).sum(axis=1)))


def test_the_torso_is_put_where_the_pictures_show_it(swaying_capture, swaying, person, body):
    poses = swaying[2]
    before = [millimetres_off(torso_places(swaying_capture, m), person, poses[m], body) for m in range(FRAMES)]
    found = register_torso(swaying_capture)
    after = [millimetres_off(torso_places(swaying_capture, m), person, poses[m], body) for m in range(FRAMES)]
    assert found["consistency_after"] < found["consistency_before"]
    assert np.mean(after) < 0.5 * np.mean(before)
    assert 0.3 < found["sway_degrees"] < 3.0


def test_only_sway_is_left_in_the_guides_and_the_head_does_not_move(swaying_capture):
    still = [guide.centre.clone() for guide in swaying_capture.guides]
    register_torso(swaying_capture)
    moved = torch.stack([guide.centre - old for guide, old in zip(swaying_capture.guides, still, strict=True)])
    parts = swaying_capture.avatar.parts
    assert moved[:, parts == "torso"].abs().max() > 1e-3
    assert moved[:, parts == "torso"].mean(dim=0).abs().max() < 3e-4
    assert moved[:, np.isin(parts, ["eyes", "teeth"])].abs().max() < 1e-6
    assert moved[:, parts == "face"].abs().max() < 1e-3  # the jaw's edge hangs on the neck a little


def test_a_capture_that_shows_no_torso_is_left_as_it_is(swaying_capture):
    for view in swaying_capture.views:
        view.covered = view.covered.copy()
        view.covered[SIZE // 2 :] = 0.0
    before = {name: value.clone() for name, value in swaying_capture.avatar.state_dict().items()}
    guides = swaying_capture.guides
    assert register_torso(swaying_capture) is None
    assert swaying_capture.guides is guides
    assert all(torch.equal(before[name], value) for name, value in swaying_capture.avatar.state_dict().items())


def test_a_prior_with_another_limit_of_the_torso_puts_gaussians_at_the_same_places(body):
    narrow = AvatarConfig(gaussians=700, latents=2, torso_offset_limit=0.01)
    wide = AvatarConfig(gaussians=700, latents=2)
    prior = AvatarPrior(body, PriorConfig(narrow))
    with torch.no_grad():
        prior.split(prior.mean_maps)["offset"].normal_(generator=torch.Generator().manual_seed(0))
    evidence, metres = np.random.default_rng(0).random((700, len(prior.evidence_mean))).astype(np.float32), []
    for config in (narrow, wide):
        avatar = GaussianAvatar(np.zeros(body.identity_dim), body, config)
        prior.apply_to(avatar, evidence)
        metres.append((avatar._offset_limit * torch.tanh(avatar.offset)).detach())
    assert metres[0].abs().max() > 1e-3
    assert torch.allclose(*metres, atol=1e-6)
