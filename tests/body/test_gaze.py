"""Eyes that look elsewhere than the portrait's: an iris and white behind an opening, whatever its lids hid."""

import numpy as np
import pytest

from fportrait.body.blending import FaceBlend, Texture
from fportrait.body.gaze import (
    IRIS,
    around_eyes,
    balls_of,
    between,
    degrees_between,
    draw_eyes,
    has_eyes,
    middle_of_iris,
    moved,
    of_a_ball,
    shown_in,
    within_opening,
)
from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.rasterizer import rasterize
from fportrait.body.warping import Target, values_at
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.world import HEAD_TARGET, orbit_camera

SIDE = 256
LENS = intrinsics_from_fov(24.0, SIDE, SIDE)
SKIN, WHITE, DARK, BROWN = (190, 145, 120), (225, 222, 218), (12, 10, 10), (110, 70, 40)
LEFTWARDS = {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0}


def acting(strengths=None):
    """Actions `52`, and the mean body doing so half a metre before a camera: `V 3`."""
    body, camera, actions = load_body(), orbit_camera(0, 0, 0.55, HEAD_TARGET), np.zeros(52, np.float32)
    for name, strength in (strengths or {}).items():
        actions[body.action_names.index(name)] = strength
    vertices = acting_vertices(body, np.zeros(body.identity_dim), actions, Pose(np.eye(3), np.zeros(3), np.eye(3)))
    return actions, (vertices @ camera[:3, :3].T + camera[:3, 3]).astype(np.float32)


def filmed(vertices, iris=BROWN, eyes=True):
    """What a camera would see: skin, and behind the openings of its lids balls with an iris; and the matte."""
    ids, _, _ = rasterize(vertices, load_body().faces, LENS, SIDE, SIDE)
    picture = np.full((SIDE, SIDE, 3), (40, 60, 200), np.float32)
    picture[ids >= 0] = SKIN
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for ball in balls_of(load_body(), vertices, LENS) if eyes else ():
        ways = ball.seen(np.column_stack([x.ravel(), y.ravel()]) + 0.5, LENS)
        away = np.degrees(np.arccos(np.clip(ways[:, 2], -1, 1))) / np.degrees(np.arcsin(IRIS / ball.radius))
        colours = of_a_ball(away, np.array([DARK, iris, iris, iris], np.float32), np.array(WHITE, np.float32))
        opacity = np.clip(within_opening(ball.opening, ((0, SIDE), (0, SIDE)), 4) + 0.5, 0, 1)[..., None]
        picture += opacity * (colours.reshape(SIDE, SIDE, 3) - picture)
    return picture.astype(np.uint8), (ids >= 0).astype(np.float32)


def painter(strengths=None, matte=True, **options):
    vertices = acting(strengths)[1]
    picture, opacity = filmed(vertices, **options)
    return PortraitPainter(load_body(), picture, vertices, LENS, 1, matte=opacity if matte else None)


def error(drawn, vertices):
    """Root mean square from what would be filmed, where the eyes are."""
    wanted, off = filmed(vertices)[0].astype(float), []
    for ball in balls_of(load_body(), vertices, LENS):
        inside = within_opening(ball.opening, ((0, SIDE), (0, SIDE)), 1) > -2
        off.append(((drawn.astype(float) - wanted)[inside] ** 2).mean())
    return float(np.sqrt(np.mean(off)))


@pytest.mark.parametrize(
    ("strengths", "gain"),
    [
        (LEFTWARDS, 0.6),
        ({"eyeLookInLeft": 1, "eyeLookOutRight": 1}, 0.6),
        ({"eyeWideLeft": 1, "eyeWideRight": 1}, 0.6),
        ({"eyeLookUpLeft": 1, "eyeLookUpRight": 1}, 1.2),
        ({"eyeBlinkLeft": 0.35, "eyeBlinkRight": 0.35}, 1.2),
    ],
)
def test_eyes_look_as_they_would_be_filmed(strengths, gain):
    paint, vertices = painter(), acting(strengths)[1]
    drawn = paint(vertices, LENS)
    gaze, paint.gaze = paint.gaze, None
    before = error(paint(vertices, LENS), vertices)
    assert all(eye is not None and eye.fit > 0.8 for eye in gaze.eyes)
    assert error(drawn, vertices) < gain * before


def test_eyes_that_do_not_move_stay_as_the_portrait_has_them():
    paint = painter()
    for turned in (0.0, 0.15):  # radians that the head turns, and the eyes with it
        vertices = acting()[1]
        centre = vertices.mean(0)
        turn = np.array([[np.cos(turned), 0, np.sin(turned)], [0, 1, 0], [-np.sin(turned), 0, np.cos(turned)]])
        vertices = ((vertices - centre) @ turn.T + centre).astype(np.float32)
        drawn = np.full((SIDE, SIDE, 3), 7, np.uint8)
        paint.gaze.draw(drawn, Target(vertices, LENS, paint.faces, (SIDE, SIDE), 1))
        assert (drawn == 7).all()


def test_an_iris_is_found_where_the_body_does_not_have_it():
    ball = balls_of(load_body(), acting()[1], LENS)[0]
    y, x = np.nonzero(within_opening(ball.opening, ((0, SIDE), (0, SIDE)), 1) > 0)
    ways = ball.seen(np.column_stack([x, y]) + 0.5, LENS)
    iris = np.degrees(np.arcsin(IRIS / ball.radius))
    way = np.array([np.sin(np.radians(8)), 0, np.cos(np.radians(8))])
    grey = np.where(np.degrees(np.arccos(np.clip(ways @ way, -1, 1))) < iris, 40.0, 220.0)
    found = middle_of_iris(ways, grey, np.ones(len(grey)), iris)
    assert np.degrees(np.arccos(found @ way)) < 3
    assert found[2] < 0.999 and middle_of_iris(ways, np.full(len(grey), 90.0), np.ones(len(grey)), iris)[2] > 0.999


