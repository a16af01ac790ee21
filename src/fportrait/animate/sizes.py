"""Which picture a model is asked to draw: a square, or a rectangle that shows more above and below, or beside, a head.

Commands name pictures as video tools do, WIDTHxHEIGHT; configuration and bundles as arrays lie, HEIGHTxWIDTH.
"""

from __future__ import annotations

import math

from fportrait.bundle import BundleSettings
from fportrait.errors import UserError
from fportrait.pixels import Picture, two_sides

ALIKE = 0.05  # of the logarithm of width over height: a trained shape as near as this to an aspect is taken for it
LONGEST = 16 / 9  # long side over short side that was looked at with a model that had only seen squares
AS_PORTRAIT = "portrait"  # the aspect of the portrait's own picture
CELL = 8  # pixels that a picture's sides divide by, for the codec; times the transformer's patch


def chosen_picture(
    settings: BundleSettings, size: int | str | Picture | None = None, aspect: str | None = None, cell: int = CELL
) -> Picture:
    """The picture to draw.

    Args:
        size: a square's side, with `aspect` the short side; `"WIDTHxHEIGHT"` or a picture is all of it; None takes the
            model's own. aspect: `"WIDTH:HEIGHT"`; the shape trained on that is nearest to it, or else the nearest that
            the model can draw. cell: pixels that the sides must divide by.

    Raises:
        UserError: neither form, both a whole picture and an aspect, a short side that the model was not trained at,
            sides that do not divide, or a rectangle too long.
    """
    asked = parse_size(size) if isinstance(size, str) else size
    if aspect is not None:
        ratio = parse_aspect(aspect)
        if isinstance(asked, Picture):
            raise UserError(
                f"the size {asked.across_by_down} and the aspect {aspect}", "one of them", "leave one of them out"
            )
        return _of_aspect(settings, asked, ratio, cell)
    if asked is None:
        return settings.square
    if isinstance(asked, int) or asked.square:
        side = asked if isinstance(asked, int) else asked.short
        _check_short(settings, side, f"a picture of {side} pixels")
        return Picture(side, side)
    if asked in settings.rectangles:
        return asked
    told = f"a picture of {asked.across_by_down} (width x height)"
    _check_short(settings, asked.short, f"{told}, whose short side is {asked.short} pixels")
    longest = _longest(asked.short, cell)
    if max(asked) > longest:
        raise UserError(
            told,
            f"at most {longest} pixels beside a short side of {asked.short}",
            "ask for a picture less long, or train on one (docs/training.md, buckets)",
        )
    if any(side % cell for side in asked):
        near = Picture(*(max(cell, round(side / cell) * cell) for side in asked))
        raise UserError(told, f"sides that divide by {cell}", f"write {near.across_by_down}")
    return asked


def parse_size(text: str) -> int | Picture:
    """`"64"`, or `"64x112"`, which is WIDTHxHEIGHT.

    Raises:
        UserError: neither.
    """
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    sides = two_sides(text, "x")
    if sides is None:
        raise UserError(
            f"the size {text!r}",
            "a number of pixels, or WIDTHxHEIGHT",
            "write e.g. 64 for a square, 64x112 for an upright picture",
        )
    return Picture(sides[1], sides[0])


def parse_aspect(text: str) -> float:
    """Width over height of `"9:16"`.

    Raises:
        UserError: not two whole numbers.
    """
    sides = two_sides(text, ":")
    if sides is None:
        raise UserError(
            f"the aspect {text!r}",
            f"WIDTH:HEIGHT, or with a portrait '{AS_PORTRAIT}'",
            "write e.g. 9:16 for an upright picture",
        )
    return sides[0] / sides[1]


def like_portrait(width: int, height: int) -> tuple[str, str]:
    """The aspect `"WIDTH:HEIGHT"` of a portrait's upright picture, as far as models are asked for it; and, where that
    is not far enough, a sentence that says so."""
    if max(height, width) <= LONGEST * min(height, width):
        divisor = math.gcd(height, width)
        return f"{width // divisor}:{height // divisor}", ""
    aspect = "16:9" if width > height else "9:16"
    return aspect, f"the portrait, {width}x{height}, is longer than pictures are drawn: {aspect} is taken"


def size_notes(settings: BundleSettings, picture: Picture, aspect: str | None = None) -> list[str]:
    """What a user should know of the picture that was chosen."""
    notes = []
    if aspect is not None and not math.isclose(picture.width / picture.height, parse_aspect(aspect), rel_tol=1e-3):
        divisor = math.gcd(*picture)
        notes.append(
            f"{aspect} is drawn as {picture.across_by_down} ({picture.width // divisor}:{picture.height // divisor}), "
            "the nearest shape that the model draws"
        )
    if not picture.square and picture not in settings.rectangles:
        trained = [Picture(side, side) for side in sorted({settings.size, *settings.sizes})] + settings.rectangles
        notes.append(
            f"the model was not trained on pictures of {picture.across_by_down} but of "
            f"{', '.join(one.across_by_down for one in trained)}: it knows what is around a head, look at the rest"
        )
    return notes


def _of_aspect(settings: BundleSettings, short: int | None, ratio: float, cell: int) -> Picture:
    def away(picture: Picture) -> float:
        return abs(math.log(picture.width / picture.height) - math.log(ratio))

    trained = [one for one in settings.rectangles if away(one) <= ALIKE and short in (None, one.short)]
    if trained:  # of the model's own short side before others
        return min(trained, key=lambda one: (one.short != settings.size, away(one)))
    side = settings.size if short is None else short
    _check_short(settings, side, f"a picture whose short side is {side} pixels")
    stretch = max(ratio, 1 / ratio)
    if stretch > LONGEST * (1 + ALIKE):
        raise UserError(
            f"an aspect in which one side is {stretch:.3g} times the other",
            "16:9 or 9:16 at the most",
            "ask for one nearer to a square, or train on that shape (docs/training.md, buckets)",
        )
    long = max(side, round(side * stretch / cell) * cell)
    return Picture(side, long) if ratio > 1 else Picture(long, side)


def _longest(short: int, cell: int) -> int:
    return max(short, round(short * LONGEST / cell) * cell)


def _check_short(settings: BundleSettings, side: int, found: str) -> None:
    trained = sorted({settings.size, *settings.sizes})
    if side not in trained:
        raise UserError(
            found,
            f"a size that this model was trained at: {', '.join(map(str, trained))}",
            "leave --size out, or name a model whose bundle.json lists it; --scale enlarges the video for viewing",
        )
