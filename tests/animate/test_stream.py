"""A stream with the shipped networks: it follows a face, keeps the followed one of two, and goes on without a jump."""

from __future__ import annotations

import gc
import time
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fportrait.animate.animator import Animator
from fportrait.animate.driving import Driving, Steering
from fportrait.animate.stream import CARRIES, Moment, PortraitStream, model_calls
from fportrait.body.model import load_body
from fportrait.body.pose import rotation_matrix
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.paths import orbit
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image
from fportrait.capture.world import sample_training_clip
from fportrait.diffusion.codec import encode_video
from fportrait.errors import UserError
from fportrait.pixels import to_model_range
from fportrait.tracking.lens import intrinsics_across
from fportrait.tracking.live import LEARN, SEARCH_SECONDS, LiveTracker, Sight
from fportrait.tracking.segments import LOOK_AT


@pytest.fixture(scope="module")
def clip():
    body = load_body()
    return sample_training_clip(np.random.default_rng(4), body, "phone", 9, 160, person=sample_person(12, body))[
        "video"
    ]


@pytest.fixture(scope="module")
def animator():
    """The shipped base without guidance: one call, from the painted portrait. What it looks like is not asked."""
    made = Animator(SHIPPED_BASE)
    made.pipeline.register_to_config(guidance={})
    return made


@pytest.fixture(scope="module")
def student(animator):
    """The same, as if it had been taught to go on from latents that are given."""
    made = copy(animator)
    made.settings = replace(animator.settings, teacher="of this test")
    return made


@pytest.fixture(scope="module")
def portrait(clip, tmp_path_factory):
    return write_image(tmp_path_factory.mktemp("live") / "portrait.png", clip[0])


def tracker(animator, height, width):
    return LiveTracker(
        animator.landmarks, animator.config, animator.encoder.crop_size, intrinsics_across(40.0, width, height)
    )


def test_frames_become_windows_that_go_on_from_each_other_and_repeat_bit_for_bit(animator, portrait, clip):
    made = []
    for _ in range(2):
        stream = PortraitStream(animator, portrait, latents=1)
        follow, drive = tracker(animator, 160, 160), Driving(stream, Steering(yaw=8.0))
        sights = [follow.look(frame, n / 25) for n, frame in enumerate(clip[:8])]
        assert all(sight is not None for sight in sights)
        moments = [drive(sight, n / 25, follow.familiar) for n, sight in enumerate(sights)]
        made.append(np.concatenate([stream.make(moments[:4]), stream.make(moments[4:])]))
    assert made[0].shape == (8, 64, 64, 3) and made[0].std() > 20
    assert np.array_equal(made[0], made[1])
    steps = np.abs(np.diff(made[0].astype(float), axis=0)).mean((1, 2, 3))
    assert steps[3] < 2.5 * np.median(steps) + 0.5  # where the windows join


def test_a_person_s_shape_that_is_read_beside_the_stream_is_the_one_that_is_read_within_it(animator, clip):
    within, beside = tracker(animator, 160, 160), tracker(animator, 160, 160)
    beside.beside = True
    for n, frame in enumerate(np.concatenate([clip, clip])[:LEARN]):
        within.look(frame, n / 25)
        beside.look(frame, n / 25)
    end = time.monotonic() + 30
    while beside._learning is not None and time.monotonic() < end:
        assert beside.look(clip[0], 1.0) is not None, "frames are followed meanwhile"
    assert np.array_equal(beside.identity, within.identity) and np.abs(within.identity).max() > 0
    assert beside.familiar == within.familiar


def moving(stream, count):
    """Moments of a head that turns and talks, and comes back every 12 frames."""
    rng = np.random.default_rng(3)
    camera = orbit(np.zeros(1), np.zeros(1), np.full(1, stream.settings.camera_distance))[0]
    talk = rng.normal(0, 1, 128).astype(np.float32)
    moments = []
    for n in range(count):
        share = np.sin(2 * np.pi * n / 12)
        turn = rotation_matrix(np.array([[0.05 * share, 0.3 * share, 0.0]]))[0]
        moments.append(Moment(turn, -turn @ LOOK_AT, stream.rest_code + share * talk, camera, n / 25))
    return moments


def test_windows_join_no_rougher_than_the_latents_of_one_clip_do(animator, portrait):
    stream = PortraitStream(animator, portrait, latents=1)
    moments = moving(stream, 16)
    windows = np.concatenate([stream.make(moments[n : n + 4]) for n in range(0, 16, 4)])
    clip = PortraitStream(animator, portrait, latents=4).make(moments)  # the model's longest
    joins, own = (np.abs(video[4::4].astype(float) - video[3:-1:4]).mean((1, 2, 3)) for video in (windows, clip))
    assert joins.mean() < 1.2 * own.mean()


def test_what_was_shown_long_before_has_no_say_in_what_is_shown(animator, portrait):
    stream = PortraitStream(animator, portrait, latents=1)
    turns = moving(stream, 12)
    _, second, third = [[stream.make(turns[n : n + 4]) for n in (0, 4, 8)] for _ in range(3)]
    assert np.abs(second[-1].astype(float) - third[-1]).mean() < 0.2  # grey levels, of the same moments a turn later


