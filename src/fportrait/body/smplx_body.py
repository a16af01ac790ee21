"""SMPL-X (Pavlakos et al. 2019, "Expressive Body Capture") from the user's licensed files, through the `smplx` library.

Reads `SMPLX_NEUTRAL.npz` and its like; only plain arrays are touched, so nothing in the file can run code. Blend
shapes, pose correctives and skinning are `smplx.lbs.lbs`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fportrait.body.arrays import centre_of_head, check_mesh, read_arrays
from fportrait.body.pose import NECK_SHARE, Pose, bone_transforms, rotation_vector
from fportrait.errors import UserError

FILES = ("SMPLX_NEUTRAL.npz", "SMPLX_MALE.npz", "SMPLX_FEMALE.npz")
ARRAYS = {"v_template": 2, "shapedirs": 3, "posedirs": 3, "J_regressor": 2, "weights": 2, "kintree_table": 2, "f": 2}
JOINTS, NECK, HEAD, JAW, EYES = 55, 12, 15, 22, (23, 24)
MAX_SHAPES = 300  # where files with both spaces keep the expressions
IDENTITY_DIMS, EXPRESSION_DIMS = 100, 50
FIX = "download the npz form of SMPL-X 1.1 from smpl-x.is.tue.mpg.de and point to SMPLX_NEUTRAL.npz"


class SmplxBody:
    """A whole body; the identity is SMPL-X's betas, the expression its coefficients and then the jaw's rotation vector.

    Attributes: those of `fportrait.body.interface.Body`. Hands, arms and legs keep the template's pose.
    """

    name = "smplx"

    def __init__(self, path: Path):
        import torch

        path = _model_file(path)
        arrays = read_arrays(path, ARRAYS, FIX)
        template = arrays["v_template"].astype(np.float64)
        count, blends = len(template), arrays["shapedirs"].shape[2]
        faces = arrays["f"].astype(np.int64) if arrays["f"].dtype.kind == "u" else arrays["f"]
        sizes = {
            "rows of 'shapedirs'": (len(arrays["shapedirs"]), count),
            "rows of 'posedirs'": (len(arrays["posedirs"]), count),
            "pose correctives": (arrays["posedirs"].shape[2], (JOINTS - 1) * 9),
            "joints": (len(arrays["J_regressor"]), JOINTS),
            "columns of 'J_regressor'": (arrays["J_regressor"].shape[1], count),
            "rows of 'weights'": (len(arrays["weights"]), count),
            "columns of 'weights'": (arrays["weights"].shape[1], JOINTS),
            "columns of 'kintree_table'": (arrays["kintree_table"].shape[1], JOINTS),
        }
        check_mesh(path, faces, count, sizes, FIX)
        if blends < 20:
            raise UserError(f"{blends} blend shapes in {path}", "at least 10 of shape and 10 of expression", FIX)
        first = MAX_SHAPES if blends > MAX_SHAPES else 10
        shapes = np.arange(min(first, IDENTITY_DIMS))
        expressions = np.arange(first, min(first + EXPRESSION_DIMS, blends))

        on_head = arrays["weights"][:, [HEAD, JAW, *EYES]].sum(1) > 0.9
        if not on_head.any():
            raise UserError(f"no vertex on the head's bones in {path}", "SMPL-X's own skinning weights", FIX)
        origin = centre_of_head(template, on_head)
        self.template = (template - origin).astype(np.float32)
        self.faces = np.ascontiguousarray(faces, np.int32)
        self.weld = np.arange(count, dtype=np.int32)
        self._dims = len(shapes), len(expressions)
        parents = arrays["kintree_table"][0].astype(np.int64)
        parents[0] = -1
        if not all(0 <= parents[i] < i for i in range(1, JOINTS)):
            raise UserError(f"a 'kintree_table' in {path} whose parents come after children", "SMPL-X's skeleton", FIX)
        directions = arrays["shapedirs"][:, :, np.concatenate([shapes, expressions])]
        self._regressor = arrays["J_regressor"].astype(np.float32)
        self._joint_modes = np.einsum("jv,vxk->kjx", self._regressor, directions[:, :, : len(shapes)])
        self._torch = {
            "v_template": torch.from_numpy(self.template)[None],
            "shapedirs": torch.tensor(directions, dtype=torch.float32),
            "posedirs": torch.tensor(arrays["posedirs"].reshape(count * 3, -1).T, dtype=torch.float32),
            "J_regressor": torch.from_numpy(self._regressor),
            "parents": torch.from_numpy(parents),
            "lbs_weights": torch.tensor(arrays["weights"], dtype=torch.float32),
        }

    @property
    def identity_dim(self) -> int:
        return self._dims[0]

    @property
    def expression_dim(self) -> int:
        return self._dims[1] + 3

    def neutral(self, identity: np.ndarray) -> np.ndarray:
        """Vertices `V 3` at rest without expression."""
        return self.vertices(identity, None, Pose.rest())

    def vertices(self, identity: np.ndarray, expression: np.ndarray | None, pose: Pose) -> np.ndarray:
        """Posed vertices `V 3`, world, float32.

        Args:
            identity: `identity_dim`. expression: `expression_dim`, coefficients then the jaw (radians), or None.
        """
        import torch
        from smplx.lbs import lbs

        shapes, expressions = self._dims
        face = np.zeros(expressions + 3) if expression is None else np.asarray(expression, np.float64)
        identity = np.asarray(identity, np.float64)
        if identity.shape != (shapes,) or face.shape != (expressions + 3,):
            raise ValueError(f"identity {identity.shape}, expression {face.shape}; need {shapes} and {expressions + 3}")
        turns = np.zeros((JOINTS, 3))
        vector = rotation_vector(pose.head_rotation)
        turns[NECK], turns[HEAD], turns[JAW] = NECK_SHARE * vector, (1 - NECK_SHARE) * vector, face[expressions:]
        betas = np.concatenate([identity, face[:expressions]])
        with torch.no_grad():
            found, _ = lbs(
                torch.tensor(betas[None], dtype=torch.float32),
                torch.tensor(turns[None], dtype=torch.float32),
                **self._torch,
            )
        rotation, shift = np.asarray(pose.body_rotation, np.float32), np.asarray(pose.body_translation, np.float32)
        return found[0].numpy() @ rotation.T + shift

    def head_centre(self, identity: np.ndarray, pose: Pose) -> np.ndarray:
        """Where the rest origin is carried by the head bone, `3`."""
        moved = np.tensordot(np.asarray(identity, np.float64), self._joint_modes, 1)
        joints = self._regressor.astype(np.float64) @ self.template + moved
        return bone_transforms(joints[NECK], joints[HEAD], pose)[1][2]


def _model_file(path: Path) -> Path:
    if path.suffix == ".pkl" or (path.is_dir() and not any((path / name).is_file() for name in FILES)):
        found = f"the pickle {path}" if path.suffix == ".pkl" else f"no {FILES[0]} in {path}"
        why = "; a pickle can run code when it is opened, so it is never read" if path.suffix == ".pkl" else ""
        raise UserError(found, "SMPL-X as npz", FIX + why)
    if path.is_dir():
        return next(path / name for name in FILES if (path / name).is_file())
    return path
