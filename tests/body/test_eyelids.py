"""Closed lids of a portrait whose eyes are open: skin and lashes, and nothing where they are as the portrait's are."""

import numpy as np
import pytest

from fportrait.body.eyelids import MARGINS, areas_of, even_colours, lids_of, opening
from fportrait.body.model import Pose, load_body
from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.body.rasterizer import rasterize
from fportrait.body.warping import Target, of_corners
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.world import HEAD_TARGET, orbit_camera

SIDE = 192
SKIN, STRIP = (190, 145, 120), (50, 30, 24)
LENS = intrinsics_from_fov(30.0, SIDE, SIDE)


def blinking(strength):
    """The mean body before a camera half a metre away, its eyes closed so far: `V 3`."""
    body, camera, actions = load_body(), orbit_camera(0, 0, 0.55, HEAD_TARGET), np.zeros(52, np.float32)
    actions[[body.action_names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]] = strength
    pose = Pose(np.eye(3), np.zeros(3), np.eye(3))
    vertices = acting_vertices(body, np.zeros(body.identity_dim), actions, pose)
    return (vertices @ camera[:3, :3].T + camera[:3, 3]).astype(np.float32)


def seen(vertices):
    """What each pixel sees: triangles `H W`, -1 for none, and `places` of the lids, `H W 2`."""
    body = load_body()
    triangles, weights, _ = rasterize(vertices, body.faces, LENS, SIDE, SIDE)
    flat = np.maximum(triangles, 0).ravel()
    places = of_corners(lids_of(body).places, body.faces, flat, weights.reshape(-1, 3))
    return triangles, places.reshape(SIDE, SIDE, 2)


def portrait(strength=0.0):
    """Skin, white eyes and between lashes and crease a dark strip, before a blue wall; and the person's matte."""
    lids, (triangles, places) = lids_of(load_body()), seen(blinking(strength))
    picture = np.full((SIDE, SIDE, 3), (40, 60, 200), np.uint8)
    picture[triangles >= 0] = SKIN
    picture[(triangles >= 0) & lids.ball[triangles]] = 235
    picture[(triangles >= 0) & lids.upper[triangles] & (places[..., 1] < 0.011)] = STRIP
    return picture, (triangles >= 0).astype(np.float32)


def painter(strength=0.0, **options):
    picture, matte = portrait(strength)
    options = {"matte": matte} | options
    return PortraitPainter(load_body(), picture, blinking(strength), LENS, 1, **options)


def without(paint):
    """The same painter, as it was before it had lids."""
    paint._lids = None
    return paint


def test_of_the_lids_the_body_tells_where_they_lie_as_if_they_were_closed():
    body = load_body()
    lids = lids_of(body)
    assert lids_of(object()) is None
    for eye, side in enumerate((1, -1)):
        own = (lids.eye == eye + 1) & lids.upper
        assert own.sum() > 100 and (np.sign(body.template[body.faces[own]][..., 0]) == side).all()
        assert ((lids.eye == eye + 1) & lids.ball).any() and ((lids.eye == eye + 1) & lids.still).sum() > 50
        corners = body.faces[body.landmark_triangles[list(MARGINS[eye][0][2:-2])]]
        weights = body.landmark_barycentric[list(MARGINS[eye][0][2:-2])]
        margin = (lids.places[corners] * weights[..., None]).sum(1)
        assert np.abs(margin[:, 1]).max() < 0.002 and margin[0, 0] > 0.2 > -0.2 > margin[-1, 0]  # outwards


def test_an_opening_shrinks_until_the_lids_meet():
    body = load_body()
    gaps = [opening(body.landmarks(blinking(strength)), 0) for strength in (0, 0.4, 0.8, 1)]
    assert gaps[0] > 0.25 and abs(gaps[2]) < 0.05 and gaps == sorted(gaps, reverse=True) and gaps[3] < 0


def test_areas_have_a_sign():
    pixels = np.array([[0.0, 0], [0, 2], [2, 0]])
    assert areas_of(np.array([[0, 1, 2], [0, 2, 1]]), pixels) == pytest.approx([4, -4])


