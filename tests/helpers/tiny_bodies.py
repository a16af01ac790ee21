"""Small files in the formats of SMPL-X and MHR, made from the embedded body, so that the real loaders run."""

from pathlib import Path

import numpy as np

from fportrait.body.model import load_body


def _mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Template `V 3`, faces `F 3`, weights `V 3` of root, neck and head, identity modes and some actions."""
    body = load_body()
    keep = np.unique(body.weld, return_index=True)[1]
    place = np.full(len(body.template), -1)
    place[keep] = np.arange(len(keep))
    faces = place[keep[np.searchsorted(body.weld[keep], body.weld[body.faces])]]
    jaw, brow = (body.action_names.index(name) for name in ("jawOpen", "browInnerUp"))
    actions = body.actions[[jaw, brow, *range(20)]][:, keep]
    return body.template[keep].astype(np.float64), faces, body.skinning[keep], body.identity_modes[:, keep], actions


def smplx_arrays(shapes: int = 300, expressions: int = 100) -> dict[str, np.ndarray]:
    template, faces, skinning, modes, actions = _mesh()
    rng = np.random.default_rng(0)
    body = load_body()
    count = len(template)
    weights = np.zeros((count, 55))
    weights[:, 9], weights[:, 12], weights[:, 15] = skinning.T
    chin = (template[:, 1] < -0.08) & (skinning[:, 2] > 0.9)
    weights[chin, 22], weights[chin, 15] = weights[chin, 15], 0.0
    parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15]
    parents += [20 if i < 15 else 21 for i in range(30)]
    shape = np.zeros((count, 3, shapes + expressions))
    shape[:, :, : min(shapes, 40)] = modes[:shapes].transpose(1, 2, 0)
    shape[:, :, shapes : shapes + min(expressions, 22)] = actions[:expressions].transpose(1, 2, 0)
    places = np.zeros((55, 3))
    places[[9, 12, 15]] = body.joints
    places[22] = [0, -0.03, 0.03]
    # joints as sums of vertices whose weights add up to one: the smallest such weights
    system = np.concatenate([template.T, np.ones((1, count))])
    regressor = np.linalg.lstsq(system, np.concatenate([places, np.ones((55, 1))], 1).T, rcond=None)[0].T
    return {
        "v_template": template + np.array([0.0, 0.35, 0.02]),
        "shapedirs": shape,
        "posedirs": rng.normal(0, 1e-5, (count, 3, 486)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([parents, range(55)]).astype(np.uint32),
        "f": faces.astype(np.uint32),
        "part2num": np.array({"Head": 15}, dtype=object),  # the real file holds pickled dictionaries as well
    }


def write_smplx(path: Path, **changes: object) -> Path:
    arrays = smplx_arrays() | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def mhr_arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The contents of `rig.npz` and of `lod1.npz`: centimetres, feet at the origin."""
    template, faces, skinning, modes, actions = _mesh()
    offset = np.array([0.0, 160.0, 3.0])
    names = ["world", "root", "c_spine3", "c_neck", "c_head", "c_jaw", "l_arm"]
    parents = np.array([-1, 0, 1, 2, 3, 4, 2])
    joints = np.zeros((7, 3))
    joints[2:5] = load_body().joints * 100 + offset
    turn = np.array([0.5, 0.5, 0.5, 0.5])  # a bind rotation, as Maya's joints have: x to y to z
    rotation = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    inverse = np.concatenate([-joints @ rotation.T, np.tile(turn, (7, 1)), np.ones((7, 1))], 1)
    vectors = np.zeros((117, len(template), 3))
    vectors[:40], vectors[45:67] = modes * 100, actions * 100
    chin = (template[:, 1] < -0.08) & (skinning[:, 2] > 0.9)
    rig = {
        "schema_version": np.array(1),
        "joint_names": np.array(names),
        "joint_parents": parents.astype(np.int32),
        "inverse_bind_pose": inverse.astype(np.float32),
    }
    lod = {
        "schema_version": np.array(1),
        "base_shape": (template * 100 + offset).astype(np.float32),
        "shape_vectors": vectors.astype(np.float32),
        "faces": faces.astype(np.int32),
        "skin_indices": np.where(chin[:, None], [2, 3, 5], [2, 3, 4]).astype(np.int32),
        "skin_weights": skinning.astype(np.float32),
    }
    return rig, lod


def write_mhr(folder: Path, rig_changes: dict | None = None, lod_changes: dict | None = None) -> Path:
    rig, lod = mhr_arrays()
    folder.mkdir(exist_ok=True)
    for name, arrays, changes in (("rig", rig, rig_changes), ("lod1", lod, lod_changes)):
        merged = arrays | (changes or {})
        np.savez(folder / f"{name}.npz", **{key: value for key, value in merged.items() if value is not None})
    return folder
