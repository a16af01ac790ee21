"""What a portrait does not see of a head has the colour of what it is."""

import cv2
import numpy as np
import pytest

from fportrait.body.backdrop import ends_of
from fportrait.body.hair import Beside, hair_in, likeness, stands_beside
from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter
from fportrait.body.rasterizer import rasterize, vertex_normals
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


def vertex_of(body, vertices):
    ids, _, _ = rasterize(vertices, body.faces, LENS, 128, 128)
    return np.where(ids >= 0, body.faces[ids, 0], -1)


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


def test_light_at_the_edge_of_a_face_is_not_drawn_on_its_cheek_when_it_turns(head):
    body, vertices, _ = head
    picture, matte, there = portrait_of(head, 0)
    light = (matte > 0) & (cv2.erode(matte, np.ones((5, 5))) == 0)
    picture[light] = 255
    target = Target(turned(vertices, -45), LENS, body.faces, (128, 128), 1)
    painter = PortraitPainter(body, picture, there, LENS, 1, (), matte)
    face = np.zeros(target.covered.shape, np.uint8)
    face.reshape(-1)[target.places] = (body.part == 0)[body.faces[target.triangles, 0]]
    within = cv2.erode(face, np.ones((9, 9))) > 0

    def lit(painter):
        drawn = painter.paint(target)
        return (drawn[within].min(-1) > 225).mean()

    assert lit(painter) < 0.005 < 0.05 < lit(PortraitPainter(body, picture, there, LENS, 1))
    assert np.abs(painter(there, LENS).astype(int) - picture)[light].mean() < 8  # in its own pose it is


def test_a_portrait_that_ends_in_black_is_painted_without_it_and_a_dark_wall_is_no_end(head):
    body, vertices, _ = head
    picture, matte, there = portrait_of(head, 0)
    rows = np.flatnonzero(matte.any(1))
    top = int(rows[0] + 0.25 * (rows[-1] - rows[0]))
    picture[:top], picture[:, :9] = 0, 0
    assert ends_of(picture) == (slice(top + 1, 128), slice(10, 128))
    for degrees in (0, 35):
        pose = turned(vertices, degrees)
        drawn = PortraitPainter(body, picture, there, LENS, 1, (), matte)(pose, LENS)
        assert (drawn.max(-1) < 25).mean() < 0.002
    assert (PortraitPainter(body, picture, there, LENS, 1)(there, LENS).max(-1) < 25).mean() > 0.2  # a model's picture
    dark = np.where(matte[..., None] > 0, picture, 3).astype(np.uint8)
    dark[:top] = np.where(matte[:top, :, None] > 0, 90, 3)
    assert ends_of(dark) is None
    assert ends_of(np.zeros_like(dark)) is None and ends_of(np.full_like(dark, 99)) is None


def test_a_head_that_turns_leaves_the_collar_where_the_shoulders_are():
    body = load_body()

    def posed(degrees):
        angle = np.radians(degrees)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        vertices = body.vertices(np.zeros(body.identity_dim), None, Pose(np.eye(3), np.zeros(3), turn))
        return np.asarray(vertices * (1, -1, -1) + (0, -0.03, 0.6), np.float32)

    there = posed(0)
    target = Target(there, LENS, body.faces, (128, 128), 1)
    picture = np.full((128, 128, 3), WALL, np.uint8)
    chin = int(places_of(there)[body.part == 0, 1].max())
    across, down = np.meshgrid(np.arange(128), np.arange(128))
    collar = (np.abs(across - 64) < 40 + (down - chin)) & (down > chin - 6)  # as high as the jaw, wider than the neck
    picture[collar] = (240, 240, 240)
    picture.reshape(-1, 3)[target.places] = SKIN
    matte = (collar | target.covered).astype(np.float32)
    painter = PortraitPainter(body, picture, there, LENS, 1, (), matte)
    turned_target = Target(posed(20), LENS, body.faces, (128, 128), 1)
    beside = (target.covered | turned_target.covered) == 0

    def moved(painter):
        return np.abs(painter.paint(turned_target).astype(int) - picture).max(-1)[beside & (down > chin - 16)]

    still = moved(painter)
    painter.backdrop = painter.backdrop._replace(clothes=None)
    dragged = moved(painter)
    assert (still > 60).mean() < 0.015 and (dragged > 60).mean() > 3 * (still > 60).mean()


