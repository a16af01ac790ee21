"""The inside of a mouth that no portrait shows."""

import numpy as np
import pytest

from fportrait.body.model import load_body
from fportrait.body.mouth import (
    INSIDE,
    USUAL_SKIN,
    WIDTHS,
    draw_inside,
    inside_colours,
    inside_of,
    light_of,
    mouth_weights,
)


def on_the_teeth(across, above):
    """Colours of points on the upper teeth, so far from the middle along the arch and above their edge, metres."""
    inside = inside_of(load_body())
    angle = np.asarray(across) / 0.041
    places = np.stack(
        [
            0.041 * np.sin(angle),
            np.full(len(angle), inside.edges[0] + above),
            inside.front - 0.045 + 0.041 * np.cos(angle),
        ],
        -1,
    )
    upper = np.flatnonzero(inside.part == 1)[:1].repeat(len(angle))
    return inside_colours(inside, upper, places)


def test_the_body_has_both_rows_of_teeth_a_tongue_and_a_depth_behind_them():
    body = load_body()
    inside = inside_of(body)
    assert set(INSIDE) <= set(body.part_names)
    assert all((inside.part == number).sum() > 50 for number in (1, 2, 3, 4))
    assert inside.edges[0] < inside.edges[1] + 0.01  # the rows meet
    assert inside_of(object()) is None and mouth_weights(object()) is None


def test_between_two_teeth_lies_a_dark_line_and_above_them_the_gums():
    middle = np.concatenate([[0], np.cumsum(WIDTHS[0][:3])])
    centres, gaps = on_the_teeth((middle[:-1] + middle[1:]) / 2, 0.005), on_the_teeth(middle[:-1], 0.005)
    assert (gaps.mean(1) < 0.85 * centres.mean(1)).all()
    assert centres[0].mean() > 150  # a front tooth
    red, green, _ = on_the_teeth([0.004], 0.013)[0]
    assert red > 1.3 * green  # gums are red


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
