"""A driver's face at rest: estimated, named, or not to be had."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.errors import UserError
from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.neutral import calm_frames, check_neutral, faces_at_rest, rendered_rest, rest_for, rest_of
from fportrait.tracking.points import BLENDSHAPE_NAMES

FRAMES = 40


def clip(**scores: np.ndarray) -> ClipLandmarks:
    """A clip with a face in every frame whose named scores are given and whose others are a person's constant bias."""
    table = np.full((FRAMES, len(BLENDSHAPE_NAMES)), 0.2, np.float32)
    for name, values in scores.items():
        table[:, BLENDSHAPE_NAMES.index(name)] = values
    ones = np.ones(FRAMES, np.float32)
    return ClipLandmarks(np.zeros((FRAMES, 478, 2)), ones, np.zeros((FRAMES, 8, 8, 3), np.uint8), scores=table)


def talking() -> np.ndarray:
    """A mouth that speaks but for frames 10 to 15."""
    jaw = 0.3 + 0.2 * np.sin(np.arange(FRAMES))
    jaw[10:16] = 0.02
    return jaw


def test_rest_is_taken_where_a_mouth_is_closed_whatever_the_persons_own_bias():
    seen = clip(jawOpen=talking())
    assert set(calm_frames(seen)) <= set(range(10, 16))
    own, speech = np.full(128, 3.0), np.outer(talking(), np.ones(128))
    found = rest_of(own + speech, seen, "talk.mp4")
    assert np.allclose(found.code, 3.02) and not found.note
    left = own + speech - found.code
    assert np.allclose(left.std(0), speech.std(0)) and np.allclose(left[10:16], 0, atol=1e-6)


def test_eyes_that_are_opened_wide_are_no_more_at_rest_than_closed_ones():
    """Of a squinting speaker's clip the lowest blink scores are his widest eyes, not his rest."""
    lids = np.full(FRAMES, 0.4)
    lids[:5], lids[20:24] = 0.1, 0.9  # startled, and a blink
    chosen = calm_frames(clip(eyeBlinkLeft=lids, eyeBlinkRight=lids))
    assert np.allclose(lids[chosen], 0.4)


def test_a_clip_that_never_rests_is_left_and_said():
    found = rest_of(np.zeros((FRAMES, 128)), clip(jawOpen=np.full(FRAMES, 0.6)), "scream.mp4")
    assert found.code is None and "scream.mp4 shows no face at rest (jawOpen 0.60" in found.note


def test_a_frame_can_be_named():
    codes = np.arange(FRAMES)[:, None] * np.ones(128)
    assert rest_of(codes, clip(jawOpen=np.full(FRAMES, 0.6)), "scream.mp4", 7).code[0] == 7
    with pytest.raises(UserError, match="a frame from 0 to 39"):
        rest_of(codes, clip(), "scream.mp4", FRAMES)


def test_a_picture_or_two_keep_what_they_show():
    seen = clip()
    seen.confidence[3:] = 0
    assert rest_of(np.zeros((FRAMES, 128)), seen, "a.mp4").code is None


@pytest.mark.parametrize("value", ["auto", "off", "0", "12"])
def test_what_can_be_asked_for(value):
    check_neutral(value)


@pytest.mark.parametrize("value", ["-1", "on", "1.5", ""])
def test_what_cannot(value):
    with pytest.raises(UserError, match="--neutral"):
        check_neutral(value)


def test_the_rendered_faces_at_rest_fit_any_encoder():
    assert faces_at_rest().shape == (12, 96, 96, 3)
    assert rendered_rest(ExpressionEncoder(4, 48)).shape == (128,)


def test_a_portraits_own_rest_counts_half_and_an_open_mouth_not_at_all():
    own, rendered = np.full(128, 4.0), np.zeros(128)
    assert np.allclose(rest_for(own, clip(jawOpen=np.zeros(FRAMES)), rendered), 2)
    assert np.allclose(rest_for(own, clip(jawOpen=np.full(FRAMES, 0.5)), rendered), 0)
