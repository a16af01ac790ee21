"""How fast does one CPU core draw and differentiate a head's worth of Gaussians, against torch's autograd?

The peer draws the same scene with torch operations: projection over all Gaussians, then 16×16 tiles, each compositing
the Gaussians that touch it. Both are checked against each other before anything is timed.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from _result import write_result

from fportrait.avatar import splat, splat_oracle

TILE = 16


def scene(count: int, size: float, seed: int = 0) -> list[torch.Tensor]:
    """A shell of `count` Gaussians the size of a head, as an avatar has them."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(count, 3))
    places *= 0.1 / np.linalg.norm(places, axis=1, keepdims=True)
    arrays = [
        places,
        np.exp(rng.normal(np.log(size), 0.3, (count, 3))),
        rng.normal(size=(count, 4)),
        rng.uniform(0.3, 0.98, count),
        rng.uniform(0, 1, (count, 3)),
    ]
    return [torch.tensor(array, dtype=torch.float32, requires_grad=True) for array in arrays]


def tiled_torch(means, scales, rotations, opacities, colours, view, intrinsics, height, width):
    """Colour and alpha by torch operations over tiles."""
    world = torch.as_tensor(view, dtype=means.dtype)
    fx, fy, cx, cy = (float(intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y, z = (means @ world[:3, :3].T + world[:3, 3]).unbind(dim=1)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * x / z**2], 1), torch.stack([zero, fy / z, -fy * y / z**2], 1)], 1
    )
    spread = jacobian @ world[:3, :3] @ splat_oracle.rotation_matrices(rotations) * scales[:, None, :]
    covariance = spread @ spread.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0] + splat.LOW_PASS, covariance[:, 0, 1], covariance[:, 1, 1] + splat.LOW_PASS
    determinant = xx * yy - xy * xy
    conic = torch.stack([yy, -xy, xx], dim=1) / determinant[:, None]
    centre = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=1)
    with torch.no_grad():
        reach = torch.log(opacities / splat.ALPHA_MIN).clamp(min=0)
        half = torch.sqrt(2 * reach[:, None] * torch.stack([xx, yy], dim=1))
        low, high = centre - half, centre + half
        order = torch.argsort(z)
    rows = []
    for top in range(0, height, TILE):
        strip = order[(high[order, 1] > top) & (low[order, 1] < top + TILE)]
        columns = []
        for left in range(0, width, TILE):
            chosen = strip[(high[strip, 0] > left) & (low[strip, 0] < left + TILE)]
            dx = (torch.arange(left, left + TILE) + 0.5)[None, None, :] - centre[chosen, 0, None, None]
            dy = (torch.arange(top, top + TILE) + 0.5)[None, :, None] - centre[chosen, 1, None, None]
            a, b, c = conic[chosen].unbind(dim=1)
            power = -0.5 * (a[:, None, None] * dx * dx + c[:, None, None] * dy * dy) - b[:, None, None] * dx * dy
            alpha = (opacities[chosen, None, None] * torch.exp(power)).clamp(max=splat.ALPHA_MAX)
            alpha = torch.where(alpha >= splat.ALPHA_MIN, alpha, 0.0).reshape(len(chosen), TILE * TILE)
            ones = torch.ones(1, TILE * TILE)
            through = torch.cumprod(torch.cat([ones, 1 - alpha]), dim=0)[:-1]
            weights = alpha * through * (through >= splat.TRANSMITTANCE_STOP)
            drawn = torch.cat([weights.T @ colours[chosen], weights.sum(dim=0)[:, None]], dim=1)
            columns.append(drawn.reshape(TILE, TILE, 4))
        rows.append(torch.cat(columns, dim=1))
    picture = torch.cat(rows)
    return picture[..., :3], picture[..., 3]


