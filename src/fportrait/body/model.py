"""The embedded parametric head and shoulders: identity modes, 52 facial actions, three bones.

Built by `tools/build_body_asset.py`. Points are metres in the world convention: y up, +z out of the face, origin at
the centre of the template's head.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from fportrait.atomic_io import file_hash, value_hash
from fportrait.body.pose import NECK_SHARE, Pose, bone_transforms, rotation_matrix, rotation_vector, skin
from fportrait.errors import UserError, nearest_name

if TYPE_CHECKING:
    from fportrait.body.interface import Body

__all__ = ["ASSET", "NECK_SHARE", "BodyModel", "Pose", "load_body", "rotation_matrix", "rotation_vector"]

ASSET = Path(__file__).parent.parent / "assets" / "body.npz"
BODIES = ("embedded", "smplx", "mhr")
FOLDER_VARIABLE = "FPORTRAIT_BODIES"  # a folder with `smplx/` and `mhr/`, for bodies whose files a user brings


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

    @property
    def expression_dim(self) -> int:
        return len(self.actions)

    def neutral(self, identity: np.ndarray) -> np.ndarray:
        """Vertices `V 3` at rest without expression; `identity` `K`, unit variance each."""
        identity = np.asarray(identity, np.float32)
        return self.template + (identity @ self._modes_2d).reshape(-1, 3)

    def rest_joints(self, identity: np.ndarray) -> np.ndarray:
        """Positions `3 3` of root, neck and head joints at rest."""
        return self.joints + np.tensordot(np.asarray(identity, np.float32), self.joint_modes, 1)

    def bone_transforms(self, identity: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Rotation `3 3 3` and translation `3 3` of each bone (root, neck, head); see `pose.bone_transforms`."""
        _, neck_joint, head_joint = self.rest_joints(identity).astype(np.float64)
        return bone_transforms(neck_joint, head_joint, pose)

    def vertices(self, identity: np.ndarray, actions: np.ndarray | None, pose: Pose) -> np.ndarray:
        """Posed vertices `V 3`, world, float32. `actions` `52` in 0..1, or None for the expression-neutral mesh."""
        rest = self.neutral(identity)
        if actions is not None:
            rest = rest + (np.asarray(actions, np.float32) @ self._actions_2d).reshape(-1, 3)
        return skin(rest, self.skinning, *self.bone_transforms(identity, pose))

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


@functools.lru_cache(maxsize=4)
def _from_files(name: str, path: Path) -> Body:
    if name == "smplx":
        from fportrait.body.smplx_body import SmplxBody

        return SmplxBody(path)
    from fportrait.body.mhr_body import MhrBody

    return MhrBody(path)


@overload
def load_body(name: Literal["smplx", "mhr"], path: str | Path | None = None) -> Body: ...  # type: ignore[overload-overlap]


@overload  # names from a configuration: parts that need landmarks, actions or parts only take the embedded body
def load_body(name: str = "embedded", path: str | Path | None = None) -> BodyModel: ...


def load_body(name: str = "embedded", path: str | Path | None = None) -> Body:
    """The body model of that name, read once.

    Args:
        path: for `smplx` a model file or a folder of them, for `mhr` the folder of its portable files; by default the
            folder of that name in `FPORTRAIT_BODIES`. The embedded body needs none.

    Raises:
        UserError: unknown name, or files that are missing or of another format.
    """
    if name not in BODIES:
        near = nearest_name(name, BODIES) or "embedded"
        raise UserError(f"the body model '{name}'", f"one of {', '.join(BODIES)}", f"set body_model: {near}")
    if name == "embedded":
        return _embedded()
    return _from_files(name, _folder_of(name) if path is None else Path(path))


def body_hash(name: str) -> str:
    """SHA-256 over a body model's files, for the names of results that depend on it; empty for the embedded body,
    which is part of the code.

    Raises:
        UserError: unknown name, or no files where they are looked for.
    """
    if name == "embedded":
        return ""
    if name not in BODIES:
        load_body(name)  # says what is known
    folder = _folder_of(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UserError(f"no files of a body model in {folder}", "those you have a licence for", "put them there")
    return _hash_of_files(folder, tuple((path, (at := path.stat()).st_size, at.st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=4)
def _hash_of_files(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    return value_hash([[path.relative_to(folder).as_posix(), file_hash(path)] for path, *_ in files])


def _folder_of(name: str) -> Path:
    """Where a body model's files lie, by `FPORTRAIT_BODIES`."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise UserError(
            f"the body model '{name}' without its files",
            "files that you have a licence for",
            f"give load_body(path=...), or set {FOLDER_VARIABLE} to a folder that holds {name}/",
        )
    return Path(folder) / name
