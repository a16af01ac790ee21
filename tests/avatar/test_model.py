import numpy as np
import pytest
import torch

from fportrait.avatar.model import GaussianAvatar, avatar_config
from fportrait.body.model import Pose, rotation_matrix
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit
from fportrait.errors import UserError

INTRINSICS = intrinsics_from_fov(30.0, 40, 40)
VIEW = orbit(np.zeros(1), np.zeros(1), np.full(1, 0.7))[0]
CODE = np.zeros(128, dtype=np.float32)


def test_a_saved_avatar_draws_the_same_bits(truth, body, tmp_path):
    again = GaussianAvatar.load(truth.save(tmp_path / "ada"), body)
    pictures = [avatar.render(CODE, Pose.rest(), VIEW, INTRINSICS, 40) for avatar in (truth, again)]
    assert pictures[0].dtype == np.uint8 and pictures[0].std() > 10
    assert np.array_equal(*pictures)


def test_a_code_moves_the_face_and_leaves_the_head_where_it_was(truth):
    guide = truth.guide(Pose.rest())
    means = []
    for value in (0.0, 2.0):
        code = CODE.copy()
        code[0] = value
        means.append(truth.gaussians(truth.expression(torch.from_numpy(code)), guide, VIEW).means.detach())
    moved = (means[1] - means[0]).norm(dim=1)
    still = torch.from_numpy(np.isin(truth.parts, ["scalp", "torso"]))
    assert moved.max() > 0.01
    assert moved[still].max() < 1e-3


def test_turning_the_head_turns_every_gaussian_of_the_scalp_rigidly(truth):
    turn = rotation_matrix(np.array([0.0, 0.3, 0.0]))
    before, after = (truth.guide(pose) for pose in (Pose.rest(), Pose(np.eye(3), np.zeros(3), turn)))
    crown = torch.from_numpy((truth.parts == "scalp") & (before.centre[:, 1].numpy() > 0.03))
    assert crown.sum() > 5
    assert (after.turn[crown] - torch.from_numpy(turn).float()).abs().max() < 0.02


@pytest.mark.parametrize("code", [np.zeros(127), np.full(128, np.nan)])
def test_codes_that_are_not_128_finite_numbers_are_refused(truth, code):
    with pytest.raises(UserError, match="expression code"):
        truth.render(code, Pose.rest(), VIEW, INTRINSICS, 40)


def test_a_missing_and_a_broken_avatar_name_the_command(truth, body, tmp_path):
    with pytest.raises(UserError, match="fit_avatars"):
        GaussianAvatar.load(tmp_path / "nobody", body)
    folder = truth.save(tmp_path / "ada")
    (folder / "avatar.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="broken avatar"):
        GaussianAvatar.load(folder, body)


def test_an_unknown_parameter_names_the_nearest():
    with pytest.raises(UserError, match="gaussians"):
        avatar_config({"gausians": 10})
