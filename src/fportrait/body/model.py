"""The embedded parametric head and shoulders: identity modes, 52 facial actions, three bones.

Built by `tools/build_body_asset.py`. Points are metres in the world convention: y up, +z out of the face, origin at
the centre of the template's head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fportrait.errors import UserError

ASSET = Path(__file__).parent.parent / "assets" / "body.npz"
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


class BodyModel:
    """Head, neck and shoulders as a function of identity, facial actions and pose.

    Attributes:
        template: `V 3` mean identity at rest. faces: `F 3` int32. uv: `V 2` in the unit square (v up).
        weld: `V` int32; vertices with equal numbers are one point, split by a texture seam.
        part, part_names: a part's index per vertex. masks: name to `V` in 0..1 (`lips`, `brows`, `ears`).
        action_names: the 52 ARKit names. eye_centres: `2 3`, left then right, at rest.
        landmark_triangles `478`, landmark_barycentric `478 3`, landmark_valid `478`: where the face landmarks lie.
    """

    def __init__(self, path: Path = ASSET):
        with np.load(path, allow_pickle=False) as data:
            asset = {key: data[key] for key in data.files}
        self.name = "embedded"
        self.template = asset["template"]
        self.identity_modes = asset["identity_modes"].astype(np.float32)
        self.actions = asset["actions"].astype(np.float32)
        self.action_names: list[str] = asset["action_names"].tolist()
        self.faces = asset["faces"]
        self.uv = asset["uv"]
        self.weld = asset["weld"]
        self.skinning = asset["skinning"]
        self.joints = asset["joints"]
        self.joint_modes = asset["joint_modes"]
        self.part = asset["part"]
        self.part_names: list[str] = asset["part_names"].tolist()
        self.masks = dict(zip(asset["mask_names"].tolist(), asset["masks"].astype(np.float32), strict=True))
        self.eye_centres = asset["eye_centres"]
        if "landmark_triangles" in asset:
            self.landmark_triangles = asset["landmark_triangles"]
            self.landmark_barycentric = asset["landmark_barycentric"]
            self.landmark_valid = asset["landmark_valid"]
        self._modes_2d = self.identity_modes.reshape(len(self.identity_modes), -1)
        self._actions_2d = self.actions.reshape(len(self.actions), -1)

    @property
    def identity_dim(self) -> int:
        return len(self.identity_modes)

    def neutral(self, identity: np.ndarray) -> np.ndarray:
        """Vertices `V 3` at rest without expression; `identity` `K`, unit variance each."""
        identity = np.asarray(identity, np.float32)
        return self.template + (identity @ self._modes_2d).reshape(-1, 3)

    def rest_joints(self, identity: np.ndarray) -> np.ndarray:
        """Positions `3 3` of root, neck and head joints at rest."""
        return self.joints + np.tensordot(np.asarray(identity, np.float32), self.joint_modes, 1)

    def bone_transforms(self, identity: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Rotation `3 3 3` and translation `3 3` of each bone (root, neck, head): x ↦ R x + t.

        The root turns about the origin. The neck joint takes `NECK_SHARE` of the head rotation, the head joint the
        rest.
        """
        _, neck_joint, head_joint = self.rest_joints(identity).astype(np.float64)
        vector = rotation_vector(pose.head_rotation)
        neck = rotation_matrix(NECK_SHARE * vector)
        head = rotation_matrix(vector)
        neck_shift = neck_joint - neck @ neck_joint
        head_shift = neck @ head_joint + neck_shift - head @ head_joint
        rotations = np.stack([np.eye(3), neck, head])
        shifts = np.stack([np.zeros(3), neck_shift, head_shift])
        return pose.body_rotation @ rotations, shifts @ np.asarray(pose.body_rotation).T + pose.body_translation

    def vertices(self, identity: np.ndarray, actions: np.ndarray | None, pose: Pose) -> np.ndarray:
        """Posed vertices `V 3`, world, float32. `actions` `52` in 0..1, or None for the expression-neutral mesh."""
        rest = self.neutral(identity)
        if actions is not None:
            rest = rest + (np.asarray(actions, np.float32) @ self._actions_2d).reshape(-1, 3)
        rotations, shifts = self.bone_transforms(identity, pose)
        blended = np.tensordot(self.skinning, rotations.astype(np.float32), 1)
        return np.einsum("vij,vj->vi", blended, rest) + self.skinning @ shifts.astype(np.float32)

    def head_centre(self, identity: np.ndarray, pose: Pose) -> np.ndarray:
        """Where the template's head centre (the rest origin) is carried by the head bone, `3`."""
        return self.bone_transforms(identity, pose)[1][2]

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """The 478 face landmarks `478 3` on given vertices."""
        corners = vertices[self.faces[self.landmark_triangles]]
        return (corners * self.landmark_barycentric[..., None]).sum(1)


@functools.cache
def _embedded() -> BodyModel:
    return BodyModel()


def load_body(name: str = "embedded") -> BodyModel:
    """The body model of that name, read once.

    Raises:
        UserError: unknown name.
    """
    if name != "embedded":
        raise UserError(f"the body model '{name}'", "'embedded'", "set body_model: embedded")
    return _embedded()
