"""How far a head is turned, told by its 478 landmarks alone: kernel ridge regression on rendered people.

The landmark network errs alike in all frames of a person (a long chin or a low brow looks like a nod) and, beyond 40
degrees of yaw, guesses the hidden side. A fit of the body model takes these errors for a turn, even when it knows the
person's true shape. The regression has seen which errors come with which turn: among people it never saw it errs by a
third less than the fit. `fit.solve_frames` takes it as a measurement of the rotation beside the landmarks.

The landmarks are seen by a camera turned to look straight at them, levelled along the eyes, centred and scaled to unit
spread: this takes place, roll and size out. Radial basis functions on Nyström centres (Williams and Seeger 2001) of the
principal components carry these numbers to a rotation vector. (Mirrored faces do not help: the network's errors are not
symmetric.)

`fportrait.tracking.making.head_turn` fits it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from fportrait.atomic_io import atomic_path
from fportrait.body.pose import rotation_matrix
from fportrait.errors import UserError
from fportrait.tracking.crops import face_frame

SHIPPED = Path(__file__).parent.parent / "assets" / "head_turn.npz"
FACING = np.diag([1.0, -1.0, -1.0])  # axes of a head that looks straight at an OpenCV camera
YAW_EDGES = np.array([0.0, 20.0, 40.0, 60.0, 180.0])  # degrees: errors are measured between these


@dataclass(frozen=True)
class HeadTurn:
    """A fitted regression.

    `mean` `957`, `basis` `957 K` (of 956 normalised coordinates and the logarithm of their scale), `centres` `M K`,
    `gamma` scalar, `weights` `M 3` and `offset` `3` radians, `sigmas` `4` radians: robust spread of the error per axis,
    on people left out, between `YAW_EDGES`.
    """

    mean: np.ndarray
    basis: np.ndarray
    centres: np.ndarray
    gamma: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    sigmas: np.ndarray

    def rotations(self, landmarks: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Head rotations `N 3 3` in the camera's axes (head to camera) and their errors' spread `N`, radians per axis.

        Args:
            landmarks: `N 478 2` pixels, finite. intrinsics: `3 3`.
        """
        features, axes = normalised(landmarks, intrinsics)
        vectors = self.vectors(features)
        turned = FACING @ rotation_matrix(vectors)
        return axes.transpose(0, 2, 1) @ turned, self.sigmas[yaw_bin(vectors)]

    def vectors(self, features: np.ndarray) -> np.ndarray:
        """Rotation vectors `N 3` from features `N 957`."""
        near = kernel((features - self.mean) @ self.basis, self.centres, self.gamma, self._squares)
        return near @ self.weights + self.offset

    @functools.cached_property
    def _squares(self) -> np.ndarray:
        """Squared lengths of the centres, `M`."""
        return np.asarray((self.centres**2).sum(1))

    def save(self, path: str | Path) -> None:
        """Write an npz; half precision, in which it was fitted."""
        small = {f.name: getattr(self, f.name) for f in fields(self)}
        small = {k: v.astype(np.float16 if k in ("basis", "centres") else np.float32) for k, v in small.items()}
        with atomic_path(path) as temporary, open(temporary, "wb") as sink:
            np.savez_compressed(sink, **small)

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> HeadTurn:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, or lacks arrays, or holds numbers that are not finite.
        """
        path = Path(path)
        fix = "rebuild it: python -m fportrait.tracking.making.head_turn"
        if not path.is_file():
            raise UserError(f"no file {path}", "a head turn regression", fix)
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name].astype(np.float64) for name in data.files}
        names = {f.name for f in fields(cls)}
        if set(arrays) != names or not all(np.isfinite(value).all() for value in arrays.values()):
            raise UserError(f"the arrays {sorted(arrays)} in {path}", f"{sorted(names)}, all finite", fix)
        return cls(**arrays)


@functools.cache
def shipped_head_turn() -> HeadTurn:
    """The shipped regression, read once."""
    return HeadTurn.load()


def normalised(landmarks: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features `N 957` and the axes `N 3 3` (camera to the levelled view they were taken in) of landmarks `N 478 2`."""
    rays = np.ones((*landmarks.shape[:2], 3))
    rays[..., :2] = (landmarks - intrinsics[:2, 2]) / np.diag(intrinsics)[:2]
    axes = straight_axes(rays.mean(1))
    turned = rays @ axes.transpose(0, 2, 1)
    points = turned[..., :2] / turned[..., 2:]
    along = np.stack([face_frame(one)[2] for one in points])
    level = np.stack([along, np.stack([-along[:, 1], along[:, 0]], 1)], 1)
    points = points @ level.transpose(0, 2, 1)
    points -= points.mean(1, keepdims=True)
    scale = np.sqrt((points**2).sum(2).mean(1))
    axes[:, :2] = level @ axes[:, :2]
    flat = (points / scale[:, None, None]).reshape(len(points), -1)
    return np.concatenate([flat, np.log(scale)[:, None]], 1), axes


def straight_axes(rays: np.ndarray) -> np.ndarray:
    """Axes `N 3 3` (camera to itself turned until it looks along `rays` `N 3`, its x axis kept level)."""
    z = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], 1)


def kernel(a: np.ndarray, b: np.ndarray, gamma: float | np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Radial basis functions `N M` of `a` `N K` at centres `b` `M K`, whose squared `lengths` `M` may be known."""
    lengths = (b**2).sum(1) if lengths is None else lengths
    squares = (a**2).sum(1)[:, None] + lengths - 2 * a @ b.T
    return np.exp(-gamma * np.maximum(squares, 0))


def yaw_bin(vectors: np.ndarray) -> np.ndarray:
    """Index `N` into `sigmas` of rotation vectors `N 3`: by the angle between the face's axis and the line of sight."""
    forward = np.clip(rotation_matrix(vectors)[:, 2, 2], -1, 1)
    return np.digitize(np.degrees(np.arccos(forward)), YAW_EDGES[1:-1])
