"""The inside of a mouth that no portrait shows."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.body.mouth import (
    INSIDE,
    USUAL_SKIN,
    WIDTHS,
    brightest_of_eyes,
    draw_inside,
    inside_colours,
    inside_of,
    light_of,
    mouth_weights,
)


def on_the_teeth(across, inward, row=1):
    """Colours of points on the upper teeth (`row` 1) or the lower ones (2), so far from the middle along the arch and
    from their edge towards the gums, metres."""
    inside = inside_of(load_body())
    angle = np.asarray(across) / 0.041
    depth = inside.front - 0.045 + 0.041 * np.cos(angle)
    edge = np.polyval(inside.edges[row - 1], depth)
    places = np.stack([0.041 * np.sin(angle), edge + (inward if row == 1 else -inward), depth], -1)
    return inside_colours(inside, np.flatnonzero(inside.part == row)[:1].repeat(len(angle)), places)


def test_the_body_has_both_rows_of_teeth_a_tongue_and_a_depth_behind_them():
    body = load_body()
    inside = inside_of(body)
    assert set(INSIDE) <= set(body.part_names)
    assert all((inside.part == number).sum() > 50 for number in (1, 2, 3, 4))
    vertices = np.asarray(body.template)
    for row, (line, side) in enumerate(zip(inside.edges, (-1, 1), strict=True), start=1):
        band = vertices[np.unique(np.asarray(body.faces)[inside.part == row])]
        beyond = side * (band[:, 1] - np.polyval(line, band[:, 2]))
        front = band[:, 2] > inside.front - 0.03
        assert abs(beyond[front].max()) < 0.001  # the edge is where the band ends, in front and to the sides
        assert (np.abs(beyond[front]) < 0.001).sum() >= 7
    assert inside_of(object()) is None and mouth_weights(object()) is None


def test_between_two_teeth_lies_a_dark_line_and_above_them_the_gums():
    middle = np.concatenate([[0], np.cumsum(WIDTHS[0][:3])])
    centres, gaps = on_the_teeth((middle[:-1] + middle[1:]) / 2, 0.005), on_the_teeth(middle[:-1], 0.005)
    assert (gaps.mean(1) < 0.85 * centres.mean(1)).all()
    assert centres[0].mean() > 150  # a front tooth
    red, green, _ = on_the_teeth([0.004], 0.013)[0]
    assert red > 1.3 * green  # gums are red


def test_lower_teeth_stand_as_high_as_teeth_do():
    for deep in (0.003, 0.005, 0.007):  # of 8.5 mm; the edge was taken from the arch's back, and 2.5 were left in front
        red, green, _ = on_the_teeth([0.0027], deep, 2)[0]
        assert red < 1.15 * green and red > 140
    red, green, _ = on_the_teeth([0.0027], 0.011, 2)[0]
    assert red > 1.3 * green


def test_teeth_darken_towards_the_back_and_their_gaps_part_at_the_edge():
    shades = on_the_teeth([0.004, 0.026, 0.05], 0.005).mean(1)
    assert shades[0] > shades[1] > shades[2]
    gap = WIDTHS[0][0]
    assert on_the_teeth([gap], 0.0)[0].mean() < 0.7 * on_the_teeth([gap], 0.005)[0].mean()


def test_the_inside_stands_in_the_light_that_the_skin_tells_of():
    assert light_of(np.asarray(USUAL_SKIN)) == pytest.approx(np.ones(3), abs=1e-6)
    dark = light_of(np.asarray(USUAL_SKIN) / 4)
    assert dark == pytest.approx(np.full(3, 0.5))  # half of it is taken for skin
    yellow = light_of(np.asarray([180, 150, 60]))
    assert yellow[2] < 0.85 < yellow[0]
    assert np.isfinite(light_of(np.zeros(3))).all()


def test_a_dark_face_with_bright_eyes_is_dark_skin_in_full_light():
    dark = np.asarray(USUAL_SKIN) / 4
    assert light_of(dark, eyes=215) == pytest.approx(np.ones(3))
    assert light_of(dark, eyes=60) == pytest.approx(light_of(dark))  # lashes and lenses tell nothing


def test_the_whites_of_the_eyes_are_read_where_they_are_seen():
    body = load_body()
    names = list(body.part_names)
    faces = np.asarray(body.faces)
    of = {name: np.flatnonzero(np.asarray(body.part)[faces[:, 0]] == names.index(name))[0] for name in ("eyes", "face")}
    triangles = np.full((4, 10), of["face"])
    triangles[0] = of["eyes"]
    triangles[3] = -1
    picture = np.full((4, 10, 3), 255, np.uint8)
    picture[0] = np.arange(10)[:, None] * 20  # an iris, and whites beside it
    assert 140 < brightest_of_eyes(body, picture, triangles) <= 180
    triangles[0] = -1
    assert brightest_of_eyes(body, picture, triangles) == 0
    assert brightest_of_eyes(object(), picture, triangles) == 0


def test_what_is_drawn_has_soft_edges_and_lies_in_the_shadow_of_the_lips():
    picture = np.full((96, 96, 3), 200, np.uint8)
    rows, columns = np.mgrid[40:56, 30:66]
    where = (rows * 96 + columns).ravel()
    draw_inside(picture, where, np.full((len(where), 3), 100.0, np.float32), np.ones(len(where)))
    assert picture[48, 48].max() <= 100 < picture[48, 29, 0] < 200  # the edge is neither
    assert picture[41, 48, 0] < picture[48, 48, 0]
    assert (picture[:34] == 200).all() and (picture[:, :24] == 200).all()
    corner = np.zeros((8, 8, 3), np.uint8)
    draw_inside(corner, np.arange(64), np.full((64, 3), 90.0, np.float32), np.ones(64))
    draw_inside(corner, np.empty(0, int), np.empty((0, 3), np.float32), np.empty(0))
    assert corner.max() <= 91
