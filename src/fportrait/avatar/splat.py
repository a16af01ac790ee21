"""Gaussian splatting: 3D Gaussians to a picture, differentiably, by one of three backends.

Every 3D Gaussian is projected to a 2D one (EWA splatting, Zwicker et al. 2001, in the form of Kerbl et al. 2023), and
the 2D Gaussians are composited from front to back:

    alpha_i = min(0.999, opacity_i exp(-sigma_i)), skipped below 1/255
    weight_i = alpha_i T_i,  T_{i+1} = T_i (1 - alpha_i)

A pixel is finished once its transmittance T is below 1e-4. The constants are those of gsplat, so that an avatar fitted
on a CPU looks the same on a GPU; the one thing that differs is that gsplat leaves out the Gaussian which would take a
pixel below 1e-4, where the others draw it as the last: at most 1e-4 of its colour.

| backend | where | what for |
| --- | --- | --- |
| `numba` | CPU | everything (`splat_numba`) |
| `gsplat` | CUDA | everything (`splat_gsplat`; extra `gpu`) |
| `oracle` | anywhere, float64 | tests and benchmarks: short enough to be checked by eye (`splat_oracle`) |
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch

from fportrait.devices import pick_device
from fportrait.errors import UserError

LOW_PASS = 0.3  # square pixels added to the projected covariance, so that nothing is thinner than a pixel
ALPHA_MAX = 0.999
ALPHA_MIN = 1.0 / 255.0
TRANSMITTANCE_STOP = 1e-4
NEAR = 0.01  # metres
BACKENDS = ("auto", "numba", "gsplat", "oracle")


def render(
    means: torch.Tensor,
    scales: torch.Tensor,
    rotations: torch.Tensor,
    opacities: torch.Tensor,
    colours: torch.Tensor,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    height: int,
    width: int,
    background: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Splat N Gaussians into one picture, differentiably.

    Args:
        means (N, 3): centres in the world, metres.
        scales (N, 3): standard deviations along the Gaussian's own axes, metres.
        rotations (N, 4): (w, x, y, z) quaternions of any positive length.
        opacities (N,): 0 to 1.
        colours (N, 3): RGB, any range.
        world_to_camera (4, 4), intrinsics (3, 3): the camera, OpenCV axes, pixels; no skew. They get no gradient.
        background (3,) or (H, W, 3): shown where the Gaussians let light through; black when None.
        backend: `numba`, `gsplat`, `oracle`, or `auto`: gsplat for tensors on a GPU, else numba.

    Returns:
        colour (H, W, 3), alpha (H, W) and depth (H, W), the latter weighted by alpha (divide by alpha for metres), on
        the device and of the type of `means` (gsplat: float32).

    Raises:
        UserError: an input is not finite (names the input and the first such Gaussian), a quaternion is zero, or the
            backend is unknown or cannot run here.
    """
    inputs = {"means": means, "scales": scales, "rotations": rotations, "opacities": opacities, "colours": colours}
    for name, tensor in inputs.items():
        finite = torch.isfinite(tensor.detach())
        if not bool(finite.all()):
            first = int(torch.nonzero(~finite.reshape(len(tensor), -1).all(dim=1))[0])
            raise UserError(
                f"a non-finite value in {name} of Gaussian {first}",
                "finite Gaussians",
                "lower the learning rate, or start again from the last good state",
            )
    if len(rotations) and float((rotations.detach() ** 2).sum(dim=1).min()) == 0.0:
        raise UserError("a zero quaternion", "quaternions of positive length", "initialise rotations with (1, 0, 0, 0)")
    view = np.ascontiguousarray(world_to_camera, dtype=np.float64)
    camera = np.ascontiguousarray(intrinsics, dtype=np.float64)
    draw = _drawer(backend, means)
    colour, through, depth = draw(*inputs.values(), view, camera, int(height), int(width))
    if background is not None:
        colour = colour + through[..., None] * background
    return colour, 1 - through, depth


def splatting_device(name: str) -> torch.device:
    """The device that Gaussians can be splatted on: `cpu`, `cuda`, or `auto`: CUDA where it and gsplat are there.

    Raises:
        UserError: `cuda` is asked for where there is none, or without gsplat; another name.
    """
    if name == "auto":
        ready = pick_device().type == "cuda" and importlib.util.find_spec("gsplat") is not None
        name = "cuda" if ready else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"the device '{name}'", "'auto', 'cpu' or 'cuda'", "mend 'device'")
    if name == "cuda":
        from fportrait.avatar.splat_gsplat import rasterizer

        rasterizer()
    return pick_device(name)


def _drawer(backend: str, means: torch.Tensor):
    """The `draw` of a backend; each is imported when it is first used."""
    if backend == "auto":
        backend = "gsplat" if means.is_cuda else "numba"
    if backend == "numba":
        if means.is_cuda:
            raise UserError("Gaussians on a GPU for the backend 'numba'", "CPU tensors", "set backend: gsplat")
        from fportrait.avatar import splat_numba

        return splat_numba.draw
    if backend == "gsplat":
        from fportrait.avatar import splat_gsplat

        return splat_gsplat.draw
    if backend == "oracle":
        from fportrait.avatar import splat_oracle

        return splat_oracle.draw
    raise UserError(f"the splatting backend '{backend}'", f"one of {', '.join(BACKENDS)}", "set backend: auto")
