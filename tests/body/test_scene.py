"""What surrounds a face comes from those frames of its scene that were measured to show it, and from no other."""

from __future__ import annotations

import functools
import itertools

import cv2
import numpy as np
import pytest

from fportrait.body.blending import headness
from fportrait.body.model import load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.pose import Pose
from fportrait.body.scene import FEWEST, WALL, Layer, SceneBlend, Shot, aligned, before_wall, drawn_by, measured
from fportrait.body.warping import Target

SIZE = 64
LENS = np.array([[150.0, 0, 32], [0, 150.0, 32], [0, 0, 1]])
BODY = load_body()
STEPS = (-0.04, -0.03, 0.03, 0.04, 0.055)  # metres that the person stands aside in the frames
ASIDE = 0.045
WALL_SEEN = np.clip(
    120 + 80 * np.sin(np.arange(SIZE) / 2)[None, :, None] * np.cos(np.arange(SIZE) / 3)[:, None, None] + (0, 20, 40),
    0,
    255,
)


def standing(aside: float) -> np.ndarray:
    """Vertices `V 3` of a person a metre away before an OpenCV camera."""
    pose = Pose(np.eye(3), np.zeros(3), np.eye(3))
    return acting_vertices(BODY, np.zeros(BODY.identity_dim), np.zeros(52), pose) * (1, -1, -1) + (aside, 0, 1.0)


def target(aside: float) -> Target:
    return Target(standing(aside), LENS, BODY.faces, (SIZE, SIZE), 1)


def filmed(aside: float, wall: np.ndarray = WALL_SEEN) -> tuple[np.ndarray, np.ndarray]:
    """A picture of the person before a wall, and their opacity."""
    covered = target(aside).covered.astype(np.float32)
    person = np.array((180.0, 130, 110)) + 20 * np.sin(np.arange(SIZE) / 4)[:, None, None]
    picture = np.where(covered[..., None] > 0, person, wall)
    return picture.astype(np.uint8), cv2.dilate(covered, np.ones((3, 3), np.uint8))


def shot(aside: float, wall: np.ndarray = WALL_SEEN, known: np.ndarray | None = None, gain: float = 1.0) -> Shot:
    picture, opacity = filmed(aside, wall)
    picture = np.clip(picture / gain, 0, 255).astype(np.uint8)
    painter = PortraitPainter(BODY, picture, standing(aside), LENS, 1, (), opacity)
    return Shot(painter, opacity, np.ones((SIZE, SIZE), np.float32) if known is None else known, np.full(3, gain))


@pytest.fixture(scope="module")
def frames() -> list[Shot]:
    return [shot(aside) for aside in STEPS]


def blend(shots: list[Shot]) -> SceneBlend:
    expected = measured(shots)
    assert expected is not None
    return SceneBlend(
        shots[0],
        [functools.partial(list(shots).__getitem__, n) for n in range(1, len(shots))],
        expected,
    )


