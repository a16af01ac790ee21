"""SMPL-X and MHR: read from files of their formats, posed as the contract says, and refused with a way out."""

import pickle

import numpy as np
import pytest

from fportrait.body.model import Pose, load_body, rotation_matrix
from fportrait.body.pose import bone_transforms
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.camera.paths import orbit
from fportrait.errors import UserError
from helpers.tiny_bodies import smplx_arrays, write_mhr, write_smplx


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "smplx").mkdir()
    write_smplx(folder / "smplx" / "SMPLX_NEUTRAL.npz")
    write_mhr(folder / "mhr")
    return folder


@pytest.fixture(params=["embedded", "smplx", "mhr"])
def body(request, files):
    return load_body(request.param, None if request.param == "embedded" else files / request.param)


def random_pose(seed: int) -> Pose:
    rng = np.random.default_rng(seed)
    return Pose(rotation_matrix(rng.normal(0, 0.5, 3)), rng.normal(0, 0.2, 3), rotation_matrix(rng.normal(0, 0.3, 3)))


def test_every_body_stands_in_the_world_as_the_contract_says(body):
    assert body.template.shape == body.neutral(np.zeros(body.identity_dim)).shape
    assert np.allclose(body.neutral(np.zeros(body.identity_dim)), body.template, atol=1e-6)
    assert body.faces.dtype == np.int32
    assert body.weld.shape == (len(body.template),)
    low, high = body.template.min(0), body.template.max(0)
    assert -0.4 < low[1] < -0.2 < 0.1 < high[1] < 0.2  # metres, y up, the head around the origin
    foremost = body.template[body.template[:, 2].argmax()]
    assert abs(foremost[0]) < 0.01
    assert abs(foremost[1]) < 0.06  # the nose, at +z


def test_every_body_turns_rigidly_with_its_root(body):
    identity = np.random.default_rng(1).normal(size=body.identity_dim)
    pose = random_pose(2)
    alone = body.vertices(identity, None, Pose(np.eye(3), np.zeros(3), pose.head_rotation))
    carried = body.vertices(identity, None, pose)
    assert carried.dtype == np.float32
    assert np.allclose(carried, alone @ pose.body_rotation.T + pose.body_translation, atol=1e-5)


def test_every_bodys_head_turns_as_asked_about_its_neck_and_leaves_the_shoulders(body):
    identity = 0.5 * np.random.default_rng(3).normal(size=body.identity_dim)
    pose = Pose(np.eye(3), np.zeros(3), rotation_matrix([0.15, 0.5, -0.1]))
    rest, posed = body.neutral(identity), body.vertices(identity, None, pose)
    crown, shoulders = body.template[:, 1] > 0.05, body.template[:, 1] < -0.25
    expected = rest[crown] @ pose.head_rotation.T
    expected += body.head_centre(identity, pose)
    assert np.abs(posed[crown] - expected).max() < 1e-3  # SMPL-X bends a little with its pose correctives
    assert np.abs(posed[shoulders] - rest[shoulders]).max() < 1e-3
    assert np.abs(body.head_centre(identity, Pose.rest())).max() < 1e-6


