from dataclasses import replace

import numpy as np
import pytest
import torch

from fportrait.avatar.captures import read_capture
from fportrait.avatar.evidence import CHANNELS, SEEN_CHANNEL, gather_evidence
from fportrait.avatar.model import AvatarConfig, GaussianAvatar, avatar_config
from fportrait.avatar.prior import AvatarPrior, PriorConfig
from fportrait.avatar.prior_training import (
    PriorTraining,
    Studio,
    capture_person,
    film_person,
    landmark_ambiguity,
    prior_training,
    read_person,
    train_prior,
)
from fportrait.errors import UserError

AVATAR = AvatarConfig(gaussians=700, latents=2)
TRAINING = PriorTraining(PriorConfig(AVATAR, hidden=16, embedding=4, person=8), steps=40, size=40)


@pytest.fixture
def studio_capture(capture, body, reader, tmp_path):
    return read_capture(capture.frames, capture.shape, body, AVATAR, 40, 100, root=tmp_path, read_video=reader)


@pytest.fixture(scope="module")
def people(body, tmp_path_factory):
    """Three embedded people filmed small."""
    folder = tmp_path_factory.mktemp("people")
    studio = Studio(frames=2, cameras=4, size=40)
    subjects = []
    for seed in range(3):
        (folder / str(seed)).mkdir()
        film_person(seed, folder / str(seed), studio, TRAINING)
        subjects.append(read_person(folder / str(seed) / "person.npz", body, TRAINING))
    return subjects


def test_evidence_tells_colour_where_the_surface_is_seen_and_background_where_it_is_not(studio_capture, truth):
    evidence = studio_capture.evidence()
    assert evidence.shape == (700, CHANNELS) and np.isfinite(evidence).all()
    face = (truth.parts == "face") & (truth._rest_frames[:, 2, 2].numpy() > 0.8)
    painted = truth.colour.detach().numpy()
    assert np.abs(evidence[face, :3] - painted[face]).mean() < 0.05
    assert evidence[face, SEEN_CHANNEL].mean() > 0.9
    inside = np.isin(truth.parts, ["mouth_cavity"])
    assert evidence[inside, SEEN_CHANNEL].mean() < 0.5
    hull = evidence[:, 4::6][:, :5]  # minimal foreground per height: the surface, below it, and three heights above
    assert hull[face, 1].mean() > hull[face, 4].mean() + 0.1


def test_evidence_ignores_what_is_kept_aside(capture, body, reader, tmp_path):
    def evidence(frames):
        return read_capture(
            frames, capture.shape, body, AVATAR, 40, 100, holdout_every=3, root=tmp_path, read_video=reader
        )

    one = evidence(capture.frames)
    assert one.kept_frames
    some = gather_evidence(one.avatar, one.frames, one.group("fitted"), one.guides, one.backgrounds)
    assert np.array_equal(one.evidence(), some)
    assert not {v.frame for v in one.group("fitted")} & one.kept_frames


def test_an_untrained_prior_gives_the_coloured_mesh(studio_capture, body):
    prior = AvatarPrior(body, TRAINING.prior)
    prior.apply_to(studio_capture.avatar, studio_capture.evidence())
    avatar = studio_capture.avatar
    assert float(avatar.offset.detach().abs().max()) == 0 and float(avatar.shape_change.detach().abs().max()) == 0
    seen = studio_capture.evidence()[:, SEEN_CHANNEL] == 1
    assert torch.allclose(avatar.colour[seen], torch.from_numpy(studio_capture.evidence()[seen, :3]), atol=1e-5)


def test_training_over_people_lowers_the_loss_and_tells_people_apart(people, body):
    curve = []
    prior = train_prior(
        people, body, PriorTraining(TRAINING.prior, steps=100, size=40), log=lambda _, values: curve.append(values)
    )
    assert curve[-1]["prior_loss"] < 0.97 * curve[0]["prior_loss"]
    with torch.no_grad():
        maps = [prior(torch.from_numpy(person.evidence[0])) for person in people[:2]]
    assert (maps[0]["colour"] - maps[1]["colour"]).abs().mean() > 0.01
    assert prior.record["people"] == 3 and np.isfinite(prior.record["last_loss"])