def test_the_colour_of_skin_is_found_beside_a_frame_of_spectacles_and_a_glint():
    aside = np.tile(np.linspace(-1, 1, 40), 5)
    colours = np.repeat((150 + 10 * aside)[:, None], 3, 1) + np.random.default_rng(0).normal(0, 2, (200, 3))
    colours[::6], colours[1::25] = 20, 255
    middle, slope = even_colours(aside, colours)
    assert middle == pytest.approx(np.full(3, 150), abs=4) and 4 < slope.mean() < 12


def test_a_closed_lid_is_skin_above_a_line_of_lashes_and_neither_strip_nor_eye():
    paint, shut = painter(), blinking(0.9)
    triangles, places = seen(shut)
    lid = lids_of(load_body()).upper[triangles] & (triangles >= 0) & (np.abs(places[..., 0]) < 0.5)
    middle = lid & (places[..., 1] > 0.005) & (places[..., 1] < 0.009)
    drawn = paint(shut, LENS).astype(float)
    smeared = without(paint)(shut, LENS).astype(float)
    assert smeared[middle].mean() < 0.5 * np.mean(SKIN)  # what was there
    assert 0.7 * np.mean(SKIN) < drawn[middle].mean() < np.mean(SKIN)
    red, green, blue = drawn[middle].mean(0)
    assert red > green > blue
    near = lid & (places[..., 1] < 0.003)
    assert drawn[near].min() < 0.6 * drawn[middle].mean()  # lashes
    assert (drawn[lid].mean(-1) < 200).all()  # nothing of the eye
    away = np.abs(drawn - smeared).sum(-1)[(triangles < 0) | (lids_of(load_body()).eye[triangles] == 0)]
    assert away.max() == 0


def test_lids_come_in_as_the_eye_closes_and_without_a_jump():
    paint, sums = painter(), []
    for strength in np.arange(0, 1.001, 0.05):
        target = Target(blinking(strength), LENS, load_body().faces, (SIDE, SIDE), 1)
        over = paint._lids(target, paint.seen(target)[0])
        sums.append(0.0 if over is None else float(over.opacity.sum()))
        assert over is None or (over.opacity.min() >= 0 and over.opacity.max() <= 1)
    assert sums[0] == sums[2] == 0 and sums[-1] > 200
    assert np.diff(sums).max() < 0.25 * sums[-1] and (np.diff(sums) > -0.05 * sums[-1]).all()


def test_nothing_changes_where_the_portraits_own_lids_are_drawn_as_they_are():
    paint, own = painter(), blinking(0.0)
    aside = own + np.float32([0.01, 0.004, 0.05])
    lids = paint._lids
    for vertices in (own, aside, blinking(0.1)):
        paint._lids = lids
        new = paint(vertices, LENS)
        assert np.array_equal(new, without(paint)(vertices, LENS))
    closed = painter(0.85)  # its eyes are closed already
    new = closed(blinking(1.0), LENS)
    assert np.array_equal(new, without(closed)(blinking(1.0), LENS))


def test_one_eye_closes_alone():
    body, paint, one = load_body(), painter(), blinking(0.0)
    left = body.template[:, 0] > 0
    one[left] = blinking(0.9)[left]
    target = Target(one, LENS, body.faces, (SIDE, SIDE), 1)
    over = paint._lids(target, paint.seen(target)[0])
    assert set(lids_of(body).eye[target.triangles[over.rows]]) == {1}


def test_models_and_covered_eyes_have_no_lids():
    assert painter(matte=None)._lids is None and painter(eyes_covered=True)._lids is None


def test_the_line_lies_alike_in_a_picture_of_more_samples():
    picture, matte = portrait()
    fine = PortraitPainter(load_body(), picture, blinking(0), LENS, 2, matte=matte)(blinking(0.9), LENS).astype(float)
    coarse = painter()(blinking(0.9), LENS).astype(float)
    triangles, _ = seen(blinking(0.9))
    lid = (triangles >= 0) & lids_of(load_body()).upper[triangles]
    assert np.abs(fine - coarse)[lid].mean() < 6