def test_a_window_leaves_nothing_behind_that_only_the_cycle_collector_finds(animator, portrait, clip):
    """It comes by rarely in a large process: memory would grow for minutes."""
    stream = PortraitStream(animator, portrait, latents=1)
    follow, drive = tracker(animator, 160, 160), Driving(stream, Steering())

    def window(begin):
        times = [(begin + n) / 25 for n in range(4)]
        return stream.make([drive(follow.look(clip[n], at), at, follow.familiar) for n, at in enumerate(times)])

    for begin in range(0, 16, 4):  # the driver's shape has been learned by then
        window(begin)
    gc.collect()
    gc.disable()
    try:
        for begin in range(16, 32, 4):
            window(begin)
        assert gc.collect() < 4
    finally:
        gc.enable()


@pytest.mark.parametrize("carry", CARRIES)
def test_every_window_starts_from_the_painted_portrait_and_what_is_given_stays_clean(
    student, portrait, carry, monkeypatch
):
    stream = PortraitStream(student, portrait, latents=1, carry=carry)
    level, asked = stream.pipeline.transformer.config.bridge_level, []
    stream.pipeline.register_to_config(steps=1)

    def still(self, latents, times, *rest):
        asked.append((latents.clone(), times.clone()))
        return torch.zeros_like(latents)

    monkeypatch.setattr(type(stream.pipeline), "_velocity", still)
    moments = moving(stream, 8)
    stream.make(moments[:4])
    shown = encode_video(stream.pipeline.vae, stream._shown).float()
    made = stream.sample(moments[4:]).latents
    painted = to_model_range(np.stack([stream.painted(moment)[0] for moment in moments[3:]])[None])
    start = (1 - level) * encode_video(stream.pipeline.vae, painted).float()
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    start = start + level * noise
    (_, times), (latents, later) = asked
    assert times.tolist() == [1000 * level]
    if carry == "given":
        start[:, :, :1] = shown
        assert later.tolist() == [[0.0, 1000 * level]]
    assert torch.allclose(latents, start, atol=1e-5)
    assert torch.allclose(made, start, atol=1e-5)  # and stays, where the model asks for no change


def test_only_students_are_given_what_was_shown(animator, portrait):
    with pytest.raises(UserError, match="no student"):
        PortraitStream(animator, portrait, carry="given")


def test_models_calls_are_counted_as_the_pipeline_makes_them(animator, portrait, monkeypatch):
    pipeline, made = animator.pipeline, []
    forward = type(pipeline.transformer).forward
    monkeypatch.setattr(type(pipeline.transformer), "forward", lambda *a, **k: made.append(1) or forward(*a, **k))
    own = dict(pipeline.config)
    try:
        for changes in (
            {},
            {"guidance": {"pose": 2.0, "view": 1.0}},
            {"steps": 3, "guidance": {"pose": 2.0}, "guidance_below": 0.5},
            {"steps": 1},
        ):
            pipeline.register_to_config(**{key: own[key] for key in ("steps", "guidance")} | changes)
            stream = PortraitStream(animator, portrait, latents=1)
            made.clear()
            stream.make(moving(stream, 4))
            assert model_calls(pipeline) == stream.calls == len(made), changes
    finally:
        pipeline.register_to_config(**{key: own[key] for key in ("steps", "guidance", "guidance_below")})


def test_a_driver_who_looks_straight_ahead_takes_over_from_rest_without_a_jump(animator, portrait):
    stream = PortraitStream(animator, portrait)
    camera = orbit(np.zeros(1), np.zeros(1), np.full(1, animator.settings.camera_distance))[0]
    drive, nothing = Driving(stream, Steering()), np.zeros((96, 96, 3), np.uint8)
    straight = Sight(np.eye(3), np.array([0.1, 0.0, 0.05]), nothing, np.zeros(52), np.zeros((478, 2)), 1.0)
    moments = [drive(straight, n / 25, familiar=True) for n in range(20)]
    moved = stream.vertices(moments[-1]) - stream.vertices(stream.rest(camera))
    assert np.abs(moved).max() < 1e-6  # metres


@pytest.mark.parametrize("carry", CARRIES)
def test_a_portrait_at_rest_stays_as_it_is_window_after_window(student, portrait, carry):
    stream = PortraitStream(student, portrait, carry=carry)
    camera = orbit(np.zeros(1), np.zeros(1), np.full(1, student.settings.camera_distance))[0]
    windows = [stream.make([stream.rest(camera)] * 4).astype(float) for _ in range(4)]
    late = np.abs(windows[3][-1] - windows[2][-1]).mean()
    assert late < (0.2 if carry == "faded" else 6.0)


def test_of_two_faces_the_followed_one_is_kept_and_found_again_at_its_place(animator, clip):
    both = np.concatenate([clip[0], clip[0][::-1, ::-1][:, ::-1][::-1]], 1)  # the same face twice, side by side
    alone = both.copy()
    alone[:, :160] = 90
    follow = tracker(animator, 160, 320)
    assert follow.look(alone, 0.0).landmarks[:, 0].mean() > 160
    assert follow.look(both, 0.04).landmarks[:, 0].mean() > 160
    assert follow.look(np.full_like(both, 90), 0.08) is None
    assert follow.look(both, 0.1) is None  # not searched for yet
    assert follow.look(both, 0.12 + SEARCH_SECONDS).landmarks[:, 0].mean() > 160


def test_a_carry_that_is_none_is_refused(animator, portrait):
    with pytest.raises(UserError, match="faded or given"):
        PortraitStream(animator, portrait, carry="kept")
