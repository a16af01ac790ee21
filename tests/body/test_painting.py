"""The portrait painted on the body: hair moves with it, what is far stays, and nothing moves where nothing did."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fportrait.body.backdrop import around
from fportrait.body.mesh import mirror_vertices, mirrored_faces
from fportrait.body.model import Pose, load_body
from fportrait.body.mouth import inside_of
from fportrait.body.painting import (
    TRUST_BESIDE,
    TRUST_SEEN,
    TRUST_UNSEEN,
    PortraitPainter,
    acting_vertices,
    paint_each,
)
from fportrait.body.warping import Target, on_surface, spread, warp_portrait
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.errors import UserError


def test_what_lies_beside_moves_as_its_nearest_and_less_with_distance():
    seen = np.zeros((9, 40), bool)
    seen[:, :5] = True
    moved = np.where(seen[..., None], np.float32([3, -1]), np.float32(0))
    found = spread(moved, seen, 4.0)
    assert np.allclose(found[seen], [3, -1])
    across = found[4, :, 0]
    assert (np.diff(across[4:]) < 0).all() and across[5] > 2 and across[39] < 0.01


def test_in_its_own_pose_the_portrait_is_itself_also_in_a_picture_that_is_no_square():
    body = load_body()
    camera = orbit_camera(0, 0, 0.55, HEAD_TARGET)
    vertices = body.vertices(np.zeros(body.identity_dim), None, Pose(np.eye(3), np.zeros(3), np.eye(3)))
    placed = vertices @ camera[:3, :3].T + camera[:3, 3]
    lens = intrinsics_from_fov(30.0, 48, 64)
    smooth = np.broadcast_to(np.linspace(0, 200, 48)[None, :, None], (64, 48, 3)).astype(
        np.uint8
    )  # brighter rightwards
    same = warp_portrait(smooth, placed, lens, placed, lens, body.faces, 0.12, 2)
    assert same.shape == smooth.shape and np.abs(same.astype(int) - smooth).max() <= 2
    aside = placed + np.array([0.02, 0, 0])  # to the right, where it brings the darker left
    moved = warp_portrait(smooth, placed, lens, aside, lens, body.faces, 0.12, 2)
    assert (smooth.astype(int) - moved)[25:40, 20:30].min() > 5


def facing(actions=None):
    """The mean body before a camera half a metre away, acting; and the camera's lens for 96 pixels."""
    body, camera = load_body(), orbit_camera(0, 0, 0.55, HEAD_TARGET)
    pose = Pose(np.eye(3), np.zeros(3), np.eye(3))
    vertices = acting_vertices(body, np.zeros(body.identity_dim), actions, pose)
    return body, vertices @ camera[:3, :3].T + camera[:3, 3], intrinsics_from_fov(30.0, 96, 96)


