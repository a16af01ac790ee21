"""MHR, the Momentum Human Rig (arXiv 2511.15586), from its portable files `rig.npz` and `lodN.npz`.

These plain arrays are what the project's `scripts/convert_assets.py` writes and its `mhr.download_assets --lod N`
fetches (schema 1); the older FBX, `.model` and TorchScript files need other readers and are refused. Only identity,
facial expression, root, neck and head are used; every other joint stays in the bind pose, and the learned pose
correctives (which act on bent limbs) are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fportrait.body.arrays import centre_of_head, check_mesh, read_arrays
from fportrait.body.pose import Pose, bone_transforms, skin
from fportrait.errors import UserError

SCHEMA = 1
IDENTITY_DIMS, EXPRESSION_DIMS = 45, 72
CENTIMETRE = 0.01
RIG = {"schema_version": 0, "joint_names": 1, "joint_parents": 1, "inverse_bind_pose": 2}
LOD = {"schema_version": 0, "base_shape": 2, "shape_vectors": 3, "faces": 2, "skin_indices": 2, "skin_weights": 2}
FIX = "run `python -m mhr.download_assets --lod 1` of github.com/facebookresearch/MHR and point to its folder"


class MhrBody:
    """A whole body with 45 identity and 72 expression coefficients.

    Attributes: those of `fportrait.body.interface.Body`.
    """

    name = "mhr"

    def __init__(self, path: Path):
        lod_file = _lod_file(path)
        rig, lod = read_arrays(path / "rig.npz", RIG, FIX), read_arrays(lod_file, LOD, FIX)
        for file, arrays in ((path / "rig.npz", rig), (lod_file, lod)):
            if int(arrays["schema_version"]) != SCHEMA:
                raise UserError(f"schema {int(arrays['schema_version'])} in {file}", f"schema {SCHEMA}", FIX)
        base, vectors = lod["base_shape"].astype(np.float64), lod["shape_vectors"]
        names, parents = [str(name) for name in rig["joint_names"]], rig["joint_parents"].astype(int)
        indices, weights = lod["skin_indices"].astype(int), lod["skin_weights"].astype(np.float64)
        sizes = {
            "blend shapes": (len(vectors), IDENTITY_DIMS + EXPRESSION_DIMS),
            "vertices of 'shape_vectors'": (vectors.shape[1], len(base)),
            "rows of 'skin_indices'": (len(indices), len(base)),
            "skinning weights": (weights.size, indices.size),
            "parents of joints": (len(parents), len(names)),
            "bind poses": (len(rig["inverse_bind_pose"]), len(names)),
        }
        check_mesh(lod_file, lod["faces"], len(base), sizes, FIX)
        if indices.min() < 0 or indices.max() >= len(names):
            raise UserError(f"skinning to joints that {path / 'rig.npz'} does not have", "files of one release", FIX)
        missing = [name for name in ("c_neck", "c_head") if name not in names]
        if missing:
            raise UserError(f"no joint {missing[0]} in {path / 'rig.npz'}", "MHR's skeleton", FIX)
        neck, head = names.index("c_neck"), names.index("c_head")
        on_head, on_neck = _below(head, parents), _below(neck, parents)
        share_head = (weights * on_head[indices]).sum(1)
        share_neck = (weights * (on_neck & ~on_head)[indices]).sum(1)
        self.skinning = np.stack([1 - share_neck - share_head, share_neck, share_head], 1).astype(np.float32)
        if not (share_head > 0.9).any():
            raise UserError(f"no vertex on the head's bones in {lod_file}", "MHR's skinning weights", FIX)

        joints = _bind_positions(rig["inverse_bind_pose"][[neck, head]].astype(np.float64))
        origin = centre_of_head(base, share_head > 0.9)
        self.template = ((base - origin) * CENTIMETRE).astype(np.float32)
        self._neck, self._head = (joints - origin) * CENTIMETRE
        self.faces = np.ascontiguousarray(lod["faces"], np.int32)
        self.weld = np.arange(len(base), dtype=np.int32)
        self._blends = (vectors.astype(np.float32) * CENTIMETRE).reshape(len(vectors), -1)

    @property
    def identity_dim(self) -> int:
        return IDENTITY_DIMS

    @property
    def expression_dim(self) -> int:
        return EXPRESSION_DIMS

    def neutral(self, identity: np.ndarray) -> np.ndarray:
        """Vertices `V 3` at rest without expression."""
        identity = np.asarray(identity, np.float32)
        return self.template + (identity @ self._blends[:IDENTITY_DIMS]).reshape(-1, 3)

    def vertices(self, identity: np.ndarray, expression: np.ndarray | None, pose: Pose) -> np.ndarray:
        """Posed vertices `V 3`, world, float32; `expression` `72` or None."""
        rest = self.neutral(identity)
        if expression is not None:
            rest = rest + (np.asarray(expression, np.float32) @ self._blends[IDENTITY_DIMS:]).reshape(-1, 3)
        return skin(rest, self.skinning, *bone_transforms(self._neck, self._head, pose))

    def head_centre(self, identity: np.ndarray, pose: Pose) -> np.ndarray:
        """Where the rest origin is carried by the head bone, `3`; MHR's blend shapes do not move the joints."""
        return bone_transforms(self._neck, self._head, pose)[1][2]


def _lod_file(folder: Path) -> Path:
    """`lod1.npz`, or the finest level that is there."""
    if not folder.is_dir():
        raise UserError(f"{folder}, which is no folder", "a folder with rig.npz and lod1.npz", FIX)
    levels = sorted(file for file in folder.iterdir() if re.fullmatch(r"lod[0-6]\.npz", file.name))
    if not levels:
        old = [file.name for file in folder.iterdir() if file.suffix in (".fbx", ".model", ".pt")]
        found = f"the older files {', '.join(sorted(old))}" if old else "no lodN.npz"
        raise UserError(f"{found} in {folder}", "rig.npz and lodN.npz", FIX)
    return next((file for file in levels if file.name == "lod1.npz"), levels[0])


def _below(joint: int, parents: np.ndarray) -> np.ndarray:
    """Which joints are `joint` or hang below it; `J` bool."""
    found = np.zeros(len(parents), bool)
    for index in range(len(parents)):
        at, steps = index, 0
        while at != joint and 0 <= at < len(parents) and steps <= len(parents):
            at, steps = int(parents[at]), steps + 1
        found[index] = at == joint
    return found


def _bind_positions(inverse: np.ndarray) -> np.ndarray:
    """Joint positions `J 3` of inverse bind poses `J 8`: translation, quaternion (x, y, z, w), scale."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_quat(inverse[:, 3:7])
    return -turns.inv().apply(inverse[:, :3]) / inverse[:, 7:]  # y = s R x + t, solved for y = 0