def uncovered(aside: float) -> np.ndarray:
    """Where the portrait's person stood and nobody stands any more."""
    near = cv2.dilate(target(aside).covered.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    return target(0).covered & ~near


def test_a_wall_that_a_moving_head_uncovers_is_the_wall_that_was_filmed(frames):
    own = shot(0)
    there, scene = target(ASIDE), blend([own, *frames])
    assert scene.expected.mixed[WALL] and scene.expected.together[WALL] < 0.8 * scene.expected.alone[WALL]
    truth, hole = filmed(ASIDE)[0].astype(float), uncovered(ASIDE)
    assert hole.sum() > 30
    filled, painted = (abs(one.paint(there).astype(float) - truth)[hole].mean() for one in (own.painter, scene))
    assert painted < 0.3 * filled


def test_a_person_who_stands_as_in_the_portrait_is_drawn_as_in_the_portrait(frames):
    own = shot(0)
    drawn = blend([own, *frames]).paint(target(0)).astype(int)
    assert abs(drawn - own.painter.portrait).mean() < 3
    assert abs(drawn - own.painter.portrait)[target(0).covered].mean() < 2


def test_a_head_has_no_hole_where_only_frames_tell_of_hair_and_torso(frames):
    """A portrait that counted for nothing left the wall in place of a face."""
    own, there = shot(0), target(ASIDE)
    layers = [drawn_by(one, there) for one in (own, *frames)]
    weights = np.ones((len(layers), 3))
    weights[0] = 0
    inside = np.zeros(there.covered.size, np.float32)
    inside[there.places] = headness(BODY, there)
    inside = cv2.erode(inside.reshape(there.covered.shape), np.ones((7, 7), np.uint8)) == 1
    assert inside.sum() > 50
    picture = before_wall(own.painter, there, layers, weights, np.zeros((SIZE, SIZE, 3), np.float32))
    assert np.abs(picture - layers[0].colours)[inside].max() < 1
    green = own._replace(gain=np.array([0.2, 1.4, 0.2]))
    scene = blend([own, *frames])
    scene = SceneBlend(green, scene._makers, scene.expected)
    scene.expected.weights = lambda place: weights
    assert (scene.paint(there).astype(float)[inside] @ (-1, 1, -1) > 0).all(), "and it is the portrait's own face"


def test_frames_in_another_light_count_in_the_portraits(frames):
    own, there = shot(0), target(ASIDE)
    darker = [shot(aside, gain=1.6) for aside in STEPS]
    hole = uncovered(ASIDE)
    bright, dark = (blend([own, *some]).paint(there).astype(float)[hole] for some in (frames, darker))
    assert abs(bright - dark).mean() < 6


def test_frames_that_are_no_better_are_not_mixed():
    rng = np.random.default_rng(0)
    strange = [shot(aside, rng.integers(0, 255, (SIZE, SIZE, 3)).astype(float)) for aside in STEPS]
    expected = measured([shot(0), *strange])
    assert expected is None or not expected.mixed[WALL]


def test_one_frame_of_another_wall_counts_for_nothing(frames):
    another = shot(0.05, 255 - WALL_SEEN)
    expected = measured([shot(0), *frames, another])
    assert expected is not None and expected.mixed[WALL]
    assert not expected.weights(expected.places[-1])[-1, WALL]


def test_too_few_frames_to_paint_each_other_are_not_asked(frames):
    assert measured([shot(0), *frames[: FEWEST - 1]]) is None


def test_no_black_beside_a_file_is_drawn_in(frames):
    known = np.ones((SIZE, SIZE), np.float32)
    known[-12:] = 0

    def cut(aside: float) -> Shot:
        picture, opacity = filmed(aside)
        picture[-12:] = 0
        return Shot(PortraitPainter(BODY, picture, standing(aside), LENS, 1, (), opacity), opacity, known, np.ones(3))

    drawn = blend([cut(0), *[cut(aside) for aside in STEPS]]).paint(target(ASIDE))
    assert drawn[:-12].min() > 15


def test_no_frame_comes_or_goes_with_a_jump(frames):
    scene = blend([shot(0), *frames])
    drawn = [scene.paint(target(aside)).astype(float) for aside in np.linspace(0.02, 0.05, 13)]
    steps = [abs(before - after).mean() for before, after in itertools.pairwise(drawn)]
    assert max(steps) < 3 * np.median(steps)


def shoulders(height: float, tilt: float = 0.0, size: int = 128) -> Layer:
    """Grey shoulders whose outline lies at a row, and so many rows lower at the right side than in the middle."""
    rows = np.arange(size, dtype=np.float32)[:, None] - tilt * np.linspace(-1, 1, size)
    opacity = np.clip(rows - height - 8 * np.cos(np.arange(size) / 20) + 0.5, 0, 1).astype(np.float32)
    return Layer(np.full((size, size, 3), 90, np.float32), opacity, np.ones((size, size), np.float32))


@pytest.mark.parametrize("tilt", [0, 2], ids=["higher", "aslant"])
def test_shoulders_of_two_heights_have_one_outline(tilt):
    """Their mean was a double one."""
    layers, wall = [shoulders(78, -tilt), shoulders(83, tilt)], np.full((128, 128, 3), 200, np.float32)
    torso = np.repeat(np.clip((np.arange(128.0, dtype=np.float32)[:, None] - 40) / 6, 0, 1), 128, 1)
    weights = np.array([0.5, 1], np.float32)
    moved = aligned(layers, weights, wall, torso)
    whole = shoulders((78 + 2 * 83) / 3, tilt / 3).opacity
    before, after = (np.average([one.opacity for one in some], 0, weights) for some in (layers, moved))
    half = [((one > 0.1) & (one < 0.9)).sum() for one in (before, after)]
    assert half[1] < 0.5 * half[0] and np.abs(after - whole).mean() < 0.3 * np.abs(before - whole).mean()
    assert np.array_equal(moved[0].opacity[:40], layers[0].opacity[:40]), "hair stays"
    nudged = aligned(layers, weights + np.float32([0.02, 0]), wall, torso)
    assert np.abs(nudged[0].opacity - moved[0].opacity).max() < 0.1, "without a jump"


def test_one_torso_and_one_that_counts_for_nothing_stay():
    layers, wall = [shoulders(78), shoulders(83)], np.full((128, 128, 3), 200, np.float32)
    alone = aligned(layers, np.array([1, 0], np.float32), wall, np.ones((128, 128), np.float32))
    assert all(one is other for one, other in zip(alone, layers, strict=True))
