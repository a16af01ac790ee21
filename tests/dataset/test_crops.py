"""What of a model's picture was filmed: crops that reach beyond the file, and what is counted of them."""

import numpy as np
import pytest

from fportrait.dataset.crops import crop_rectangle, filmed_cells, filmed_pixels, inside_file, only_filmed
from fportrait.pixels import Picture

SQUARE = Picture(64, 64)


def test_a_crop_within_its_file_has_no_mask_and_the_pixels_that_it_had():
    assert inside_file((0, 0, 50, 50), (50, 60), SQUARE) is None
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    for filled in (False, True):
        assert np.array_equal(crop_rectangle(picture, (3, 0, 32, 32), Picture(32, 32), filled), picture[:32, 3:35]), (
            "neither black nor filled"
        )


def test_what_lies_beyond_the_file_is_its_edge_or_black_and_outside_the_mask():
    picture = np.random.default_rng(0).integers(1, 256, (64, 36, 3), np.uint8)  # 9:16
    cut = (-14, 0, 64, 64)
    black, filled = (crop_rectangle(picture, cut, SQUARE, one) for one in (False, True))
    assert inside_file(cut, (64, 36), SQUARE) == (14, 0, 50, 64)
    assert not black[:, :14].any() and not black[:, 50:].any() and np.array_equal(black[:, 14:50], picture)
    assert (filled[:, :14] == picture[:, :1]).all() and (filled[:, 50:] == picture[:, -1:]).all()
    assert np.array_equal(filled[:, 14:50], picture)
    assert filmed_cells((14, 0, 50, 64)) == (slice(0, 8), slice(2, 6)), "of a cell at the edge a part was not filmed"
    assert np.array_equal(only_filmed(filled[None], (14, 0, 50, 64))[0], black)
    assert only_filmed(filled, None) is filled


@pytest.mark.parametrize("side", (40, 64, 131, 300))  # the first is enlarged
def test_no_pixel_that_counts_has_anything_of_the_outside_mixed_into_it(side):
    rng = np.random.default_rng(side)
    for _ in range(20):
        height, width = rng.integers(side // 2, 2 * side, 2)
        x0, y0 = rng.integers(-side // 2, side // 2, 2)
        cut = (int(x0), int(y0), side, side)
        inside = inside_file(cut, (int(height), int(width)), SQUARE)
        if inside is None:
            continue
        rows, columns = filmed_pixels(inside)
        white = np.full((height, width, 3), 255, np.uint8)
        assert (crop_rectangle(white, cut, SQUARE, filled=True) == 255).all(), "nothing black is mixed in anywhere"
        if side >= 64:  # reduced by area: what is wholly white was wholly filmed
            counted = np.zeros((64, 64), bool)
            counted[rows, columns] = True
            assert np.array_equal(counted, crop_rectangle(white, cut, SQUARE).min(-1) > 250)
        down, across = filmed_cells(inside)
        assert rows.start - 1 <= 8 * down.start < rows.start + 8 and rows.stop - 8 < 8 * down.stop <= rows.stop + 1
        assert columns.start - 1 <= 8 * across.start < columns.start + 8


def test_a_pixel_beyond_a_large_file_takes_no_latents_away():
    inside = inside_file((19, -1, 234, 234), (256, 256), SQUARE)
    assert filmed_pixels(inside) == (slice(1, 64), slice(0, 64))
    assert filmed_cells(inside) == (slice(0, 8), slice(0, 8))


def test_of_a_crop_beside_its_file_nothing_counts():
    picture = np.full((20, 20, 3), 200, np.uint8)
    for cut in ((20, 0, 40, 40), (-40, 0, 40, 40), (0, -90, 40, 40), (500, 500, 40, 40)):
        inside = inside_file(cut, (20, 20), SQUARE)
        assert not crop_rectangle(picture, cut, SQUARE, filled=True).any()
        assert not only_filmed(np.full((2, 64, 64, 3), 9, np.uint8), inside).any()
        down, across = filmed_cells(inside)
        assert down == across == slice(0, 0)


def test_of_a_part_smaller_than_a_latent_no_latent_counts():
    down, across = filmed_cells((20.0, 0.0, 27.0, 64.0))
    assert (down, across) == (slice(0, 8), slice(3, 3))
    assert filmed_pixels((20.5, 0.0, 20.9, 64.0))[1] == slice(21, 21)