def against_float64(count: int = 1500, side: int = 64) -> tuple[float, float]:
    """Mean difference of a float32 picture, and the largest relative error of a float64 gradient, to the oracle."""
    view, intrinsics = np.eye(4), np.array([[2.0 * side, 0, side / 2], [0, 2.0 * side, side / 2], [0, 0, 1]])
    view[2, 3] = 0.5
    gaussians = scene(count, 0.006)
    double = [tensor.detach().double().requires_grad_() for tensor in gaussians]
    with torch.no_grad():
        pictures = [
            splat.render(*parts, view, intrinsics, side, side, backend=backend)[0].double()
            for parts, backend in ((gaussians, "numba"), (double, "oracle"))
        ]
    gradients = []
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(side, side, 3)))
    for backend in ("numba", "oracle"):
        colour, _, _ = splat.render(*double, view, intrinsics, side, side, backend=backend)
        gradients.append(torch.autograd.grad((colour * weight).sum(), double))
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(*gradients, strict=True)]
    return float((pictures[0] - pictures[1]).abs().mean()), max(errors)


def seconds(draw, gaussians, backward: bool, repeats: int) -> float:
    """The median time of one picture."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        if backward:
            colour, alpha = draw(*gaussians)[:2]
            (colour.sum() + alpha.sum()).backward()
        else:
            with torch.no_grad():
                draw(*gaussians)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def main() -> None:
    torch.set_num_threads(1)
    view = np.eye(4)
    view[2, 3] = 0.5
    table = {}
    for count, side in ((20000, 256), (20000 * 4, 256), (20000 * 16, 256), (20000, 512), (20000, 1024)):
        intrinsics = np.array([[side * 2.0, 0, side / 2], [0, side * 2.0, side / 2], [0, 0, 1]])
        gaussians = scene(count, 0.0015 * math.sqrt(20000 / count))

        def ours(*parts, intrinsics=intrinsics, side=side):
            return splat.render(*parts, view, intrinsics, side, side)

        forward, both = seconds(ours, gaussians, False, 7), seconds(ours, gaussians, True, 7)
        table[f"{count}x{side}"] = {"forward_ms": round(forward * 1e3, 2), "both_ms": round(both * 1e3, 2)}
        print(f"{count} Gaussians, {side}²: forward {forward * 1e3:.1f} ms, forward and backward {both * 1e3:.1f} ms")
    intrinsics = np.array([[512.0, 0, 128], [0, 512.0, 128], [0, 0, 1]])
    gaussians = scene(20000, 0.0015)

    def fast(*parts):
        return splat.render(*parts, view, intrinsics, 256, 256)

    def peer(*parts):
        return tiled_torch(*parts, view, intrinsics, 256, 256)

    with torch.no_grad():
        difference = float((fast(*gaussians)[0] - peer(*gaussians)[0]).abs().mean())
    exact, gradient = against_float64()
    print(f"to float64 compositing: mean difference {exact:.1e}, relative error of gradients {gradient:.1e}")
    if difference > 1e-5:
        raise SystemExit(f"the two pictures differ by {difference:.2e} on average: nothing to compare")
    # in turns, so that whatever else the machine does falls on both
    ours_times, peer_times = [], []
    for _ in range(3):
        ours_times.append(seconds(fast, gaussians, True, 3))
        peer_times.append(seconds(peer, gaussians, True, 1))
    result = write_result(
        name="splats",
        what="20,000 Gaussians at 256², forward and backward, one core",
        ours=round(float(np.median(ours_times)) * 1e3, 2),
        theirs=round(float(np.median(peer_times)) * 1e3, 2),
        peer=f"torch {torch.__version__} autograd over 16×16 tiles",
        unit="ms",
        bound=6.0,
        n=9,
        mean_difference=difference,
        mean_difference_to_float64=exact,
        gradient_relative_error=gradient,
        by_size=table,
    )
    print(f"ours {result['ours']} ms, torch autograd {result['theirs']} ms: {result['ratio']:.1f} times faster")


if __name__ == "__main__":
    main()
