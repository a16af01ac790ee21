"""A mesh estimator from a user's ONNX file: a tiny network of that interface drives the fit; others are refused."""

from __future__ import annotations

import numpy as np
import pytest

from fportrait.body.model import load_body, rotation_matrix, rotation_vector
from fportrait.errors import UserError
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.head_turn import FACING
from fportrait.tracking.mesh_estimator import MeshEstimator
from fportrait.tracking.segments import front_camera, track_segments

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = 16


def write_estimator(path, rotation, shape=None, size=SIZE, name="rotation", broken=False):
    """A network that gives the same answer for every crop: the batch's mean times zero, plus constants."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {name: rotation} if shape is None else {name: rotation, "shape": shape}
    nodes = [helper.make_node("ReduceMean", ["crop"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    tensors, outputs = [numpy_helper.from_array(np.float32(np.nan if broken else 0), "zero")], []
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for output, value in constants.items():
        flat = np.asarray(value, np.float32).reshape(1, -1)
        tensors += [
            numpy_helper.from_array(flat, output + "_constant"),
            numpy_helper.from_array(np.array([-1, 1]), output + "_column"),
            numpy_helper.from_array(np.array([-1, *np.shape(value)]), output + "_shape"),
        ]
        nodes += [
            helper.make_node("Reshape", ["nothing", output + "_column"], [output + "_rows"]),
            helper.make_node("Add", [output + "_rows", output + "_constant"], [output + "_flat"]),
            helper.make_node("Reshape", [output + "_flat", output + "_shape"], [output]),
        ]
        outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *np.shape(value)]))
    crop = helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["N", 3, size, size])
    graph = helper.make_graph(nodes, "tiny", [crop], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def seen(photograph):
    return read_landmarks([photograph[:320, 60:380]] * 2, "photograph", 48, TrackConfig(), SIZE)


def track(seen, estimator, **settings):
    intrinsics = np.array([[600.0, 0, 160], [0, 600, 160], [0, 0, 1]])
    clip = Clip("p/a/phone", "a.mp4", "a", "phone", 320, 320, intrinsics, None)
    config = TrackConfig(**settings)
    return track_segments([[(clip, seen)]], LandmarkModel(load_body()), config, estimator)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.linalg.norm(rotation_vector(a @ np.swapaxes(b, -1, -2)), axis=-1)).max())


def test_a_trusted_estimator_decides_the_pose_and_the_shape(seen, tmp_path):
    turn = FACING @ rotation_matrix(np.array([0.05, 0.2, 0.0]))
    shape = np.linspace(-0.5, 0.5, load_body().identity_dim)
    estimator = MeshEstimator(write_estimator(tmp_path / "tiny.onnx", turn, shape))
    bodies, points = seen.bodies, seen.landmarks
    wanted, shapes = estimator.estimate(bodies, points, np.array([[600.0, 0, 160], [0, 600, 160], [0, 0, 1]]))
    assert np.allclose(shapes, shape, atol=1e-6)
    found, (result,) = track(seen, estimator, estimator_degrees=0.001)
    assert np.allclose(found, shape, atol=1e-6)
    in_camera = front_camera(TrackConfig())[:3, :3] @ result.rotations
    _, (own,) = track(seen, None)
    own_error = degrees(front_camera(TrackConfig())[:3, :3] @ own.rotations, wanted)
    assert own_error > 5  # the network is wrong about this person, and yet
    assert degrees(in_camera, wanted) < 0.5 * own_error


def test_an_estimator_that_is_hardly_trusted_changes_little(seen, tmp_path):
    estimator = MeshEstimator(write_estimator(tmp_path / "tiny.onnx", FACING))
    _, (result,) = track(seen, estimator, estimator_degrees=60.0)
    _, (own,) = track(seen, None)
    assert degrees(result.rotations, own.rotations) < 8


def test_files_of_another_interface_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no file"):
        MeshEstimator(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="cannot read"):
        MeshEstimator(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="outputs pose"):
        MeshEstimator(write_estimator(tmp_path / "pose.onnx", np.eye(3), name="pose"))
    with pytest.raises(UserError, match="inputs crop"):
        MeshEstimator(write_estimator(tmp_path / "free.onnx", np.eye(3), size="S"))


def test_numbers_that_are_not_finite_are_refused(seen, tmp_path):
    estimator = MeshEstimator(write_estimator(tmp_path / "nan.onnx", np.eye(3), broken=True))
    with pytest.raises(UserError, match="finite"):
        track(seen, estimator)


def test_a_shape_of_another_body_is_refused(seen, tmp_path):
    estimator = MeshEstimator(write_estimator(tmp_path / "long.onnx", FACING, np.zeros(7)))
    with pytest.raises(UserError, match="7 shape coefficients"):
        track(seen, estimator)