def test_locks_that_fall_beside_a_face_count_as_hair_and_an_ear_that_stands_there_does_not(head):
    picture, matte, _ = portrait_of(head, 0)
    seen = matte > 0
    lock, ear = np.zeros(seen.shape, bool), np.zeros(seen.shape, bool)
    coat = np.zeros(seen.shape, bool)
    lock[70:110, 20:34], ear[60:72, 96:104], coat[100:, :20] = True, True, True
    lock, ear, coat = lock & ~seen, ear & ~seen, coat & ~seen
    picture[lock], picture[ear], picture[coat] = HAIR, SKIN, (240, 240, 255)
    shown = (seen & (picture == HAIR).all(-1)).astype(np.float32)
    person = np.maximum(matte, lock | ear | coat).astype(np.float32)
    found, neither = likeness(picture, shown, seen, person)
    assert neither[coat].mean() > 0.8 and neither[lock].mean() < 0.1 and neither[ear].mean() < 0.1
    assert found[lock].mean() > 0.85 and found[ear].mean() < 0.15
    assert not found[seen | (person == 0)].any()


def test_hair_begins_at_the_mesh_when_a_head_turns_whose_temples_are_wider(head):
    body, vertices, _ = head
    picture, matte, there = portrait_of(head, 0)
    wide, wider = (cv2.dilate(matte, np.ones((side, side))) > 0 for side in (5, 21))
    high = np.arange(128)[:, None] < places_of(there)[body.part == body.part_names.index("ears"), 1].min() - 2
    temple, locks = wide & (matte == 0) & high, wider & ~wide & high
    picture[temple], picture[locks] = SKIN, HAIR
    painter = PortraitPainter(body, picture, there, LENS, 1, (), np.maximum(matte, temple | locks).astype(np.float32))
    assert (painter(there, LENS)[temple].astype(int) - SKIN).mean() > -12  # in its own pose it is as filmed
    turned_head = Target(turned(vertices, 35), LENS, body.faces, (128, 128), 1)
    ears, crown = (places_of(there)[body.part == body.part_names.index(name), 1].min() for name in ("ears", "scalp"))
    at_temples = np.abs(np.arange(128)[:, None] - (0.7 * ears + 0.3 * crown)) < 0.15 * (ears - crown)
    beside = (cv2.dilate(turned_head.covered.astype(np.uint8), np.ones((5, 5))) > 0) & ~turned_head.covered & at_temples
    drawn = painter.paint(turned_head)[beside].astype(int)
    assert (np.abs(drawn - HAIR).max(-1) < 60).mean() > 0.8
    painter._turned = painter.portrait
    strip = painter.paint(turned_head)[beside].astype(int)
    assert (np.abs(strip - HAIR).max(-1) < 60).mean() < 0.6


def test_behind_a_chin_that_turns_away_clothes_go_on_and_a_wall_behind_a_brow(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 0)
    chin = int(places_of(there)[body.part == 0, 1].max())
    lobes = int(places_of(there)[body.part == body.part_names.index("ears"), 1].max())
    coat = np.zeros(matte.shape, bool)
    coat[lobes:] = True
    picture[coat & (matte == 0)] = (10, 10, 90)
    painter = PortraitPainter(body, picture, there, LENS, 1, (), np.maximum(matte, coat).astype(np.float32))
    behind = painter.backdrop.picture.astype(int)
    column = int(there[body.part == 0].mean(0) @ LENS[0] / there[:, 2].mean())
    assert np.abs(behind[chin - 2, column] - (10, 10, 90)).max() < 60
    assert np.abs(behind[lobes - 12, column] - WALL).max() < 60
    gone = Target(there + np.array([0.08, 0, 0]), LENS, body.faces, (128, 128), 1)  # shoulders that leave take it along
    assert np.abs(painter._asked(gone).backdrop.picture[chin - 2, column].astype(int) - WALL).max() < 60