def test_changing_only_the_expression_does_not_move_one_pixel_of_any_bodys_normal_map(body):
    identity, pose = np.random.default_rng(4).normal(size=body.identity_dim), random_pose(5)
    k, w2c = intrinsics_from_fov(40, 96, 96), orbit(np.array([10.0]), np.array([0.0]), np.array([0.8]))[0]
    w2c[:3, 3] -= w2c[:3, :3] @ body.head_centre(identity, pose)

    def drawn(expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        speaking, neutral = body.vertices(identity, expression, pose), body.vertices(identity, None, pose)
        return speaking, normal_map(neutral, body.faces, w2c, k, 96, 96, weld=body.weld)

    quiet, first = drawn(np.zeros(body.expression_dim))
    talking = np.zeros(body.expression_dim)
    talking[: min(5, body.expression_dim)] = 1.0
    moved, second = drawn(talking)
    assert np.abs(moved - quiet).max() > 0.003
    assert np.array_equal(first, second)
    assert 500 < first.any(2).sum() < 96 * 96
    assert np.array_equal(quiet, body.vertices(identity, None, pose))
    spoken = normal_map(moved, body.faces, w2c, k, 96, 96, weld=body.weld)
    assert not np.array_equal(first, spoken)  # the test can fail: drawn from the speaking mesh, pixels do move


def test_smplx_agrees_with_the_smplx_library_itself(files, monkeypatch):
    """The library's own class reads the same file (through its pickling loader, which fportrait never uses)."""
    import smplx
    import torch

    body = load_body("smplx", files / "smplx")
    arrays = smplx_arrays() | {
        "hands_componentsl": np.zeros((45, 45)),
        "hands_componentsr": np.zeros((45, 45)),
        "hands_meanl": np.zeros(45),
        "hands_meanr": np.zeros(45),
        "lmk_faces_idx": np.zeros(51, int),
        "lmk_bary_coords": np.ones((51, 3)) / 3,
        "dynamic_lmk_faces_idx": np.zeros((79, 17), int),
        "dynamic_lmk_bary_coords": np.ones((79, 17, 3)) / 3,
    }
    path = files / "SMPLX_NEUTRAL_full.npz"
    arrays["f"] = np.concatenate([arrays["f"], np.zeros((10, 3), np.uint32)])
    np.savez(path, **{name: value for name, value in arrays.items() if name != "part2num"})
    points = smplx.body_models.VERTEX_IDS  # fingertips and toes by number, which a small mesh does not have
    monkeypatch.setitem(points, "smplx", dict.fromkeys(points["smplx"], 0))
    theirs = smplx.SMPLX(
        str(path),
        ext="npz",
        num_betas=100,
        num_expression_coeffs=50,
        use_pca=False,
        flat_hand_mean=True,
        use_face_contour=False,
    )
    rng = np.random.default_rng(0)
    identity, expression = rng.normal(size=100), rng.normal(size=53) * 0.3
    head = rotation_matrix([0.2, -0.4, 0.1])
    ours = body.vertices(identity, expression, Pose(np.eye(3), np.zeros(3), head))
    from fportrait.body.model import NECK_SHARE, rotation_vector

    turns = np.zeros((1, 63))
    turns[0, 33:36], turns[0, 42:45] = NECK_SHARE * rotation_vector(head), (1 - NECK_SHARE) * rotation_vector(head)
    tensors = {
        "betas": identity[None],
        "expression": expression[None, :50],
        "jaw_pose": expression[None, 50:],
        "body_pose": turns,
    }
    with torch.no_grad():
        found = theirs(**{name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()})
    shift = ours.mean(0) - found.vertices[0].numpy().mean(0)
    assert np.abs(found.vertices[0].numpy() + shift - ours).max() < 2e-5


def test_older_smplx_files_with_ten_shapes_and_ten_expressions_are_read(tmp_path):
    np.savez(tmp_path / "small.npz", **{k: v for k, v in smplx_arrays(10, 10).items() if k != "part2num"})
    body = load_body("smplx", tmp_path / "small.npz")
    assert (body.identity_dim, body.expression_dim) == (10, 13)


def test_the_jaw_of_smplx_is_part_of_its_expression(files):
    body = load_body("smplx", files / "smplx")
    jaw = np.zeros(body.expression_dim)
    jaw[-3] = 0.4  # radians about x: downwards
    identity = np.zeros(body.identity_dim)
    moved = body.vertices(identity, jaw, Pose.rest()) - body.template
    chin = (body.template[:, 1] < -0.09) & (body.template[:, 2] > 0.06)
    assert moved[chin, 1].mean() < -0.01
    assert np.abs(moved[body.template[:, 1] > 0.05]).max() < 1e-3


def test_mhrs_joints_come_from_the_inverse_bind_pose(files):
    body = load_body("mhr", files / "mhr")
    embedded = load_body()
    pose = random_pose(7)
    expected = bone_transforms(*embedded.joints[1:].astype(float), pose)
    shift = body.head_centre(np.zeros(45), pose) - expected[1][2]
    assert np.abs(shift).max() < 0.02  # the two heads' centres differ by millimetres
    assert body._neck[1] - body._head[1] == pytest.approx(embedded.joints[1, 1] - embedded.joints[2, 1], abs=1e-5)


BAD_SMPLX = {
    "v_template": (None, "no array 'v_template'"),
    "f": (np.array([[0, 1, 10**6]], np.uint32), "do not index"),
    "weights": (np.ones((5215, 24)), "columns of 'weights'"),
    "posedirs": (np.zeros((5215, 3, 207)), "pose correctives"),
    "shapedirs": (np.zeros((5215, 3)), "dimensions"),
    "J_regressor": (np.array({"sparse": 1}, dtype=object), "pickled array 'J_regressor'"),
    "kintree_table": (np.full((2, 55), 54), "parents come after children"),
}


@pytest.mark.parametrize("name", list(BAD_SMPLX))
def test_a_broken_smplx_file_is_refused_by_what_is_wrong_with_it(tmp_path, name):
    value, message = BAD_SMPLX[name]
    with pytest.raises(UserError, match=message) as raised:
        load_body("smplx", write_smplx(tmp_path / "bad.npz", **{name: value}))
    assert "smpl-x.is.tue.mpg.de" in raised.value.fix


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    template = smplx_arrays()["v_template"]
    template[5, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        load_body("smplx", write_smplx(tmp_path / "nan.npz", v_template=template))


class Trap:
    """Unpickling this would create the file that the test looks for."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_pickle_is_never_opened_and_the_way_out_is_named(tmp_path):
    sprung = tmp_path / "sprung"
    (tmp_path / "SMPLX_NEUTRAL.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    for path in (tmp_path / "SMPLX_NEUTRAL.pkl", tmp_path):
        with pytest.raises(UserError, match="npz"):
            load_body("smplx", path)
    np.savez(tmp_path / "trap.npz", **(smplx_arrays() | {"f": np.array(Trap(sprung), dtype=object)}))
    with pytest.raises(UserError, match="pickled array 'f'"):
        load_body("smplx", tmp_path / "trap.npz")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not an archive at all"])
def test_files_that_are_no_npz_are_one_clear_message(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz"):
        load_body("smplx", tmp_path / "x.npz")


def test_mhr_says_what_to_do_about_older_or_foreign_files(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "lod1.fbx").write_bytes(b"")
    (old / "mhr_model.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"older files lod1\.fbx, mhr_model\.pt") as raised:
        load_body("mhr", old)
    assert "mhr.download_assets --lod 1" in raised.value.fix
    with pytest.raises(UserError, match="no folder"):
        load_body("mhr", tmp_path / "nowhere")
    with pytest.raises(UserError, match="schema 2"):
        load_body("mhr", write_mhr(tmp_path / "newer", {"schema_version": np.array(2)}))
    with pytest.raises(UserError, match="no joint c_neck"):
        load_body("mhr", write_mhr(tmp_path / "names", {"joint_names": np.array(list("abcdefg"))}))
    with pytest.raises(UserError, match=r"joints that .* does not have"):
        load_body("mhr", write_mhr(tmp_path / "skin", None, {"skin_indices": np.full((5215, 3), 99, np.int32)}))
    with pytest.raises(UserError, match="blend shapes"):
        load_body("mhr", write_mhr(tmp_path / "few", None, {"shape_vectors": np.zeros((72, 5215, 3), np.float32)}))


def test_bodies_without_files_name_the_variable_that_finds_them(files, monkeypatch):
    monkeypatch.delenv("FPORTRAIT_BODIES", raising=False)
    with pytest.raises(UserError, match="FPORTRAIT_BODIES"):
        load_body("smplx")
    monkeypatch.setenv("FPORTRAIT_BODIES", str(files))
    assert load_body("mhr").name == "mhr"
    with pytest.raises(UserError, match="set body_model: smplx"):
        load_body("smplex")
