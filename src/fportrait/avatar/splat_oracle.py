"""The same splatting written plainly in torch, every Gaussian against every pixel: the backend `oracle`.

It needs N × H × W memory and is two orders slower, and it is short enough to be checked by eye: tests and benchmarks
compare the fast rasterizer, and its gradients, with this one in float64.
"""

from __future__ import annotations

import numpy as np
import torch

from fportrait.avatar.splat import ALPHA_MAX, ALPHA_MIN, LOW_PASS, NEAR, TRANSMITTANCE_STOP


def rotation_matrices(quaternions: torch.Tensor) -> torch.Tensor:
    """(N, 4) quaternions (w, x, y, z) of any length to (N, 3, 3) matrices."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=1).unbind(dim=1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=1),
    ]
    return torch.stack(rows, dim=1)


def draw(means, scales, rotations, opacities, colours, view, intrinsics, height, width):
    """Colour (H, W, 3) over black, transmittance (H, W) and alpha-weighted depth (H, W), for small scenes."""
    view = torch.as_tensor(np.asarray(view), dtype=means.dtype)
    fx, fy, cx, cy = (float(intrinsics[i][j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    points = means @ view[:3, :3].T + view[:3, 3]
    seen = points[:, 2] >= NEAR
    points = torch.where(seen[:, None], points, torch.ones_like(points))
    x, y, z = points.unbind(dim=1)
    slope_x = (x / z).clamp(-cx / fx - 0.15 * width / fx, (width - cx) / fx + 0.15 * width / fx)
    slope_y = (y / z).clamp(-cy / fy - 0.15 * height / fy, (height - cy) / fy + 0.15 * height / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * slope_x / z], 1), torch.stack([zero, fy / z, -fy * slope_y / z], 1)], 1
    )
    spread = jacobian @ view[:3, :3] @ rotation_matrices(rotations) * scales[:, None, :]
    conic = torch.linalg.inv(spread @ spread.transpose(1, 2) + LOW_PASS * torch.eye(2, dtype=means.dtype))

    columns, rows = torch.arange(width, dtype=means.dtype) + 0.5, torch.arange(height, dtype=means.dtype) + 0.5
    dx = columns[None, None, :] - (fx * x / z + cx)[:, None, None]
    dy = rows[None, :, None] - (fy * y / z + cy)[:, None, None]
    a, b, c = (conic[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    alpha = (opacities[:, None, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(
        max=ALPHA_MAX
    )
    alpha = torch.where((alpha >= ALPHA_MIN) & seen[:, None, None], alpha, 0.0)

    order = torch.argsort(z, stable=True)
    alpha, colours, z = alpha[order], colours[order], z[order]
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), dim=0)[:-1] if len(alpha) else alpha
    weights = alpha * through * (through >= TRANSMITTANCE_STOP)
    colour = torch.einsum("nhw,nc->hwc", weights, colours)
    return colour, 1 - weights.sum(dim=0), torch.einsum("nhw,n->hw", weights, z)