def test_a_mouth_that_the_portrait_keeps_closed_opens_dark_and_one_that_it_shows_keeps_its_colours():
    open_mouth = np.zeros(52, np.float32)
    open_mouth[load_body().action_names.index("jawOpen")] = 1
    body, closed, lens = facing()
    _, opened, _ = facing(open_mouth)
    grey = np.full((96, 96, 3), 140, np.uint8)
    from_closed = PortraitPainter(body, grey, closed, lens)(opened, lens)
    dark = (from_closed.astype(int).sum(-1) < 3 * 90) & (from_closed[..., 0] > from_closed[..., 2])
    assert dark.sum() > 15
    lips = np.argwhere(dark).mean(0)
    pixels = closed @ lens.T
    mouth = (pixels[:, :2] / pixels[:, 2:])[body.masks["lips"] > 0.5].mean(0)
    assert np.abs(lips[::-1] - mouth).max() < 10
    from_open = PortraitPainter(body, grey, opened, lens)(opened, lens)
    assert np.abs(from_open.astype(int) - 140).max() <= 1  # what it shows is taken from it, grey
    dim = PortraitPainter(body, grey // 2, closed, lens)(opened, lens)
    assert dim[dark].mean() < 0.7 * from_closed[dark].mean()  # in the portrait's own light


def test_a_mask_before_a_mouth_that_opens_stays_a_mask():
    open_mouth = np.zeros(52, np.float32)
    open_mouth[load_body().action_names.index("jawOpen")] = 1
    body, closed, lens = facing()
    _, opened, _ = facing(open_mouth)
    blue, red = np.full((96, 96, 3), (60, 160, 200), np.uint8), np.full((96, 96, 3), (200, 30, 30), np.uint8)
    unmasked = PortraitPainter(body, red, opened, lens)  # which does see the inside of a mouth
    skin = np.full((96, 96, 3), (180, 130, 110), np.uint8)
    lips = (closed @ lens.T)[body.masks["lips"] > 0.5]
    x, y = (lips[:, :2] / lips[:, 2:]).mean(0).astype(int)
    cv2.circle(skin, (int(x), int(y)), 16, (60, 160, 200), -1)
    painter = PortraitPainter(body, skin, closed, lens, 2, (), np.ones((96, 96), np.float32), mouth_covered=True)
    middle = painter(opened, lens)[y - 4 : y + 10, x - 8 : x + 9].astype(int)
    assert np.abs(middle - (60, 160, 200)).max() < 12
    for matte in (None, np.ones((96, 96), np.float32)):
        for others in ([], [unmasked]):
            painter = PortraitPainter(body, blue, closed, lens, 2, others, matte, mouth_covered=True)
            target = Target(opened, lens, body.faces, (96, 96), 2)
            assert np.abs(painter.paint(target).astype(int) - blue)[8:].max() < 8  # below what is cut by the edge
            assert painter.trust(target).shape == (96, 96)
        shown = PortraitPainter(body, blue, closed, lens, 2, (), matte)(opened, lens)
        assert np.abs(shown.astype(int) - blue).max() > 60


def test_a_body_without_those_parts_is_painted_without_them():
    body, closed, lens = facing()

    class Bare:
        faces = body.faces

    portrait = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    plain = warp_portrait(portrait, closed, lens, closed, lens, body.faces, 0.12, 2)
    assert np.array_equal(PortraitPainter(Bare(), portrait, closed, lens)(closed, lens), plain)
    assert (
        not PortraitPainter(Bare(), portrait, closed, lens).trust(Target(closed, lens, body.faces, (96, 96), 2)).max()
        < 200
    )


def test_teeth_that_a_smile_shows_do_not_lie_on_the_tongue_when_the_mouth_opens_wider():
    names = load_body().action_names
    parted, wide = np.zeros(52, np.float32), np.zeros(52, np.float32)
    parted[names.index("jawOpen")], wide[names.index("jawOpen")] = 0.3, 1.0
    body, small, lens = facing(parted)
    _, opened, _ = facing(wide)
    white = np.full((96, 96, 3), 240, np.uint8)
    painter = PortraitPainter(body, white, small, lens)
    assert (painter(small, lens) == 240).all()  # the very portrait again
    assert (painter(opened, lens).mean(-1) < 160).sum() > 20  # a tongue, and not a white one


def test_what_lies_beside_is_trusted_wholly_what_the_portrait_sees_a_quarter_and_what_it_does_not_see_between():
    body, closed, lens = facing()
    turned = Rotation.from_euler("y", 60, degrees=True).as_matrix()
    middle = closed.mean(0)
    aside = (closed - middle) @ turned.T + middle
    painter = PortraitPainter(body, np.full((96, 96, 3), 140, np.uint8), closed, lens)
    target = Target(aside, lens, body.faces, (96, 96), 2)
    trust = painter.trust(target).astype(int)
    sight = np.zeros(target.covered.shape)
    sight.reshape(-1)[target.places] = painter.sight(target)[0]
    sight = sight.reshape(96, 2, 96, 2).mean((1, 3))
    mesh = target.covered.reshape(96, 2, 96, 2).all((1, 3))
    assert np.median(trust[(sight > 0.8) & mesh]) == round(255 * TRUST_SEEN)
    assert np.median(trust[(sight == 0) & mesh]) == pytest.approx(255 * TRUST_UNSEEN, abs=4)
    assert trust[0, 0] == 255 * TRUST_BESIDE
    mouth = (lambda at: at[:, :2] / at[:, 2:])(aside @ lens.T)[body.masks["lips"] > 0.5].mean(0).astype(int)
    assert trust[mouth[1], mouth[0]] > 200 * TRUST_SEEN
    assert np.array_equal(painter.trust(Target(aside, lens, body.faces, (96, 96), 2)), trust)


def test_colours_are_read_at_no_place_at_one_and_at_more_than_a_picture_is_wide():
    body, closed, lens = facing()
    portrait = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    painter = PortraitPainter(body, portrait, closed, lens)
    assert painter.colours(np.zeros((0, 2))).shape == (0, 3)
    assert np.array_equal(painter.colours(np.array([[10.5, 20.5]])), portrait[20:21, 10])
    many = np.tile([[3.5, 4.5]], (70_000, 1))
    assert np.array_equal(np.unique(painter.colours(many), axis=0), portrait[4:5, 3])


def test_a_side_that_is_hidden_is_the_seen_one_mirrored_and_a_face_from_the_front_keeps_its_own():
    """A portrait from far aside, its seen half red: from the front both halves are."""
    body, closed, lens = facing()
    red = np.zeros((96, 96, 3), np.uint8)
    red[...] = (200, 40, 40)
    turned = closed.copy()
    centre = closed.mean(0)
    turn = np.array([[np.cos(1.0), 0, np.sin(1.0)], [0, 1, 0], [-np.sin(1.0), 0, np.cos(1.0)]])
    turned = (closed - centre) @ turn.T + centre
    painter = PortraitPainter(body, red, turned, lens)
    front = painter(closed, lens)
    cheeks = front[50:60, 30:66].astype(int)
    assert (cheeks[..., 0] > 150).all() and (cheeks[..., 1] < 90).all()
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, :48] = (20, 200, 20)  # left half green, right half black: the front keeps both
    own = PortraitPainter(body, stripes, closed, lens)(closed, lens)
    assert np.abs(own[45:60, 36:46].astype(int) - (20, 200, 20)).max() < 5 and own[45:60, 52:62].max() < 5


