"""An adapter carries pictures of its person, and they are painted on nobody else."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from fportrait.animate import carried, film
from fportrait.animate.animator import Animator
from fportrait.animate.carried import carried_by, carry, choose, portraits_for
from fportrait.animate.edit import Edit, prepare_edit
from fportrait.animate.request import Request
from fportrait.animate.writing import tags_of
from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import read_image, write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.diffusion.lora import LoraSettings
from fportrait.provenance import TAG
from fportrait.tracking.actions import ActionReadout

FRAMES = 5


def rows(yaws, openings, confidence=None, person="p00") -> pd.DataFrame:
    """A tracks' table of one person's frames."""
    points = np.zeros((len(yaws), 478, 2))
    points[:, 263, 0] = 50 * np.cos(np.radians(yaws))
    points[:, 14, 1] = 50 * np.asarray(openings)
    return pd.DataFrame(
        {
            "identity": person,
            "clip": "c",
            "path": "c.mp4",
            "frame": range(len(yaws)),
            "confidence": np.ones(len(yaws)) if confidence is None else confidence,
            "body_rotation": [np.eye(3).ravel()] * len(yaws),
            "head_rotation": [rotation_from_degrees(yaw, 0, 0).ravel() for yaw in yaws],
            "landmarks": list(points.reshape(len(yaws), -1)),
            "expression_code": list(np.random.default_rng(1).normal(size=(len(yaws), 128)).astype(np.float32)),
        }
    )


def test_the_front_both_sides_and_an_open_mouth_are_chosen_where_the_clips_show_them():
    found = choose(rows([0, 30, -25, 1, 0], [0, 0, 0, 0.3, 0.01]))
    assert found["front"][0] == 0 and found["left"][0] == 1 and found["right"][0] == 2 and found["mouth"][0] == 3
    assert set(choose(rows([0, 5, -5], [0, 0.02, 0]))) == {"front"}, "a head that keeps still has one picture to give"
    lost = choose(rows([0, 40], [0, 0], confidence=[1, 0]))
    assert set(lost) == {"front"}, "a frame without a face is not carried"
    assert choose(rows([0], [0], confidence=[0])) == {}


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A clip of an embedded person, and its frames as tracks would have them."""
    folder, body = tmp_path_factory.mktemp("carried"), load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", FRAMES, 160, person=sample_person(12, body))
    write_video(folder / "c.mp4", clip["video"], crf=4)
    return folder, clip["video"]


