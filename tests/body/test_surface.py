"""What a portrait does not see of a head has the colour of what it is."""

import cv2
import numpy as np
import pytest

from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter, mirror_vertices
from fportrait.body.surface import about_the_ears, crown_colour, flesh_of, surface_colours
from fportrait.body.warping import Target

SKIN, HAIR, WALL = (200, 140, 110), (40, 30, 25), (20, 220, 40)
LENS = np.array([[260.0, 0, 64], [0, 260.0, 64], [0, 0, 1]])


def turned(vertices, degrees):
    centre, (cos, sin) = vertices.mean(0), (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
    return (vertices - centre) @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T + centre


@pytest.fixture(scope="module")
def head():
    """A body, its vertices before a camera, and which of them are scalp."""
    body = load_body()
    vertices = np.asarray(body.vertices(np.zeros(body.identity_dim), None, Pose.rest()))
    vertices = (vertices - vertices[body.part == 0].mean(0)) * (1, -1, -1) + (0, 0, 0.6)
    return body, vertices, body.part == body.part_names.index("scalp")


def portrait_of(head, degrees, hair=HAIR):
    """A head with hair and skin of one colour each, before a wall: picture, matte, its vertices."""
    body, vertices, scalp = head
    there = turned(vertices, degrees)
    target = Target(there, LENS, body.faces, (128, 128), 1)
    picture = np.full((128, 128, 3), WALL, np.uint8)
    hairy = scalp[body.faces[target.triangles]].all(1)
    picture.reshape(-1, 3)[target.places] = np.where(hairy[:, None], hair, SKIN)
    return picture, target.covered.astype(np.float32), there


def places_of(vertices):
    seen = vertices @ LENS.T
    return seen[:, :2] / seen[:, 2:]


def test_a_hidden_side_has_hair_where_hair_is_and_skin_where_skin_is(head):
    body, _, scalp = head
    picture, matte, there = portrait_of(head, 40)
    painter = PortraitPainter(body, picture, there, LENS, 1, (), matte)
    _, sight = painter._vertices_seen()
    hidden, face = sight == 0, body.part == body.part_names.index("face")
    assert (hidden & scalp).sum() > 100 and (hidden & face).sum() > 300
    crown = np.median(painter.surface[hidden & scalp], 0)  # the hairline is soft
    assert np.abs(crown - HAIR).max() < 0.5 * np.abs(crown - SKIN).max()
    assert np.abs(np.median(painter.surface[hidden & face], 0) - SKIN).max() < 10
    assert np.abs(painter.surface[(sight > 0.8) & face] - SKIN).mean() < 6


def test_no_wall_is_painted_on_a_head_that_turns(head):
    body, vertices, _ = head
    picture, _, there = portrait_of(head, 40)
    narrow = cv2.erode((picture != WALL).any(-1).astype(np.uint8), np.ones((9, 9)))  # a head narrower than its mesh
    picture[narrow == 0] = WALL
    painter = PortraitPainter(body, picture, there, LENS, 1, (), narrow.astype(np.float32))
    target = Target(turned(vertices, -30), LENS, body.faces, (128, 128), 1)
    sight, _, _ = painter.sight(target)
    inward = target.places[target.facing > 2 * sight]  # what was at the rim, or hidden, and has come to the middle

    def walls(painter):
        drawn = painter.paint(target).reshape(-1, 3)[inward].astype(int)
        return (drawn[:, 1] - drawn[:, [0, 2]].max(-1) > 60).mean()

    assert walls(painter) < 0.05
    assert walls(PortraitPainter(body, picture, there, LENS, 1)) > 0.15


def test_in_its_own_pose_the_portrait_stays_itself(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 25)
    same = PortraitPainter(body, picture, there, LENS, 1, (), matte)(there, LENS).astype(int)
    assert np.abs(same - picture).mean() < 1.5


def test_hair_that_stands_above_the_mesh_tells_the_colour_of_the_scalp_and_a_bald_head_has_none(head):
    body, _, scalp = head
    picture, matte, there = portrait_of(head, 0, SKIN)
    covered = matte > 0
    assert crown_colour(body, picture, places_of(there), matte, covered) is None
    tall = cv2.dilate(matte, np.ones((15, 15)))
    tall[64:] = matte[64:]
    picture[(tall > 0) & ~covered] = HAIR
    hair = crown_colour(body, picture, places_of(there), tall, covered)
    assert np.abs(hair - HAIR).max() < 5
    sight = PortraitPainter(body, picture, there, LENS, 1, (), tall)._vertices_seen()[1]
    colours = surface_colours(body, picture, places_of(there), sight, mirror_vertices(body), hair)
    assert np.abs(colours[(sight == 0) & scalp] - HAIR).mean() < 60  # though what is seen of it is bald


def test_a_hidden_scalp_has_the_strands_of_the_hair_that_is_seen_and_a_hidden_cheek_none(head):
    body, vertices, scalp = head
    picture, matte, there = portrait_of(head, 40)
    tall = cv2.dilate(matte, np.ones((21, 21)))
    tall[64:] = matte[64:]
    stripes = np.where(np.arange(128)[None, :, None] % 4 < 2, np.add(HAIR, 30), HAIR)
    hairy = (np.abs(picture.astype(int) - HAIR).sum(-1) < 10) | ((tall > 0) & (matte == 0))
    picture[hairy] = np.broadcast_to(stripes, picture.shape)[hairy]
    painter = PortraitPainter(body, picture, there, LENS, 1, (), tall)
    target = Target(turned(vertices, -50), LENS, body.faces, (128, 128), 1)
    hidden = np.flatnonzero((painter.sight(target)[0] == 0) & (painter.sight(target, True)[0] == 0))
    corners = body.faces[target.triangles[hidden]]
    with_strands, plain = (painter._on_surface(target, hidden, detailed) for detailed in (True, False))
    levels = np.abs(with_strands - plain).mean(-1)
    assert levels[scalp[corners].all(1)].mean() > 3
    assert levels[~scalp[corners].any(1)].max() == 0


def test_skin_about_an_ear_is_told_from_hair_there(head):
    body, _, _ = head
    picture, _, there = portrait_of(head, 0)
    places, sight = places_of(there), np.where(body.part == 0, 0.9, 0.0)
    ears = (body.part == body.part_names.index("ears")) & (body.template[:, 0] > 0)
    x, y = (int(one) for one in places[ears].mean(0))
    near = about_the_ears(body, places, picture.shape[:2])
    assert near[y, x] > 0.9 and near[10, 10] == 0
    for colour, known in ((SKIN, 1.0), (HAIR, 0.0)):
        picture[y - 6 : y + 7, x - 6 : x + 7] = colour
        assert flesh_of(body, picture, places, sight, np.array(HAIR))[y, x] == pytest.approx(known, abs=0.05)
    assert (flesh_of(body, picture, places, sight, None) == 1).all()
