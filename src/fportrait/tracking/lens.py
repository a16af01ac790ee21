"""The field of view of a camera that nobody measured: as the user says, as the picture's file says, or unknown.

Everywhere it is the angle across the picture's longer side, so that a phone's video means the same upright and lying.
A head seen through a lens assumed too wide looks turned too little when it stands in the middle, and turned away when
it stands aside.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fportrait.errors import UserError

ASSUMED_FOV = 40.0  # degrees across the longer side
NARROWEST, WIDEST = 1.0, 170.0  # of a picture on a plane
FILM_DIAGONAL = 43.27  # millimetres: what "35 mm equivalent" is equivalent in (CIPA DCG-001)
# Shorter ones draw on no plane: a phone's 4 mm stand there where the lens's own length was written for its equivalent.
SHORTEST = 9.0  # millimetres
FOCAL_LENGTH_IN_35MM, EXIF = 0xA405, 0x8769  # tags


def intrinsics_across(fov_degrees: float, width: int, height: int) -> np.ndarray:
    """`3 3` intrinsics whose field of view across the longer side is `fov_degrees`; a centred principal point.

    Raises:
        UserError: no field of view of a picture on a plane.
    """
    if not NARROWEST < fov_degrees < WIDEST:
        expected = f"{NARROWEST:g} to {WIDEST:g}"
        raise UserError(
            f"a field of view of {fov_degrees:g} degrees", expected, "give the camera's, across the longer side"
        )
    focal = max(width, height) / 2 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def recorded_fov(path: str | Path) -> float | None:
    """Degrees across the longer side by the picture's EXIF (`FocalLengthIn35mmFilm`); None where it says nothing, or
    what no lens is."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            millimetres = float(picture.getexif().get_ifd(EXIF).get(FOCAL_LENGTH_IN_35MM, 0))
            width, height = picture.size
    except (OSError, ValueError, TypeError, SyntaxError):
        return None  # whoever reads the picture says what is wrong with it
    if not millimetres >= SHORTEST:
        return None
    longer = FILM_DIAGONAL * max(width, height) / np.hypot(width, height)
    degrees = float(np.degrees(2 * np.arctan(longer / 2 / millimetres)))
    return degrees if degrees > NARROWEST else None


def picture_fov(path: str | Path, fov_degrees: float | None) -> tuple[float, str]:
    """The field of view of a picture or video, and where it comes from: `given`, `recorded` or `assumed`."""
    if fov_degrees is not None:
        return fov_degrees, "given"
    recorded = recorded_fov(path)
    return (ASSUMED_FOV, "assumed") if recorded is None else (recorded, "recorded")
