import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fportrait.body.model import Pose, load_body, rotation_matrix
from fportrait.body.rasterizer import normal_map, rasterize, vertex_normals
from fportrait.camera.cameras import intrinsics_from_fov, look_at
from helpers.ray_tracer import head_view, ray_traced

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_soup_of_triangles_is_drawn_as_ray_tracing_sees_it(seed):
    rng = np.random.default_rng(seed)
    vertices = rng.uniform([-1, -1, -0.2], [1, 1, 3], (30, 3))
    faces = rng.integers(0, 30, (25, 3))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    k = intrinsics_from_fov(70, 40, 32)
    ids, weights, depth = rasterize(vertices, faces, k, 32, 40)
    true_ids, true_weights, true_depth = ray_traced(vertices, faces, k, 32, 40)
    assert ((ids >= 0) == (true_ids >= 0)).mean() > 0.998  # a pixel centre on an edge may fall to either side
    both = (ids >= 0) & (true_ids >= 0)
    same_place = np.abs(depth[both] - true_depth[both]) < 1e-5  # not the same id: two triangles may lie in one place
    assert same_place.mean() > 0.998 if both.any() else True
    seen = both & (ids == true_ids)
    assert np.abs(weights - true_weights)[seen].max(initial=0) < 1e-5
    assert np.abs(depth[seen] - true_depth[seen]).max(initial=0) < 1e-5
    assert np.isinf(depth[ids < 0]).all()
    assert (weights[ids < 0] == 0).all()


def test_weights_give_back_the_point_that_the_pixel_sees():
    body, vertices, w2c, k = head_view(96)
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    ids, weights, depth = rasterize(camera, body.faces, k, 96, 96)
    rows, columns = np.nonzero(ids >= 0)
    points = (camera[body.faces[ids[rows, columns]]] * weights[rows, columns][..., None]).sum(1)
    pixels = points @ k.T
    assert np.allclose(pixels[:, :2] / pixels[:, 2:], np.stack([columns, rows], 1) + 0.5, atol=1e-3)
    assert np.allclose(points[:, 2], depth[rows, columns], atol=1e-6)


def test_two_triangles_of_a_square_leave_no_gap_and_the_nearer_one_wins():
    square = np.array([[-1, -1, 2.0], [1, -1, 2], [1, 1, 2], [-1, 1, 2]])
    near = square * 0.25 + [0, 0, 0.5]
    vertices = np.concatenate([square, near])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    k = np.array([[32.0, 0, 32], [0, 32, 32], [0, 0, 1]])
    ids, _, depth = rasterize(vertices, faces, k, 64, 64)
    assert (ids[16:48, 16:48] >= 0).all()  # the square spans pixels 16 to 48
    assert (ids >= 0).sum() == 32 * 32
    assert np.isin(ids[24:40, 24:40], (2, 3)).all()  # the near one: ±0.25 m at 1 m
    assert np.allclose(depth[32, 32], 1.0)
    assert np.allclose(depth[17, 17], 2.0)


def test_drawing_twice_gives_the_same_bits():
    body, vertices, w2c, k = head_view(128)
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    for first, again in zip(*(rasterize(camera, body.faces, k, 128, 128) for _ in range(2)), strict=True):
        assert np.array_equal(first, again)


def test_what_lies_behind_the_camera_is_not_drawn():
    vertices = np.array([[-1, -1, -2.0], [1, -1, -2], [0, 1, -2], [-1, -1, 0.001], [1, -1, 2], [0, 1, 2]])
    ids, _, _ = rasterize(vertices, np.array([[0, 1, 2], [3, 4, 5]]), intrinsics_from_fov(60, 16, 16), 16, 16)
    assert (ids == -1).all()


def test_vertices_that_are_not_finite_are_refused():
    vertices = np.array([[0, 0, 1.0], [1, 0, 1], [0, np.nan, 1]])
    with pytest.raises(ValueError, match="non-finite"):
        rasterize(vertices, np.array([[0, 1, 2]]), np.eye(3), 8, 8)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_normals_turn_with_the_mesh(seed):
    body = load_body()
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    still = vertex_normals(body.template, body.faces, body.weld)
    turned = vertex_normals(body.template @ rotation.T + [0.1, 0.2, 0.3], body.faces, body.weld)
    assert np.allclose(turned, still @ rotation.T, atol=1e-3)
    assert np.allclose(np.linalg.norm(still, axis=1), 1, atol=1e-5)


