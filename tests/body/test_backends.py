"""All backends of the rasterizer against float64 ray tracing: same silhouette, at most 0.05 degrees."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fportrait.body import rasterizer, rasterizer_pytorch3d, rasterizer_torch
from fportrait.body.rasterizer import normal_map
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.errors import UserError
from helpers.ray_tracer import head_view, ray_traced


def by_torch(vertices, faces, k, height, width, rasterize=rasterizer_torch.rasterize):
    tensors = (torch.tensor(vertices, dtype=torch.float64), torch.tensor(faces, dtype=torch.int64), torch.tensor(k))
    return [result.numpy() for result in rasterize(*tensors, height, width)]


@pytest.fixture
def fake_pytorch3d(monkeypatch):
    """PyTorch3D cannot be installed here, so its one function is played by ray tracing on its documented screen:
    +x left, +y up, ±1 at the ends of the shorter side, depth in metres. This checks what we hand over and take back."""

    class Meshes:
        def __init__(self, verts, faces):
            self.verts, self.faces = verts[0], faces[0]

    def rasterize_meshes(meshes, image_size, blur_radius, faces_per_pixel, perspective_correct, **flags):
        assert perspective_correct
        assert faces_per_pixel == 1
        assert blur_radius == 0
        assert not flags["cull_backfaces"]
        height, width = image_size
        assert meshes.verts.dtype == torch.float32
        screen = meshes.verts.double().numpy()
        half = min(height, width) / 2
        focal = 1000.0  # any pinhole: undo its projection, so that the tracer's rays hit the given screen places
        place = np.stack([width / 2 - half * screen[:, 0], height / 2 - half * screen[:, 1]], 1)
        cast = np.column_stack([(place - [width / 2, height / 2]) / focal * screen[:, 2:], screen[:, 2]])
        k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        ids, weights, depth = ray_traced(cast, meshes.faces.numpy(), k, height, width)
        depth = np.where(ids < 0, -1.0, depth)
        results = (ids[None, ..., None], depth[None, ..., None], weights[None, ..., None, :])
        return (*(torch.tensor(result) for result in results), None)

    for name, content in {
        "pytorch3d": {},
        "pytorch3d.renderer": {},
        "pytorch3d.renderer.mesh": {"rasterize_meshes": rasterize_meshes},
        "pytorch3d.structures": {"Meshes": Meshes},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("backend", ["numba", "torch", "pytorch3d"])
def test_every_backend_draws_a_head_as_float64_ray_tracing_sees_it(backend, fake_pytorch3d):
    height, width = 44, 52
    body, vertices, w2c, k = head_view(52)
    k[1, 2] = 22.0
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    true_ids, true_weights, _ = ray_traced(camera, body.faces, k, height, width)
    if backend == "numba":
        ids, weights, _ = rasterizer.rasterize(camera, body.faces, k, height, width)
    else:
        with_module = {"torch": rasterizer_torch, "pytorch3d": rasterizer_pytorch3d}[backend]
        ids, weights, _ = by_torch(camera, body.faces, k, height, width, with_module.rasterize)
    assert ((ids >= 0) == (true_ids >= 0)).all()
    seen = ids >= 0
    assert 0.2 < seen.mean() < 0.95
    normals = rasterizer.vertex_normals(camera, body.faces, body.weld).astype(np.float64)
    ours = (normals[body.faces[ids[seen]]] * weights[seen][..., None]).sum(1)
    true = (normals[body.faces[true_ids[seen]]] * true_weights[seen][..., None]).sum(1)
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(ours, true), axis=1), (ours * true).sum(1)))
    assert angle.max() < 0.05
    picture = normal_map(vertices, body.faces, w2c, k, height, width, weld=body.weld, backend=backend).astype(int)
    reference = normal_map(vertices, body.faces, w2c, k, height, width, weld=body.weld).astype(int)
    assert np.abs(picture - reference).max() <= 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_torch_draws_a_soup_of_triangles_like_numba_to_the_last_triangle(seed):
    rng = np.random.default_rng(seed)
    vertices = rng.uniform([-1, -1, -0.2], [1, 1, 3], (30, 3))
    faces = rng.integers(0, 30, (25, 3))  # some degenerate, some behind the camera, some huge
    faces = np.concatenate([faces, faces[:5]])  # in one place with another: the lower number wins
    k = intrinsics_from_fov(70, 40, 32)
    ids, weights, depth = rasterizer.rasterize(vertices, faces, k, 32, 40)
    their_ids, their_weights, their_depth = by_torch(vertices, faces, k, 32, 40)
    same = ids == their_ids
    together = (ids >= 0) & (their_ids >= 0)  # two triangles in one place may round to either
    assert (same | together).mean() > 0.999  # a pixel centre on an edge may fall to either side
    assert np.abs(depth[together] - their_depth[together]).max(initial=0) < 1e-5
    assert np.abs(weights - their_weights)[same].max(initial=0) < 1e-5
    assert np.isinf(their_depth[their_ids < 0]).all()


def test_torch_draws_the_same_in_small_chunks(monkeypatch):
    body, vertices, w2c, k = head_view(64)
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    whole = by_torch(camera, body.faces, k, 64, 64)
    monkeypatch.setattr(rasterizer_torch, "PAIRS_AT_ONCE", 500)
    for first, again in zip(whole, by_torch(camera, body.faces, k, 64, 64), strict=True):
        assert np.array_equal(first, again)


@pytest.mark.parametrize("backend", ["torch", "pytorch3d"])
def test_what_lies_behind_the_camera_is_not_drawn_by_any_backend(backend, fake_pytorch3d):
    vertices = np.array([[-1, -1, -2.0], [1, -1, -2], [0, 1, -2], [-1, -1, 0.001], [1, -1, 2], [0, 1, 2]])
    faces, k = np.array([[0, 1, 2], [3, 4, 5]]), intrinsics_from_fov(60, 16, 16)
    assert not normal_map(vertices, faces, np.eye(4), k, 16, 16, backend=backend).any()
    with pytest.raises(ValueError, match="non-finite"):
        normal_map(vertices * np.nan, faces, np.eye(4), k, 16, 16, backend=backend)


def test_supersampled_pictures_agree_between_backends():
    body, vertices, w2c, k = head_view(48)
    pictures = [
        normal_map(vertices, body.faces, w2c, k, 48, 48, 3, body.weld, backend).astype(int)
        for backend in ("numba", "torch")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_auto_takes_numba_where_there_is_no_gpu():
    drawn = rasterizer._backend("auto")
    assert drawn is (rasterizer_torch.draw_normals if torch.cuda.is_available() else rasterizer._draw_normals)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_the_cpu_draws():
    body, vertices, w2c, k = head_view(128)
    camera = vertices @ w2c[:3, :3].T + w2c[:3, 3]
    pictures = [
        rasterizer_torch.draw_normals(camera, body.faces, body.weld, k, 128, 128, 1, device).astype(int)
        for device in ("cpu", "cuda")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_unknown_and_missing_backends_name_the_way_out():
    arguments = (np.zeros((3, 3)), np.array([[0, 1, 2]]), np.eye(4), np.eye(3), 4, 4)
    with pytest.raises(UserError, match="use backend='torch'"):
        normal_map(*arguments, backend="torhc")
    if importlib.util.find_spec("pytorch3d") is None:
        with pytest.raises(UserError, match=r"without PyTorch3D .* backend='torch'"):
            normal_map(*arguments, backend="pytorch3d")
