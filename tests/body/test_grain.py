"""Detail of a small square goes on for ever, and is nowhere the same again."""

import numpy as np

from fportrait.body.grain import blended, grain_of
from fportrait.body.model import load_body


def test_a_field_is_as_rough_as_its_square_goes_on_at_its_other_side_and_mirrors_nothing():
    patch = np.random.default_rng(3).normal(0, 5, (24, 24, 3)).astype(np.float32)
    field = blended(patch)
    side = len(field)
    assert field.shape == (side, side, 3) and side >= 4 * len(patch)
    assert 0.8 < field.std() / patch.std() < 1.2 and abs(field.mean()) < 0.5
    steps = np.abs(np.diff(field, axis=0)).mean()
    assert np.abs(field[0] - field[-1]).mean() < 1.3 * steps  # no seam
    for other in (field[::-1], field[:, ::-1], np.roll(field, len(patch), 0), np.roll(field, len(patch), 1)):
        assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.1
    assert (blended(patch) == field).all()


def test_squares_of_any_size_make_a_field():
    for side in (1, 2, 3, 5, 64):
        assert np.isfinite(blended(np.ones((side, side, 3), np.float32))).all()


def test_skin_gives_its_grain_and_not_the_edges_in_it():
    body = load_body()
    random = np.random.default_rng(0)
    picture = np.clip(150 + random.normal(0, 3, (200, 200, 3)), 0, 255).astype(np.uint8)
    picture[:, 60:64] = 20  # the frame of spectacles
    shares, every = np.ones(len(body.template), np.float32), np.ones((200, 200), bool)
    grain = grain_of(body, picture, every, shares, 800.0, "skin")
    assert 1.5 < grain.field.std() < 4.5 and np.abs(grain.field).max() < 25
    assert grain_of(body, picture, np.zeros((200, 200), bool), shares, 800.0, "skin") is None
    triangles = np.arange(0, len(body.faces), 50)
    levels = np.zeros((len(triangles), 3), np.float32)
    grain.add(levels, body.faces, triangles, np.full((len(triangles), 3), 1 / 3, np.float32))
    assert levels.std() > 1