def test_in_its_own_pose_the_portrait_stays_itself(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 25)
    same = PortraitPainter(body, picture, there, LENS, 1, (), matte)(there, LENS).astype(int)
    assert np.abs(same - picture).mean() < 1.5


def test_in_its_own_pose_all_that_stands_beside_a_head_stays(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 50)
    wide = cv2.dilate(matte, np.ones((13, 13)))
    picture[(wide > 0) & (matte == 0)] = HAIR
    painter = PortraitPainter(body, picture, there, LENS, 1, (), wide)
    all_of_it = np.ones(matte.shape, np.float32)  # at outlines whose way out leans to the camera, or from it
    painter._beside = Beside(all_of_it, all_of_it, all_of_it, (np.array([0.8, 0, -0.6]), np.array([0.8, 0, 0.6])))
    assert np.abs(painter(there, LENS).astype(int) - picture)[wide > 0].mean() < 3


def test_hair_that_stands_above_the_mesh_tells_the_colour_of_the_scalp_and_a_bald_head_has_none(head):
    body, _, scalp = head
    picture, matte, there = portrait_of(head, 0, SKIN)
    assert hair_in(body, picture, places_of(there), matte, vertex_of(body, there)) is None
    tall = cv2.dilate(matte, np.ones((15, 15)))
    tall[64:] = matte[64:]
    picture[(tall > 0) & (matte == 0)] = HAIR
    found = hair_in(body, picture, places_of(there), tall, vertex_of(body, there))
    above = (tall > 0) & (cv2.dilate(matte, np.ones((5, 5))) == 0)
    assert found[above].mean() > 0.8 and found[(matte > 0) & (picture == SKIN).all(-1)].mean() < 0.1
    painter = PortraitPainter(body, picture, there, LENS, 1, (), tall)
    hidden = (painter._vertices_seen()[1] == 0) & scalp
    assert np.abs(np.median(painter.surface[hidden], 0) - HAIR).max() < 40  # though what is seen of it is bald


def test_a_hidden_scalp_has_the_strands_of_the_hair_that_is_seen_and_what_no_hair_covers_none(head):
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
    (strands,) = (grain for grain in painter._grains if grain.places[scalp, 2].mean() > 0.5)
    bare = strands.places[corners, 2].max(1) == 0
    assert bare.any() and levels[bare].max() < 0.5  # skin of one colour has no grain


def test_short_hair_that_stands_no_higher_than_the_mesh_is_found_and_light_on_a_bald_head_is_none(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 0)
    found = hair_in(body, picture, places_of(there), matte, vertex_of(body, there))
    hairy = (picture == HAIR).all(-1)
    assert found[hairy].mean() > 0.7 and found[(matte > 0) & ~hairy].mean() < 0.1
    shiny, _, _ = portrait_of(head, 0, (255, 245, 240))
    assert hair_in(body, shiny, places_of(there), matte, vertex_of(body, there)) is None


def test_a_side_whose_outline_stands_before_hair_has_hair_and_no_ear(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 40)
    painter = PortraitPainter(body, picture, there, LENS, 1, (), matte)
    hidden = (painter._vertices_seen()[1] == 0) & (body.part == body.part_names.index("ears"))
    far = hidden & (body.template[:, 0] * np.median(body.template[hidden, 0]) > 0)
    assert far.sum() > 50 and np.abs(np.median(painter.surface[far], 0) - SKIN).max() < 40
    long, tall = picture.copy(), cv2.dilate(matte, np.ones((21, 21)))
    beside = (tall > 0) & (matte == 0) & (np.arange(128)[:, None] < places_of(there)[body.part == 0, 1].max())
    tall[~beside & (matte == 0)] = 0
    long[beside] = HAIR
    painter = PortraitPainter(body, long, there, LENS, 1, (), tall)
    assert np.abs(np.median(painter.surface[far], 0) - HAIR).max() < 40


