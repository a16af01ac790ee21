"""Reading a user's body files: named arrays of known dimensions from an npz, never a pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fportrait.errors import UserError


def read_arrays(path: Path, wanted: Mapping[str, int], fix: str) -> dict[str, np.ndarray]:
    """The arrays `wanted` (name to number of dimensions) of an npz; whatever else lies in it stays unread.

    Raises:
        UserError: no such file, no npz, a missing array, one that is pickled, of other dimensions or not finite.
    """
    if not path.is_file():
        raise UserError(f"no file {path}", "a body model's npz", fix)
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as data:
            for name, dimensions in wanted.items():
                if name not in data.files:
                    raise UserError(f"no array '{name}' in {path}", f"the arrays {', '.join(wanted)}", fix)
                try:
                    array = data[name]
                except ValueError:
                    raise UserError(f"the pickled array '{name}' in {path}", "plain numbers", fix) from None
                if array.ndim != dimensions:
                    raise UserError(f"'{name}' of shape {array.shape} in {path}", f"{dimensions} dimensions", fix)
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise UserError(f"numbers that are not finite in '{name}' of {path}", "finite numbers", fix)
                arrays[name] = array
    except (zipfile.BadZipFile, EOFError, OSError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}, which is no npz ({error})", "an npz of arrays", fix) from None
    return arrays


def check_mesh(path: Path, faces: np.ndarray, count: int, sizes: Mapping[str, tuple[int, int]], fix: str) -> None:
    """Faces must index vertices, and each of `sizes` (name to found, expected) must agree.

    Raises:
        UserError: they do not.
    """
    if faces.shape[1] != 3 or faces.dtype.kind not in "iu" or not len(faces) or faces.min() < 0 or faces.max() >= count:
        raise UserError(f"faces that do not index the {count} vertices of {path}", "triangles of vertex numbers", fix)
    for name, (found, expected) in sizes.items():
        if found != expected:
            raise UserError(f"{found} {name} in {path}", f"{expected}", fix)


def centre_of_head(template: np.ndarray, on_head: np.ndarray) -> np.ndarray:
    """The centre of the box around what the head bone carries, on the plane of symmetry; `3`."""
    head = template[on_head]
    centre = 0.5 * (head.min(0) + head.max(0))
    centre[0] = 0.0
    return centre
