import numpy as np
import pytest
import torch

from fportrait.avatar import splat
from fportrait.errors import UserError

H, W = 20, 26
INTRINSICS = np.array([[30.0, 0, 12.2], [0, 31.0, 10.4], [0, 0, 1]])
NAMES = ("means", "scales", "rotations", "opacities", "colours")


def turned_view(seed: int) -> np.ndarray:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)) * 0.15 + np.eye(3))
    rotation *= np.sign(np.diag(rotation))[None, :]
    view = np.eye(4)
    view[:3, :3] = rotation if np.linalg.det(rotation) > 0 else np.eye(3)
    view[:3, 3] = 0.01, -0.02, 0.6
    return view


def scene(seed: int, count: int = 40, spread: float = 0.15, size: float = 0.03) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    arrays = {
        "means": rng.normal(0, spread, (count, 3)),
        "scales": np.exp(rng.normal(np.log(size), 0.6, (count, 3))),
        "rotations": rng.normal(0, 1, (count, 4)),
        "opacities": rng.uniform(0.02, 1.0, count),
        "colours": rng.uniform(-0.1, 1.1, (count, 3)),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def draw(gaussians, view=None, **kwargs):
    view = turned_view(0) if view is None else view
    return splat.render(*(gaussians[name] for name in NAMES), view, INTRINSICS, H, W, **kwargs)


@pytest.mark.parametrize("seed", range(4))
def test_pictures_equal_brute_force_compositing(seed):
    gaussians = scene(seed, count=120)
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    fast = draw(gaussians, turned_view(seed), background=background)
    slow = draw(gaussians, turned_view(seed), backend="oracle", background=background)
    for one, other in zip(fast, slow, strict=True):
        assert (one - other).abs().max() < 1e-9


def test_float32_pictures_stay_within_a_millionth_of_float64_compositing():
    gaussians = scene(5, count=300)
    small = {name: tensor.float() for name, tensor in gaussians.items()}
    exact = draw({name: tensor.double() for name, tensor in small.items()}, backend="oracle")
    fast = draw(small)
    assert fast[0].dtype == torch.float32
    for one, other in zip(fast, exact, strict=True):
        assert (one.double() - other).abs().mean() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_gradients_equal_autograd_through_brute_force_compositing(seed):
    view = turned_view(seed)
    upstream = [
        torch.from_numpy(np.random.default_rng(seed).normal(size=shape)) for shape in ((H, W, 3), (H, W), (H, W))
    ]
    found = {}
    for backend in ("numba", "oracle"):
        gaussians = {name: tensor.requires_grad_() for name, tensor in scene(seed, count=80).items()}
        background = torch.full((H, W, 3), 0.3, dtype=torch.float64, requires_grad=True)
        pictures = draw(gaussians, view, backend=backend, background=background)
        sum((picture * weight).sum() for picture, weight in zip(pictures, upstream, strict=True)).backward()
        found[backend] = {**{name: tensor.grad for name, tensor in gaussians.items()}, "background": background.grad}
    for name, expected in found["oracle"].items():
        error = (found["numba"][name] - expected).norm() / expected.norm()
        assert error < 1e-5, f"{name}: {error}"


def test_gradients_equal_finite_differences():
    gaussians = scene(9, count=6)

    def loss(values):
        colour, alpha, depth = draw(values)
        return (colour.sin() * 0.7).sum() + (alpha**2).sum() + 0.3 * depth.sum()

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in gaussians.items()}
    loss(leaves).backward()
    rng = np.random.default_rng(0)
    direction = {name: torch.from_numpy(rng.normal(size=tensor.shape)) for name, tensor in gaussians.items()}
    # a short step: crossing the 1/255 cut-off is a true jump that no gradient describes
    step = 1e-7
    moved = [{n: t + sign * step * direction[n] for n, t in gaussians.items()} for sign in (1, -1)]
    slope = float(loss(moved[0]) - loss(moved[1])) / (2 * step)
    promised = sum(float((leaves[name].grad * direction[name]).sum()) for name in gaussians)
    assert promised == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("seed", range(10, 25))
