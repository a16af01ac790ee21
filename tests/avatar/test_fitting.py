import numpy as np
import pytest
import torch

from fportrait.avatar import fitting
from fportrait.avatar.expression import actions_from_landmarks
from fportrait.avatar.fitting import fit_avatar, fit_config
from fportrait.avatar.prior import AvatarPrior, PriorConfig
from fportrait.avatar.views import load_views
from fportrait.errors import UserError

SMALL = {"avatar": {"gaussians": 700, "latents": 2}, "size": 40, "steps": 30, "batch": 2, "holdout_every": 3}


def test_a_fit_learns_the_pictures_and_scores_what_it_never_saw(capture, body, reader, tmp_path):
    scores = {}
    for steps in (1, SMALL["steps"]):
        config = fit_config({**SMALL, "steps": steps})
        scores[steps] = fit_avatar(capture.frames, capture.shape, body, config, 0, tmp_path, reader).scores
    first, last = scores[1], scores[SMALL["steps"]]
    assert last["stopped"] is None
    assert last["psnr_fitted"] > first["psnr_fitted"] + 1
    assert last["psnr_frames"] > first["psnr_frames"] + 0.5
    assert last["psnr_frames"] > 22


def test_the_same_seed_fits_the_same_bits(capture, body, reader, tmp_path):
    config = fit_config({**SMALL, "steps": 3})
    one, other = (fit_avatar(capture.frames, capture.shape, body, config, 5, tmp_path, reader) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_actions_are_read_off_the_landmarks(capture, body, reader, tmp_path):
    frames, views = load_views(capture.frames, 40, 100, tmp_path, reader)
    jaw = actions_from_landmarks(body, capture.shape, frames, views)[:, body.action_names.index("jawOpen")]
    true = np.array([0.4 * frame.code[0] for frame in frames])
    assert np.corrcoef(jaw, true)[0, 1] > 0.95
    assert np.polyfit(true, jaw, 1)[0] > 0.6


def test_a_step_that_is_not_finite_stops_and_keeps_the_last_good_state(capture, body, reader, tmp_path, monkeypatch):
    monkeypatch.setitem(fitting.RATES, "colour", float("inf"))
    avatar = fit_avatar(capture.frames, capture.shape, body, fit_config(SMALL), 0, tmp_path, reader)
    assert avatar.scores["stopped"].startswith("ada, step")
    assert all(torch.isfinite(tensor).all() for tensor in avatar.state_dict().values())


def test_too_few_cameras_are_refused(capture, body, reader, tmp_path):
    frames = capture.frames[capture.frames.camera.isin(["cam00", "cam01"])]
    with pytest.raises(UserError, match="2 cameras in the capture of ada"):
        fit_avatar(frames, capture.shape, body, fit_config(SMALL), 0, tmp_path, reader)


def test_a_camera_inside_the_head_is_refused(capture, body, reader, tmp_path):
    frames = capture.frames.copy()
    inside = np.eye(4)
    inside[2, 3] = 0.05
    frames["world_to_camera"] = [
        inside.ravel().tolist() if camera == "cam02" else matrix
        for camera, matrix in zip(frames.camera, frames.world_to_camera, strict=True)
    ]
    with pytest.raises(UserError, match="camera cam02 of ada"):
        fit_avatar(frames, capture.shape, body, fit_config(SMALL), 0, tmp_path, reader)


def test_a_shape_that_is_not_finite_and_a_path_that_escapes_are_refused(capture, body, reader, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        fit_avatar(capture.frames, capture.shape * np.nan, body, fit_config(SMALL), 0, tmp_path, reader)
    frames = capture.frames.assign(path="../elsewhere.mp4")
    with pytest.raises(UserError, match="outside the project"):
        fit_avatar(frames, capture.shape, body, fit_config(SMALL), 0, tmp_path, reader)


def test_a_mesh_that_failed_is_refused_by_its_frame(capture, body, reader, tmp_path):
    broken = [float("nan")] * 3
    frames = capture.frames.copy()
    frames["body_translation"] = [broken if frame == 4 else [0.0] * 3 for frame in frames.frame]
    with pytest.raises(UserError, match="mesh of ada that is not finite, at frame 4 of s0"):
        fit_avatar(frames, capture.shape, body, fit_config(SMALL), 0, tmp_path, reader)


def test_a_fit_holds_on_to_its_prior_where_no_camera_looks(capture, body, reader, tmp_path):
    prior = AvatarPrior(body, PriorConfig(fit_config(SMALL).avatar))
    with torch.no_grad():
        prior.split(prior.mean_maps)["colour"][:, 2] += 1.0
    colours = []
    for steps in (1, 30):
        config = fit_config({**SMALL, "steps": steps})
        avatar = fit_avatar(capture.frames, capture.shape, body, config, 0, tmp_path, reader, prior=prior)
        colours.append(avatar.colour.detach())
    moved = (colours[1] - colours[0]).abs().mean(dim=1).numpy()
    behind = (avatar.layout.parts == "scalp") & (avatar._rest_frames[:, 2, 2].numpy() < -0.8)
    front = (avatar.layout.parts == "face") & (avatar._rest_frames[:, 2, 2].numpy() > 0.8)
    assert behind.sum() > 5
    assert moved[front].mean() > 2.5 * moved[behind].mean()


def test_unknown_parameters_name_the_nearest():
    with pytest.raises(UserError, match="batch"):
        fit_config({"batc": 3})


def test_a_body_that_is_not_the_embedded_one_is_refused_by_name():
    with pytest.raises(UserError, match="the body model 'smplx' for an avatar"):
        fit_config({"avatar": {"body_model": "smplx"}})
