"""Which picture a size or an aspect asks for, and what is told where none can be drawn."""

from __future__ import annotations

import pytest

from fportrait.animate.sizes import chosen_picture, like_portrait, parse_aspect, parse_size, size_notes
from fportrait.atomic_io import write_json
from fportrait.bundle import BundleSettings, stated_settings
from fportrait.errors import UserError
from fportrait.pixels import Picture

SQUARES = BundleSettings(size=64, sizes=[128])
SHAPES = BundleSettings(size=64, shapes=["96x64", "64x96", "144x96"])


@pytest.mark.parametrize(
    ("asked", "picture"),
    [
        ({}, (64, 64)),
        ({"size": 128}, (128, 128)),
        ({"size": "128"}, (128, 128)),
        ({"size": "128x128"}, (128, 128)),
        ({"size": "64x112"}, (112, 64)),  # WIDTHxHEIGHT, as video tools say it
        ({"size": Picture(112, 64)}, (112, 64)),
        ({"aspect": "1:1"}, (64, 64)),
        ({"aspect": "9:16"}, (112, 64)),
        ({"aspect": "16:9"}, (64, 112)),
        ({"aspect": "3:4"}, (88, 64)),
        ({"aspect": "4:3"}, (64, 88)),
        ({"aspect": "9:16", "cell": 16}, (112, 64)),
        ({"aspect": "4:3", "cell": 16}, (64, 80)),
        ({"aspect": "9:16", "size": 128}, (224, 128)),
        ({"aspect": "1080:1920"}, (112, 64)),
    ],
)
def test_a_model_of_squares_draws_the_rectangle_around_one_of_them(asked, picture):
    assert chosen_picture(SQUARES, **asked) == picture


@pytest.mark.parametrize(
    ("asked", "picture"),
    [
        ({"aspect": "2:3"}, (96, 64)),  # of the model's own short side before the larger
        ({"aspect": "3:2"}, (64, 96)),
        ({"aspect": "2:3", "size": 64}, (96, 64)),
        ({"size": "96x144"}, (144, 96)),  # its short side is no square that was trained
        ({"aspect": "9:16"}, (112, 64)),  # not near any that was trained
    ],
)
def test_a_shape_that_was_trained_on_is_taken_where_it_is_near(asked, picture):
    assert chosen_picture(SHAPES, **asked) == picture


@pytest.mark.parametrize(
    ("sides", "aspect"),
    [((512, 512), "1:1"), ((3000, 4000), "3:4"), ((1001, 667), "1001:667"), ((1000, 100), "16:9"), ((90, 400), "9:16")],
)
def test_a_portraits_own_shape_is_taken_as_far_as_pictures_are_drawn_and_what_is_cut_is_said(sides, aspect):
    found, words = like_portrait(*sides)
    assert found == aspect and bool(words) == (aspect in ("16:9", "9:16"))
    chosen_picture(SQUARES, None, found)  # is drawn


@pytest.mark.parametrize(
    ("asked", "found", "fix"),
    [
        ({"size": 96}, "96 pixels", "leave --size out"),
        ({"size": "96x128"}, "96x128 (width x height), whose short side is 96", "leave --size out"),
        ({"size": "64x100"}, "64x100", "write 64x96"),
        ({"size": "64x120"}, "64x120", "less long"),
        ({"size": "64x2048"}, "64x2048", "less long"),
        ({"size": "0x64"}, "'0x64'", "64x112"),
        ({"size": "64 x 112"}, "'64 x 112'", "64x112"),
        ({"size": "large"}, "'large'", "64x112"),
        ({"size": "0"}, "'0'", "64x112"),
        ({"size": "64x112", "aspect": "9:16"}, "and the aspect 9:16", "leave one of them out"),
        ({"aspect": "21:9"}, "2.33 times", "nearer to a square"),
        ({"aspect": "9/16"}, "'9/16'", "9:16"),
        ({"aspect": "0:9"}, "'0:9'", "9:16"),
        ({"aspect": "9:16", "size": 96}, "96 pixels", "leave --size out"),
    ],
)
def test_what_cannot_be_drawn_is_told_with_the_way_on(asked, found, fix):
    with pytest.raises(UserError) as caught:
        chosen_picture(SQUARES, **asked)
    assert found in caught.value.found and fix in caught.value.fix


def test_forms_are_read_as_video_tools_write_them():
    assert parse_size("64") == 64 and parse_size("64x112") == Picture(height=112, width=64)
    assert parse_aspect("16:9") == pytest.approx(16 / 9)
    assert str(Picture(112, 64)) == "112x64" and Picture(112, 64).across_by_down == "64x112"


def test_notes_say_what_was_not_trained_and_what_an_aspect_became_and_nothing_of_a_square():
    assert size_notes(SQUARES, Picture(64, 64)) == [] and size_notes(SQUARES, Picture(64, 64), "1:1") == []
    near, untrained = size_notes(SQUARES, Picture(112, 64), "9:16")
    assert "64x112 (4:7)" in near and "64x112 but of 64x64, 128x128" in untrained
    assert size_notes(SHAPES, Picture(96, 64), "2:3") == []


def test_a_bundle_with_a_shape_that_is_none_is_refused_by_its_file(tmp_path):
    write_json(tmp_path / "bundle.json", {"shapes": ["96x64", "tall"]})
    with pytest.raises(UserError, match=r"'tall' in .*bundle\.json"):
        stated_settings(tmp_path)
    write_json(tmp_path / "bundle.json", {"shapes": ["96x64"]})
    assert stated_settings(tmp_path).rectangles == [Picture(96, 64)]