def test_the_order_of_the_gaussians_does_not_matter(seed):
    gaussians = scene(seed)
    shuffle = torch.from_numpy(np.random.default_rng(seed).permutation(len(gaussians["means"])))
    mixed = {name: tensor[shuffle] for name, tensor in gaussians.items()}
    for one, other in zip(draw(gaussians), draw(mixed), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1e-7, 1e-4, 0.01, 0.1, 1.0, 30.0, 1e3])
def test_alpha_stays_between_0_and_1_and_colour_within_the_hull(seed, size):
    gaussians = scene(seed, size=size)
    gaussians["colours"] = gaussians["colours"].clamp(0, 1)
    colour, alpha, depth = draw(gaussians, background=torch.ones(3, dtype=torch.float64))
    assert alpha.min() >= 0 and alpha.max() <= 1
    assert colour.min() >= -1e-12 and colour.max() <= 1 + 1e-12
    assert torch.isfinite(depth).all()


def test_the_same_scene_gives_the_same_bits_twice():
    results = []
    for _ in range(2):
        gaussians = {name: tensor.float().requires_grad_() for name, tensor in scene(3, count=200).items()}
        colour, _, _ = draw(gaussians)
        colour.sum().backward()
        results.append([colour.detach(), *(tensor.grad for tensor in gaussians.values())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_an_empty_scene_shows_the_background():
    colour, alpha, depth = draw(scene(0, count=0), background=torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert torch.equal(colour[4, 7], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert alpha.abs().max() == 0 and depth.abs().max() == 0


def test_gaussians_behind_the_camera_are_not_seen_and_get_no_gradient():
    gaussians = scene(1)
    gaussians["means"] = gaussians["means"] - torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    leaves = {name: tensor.requires_grad_() for name, tensor in gaussians.items()}
    colour, alpha, _ = draw(leaves)
    assert alpha.abs().max() == 0
    colour.sum().backward()
    assert all(float(tensor.grad.abs().max()) == 0 for tensor in leaves.values())


def test_opacity_0_is_invisible_and_opacity_1_is_clamped():
    one = {name: tensor[:1] for name, tensor in scene(0, size=1.0).items()}
    one["means"] = torch.zeros(1, 3, dtype=torch.float64)
    for opacity, expected in ((0.0, 0.0), (1.0, splat.ALPHA_MAX)):
        one["opacities"] = torch.full((1,), opacity, dtype=torch.float64)
        _, alpha, _ = draw(one)
        assert float(alpha[H // 2, W // 2]) == pytest.approx(expected, abs=1e-9)


def test_a_tiny_gaussian_still_covers_about_a_pixel():
    tiny = {name: tensor[:1] for name, tensor in scene(0, size=1e-9).items()}
    tiny["means"], tiny["opacities"] = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    _, alpha, _ = draw(tiny)
    # the low-pass filter gives it a covariance of 0.3 square pixels: an integral of 2 pi 0.3
    assert float(alpha.sum()) == pytest.approx(2 * np.pi * 0.3, rel=0.05)


def test_a_huge_gaussian_fills_the_picture_evenly():
    huge = {name: tensor[:1] for name, tensor in scene(0, size=1e3).items()}
    huge["means"], huge["opacities"] = (
        torch.zeros(1, 3, dtype=torch.float64),
        torch.full((1,), 0.5, dtype=torch.float64),
    )
    _, alpha, _ = draw(huge)
    assert float(alpha.min()) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_non_finite_gaussians_are_refused_by_name_and_number(name):
    gaussians = scene(0)
    gaussians[name].reshape(40, -1)[7, 0] = float("nan")
    with pytest.raises(UserError, match=f"{name} of Gaussian 7"):
        draw(gaussians)