def test_what_does_not_look_like_eyes_is_not_drawn_as_eyes():
    assert painter(eyes=False).gaze.eyes == [None, None]
    vertices = acting()[1]
    picture, matte = filmed(vertices)
    noise = np.random.default_rng(0).integers(0, 255, picture.shape).astype(np.uint8)
    strange = PortraitPainter(load_body(), noise, vertices, LENS, 1, matte=matte)
    assert strange.gaze.eyes == [None, None]
    covered = PortraitPainter(load_body(), picture, vertices, LENS, 1, matte=matte, eyes_covered=True)
    assert covered.gaze is None and painter(matte=False).gaze is None  # nor in what models are shown
    assert not has_eyes(object())


def test_eyes_beside_the_picture_and_tiny_ones_are_left_alone():
    vertices = acting(LEFTWARDS)[1]
    paint = painter()
    for shift in ((0.5, 0, 0), (0, 0, -0.6), (0, 0, 30)):
        drawn = np.full((SIDE, SIDE, 3), 7, np.uint8)
        target = Target(vertices + np.float32(shift), LENS, paint.faces, (SIDE, SIDE), 1)
        paint.gaze.draw(drawn, target)
        assert (drawn != 7).any(-1).sum() < 9
    aside = acting()[1] + np.float32([0.5, 0, 0])
    alone = PortraitPainter(load_body(), filmed(acting()[1])[0], aside, LENS, 1, matte=np.ones((SIDE, SIDE)))
    assert alone.gaze.eyes == [None, None]


def test_a_film_shows_the_eyes_of_its_nearest_frame():
    own, body = painter(), load_body()
    looking = painter(LEFTWARDS, matte=False, iris=(40, 60, 170))
    known = np.ones((SIDE, SIDE), bool)
    film = [Texture(looking, acting(LEFTWARDS)[0], known)]
    actions, vertices = acting(dict.fromkeys(LEFTWARDS, 0.85))
    target = Target(vertices, LENS, own.faces, (SIDE, SIDE), 1)
    painted = FaceBlend(own, acting()[0], film).paint(own.paint(target), target, actions)
    shown = shown_in(target, balls_of(body, vertices, LENS)[0], around_eyes(body, target) == 1)
    y, x = shown.rows[0] + shown.row, shown.rows[1] + shown.column
    iris = filmed(vertices, (40, 60, 170))[0][y, x]
    blue = (iris[:, 2] > iris[:, 0] + 60) & (shown.opacity[shown.rows] == 1)
    assert blue.sum() > 20 and (painted[y, x][blue][:, 2] > painted[y, x][blue][:, 0] + 40).mean() > 0.9


def test_a_film_with_closed_eyes_leaves_them_closed():
    own, shut = painter(), {"eyeBlinkLeft": 0.7, "eyeBlinkRight": 0.7}
    closed = Texture(painter(shut, matte=False, eyes=False), acting(shut)[0], np.ones((SIDE, SIDE), bool))
    half = acting({"eyeBlinkLeft": 0.6, "eyeBlinkRight": 0.6})[1]
    drawn = np.full((SIDE, SIDE, 3), 7, np.uint8)
    draw_eyes(drawn, Target(half, LENS, own.faces, (SIDE, SIDE), 1), load_body(), [own.gaze, closed.gaze])
    assert closed.gaze.eyes == [None, None] and abs(drawn.astype(int) - 7).max() < 60


def test_a_way_between_two_directions():
    first, second = np.array([0, 0, 1.0]), np.array([0.6, 0, 0.8])
    assert np.allclose(between(first, second) @ first, second) and np.allclose(between(first, first), np.eye(3))
    assert degrees_between(between(first, second), np.eye(3)) == pytest.approx(np.degrees(np.arccos(0.8)))
    still, moving = balls_of(load_body(), acting()[1], LENS)[0], balls_of(load_body(), acting(LEFTWARDS)[1], LENS)[0]
    assert moved(still, still) == 0 and moved(still, moving) == 1


def test_an_eye_behind_a_nose_is_not_drawn_over_it():
    paint, vertices, turn = painter(), acting(LEFTWARDS)[1], np.radians(62)
    centre = vertices.mean(0)
    for sign in (1, -1):
        rotation = np.array(
            [[np.cos(turn), 0, sign * np.sin(turn)], [0, 1, 0], [-sign * np.sin(turn), 0, np.cos(turn)]]
        )
        turned = ((vertices - centre) @ rotation.T + centre).astype(np.float32)
        target = Target(turned, LENS, paint.faces, (SIDE, SIDE), 1)
        drawn = np.full((SIDE, SIDE, 3), 7, np.uint8)
        paint.gaze.draw(drawn, target)
        touched, around = (drawn != 7).any(-1), around_eyes(load_body(), target)
        assert touched.any() and not touched[around == 0].any()
        aside = PortraitPainter(load_body(), filmed(turned)[0], turned, LENS, 1, matte=np.ones((SIDE, SIDE)))
        for number, eye in enumerate(aside.gaze.eyes, start=1):
            if eye is not None:
                y, x = np.nonzero(eye.window > 0)
                seen = around_eyes(load_body(), target)[y + eye.corner[1], x + eye.corner[0]]
                assert (seen == number).all()


def test_values_of_more_places_than_opencv_takes_in_a_row():
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    places = np.tile([[1.5, 0.5], [9.0, 9.0]], (20_000, 1))
    assert values_at(picture, places).shape == (40_000, 1) and values_at(picture, places[:0]).shape == (0, 1)
    assert (values_at(picture, places)[:, 0].reshape(-1, 2) == [1, 11]).all()