def test_teeth_that_a_smile_shows_go_with_the_lips_as_the_head_turns():
    acting = np.zeros(52, np.float32)
    names = load_body().action_names
    for name, strength in (("jawOpen", 0.25), ("mouthSmileLeft", 0.6), ("mouthSmileRight", 0.6)):
        acting[names.index(name)] = strength
    body, smiling, lens = facing(acting)
    across, down = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 96))
    portrait = np.stack([across, down, np.full_like(across, 120)], -1).astype(np.uint8)
    painters = [PortraitPainter(body, portrait, smiling, lens, matte=matte) for matte in (np.ones((96, 96)), None)]
    own = Target(smiling, lens, body.faces, (96, 96), 2)
    inside = inside_of(body).part[own.triangles] > 0
    mouth = own.grid.reshape(-1, 2)[own.places[inside]]
    assert len(mouth) > 60

    def sources(painter, target):
        rows = inside_of(body).part[target.triangles] > 0
        return painter.seen(target)[1][rows], target.grid.reshape(-1, 2)[target.places[rows]]

    found, here = sources(painters[0], own)
    assert np.abs(found - here).max() < 0.6  # in its own pose a portrait is what it is
    aside = Target(turned(smiling, 0.45), lens, body.faces, (96, 96), 2)
    (carried, here), (slid, _) = (sources(painter, aside) for painter in painters)

    def beside(places):  # how far beyond the portrait's mouth, pixels
        return np.maximum(mouth.min(0) - places, places - mouth.max(0)).max(1)

    assert beside(carried).max() < 1.5 < beside(slid).max()
    order = np.argsort(here[:, 0])  # and from one corner to the other it shows what lies between them
    assert np.corrcoef(carried[order, 0], np.arange(len(order)))[0, 1] > 0.95
    assert np.ptp(carried[:, 0]) > 0.7 * np.ptp(mouth[:, 0])
    acting[names.index("jawOpen")] = 1  # as the mouth opens wider, they stay with the upper jaw
    wide = Target(facing(acting)[1], lens, body.faces, (96, 96), 2)
    found, here = sources(painters[0], wide)
    teeth = beside(found) < 0
    assert len(found) > 2 * len(mouth) and 0.15 < teeth.mean() < 0.6
    assert here[teeth, 1].mean() < here[~teeth, 1].mean() - 1  # above, and below them is what is behind
    assert np.abs(found[teeth] - here[teeth]).max() < 2  # where they were: no head moved
    drawn = painters[0]._beyond(wide, painters[0].seen(wide)[0], painters[0].seen(wide)[1]).inside
    inside = inside_of(body).part[wide.triangles] > 0
    assert drawn[inside][teeth].mean() < 0.5 < 0.8 < drawn[inside][beside(found) > 2].mean()


def turned(vertices, angle):
    centre, cos, sin = vertices.mean(0), np.cos(angle), np.sin(angle)
    return (vertices - centre) @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T + centre