def test_welded_normals_agree_across_texture_seams():
    body = load_body()
    normals = vertex_normals(body.template, body.faces, body.weld)
    order = np.argsort(body.weld, kind="stable")
    twins = order[:-1][np.diff(body.weld[order]) == 0], order[1:][np.diff(body.weld[order]) == 0]
    assert len(twins[0]) > 100
    assert np.abs(body.template[twins[0]] - body.template[twins[1]]).max() == 0
    assert np.array_equal(normals[twins[0]], normals[twins[1]])
    split = vertex_normals(body.template, body.faces)
    assert np.abs(split[twins[0]] - split[twins[1]]).max() > 0.1  # why the weld is there


def sphere() -> tuple[np.ndarray, np.ndarray]:
    """A fine sphere of 10 cm radius, triangles counter-clockwise from outside."""
    rings, around = 40, 80
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, rings), np.arange(around) * 2 * np.pi / around, indexing="ij")
    points = np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], -1)
    grid = np.arange(rings * around).reshape(rings, around)
    a, b = grid[:-1], np.roll(grid, -1, 1)[:-1]
    c, d = grid[1:], np.roll(grid, -1, 1)[1:]
    faces = np.concatenate([np.stack([a, c, d], -1).reshape(-1, 3), np.stack([a, d, b], -1).reshape(-1, 3)])
    return 0.1 * points.reshape(-1, 3), faces.astype(np.int32)


def test_a_normal_map_is_coloured_as_the_data_contract_says():
    """(nx, −ny, −nz)/2 + 1/2 in OpenCV axes: right of the picture red, its top green, what faces the camera blue."""
    points, faces = sphere()
    k = intrinsics_from_fov(20, 101, 101)
    for eye in ([0, 0, 0.8], [0.8, 0, 0], [0, 0.3, -0.7]):  # the same picture from everywhere
        image = normal_map(points, faces, look_at(eye, [0, 0, 0]), k, 101, 101).astype(int)
        assert (image[0, 0] == 0).all()
        assert np.abs(image[50, 50] - [128, 128, 255]).max() <= 2
        row, column = np.nonzero(image.any(2))
        right, left = image[50, column.max() - 1], image[50, column.min() + 1]
        top, bottom = image[row.min() + 1, 50], image[row.max() - 1, 50]
        assert right[0] > 235
        assert left[0] < 20
        assert top[1] > 235
        assert bottom[1] < 20
        assert abs(top[0] - 128) < 12
        assert abs(right[1] - 128) < 12


def test_supersampling_keeps_the_picture_and_softens_its_edge():
    body, vertices, w2c, k = head_view(64)
    plain = normal_map(vertices, body.faces, w2c, k, 64, 64, weld=body.weld).astype(int)
    soft = normal_map(vertices, body.faces, w2c, k, 64, 64, 4, body.weld).astype(int)
    assert soft.shape == plain.shape
    assert np.median(np.abs(soft - plain)[plain.any(2)]) <= 2
    edge = soft.max(2)
    assert ((edge > 5) & (edge < 100)).sum() > 3 * ((plain.max(2) > 5) & (plain.max(2) < 100)).sum()


def test_an_expression_does_not_move_one_pixel_of_the_normal_map():
    """Normal maps come from the neutral mesh: pose moves them, expression cannot."""
    body, _, w2c, k = head_view(96)
    rng = np.random.default_rng(0)
    identity, pose = rng.normal(size=body.identity_dim), Pose(np.eye(3), np.zeros(3), rotation_matrix([0.1, 0.3, 0]))

    def drawn(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        speaking = body.vertices(identity, actions, pose)
        neutral = body.vertices(identity, None, pose)
        return speaking, normal_map(neutral, body.faces, w2c, k, 96, 96, weld=body.weld)

    quiet, first = drawn(np.zeros(52))
    open_mouth, second = drawn(np.eye(52)[body.action_names.index("jawOpen")])
    assert np.abs(quiet - open_mouth).max() > 0.005
    assert np.array_equal(first, second)
    turned = body.vertices(identity, None, Pose(np.eye(3), np.zeros(3), rotation_matrix([0.1, 0.5, 0])))
    assert not np.array_equal(first, normal_map(turned, body.faces, w2c, k, 96, 96, weld=body.weld))