def test_the_same_seed_trains_the_same_bits(people, body):
    config = PriorTraining(TRAINING.prior, steps=3, size=40)
    one, other = (train_prior(people, body, config, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_capture_becomes_a_person_to_train_on(studio_capture, capture, body):
    person = capture_person("ada", capture.shape, body, studio_capture.frames, studio_capture.views, TRAINING)
    assert len(person.targets) == len(studio_capture.views)
    assert person.actions.shape == (len(studio_capture.frames), len(body.action_names))
    assert not np.array_equal(*person.evidence)  # from different cameras


def test_a_saved_prior_predicts_the_same_up_to_half_precision(body, people, tmp_path):
    prior = train_prior(people, body, PriorTraining(TRAINING.prior, steps=5, size=40))
    evidence = torch.from_numpy(people[0].evidence[0])
    with torch.no_grad():
        exact = prior(evidence)
        again = AvatarPrior.load(prior.save(tmp_path / "exact", half=False), body)(evidence)
        half = AvatarPrior.load(prior.save(tmp_path / "half"), body)(evidence)
    for name, value in exact.items():
        assert torch.equal(value, again[name])
        assert torch.allclose(value, half[name], atol=0.02), name


def test_a_missing_a_broken_and_another_size_of_prior_are_refused(body, tmp_path, studio_capture):
    with pytest.raises(UserError, match="no avatar prior"):
        AvatarPrior.load(tmp_path / "nothing", body)
    folder = AvatarPrior(body, TRAINING.prior).save(tmp_path / "prior")
    (folder / "avatar_prior.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(UserError, match="broken avatar prior"):
        AvatarPrior.load(folder, body)
    larger = AvatarPrior(body, PriorConfig(AvatarConfig(gaussians=800, latents=2)))
    with pytest.raises(UserError, match="a prior for"):
        larger.apply_to(studio_capture.avatar, studio_capture.evidence())


def test_nobody_to_train_on_and_unknown_parameters_are_refused(body):
    with pytest.raises(UserError, match="nobody"):
        train_prior([], body, TRAINING)
    with pytest.raises(UserError, match="steps"):
        prior_training({"stepss": 3})


def test_errors_of_shape_that_landmarks_cannot_exclude_move_the_skull_more_than_the_face(body):
    factor = landmark_ambiguity(body, 0.01)
    rng = np.random.default_rng(0)
    neutral = body.neutral(np.zeros(body.identity_dim))
    moved = [body.neutral(factor @ rng.standard_normal(body.identity_dim)) - neutral for _ in range(20)]
    distance = np.linalg.norm(moved, axis=2).mean(axis=0)
    part = np.asarray(body.part_names)[np.asarray(body.part)]
    assert distance[part == "scalp"].mean() > 2 * distance[part == "face"].mean()


def test_avatars_of_different_people_share_their_places_on_the_uv_map(body):
    rng = np.random.default_rng(1)
    one, other = (GaussianAvatar(rng.normal(0, 0.5, body.identity_dim), body, AVATAR) for _ in range(2))
    assert one.layout is other.layout
    assert one.layout.uv.min() >= 0 and one.layout.uv.max() <= 1
    assert not torch.allclose(one._rest_centre, other._rest_centre)


def test_a_denser_torso_takes_gaussians_from_the_other_parts_and_the_shipped_prior_refuses_it(body):
    shape = np.zeros(body.identity_dim)
    shipped = AvatarPrior.load(body=body)
    usual, dense = (GaussianAvatar(shape, body, AvatarConfig(torso_density=density)) for density in (0.1, 0.7))
    on_torso = [(avatar.parts == "torso").sum() for avatar in (usual, dense)]
    assert on_torso[1] > 3 * on_torso[0] and len(dense.parts) == len(usual.parts)
    with pytest.raises(UserError, match=r"'torso_density': 0\.7"):
        shipped.apply_to(dense, np.zeros((len(dense.parts), CHANNELS), np.float32))
    for wrong in (0.0, float("nan")):
        with pytest.raises(UserError, match="torso_density"):
            avatar_config({"torso_density": wrong})


def test_the_shipped_prior_is_small_and_that_of_the_base_configuration(body):
    from pathlib import Path

    import yaml

    from fportrait.avatar.fitting import fit_config
    from fportrait.avatar.prior import SHIPPED, WEIGHTS

    parameters = Path(__file__).parents[2] / "conf/base/parameters_fit_avatars.yml"
    section = yaml.safe_load(parameters.read_text(encoding="utf-8"))["fit_avatars"]
    prior = AvatarPrior.load(body=body)
    assert section["prior"] == "shipped"
    # offsets of the torso are converted: the shipped prior keeps the limit that it was trained with
    wide = replace(prior.config.avatar, torso_offset_limit=0.03)
    assert fit_config(section["fit"]).avatar == wide
    assert prior.record["people"] >= 100
    assert (SHIPPED / WEIGHTS).stat().st_size < 4e6
    assert prior_training(section["prior_training"]).prior == replace(prior.config, avatar=wide)


def test_the_shipped_prior_dresses_a_stranger_before_any_fitting(body, tmp_path):
    """Feed-forward, on a person it never saw: closer to the pictures than the mesh coloured by the same evidence."""
    from fportrait.avatar.evidence import surface_colours

    prior = AvatarPrior.load(body=body)
    training = PriorTraining(prior.config)
    film_person(50_000, tmp_path, Studio(frames=2, cameras=6), training)
    person = read_person(tmp_path / "person.npz", body, training)
    errors = {}
    for name in ("mesh", "prior"):
        avatar = GaussianAvatar(person.avatar.shape, body, prior.config.avatar)
        if name == "prior":
            prior.apply_to(avatar, person.evidence[0])
        else:
            with torch.no_grad():
                avatar.colour.copy_(torch.from_numpy(surface_colours(avatar, person.evidence[0])))
        wrong = []
        for target in person.targets:
            expression = avatar.expression_of_actions(torch.from_numpy(person.actions[target.frame]).float())
            size = len(target.picture)
            with torch.no_grad():
                drawn, _ = avatar(
                    expression,
                    person.guides[target.frame],
                    target.world_to_camera,
                    target.intrinsics,
                    size,
                    size,
                    target.background,
                )
            wrong.append(float((drawn - torch.from_numpy(target.picture).float() / 255).abs().mean()))
        errors[name] = np.mean(wrong)
    assert errors["prior"] < 0.8 * errors["mesh"]