def test_portraits_painted_on_one_mesh_are_each_what_it_is_alone_to_the_last_bit():
    body, closed, lens = facing()
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 96, 96, 3), np.uint8)
    alone = [PortraitPainter(body, one, turned(closed, a), lens) for one, a in zip(pictures, (-1, 0, 0.7), strict=True)]
    painters = [*alone, PortraitPainter(body, pictures[0], closed, lens, others=alone[1:])]
    goal = turned(closed, 0.4)
    for drawn, painter in zip(paint_each(painters, goal, lens), painters, strict=True):
        assert np.array_equal(drawn, painter(goal, lens))
    with pytest.raises(ValueError, match="this portrait's is"):
        alone[0].paint(Target(goal, lens, body.faces, (96, 64), 2))


def test_points_of_the_surface_are_those_that_sums_over_an_axis_give_to_the_last_bit():
    body, closed, lens = facing()
    target = Target(turned(closed, 0.3), lens, body.faces, (96, 96), 2)
    vertices = turned(closed, -0.5).astype(np.float32)
    for faces, weights, named in (
        (body.faces, target.weights, body.faces[target.triangles]),
        (mirrored_faces(body), target.weights[:, ::-1], mirror_vertices(body)[body.faces[target.triangles]][:, ::-1]),
    ):
        points, cosines = on_surface(vertices, faces, target.triangles, weights)
        corners = vertices[named]
        assert np.array_equal(points, (weights[..., None] * corners).sum(1))
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(points, axis=1)
        assert np.array_equal(cosines, -(normals * points).sum(1) / np.maximum(lengths, 1e-12))
        assert (cosines > 0.1).sum() > 500 and (cosines < 0).sum() > 50


def test_what_another_portrait_shows_comes_in_without_the_teeth_of_triangles():
    body, closed, lens = facing()
    painter = PortraitPainter(body, np.full((96, 96, 3), 90, np.uint8), turned(closed, 0.9), lens)
    target = Target(closed, lens, body.faces, (96, 96), 2)
    flat, smooth = (painter.sight(target, smooth=smooth)[0] for smooth in (False, True))

    def steps(values):  # between neighbours on the mesh, where both are seen
        picture = np.full(target.covered.shape, np.nan)
        picture.reshape(-1)[target.places] = np.where(values > 0, values, np.nan)
        change = np.abs(np.diff(picture, axis=1))
        return np.nanpercentile(change, 99)

    assert steps(smooth) < 0.6 * steps(flat)  # .15 and .28
    inside = target.well_within(flat > 0)
    assert inside[flat <= 0].mean() < 0.1 and np.median(inside[flat > 0]) > 0.99 and (inside < 1).any()
    assert target.well_within(np.ones(len(flat), bool)).min() > 0.999
    # A light picture of that side over a dark portrait: between both there are all shades.
    light = PortraitPainter(body, np.full((96, 96, 3), 180, np.uint8), turned(closed, 0.9), lens)
    light.light = painter.light
    both = PortraitPainter(body, np.full((96, 96, 3), 90, np.uint8), turned(closed, -0.9), lens, others=[light])
    drawn = both(closed, lens)[..., 0].astype(int)
    between = (drawn > 105) & (drawn < 165)
    assert (drawn > 170).sum() > 200 and between.sum() > 0.1 * (drawn > 170).sum()


def test_a_readout_of_another_number_of_actions_is_refused_in_one_sentence():
    body, pose = load_body(), Pose(np.eye(3), np.zeros(3), np.eye(3))
    with pytest.raises(UserError, match=r"51 facial actions .* Expected 52, those of the embedded body"):
        acting_vertices(body, np.zeros(body.identity_dim), np.zeros(51, np.float32), pose)


def test_what_is_told_on_two_sides_goes_from_one_to_the_other_without_a_step():
    drawn = np.zeros((64, 64, 3), np.uint8)
    drawn[:, 40:] = 200
    told = np.ones((64, 64), np.float32)
    told[:, 16:48] = 0
    filled = around(drawn, told)[:, :, 0]
    row = filled[32, 16:48]
    assert row[0] < 40 and row[-1] > 160
    assert np.abs(np.diff(row)).max() < 60 and (np.diff(row) > -12).all()


def test_a_picture_of_which_nothing_is_told_stays_finite():
    assert np.isfinite(around(np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.float32))).all()
