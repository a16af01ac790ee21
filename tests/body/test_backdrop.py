"""What stands behind a portrait stays where it is."""

import numpy as np
import pytest

from fportrait.body.backdrop import (
    FILLED,
    FURTHER,
    OUTLINE,
    RIM,
    around,
    backdrop_of,
    before_backdrop,
    behind,
    beside_the_silhouette,
)


def person_before_a_wall():
    """A red disc before green stripes, `128 96 3`, and its matte at twice the size."""
    portrait = np.zeros((128, 96, 3), np.uint8)
    portrait[..., 1] = np.where(np.arange(96) % 8 < 4, 200, 100)
    rows, columns = np.mgrid[:128, :96]
    disc = (rows - 64) ** 2 + (columns - 48) ** 2 < 20**2
    portrait[disc] = (220, 10, 10)
    return portrait, np.kron(disc, np.ones((2, 2))).astype(np.float32), disc


def nobody(disc):
    """No mesh."""
    return np.zeros(disc.shape, bool)


def places(portrait, aside=0.0):
    rows, columns = np.mgrid[: portrait.shape[0], : portrait.shape[1]].astype(np.float32)
    return np.stack([columns - aside, rows], -1).astype(np.float32)


def test_the_backdrop_is_the_portrait_itself_away_from_the_person_and_the_wall_behind_him():
    portrait, matte, disc = person_before_a_wall()
    backdrop = backdrop_of(portrait, matte, nobody(disc))
    assert backdrop.picture.shape == portrait.shape and backdrop.rim.shape == (128, 96)
    assert backdrop.picture[disc][:, 0].max() < 40  # nothing red is left of him
    assert 100 <= backdrop.picture[disc][:, 1].mean() <= 200
    far = backdrop.rim == 0
    assert np.array_equal(backdrop.picture[far], portrait[far]) and far.mean() > 0.5
    assert FILLED[1] <= RIM[0]


def test_who_does_not_move_leaves_the_portrait_as_it_is():
    portrait, matte, disc = person_before_a_wall()
    nothing = np.zeros(disc.shape, bool)
    same = before_backdrop(portrait, backdrop_of(portrait, matte, nobody(disc)), places(portrait), nothing)
    assert np.abs(same.astype(int) - portrait).max() <= 1


def test_who_moves_leaves_the_wall_where_it_is_and_uncovers_it():
    portrait, matte, disc = person_before_a_wall()
    aside = 20.0
    moved = np.roll(portrait, int(aside), 1)  # all of it dragged along
    drawn = before_backdrop(
        moved, backdrop_of(portrait, matte, nobody(disc)), places(portrait, aside), np.zeros(disc.shape, bool)
    )
    there = np.roll(disc, int(aside), 1)
    assert np.array_equal(drawn[there], moved[there])
    assert drawn[disc & ~np.roll(disc, int(aside), 1)][:, 0].mean() < 60  # he is gone from there
    assert np.array_equal(drawn[:20], portrait[:20])  # stripes where they were
    assert not np.array_equal(moved[:20], portrait[:20])


def test_what_the_mesh_covers_is_the_person_whatever_the_matte_says():
    portrait, _, disc = person_before_a_wall()
    missed = backdrop_of(portrait, np.zeros(disc.shape, np.float32), nobody(disc))
    drawn = before_backdrop(np.roll(portrait, 20, 1), missed, places(portrait, 20.0), disc)
    assert np.array_equal(drawn[disc], np.roll(portrait, 20, 1)[disc])
    assert np.array_equal(drawn[~disc], portrait[~disc])
    everyone = backdrop_of(
        portrait, np.ones(disc.shape, np.float32), nobody(disc)
    )  # no wall is known: nothing to fill from
    assert np.isfinite(everyone.rim).all() and everyone.rim.min() == 1


def test_what_lies_so_far_beside_the_new_silhouette_lay_so_far_beside_the_old_one():
    portrait, matte, disc = person_before_a_wall()
    backdrop = backdrop_of(portrait, matte, disc)
    still = places(portrait)
    beside_the_silhouette(backdrop, still, disc)
    assert np.abs(still - places(portrait))[~disc].max() < 0.1  # who does not move
    smaller = (np.mgrid[:128, :96][0] - 64) ** 2 + (np.mgrid[:128, :96][1] - 48) ** 2 < 10**2
    moved = places(
        portrait
    )  # the head has turned: its mesh is narrower, and what lies beside it was within the old one
    beside_the_silhouette(backdrop, moved, smaller)
    assert moved[64, 48 + 15, 0] == pytest.approx(
        48 + 25 - OUTLINE * 96 - FURTHER * 5, abs=1.5
    )  # five outside, less what is let pass
    assert np.array_equal(moved[smaller], places(portrait)[smaller])


def test_what_is_filled_of_a_wall_shows_no_squares():
    blocks = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    wall = np.ascontiguousarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8)))
    rows, columns = np.mgrid[:256, :256]
    away = np.hypot(rows - 128, columns - 128)
    known, deep = away > 80, away < 74
    means = around(wall.astype(np.float32), known.astype(np.float32))

    def bends(filled):
        return max(
            np.abs(np.diff(filled, 2, axis=axis))[deep[1:-1] if axis == 0 else deep[:, 1:-1]].max() for axis in (0, 1)
        )

    filled = behind(wall, known)
    assert bends(filled) < 0.4 * bends(means)
    assert (filled[known] == wall[known]).all() and np.abs(filled[deep].mean(0) - means[deep].mean(0)).max() < 8
