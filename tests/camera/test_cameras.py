import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fportrait.camera.cameras import (
    camera_centre,
    check_intrinsics,
    check_world_to_camera,
    crop_intrinsics,
    intrinsics_from_fov,
    look_at,
    project,
    scale_intrinsics,
)
from fportrait.errors import UserError

POINTS = arrays(np.float64, 3, elements=st.floats(-2, 2))


def seen_pair(eye: np.ndarray, target: np.ndarray) -> bool:
    forward = target - eye
    return np.linalg.norm(forward) > 0.05 and np.linalg.norm(forward[[0, 2]]) > 0.01


@given(POINTS, POINTS)
def test_a_look_at_camera_is_a_rotation_that_sees_its_target_in_the_centre(eye, target):
    assume(seen_pair(eye, target))
    matrix = look_at(eye, target)
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.isclose(np.linalg.det(matrix[:3, :3]), 1.0)
    pixels, depth = project(target[None], matrix, intrinsics_from_fov(60, 200, 100))
    assert np.allclose(pixels, [[100, 50]], atol=1e-6)
    assert np.isclose(depth[0], np.linalg.norm(target - eye))
    assert np.allclose(camera_centre(matrix), eye, atol=1e-12)


@given(POINTS, POINTS)
def test_world_up_is_up_in_the_picture(eye, target):
    assume(seen_pair(eye, target))
    above = target + np.array([0, 1e-3, 0])
    pixels, _ = project(np.stack([target, above]), look_at(eye, target), intrinsics_from_fov(60, 200, 200))
    assert pixels[1, 1] < pixels[0, 1]
    assert np.isclose(pixels[1, 0], pixels[0, 0], atol=1e-6)


def test_a_camera_in_front_of_the_face_has_world_x_to_its_right():
    pixels, _ = project(np.array([[0.05, 0, 0]]), look_at([0, 0, 1.0], [0, 0, 0]), intrinsics_from_fov(40, 100, 100))
    assert pixels[0, 0] > 50  # the person's left side


def test_a_camera_on_its_target_or_along_up_is_refused():
    with pytest.raises(ValueError, match="stands on its target"):
        look_at([0, 1, 0], [0, 1, 0])
    with pytest.raises(ValueError, match="along 'up'"):
        look_at([0, 1, 0], [0, 0, 0])


def test_the_field_of_view_spans_the_picture():
    k = intrinsics_from_fov(72, 512, 256)
    edge = np.array([[np.tan(np.radians(36)), 0, 1.0], [-np.tan(np.radians(36)), 0, 1.0]])
    pixels, _ = project(edge, np.eye(4), k)
    assert np.allclose(pixels, [[512, 128], [0, 128]])


@given(st.floats(-300, 300), st.floats(-300, 300), st.floats(10, 900), st.integers(16, 600), POINTS)
def test_cropping_then_resizing_the_picture_is_what_the_cropped_intrinsics_project(x0, y0, size, out, point):
    point = point + np.array([0, 0, 4])
    k = intrinsics_from_fov(50, 640, 480)
    full, _ = project(point[None], np.eye(4), k)
    cropped, _ = project(point[None], np.eye(4), crop_intrinsics(k, (x0, y0, size), out))
    assert np.allclose(cropped, (full - [x0, y0]) * out / size, atol=1e-6)


def test_scaled_intrinsics_project_into_the_resized_picture():
    k = intrinsics_from_fov(50, 640, 480)
    point = np.array([[0.3, -0.2, 2.0]])
    assert np.allclose(project(point, np.eye(4), scale_intrinsics(k, 0.125))[0] * 8, project(point, np.eye(4), k)[0])


def broken(change) -> np.ndarray:
    matrix = look_at([0.2, 0.1, 0.5], [0, 0, 0])
    change(matrix)
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "shape"),
        (np.full((4, 4), np.nan), "non-finite"),
        (np.diag([1000.0, 1000, 1000, 1]), "non-rotation"),
        (np.diag([1.0, 1, -1, 1]), "mirrored"),
        (look_at([0, 0, 1.0], [0, 0, 0]).T, "last row"),
        (broken(lambda m: m.__setitem__((0, 0), m[0, 0] + 0.1)), "non-rotation"),
    ],
)
def test_a_matrix_that_is_no_camera_is_refused_with_its_place(matrix, message):
    with pytest.raises(UserError, match=message) as caught:
        check_world_to_camera(matrix, "cam03")
    assert "cam03" in str(caught.value)


def test_a_camera_stored_in_float32_passes():
    matrix = look_at([0.2, 0.1, 0.5], [0, 0, 0])
    assert np.allclose(check_world_to_camera(matrix.astype(np.float32).tolist(), "cam00"), matrix, atol=1e-6)


@pytest.mark.parametrize(
    "matrix",
    [np.eye(4), np.diag([-1.0, 1, 1]), np.diag([np.inf, 1, 1]), [[500.0, 0, 0], [0, 500, 0], [250, 250, 1]]],
)
def test_intrinsics_that_cannot_be_are_refused(matrix):
    with pytest.raises(UserError, match="intrinsics"):
        check_intrinsics(matrix, "cam00")