@pytest.mark.parametrize("roll", [45, 90, 180])
def test_a_head_that_lies_or_stands_on_its_crown_is_painted_all_the_same(head, roll):
    body, vertices, _ = head
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    centre = vertices.mean(0)
    there = (vertices - centre) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T + centre
    target = Target(there, LENS, body.faces, (128, 128), 1)
    picture = np.random.default_rng(roll).integers(0, 255, (128, 128, 3), np.uint8)
    for matte in (target.covered, np.ones((128, 128)), np.zeros((128, 128))):
        painter = PortraitPainter(body, picture, there, LENS, 1, (), matte.astype(np.float32))
        assert np.isfinite(painter.surface).all() and painter(turned(there, 30), LENS).shape == picture.shape


def test_the_same_portrait_has_the_same_hair_whatever_was_asked_before(head):
    body, _, _ = head
    picture, matte, there = portrait_of(head, 20)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
    first = hair_in(body, noisy, places_of(there), matte, vertex_of(body, there))
    cv2.setRNGSeed(7)
    assert np.array_equal(first, hair_in(body, noisy, places_of(there), matte, vertex_of(body, there)))


def test_what_stands_beside_a_face_is_told_from_hair_and_from_what_stands_beside_a_coat(head):
    body, _, _ = head
    _, _, there = portrait_of(head, 0)
    vertex, outward = vertex_of(body, there), vertex_normals(there.astype(np.float32), body.faces, body.weld)
    ears = body.part == body.part_names.index("ears")
    row = int(places_of(there)[ears, 1].mean())
    right = np.flatnonzero(vertex[row] >= 0).max() + 3
    nothing = stands_beside(body, None, vertex, outward)
    assert nothing.sides[row, right] > 0.9 and nothing.sides[8, 8] == 0 and nothing.sides[126].max() < 0.1
    hairy = stands_beside(body, np.ones(vertex.shape, np.float32), vertex, outward)
    assert hairy.sides.max() == 0


def test_hair_behind_a_head_that_turns_its_back_away_goes_behind_it(head):
    body, vertices, _ = head
    picture, matte, there = portrait_of(head, 50)
    bun = np.zeros_like(matte)
    level = int(places_of(there)[body.part == body.part_names.index("ears"), 1].mean()) - 4
    back = np.flatnonzero(matte[level] > 0)
    back = back.max() if places_of(there)[body.part == 0, 0].mean() < places_of(there)[:, 0].mean() else back.min()
    cv2.circle(bun, (int(back), level), 12, (1,), -1)
    behind = (bun > 0) & (matte == 0)
    picture[behind] = HAIR
    painter = PortraitPainter(body, picture, there, LENS, 1, (), np.maximum(matte, behind))

    def shown(degrees):
        pose = turned(vertices, degrees)
        beside = Target(pose, LENS, body.faces, (128, 128), 1).covered == 0
        return ((np.abs(painter(pose, LENS).astype(int) - HAIR).max(-1) < 20) & beside)[level - 12 : level + 12].sum()

    assert shown(50) > 100
    assert shown(0) < 0.3 * shown(50)


def test_where_the_mirrored_side_ends_there_are_no_specks(head):
    """A threshold ends in the teeth of triangles: pixels of the one and the other stood side by side, and flickered."""
    body, vertices, _ = head
    _, matte, there = portrait_of(head, 35)
    across, down = np.meshgrid(np.arange(128), np.arange(128))
    stripes = np.asarray(SKIN) + 60 * np.sin(down / 2.5 + across / 19)[..., None]
    picture = np.where(matte[..., None] > 0, np.clip(stripes, 0, 255), WALL).astype(np.uint8)
    painter, drawn = PortraitPainter(body, picture, there, LENS, 1, (), matte), []
    for degrees in np.arange(-20, -16, 0.5):
        target = Target(turned(vertices, degrees), LENS, body.faces, (128, 128), 1)
        drawn.append(painter.paint(target).astype(int))
    within = cv2.erode(target.covered.astype(np.uint8), np.ones((7, 7))) > 0
    specks = np.abs(drawn[-1] - cv2.medianBlur(drawn[-1].astype(np.uint8), 3)).max(-1) > 25
    assert (specks & within).sum() < 30
    assert np.abs(np.diff(drawn, 2, axis=0))[:, within].mean() < 1.7
