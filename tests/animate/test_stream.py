"""A stream with the shipped networks: it follows a face, keeps the followed one of two, and goes on without a jump."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.animate.animator import Animator
from fportrait.animate.driving import Driving, Steering
from fportrait.animate.stream import CARRIES, PortraitStream
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.paths import orbit
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image
from fportrait.capture.world import sample_training_clip
from fportrait.diffusion.schedule import make_scheduler
from fportrait.errors import UserError
from fportrait.tracking.lens import intrinsics_across
from fportrait.tracking.live import SEARCH_SECONDS, LiveTracker


@pytest.fixture(scope="module")
def clip():
    body = load_body()
    return sample_training_clip(np.random.default_rng(4), body, "phone", 9, 160, person=sample_person(12, body))[
        "video"
    ]


@pytest.fixture(scope="module")
def animator():
    made = Animator(SHIPPED_BASE)
    made.pipeline.register_to_config(steps=1, guidance={})  # one call, as a student: what it looks like is not asked
    made.pipeline.register_modules(scheduler=make_scheduler("euler", made.settings.shift))
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
        stream = PortraitStream(animator, portrait)
        follow, drive = tracker(animator, 160, 160), Driving(stream, Steering(yaw=8.0))
        sights = [follow.look(frame, n / 25) for n, frame in enumerate(clip[:8])]
        assert all(sight is not None for sight in sights)
        moments = [drive(sight, n / 25, follow.familiar) for n, sight in enumerate(sights)]
        made.append(np.concatenate([stream.make(moments[:4]), stream.make(moments[4:])]))
    assert made[0].shape == (8, 64, 64, 3) and made[0].std() > 20
    assert np.array_equal(made[0], made[1])
    steps = np.abs(np.diff(made[0].astype(float), axis=0)).mean((1, 2, 3))
    assert steps[3] < 2.5 * np.median(steps) + 0.5  # where the windows join


@pytest.mark.parametrize("carry", CARRIES)
def test_a_portrait_at_rest_stays_as_it_is_window_after_window(animator, portrait, carry):
    stream = PortraitStream(animator, portrait, carry=carry)
    camera = orbit(np.zeros(1), np.zeros(1), np.full(1, animator.settings.camera_distance))[0]
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