@pytest.fixture(scope="module")
def adapter(person):
    folder, _ = person
    made = folder / "adapter"
    made.mkdir()
    write_json(made / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": "0" * 16})
    save_file({"a": torch.zeros(2)}, made / "adapter.safetensors")
    table = rows([0, 20, 0, 0, 0], [0, 0, 0.2, 0, 0])
    points = np.random.default_rng(0).uniform(40, 120, (FRAMES, 478, 2))
    points[:, [33, 263, 13, 14]] = np.stack(table["landmarks"]).reshape(FRAMES, 478, 2)[:, [33, 263, 13, 14]] + 60
    table["landmarks"] = list(points.reshape(FRAMES, -1))
    table["path"] = str(folder / "c.mp4")
    (folder / "tracks").mkdir()
    table.to_parquet(folder / "tracks/frames.parquet")
    told = carry(folder / "tracks", made, ActionReadout.beside(SHIPPED_BASE / "expression_encoder"))
    assert {(one["person"], one["shows"], one["frame"]) for one in told} >= {("p00", "left", 1), ("p00", "mouth", 2)}
    return made


@pytest.fixture(scope="module")
def animator(adapter):
    base = Animator(SHIPPED_BASE, remember=20)
    made = base.with_adapter(adapter)
    made.pipeline = base.pipeline  # its weights belong to no base
    return made


def test_what_is_carried_are_frames_of_the_clips_in_a_folder_per_person(adapter, person):
    (name, pictures), *others = carried_by(adapter).items()
    assert name == "p00" and not others and set(pictures) == {"front", "left", "mouth"}
    assert np.abs(read_image(pictures["left"]).astype(int) - person[1][1]).mean() < 3
    assert carried_by(adapter.parent) == {}


def test_they_are_painted_from_for_that_person_and_named_in_the_provenance(animator, person, tmp_path):
    """Without a network that tells faces apart: the portrait was filmed in the same scene."""
    folder, video = person
    portrait = write_image(tmp_path / "me.png", video[3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried, "alike", lambda first, second: None)
        prepared = animator.prepare(Request(portrait, folder / "c.mp4", max_frames=2))
        edited = prepare_edit(animator, Edit(portrait))
    assert [one.path.stem for one, _ in prepared.others] == ["left", "mouth", "front"]
    assert any("adapter's own pictures" in note for note in prepared.notes)
    assert len(edited.others) == 3 and len(edited.film) == len(prepared.film) == FRAMES
    inputs = json.loads(tags_of(animator, prepared)[TAG])["inputs"]
    assert {"adapter's picture 1", "adapter's picture 3", "adapter's film 1"} <= set(inputs)
    bare = animator.with_adapter(None).prepare(Request(portrait, folder / "c.mp4", max_frames=2))
    assert bare.others == [] and bare.film == [] and "film" not in tags_of(animator.with_adapter(None), bare)[TAG]


def test_a_face_is_painted_from_the_film_and_the_models_condition_is_not(animator, person, tmp_path):
    """A film shows the portrait's own frame, too: the face comes out as it was filmed."""
    folder, video = person
    portrait = write_image(tmp_path / "me.png", video[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried, "alike", lambda first, second: 0.99)
        prepared = animator.prepare(Request(portrait, folder / "c.mp4", max_frames=FRAMES))
    pictures = {shown: list(animator.painted(prepared, range(FRAMES), shown=shown)) for shown in (True, False)}
    prepared.film, film = [], prepared.film
    bare = {shown: list(animator.painted(prepared, range(FRAMES), shown=shown)) for shown in (True, False)}
    assert all(np.array_equal(*pair) for pair in zip(pictures[False], bare[False], strict=True))
    assert any(not np.array_equal(*pair) for pair in zip(pictures[True], bare[True], strict=True))
    own = animator.portrait(prepared).astype(int)
    assert np.abs(pictures[True][0] - own).mean() < np.abs(bare[True][0] - own).mean() + 1, "it stays the portrait"
    assert film[0].texture(animator.body, animator.picture).known.any()


def test_another_persons_portrait_gets_none_of_them_and_that_is_said(animator, tmp_path):
    data = pytest.importorskip("skimage.data")
    portrait = write_image(tmp_path / "other.png", data.astronaut())
    person, image = animator.tracked_portrait(portrait)
    for likeness in (None, 0.9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(carried, "alike", lambda first, second, found=likeness: found)
            pictures, film, (note,) = portraits_for(animator, person, image)
        assert pictures == film == [] and "not used" in note
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried, "alike", lambda first, second: 0.96)
        pictures, film, told = portraits_for(animator, person, image)
    assert len(pictures) == 3 and film == [] and "another scene" in told[-1], "a face is no mixture of two"


def test_of_a_clip_in_which_nothing_changes_one_frame_is_filmed():
    moves, views = np.zeros((9, 478, 3)), np.repeat([[0, 0, 1.0]], 9, 0)
    lips = load_body().landmark_valid.sum()
    assert len(film.choose(views, moves[:, :lips])) == 1
    moves[6] = 5.0  # millimetres
    turned = views.copy()
    turned[2] = [np.sin(0.3), 0, np.cos(0.3)]
    assert set(film.choose(turned, moves[:, :lips])) >= {2, 6}
    assert len(film.choose(turned, moves[:, :lips], most=2)) == 2


def test_nothing_that_lies_among_them_by_another_name_is_read(adapter, tmp_path):
    folder = tmp_path / "adapter/portraits/p00"
    folder.mkdir(parents=True)
    (folder / "elsewhere.png").write_bytes(b"x")
    (folder / "left.png").mkdir()
    assert carried_by(tmp_path / "adapter") == {}, "without a picture from the front nobody can be told"
