"""The known encoder learns strangers: what is rendered for it, what it must say of whom, and stops on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fportrait.body.model import load_body
from fportrait.capture import people
from fportrait.errors import UserError
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.making import wide_faces
from fportrait.tracking.making.wide_expression import (
    SHIPPED,
    WideTraining,
    make,
    seen,
    train_wide_encoder,
    whitening,
    wide_loss,
    wide_scores,
)
from fportrait.tracking.making.wide_faces import FaceRecipe, load_faces, render_chunk
from fportrait.tracking.neutral import faces_at_rest

TINY = FaceRecipe(people=3, faces=2, plain=2, crowd=2, stored=40, chunk=2, held_out=1)


@pytest.fixture(scope="module")
def known():
    """A small encoder whose codes are about one."""
    torch.manual_seed(0)
    encoder = ExpressionEncoder(4, 32)
    with torch.no_grad():
        raw = encoder.eval()(torch.rand(64, 3, 32, 32) * 2 - 1)
        encoder.code_mean.copy_(raw.mean(0))
        encoder.code_std.copy_(raw.std(0).clamp_min(1e-3))
    return encoder


@pytest.fixture(scope="module")
def drawn():
    return {variety: [people.sample_person(seed, load_body(), variety) for seed in (5, 6)] for variety in (0.0, 1.0)}


@pytest.fixture
def quick_people(monkeypatch, drawn):
    """Two plain and two wild people, small: painting textures takes most of the time."""

    def sample(seed, body, variety=0.0):
        return drawn[variety][seed % 2]

    monkeypatch.setattr(wide_faces, "PICTURE", 64)
    monkeypatch.setattr("fportrait.capture.people.sample_person", sample)
    wide_faces._crowd.cache_clear()
    yield
    wide_faces._crowd.cache_clear()


def noise_faces(known: ExpressionEncoder, count: int) -> dict[str, np.ndarray]:
    """Pictures of nothing, two of each person."""
    rng = np.random.default_rng(0)
    wild, plain = rng.integers(0, 255, (2, count, 2, 40, 40, 3), np.uint8)
    codes = known.encode(seen(plain.reshape(-1, 40, 40, 3), 32)).reshape(count, 2, -1)
    return {"wild": wild, "plain": plain, "codes": codes, "own": codes}


def test_a_wild_person_and_plain_ones_make_the_same_faces_in_the_same_place(known, quick_people, tmp_path):
    files = [render_chunk(chunk, TINY, known, tmp_path) for chunk in range(TINY.chunks)]
    faces = load_faces(files)
    assert faces["wild"].shape == faces["plain"].shape == (3, 2, 40, 40, 3)
    assert faces["codes"].shape == (3, 2, 128) and faces["actions"].shape == (3, 2, 52)
    assert not np.allclose(faces["codes"], faces["own"])  # the mean of two people, and one of them
    for kind in ("wild", "plain"):  # another face, another picture; another person, another place
        assert (faces[kind][:, 0] != faces[kind][:, 1]).any((1, 2, 3)).all()
    before = files[0].stat().st_mtime_ns
    assert render_chunk(0, TINY, known, tmp_path) == files[0] and files[0].stat().st_mtime_ns == before


def test_the_same_recipe_renders_the_same_and_another_encoder_elsewhere(known, quick_people):
    body = load_body()
    first, again = (wide_faces.render_person(0, TINY, known, body) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert TINY.name("a") != TINY.name("b") != FaceRecipe().name("b")


def test_the_student_says_of_strangers_what_the_known_encoder_says_of_plain_people():
    """Rendered faces at rest are the plain people; their negatives, which no encoder has seen, the wild ones."""
    shipped = ExpressionEncoder.from_pretrained(SHIPPED)
    crops = np.pad(faces_at_rest(), ((0, 0), (8, 8), (8, 8), (0, 0)), "edge")
    plain = np.stack([crops, crops[:, :, ::-1]], 1)
    codes = shipped.encode(seen(plain.reshape(-1, *crops.shape[1:]), 96)).reshape(len(crops), 2, -1)
    actions = np.random.default_rng(0).uniform(0, 1, (len(crops), 2, 52))
    faces = {"wild": 255 - plain, "plain": plain, "codes": codes, "own": codes, "actions": actions}
    student = train_wide_encoder(shipped, faces, WideTraining(steps=30, wild=4, plain=3))
    readout, names = torch.nn.Linear(128, 52), list(load_body().action_names)
    before, after = (wide_scores(one, readout, faces, names) for one in (shipped, student))
    assert after["wild_code"] > before["wild_code"] + 0.05, (before, after)
    assert after["plain_code"] > 0.9 and abs(after["plain_gain"] - 1) < 0.05, after
    assert (student.code_mean == shipped.code_mean).all() and (student.code_std == shipped.code_std).all()


def test_what_a_persons_errors_have_in_common_counts_extra():
    wanted, error = torch.zeros(8, 128), torch.ones(8, 128)
    alternating = error * torch.tensor([1.0, -1] * 4)[:, None]
    assert torch.isclose(wide_loss(error, wanted, 4, 2.0), 3 * wide_loss(alternating, wanted, 4, 2.0))


def test_large_errors_count_linearly_and_all_that_codes_tell_alike():
    wanted = torch.zeros(4, 128)
    assert wide_loss(torch.full((4, 128), 20.0), wanted, 4, 0.0) < 40  # 400 if squared
    codes = np.random.default_rng(0).normal(0, 1, (4000, 128)) * np.where(np.arange(128) < 4, 9.0, 1.0)
    spread = (torch.from_numpy(codes.astype(np.float32)) @ whitening(codes)).std(0)
    assert spread.max() / spread.min() < 1.2


def test_a_stopped_training_goes_on_to_the_same_weights(known, tmp_path):
    faces, settings = noise_faces(known, 8), WideTraining(steps=6, keep_every=2)

    def stop(values, step):
        if step == 4:
            raise KeyboardInterrupt

    straight = train_wide_encoder(known, faces, settings)
    with pytest.raises(KeyboardInterrupt):
        train_wide_encoder(known, faces, settings, tmp_path / "state.pt", stop)
    steps = []
    again = train_wide_encoder(known, faces, settings, tmp_path / "state.pt", lambda values, step: steps.append(step))
    assert steps == [4, 6]  # 4 was told and not kept: the stop came first
    assert all((a == b).all() for a, b in zip(straight.state_dict().values(), again.state_dict().values(), strict=True))
    other = train_wide_encoder(known, faces, WideTraining(steps=2, keep_every=2), tmp_path / "state.pt")
    assert not torch.equal(other.head.weight, again.head.weight)  # other settings begin anew


def test_too_few_people_are_refused(known):
    with pytest.raises(UserError, match="raise --people"):
        train_wide_encoder(known, noise_faces(known, 3))


def test_the_command_writes_an_encoder_with_its_readout_and_scores_beside_the_known_one(known, quick_people, tmp_path):
    from fportrait.atomic_io import write_safetensors

    known.save_pretrained(tmp_path / "known")
    write_safetensors(tmp_path / "known" / "readout.safetensors", torch.nn.Linear(128, 52).state_dict())
    settings = WideTraining(steps=2, wild=1, plain=1)
    scores = make(tmp_path / "work", tmp_path / "new", tmp_path / "known", TINY, settings)
    assert set(scores) == {"before", "after"} and set(scores["before"]) == set(scores["after"])
    assert ExpressionEncoder.from_pretrained(tmp_path / "new").width == 4
    assert (tmp_path / "new" / "readout.safetensors").is_file()
