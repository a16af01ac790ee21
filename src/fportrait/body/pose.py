"""The pose all body models share: a root in the world and a head turned against it through the neck."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

NECK_SHARE = 0.4  # of the head's rotation, taken by the neck joint; the head joint takes the rest


@dataclass(frozen=True)
class Pose:
    """Root in the world, and the head relative to the root. Rotations are `3 3` matrices, the translation is metres."""

    body_rotation: np.ndarray
    body_translation: np.ndarray
    head_rotation: np.ndarray

    @classmethod
    def rest(cls) -> Pose:
        return cls(np.eye(3), np.zeros(3), np.eye(3))


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rodrigues: rotation vectors `... 3` (radians) to matrices `... 3 3`."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape[:-1], 3, 3)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    sine = np.where(small, 1.0, np.sin(safe) / safe)
    cosine = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + sine * skew + cosine * (skew @ skew)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Inverse of `rotation_matrix`, `... 3 3` to `... 3`."""
    from scipy.spatial.transform import Rotation

    matrix = np.asarray(matrix, np.float64)
    return Rotation.from_matrix(matrix.reshape(-1, 3, 3)).as_rotvec().reshape(matrix.shape[:-1])


def bone_transforms(neck_joint: np.ndarray, head_joint: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Rotation `3 3 3` and translation `3 3` of root, neck and head, as x ↦ R x + t on points at rest.

    Args:
        neck_joint, head_joint: `3`, metres, at rest.

    The root turns about the origin. The neck joint takes `NECK_SHARE` of the head rotation, the head joint the rest.
    """
    neck, head = _shared(np.asarray(pose.head_rotation, np.float64).tobytes())
    neck_shift = neck_joint - neck @ neck_joint
    head_shift = neck @ head_joint + neck_shift - head @ head_joint
    rotations = np.stack([np.eye(3), neck, head])
    shifts = np.stack([np.zeros(3), neck_shift, head_shift])
    return pose.body_rotation @ rotations, shifts @ np.asarray(pose.body_rotation).T + pose.body_translation


@functools.lru_cache(maxsize=8)  # a frame's pose is asked for again and again: normals, painting, where the head is
def _shared(head_rotation: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rotations `3 3` of neck and head joint, of the head's against the root as the bytes of its float64 matrix."""
    vector = rotation_vector(np.frombuffer(head_rotation).reshape(3, 3))
    return rotation_matrix(NECK_SHARE * vector), rotation_matrix(vector)


def skin(rest: np.ndarray, skinning: np.ndarray, rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Linear blend skinning of rest vertices `V 3` by weights `V 3` of root, neck and head; float32."""
    blended = np.tensordot(skinning, rotations.astype(np.float32), 1)
    return np.einsum("vij,vj->vi", blended, rest) + skinning @ shifts.astype(np.float32)
