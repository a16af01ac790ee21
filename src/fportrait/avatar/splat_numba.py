"""Gaussian splatting on a CPU core, with gradients: the backend `numba` of `splat.render`.

A GPU gives a tile of pixels to a block of threads; one CPU core does better the other way round: it walks over the
Gaussians in depth order and visits, row by row, just the pixels in which alpha reaches 1/255. Along a row exp(-sigma)
of neighbouring pixels differs by a factor which itself changes by a constant factor, so a pixel costs two
multiplications where it would cost an exponential. Projection and recurrence run in float64 whatever the type of the
inputs; pictures and gradients have the type of the inputs.

The backward pass walks in the same order. It needs what is *behind* each Gaussian, which is the finished pixel minus
what has been passed so far.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit

from fportrait.avatar.splat import ALPHA_MAX, ALPHA_MIN, LOW_PASS, NEAR, TRANSMITTANCE_STOP

# columns of the table of projected Gaussians
U, V, KA, KB, KC, OPACITY, REACH, DEPTH, RED, GREEN, BLUE, HALF_ROWS = range(12)
# columns of the table of gradients
G_U, G_V, G_KA, G_KB, G_KC, G_OPACITY, G_DEPTH, G_RED, G_GREEN, G_BLUE = range(10)


@njit(cache=True, nogil=True)
def _rotation(quaternion, out):
    """Rotation matrix of a (w, x, y, z) quaternion of any length; returns that length."""
    length = math.sqrt(quaternion[0] ** 2 + quaternion[1] ** 2 + quaternion[2] ** 2 + quaternion[3] ** 2)
    w, x, y, z = quaternion[0] / length, quaternion[1] / length, quaternion[2] / length, quaternion[3] / length
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return length


@njit(cache=True, nogil=True)
def _jacobian(x, y, z, camera, limits, jacobian):
    """d(u, v)/d(x, y, z), with the direction held near the picture (as gsplat does) so that it cannot explode."""
    slope_x = min(max(x / z, -limits[0]), limits[1])
    slope_y = min(max(y / z, -limits[2]), limits[3])
    jacobian[0, 0], jacobian[0, 1], jacobian[0, 2] = camera[0, 0] / z, 0.0, -camera[0, 0] * slope_x / z
    jacobian[1, 0], jacobian[1, 1], jacobian[1, 2] = 0.0, camera[1, 1] / z, -camera[1, 1] * slope_y / z
    return slope_x, slope_y


@njit(cache=True, nogil=True)
def _slope_limits(camera, height, width):
    """How far left, right, up and down of the axis the projection is exact: the picture and 30% of its half."""
    limits = np.empty(4)
    margin_x, margin_y = 0.15 * width / camera[0, 0], 0.15 * height / camera[1, 1]
    limits[0] = camera[0, 2] / camera[0, 0] + margin_x
    limits[1] = (width - camera[0, 2]) / camera[0, 0] + margin_x
    limits[2] = camera[1, 2] / camera[1, 1] + margin_y
    limits[3] = (height - camera[1, 2]) / camera[1, 1] + margin_y
    return limits


@njit(cache=True, nogil=True)
def _project(means, scales, rotations, opacities, colours, view, camera, height, width):
    """Table (N, 12) of projected Gaussians; REACH is 0 for those that no pixel sees."""
    table = np.zeros((means.shape[0], 12))
    limits = _slope_limits(camera, height, width)
    jacobian, turn, mixed, spread = np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    for n in range(means.shape[0]):
        opacity = float(opacities[n])
        if opacity < ALPHA_MIN:
            continue
        m0, m1, m2 = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        if z < NEAR:
            continue
        x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
        y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
        _jacobian(x, y, z, camera, limits, jacobian)
        _rotation(rotations[n].astype(np.float64), turn)
        for i in range(2):
            for k in range(3):
                mixed[i, k] = jacobian[i, i] * view[i, k] + jacobian[i, 2] * view[2, k]
        for i in range(2):
            for k in range(3):
                spread[i, k] = scales[n, k] * (
                    mixed[i, 0] * turn[0, k] + mixed[i, 1] * turn[1, k] + mixed[i, 2] * turn[2, k]
                )
        xx = spread[0, 0] ** 2 + spread[0, 1] ** 2 + spread[0, 2] ** 2 + LOW_PASS
        yy = spread[1, 0] ** 2 + spread[1, 1] ** 2 + spread[1, 2] ** 2 + LOW_PASS
        xy = spread[0, 0] * spread[1, 0] + spread[0, 1] * spread[1, 1] + spread[0, 2] * spread[1, 2]
        determinant = xx * yy - xy * xy
        if not determinant > 0.0:  # two huge, nearly equal axes: below what float64 can tell apart
            continue
        reach = math.log(opacity / ALPHA_MIN)
        u = camera[0, 0] * x / z + camera[0, 2]
        v = camera[1, 1] * y / z + camera[1, 2]
        half_columns, half_rows = math.sqrt(2 * reach * xx), math.sqrt(2 * reach * yy)
        if u + half_columns < 0 or u - half_columns > width or v + half_rows < 0 or v - half_rows > height:
            continue
        row = table[n]
        row[U], row[V], row[DEPTH], row[OPACITY], row[REACH], row[HALF_ROWS] = u, v, z, opacity, reach, half_rows
        row[KA], row[KB], row[KC] = yy / determinant, -xy / determinant, xx / determinant
        row[RED], row[GREEN], row[BLUE] = colours[n, 0], colours[n, 1], colours[n, 2]
    return table


@njit(cache=True, nogil=True)
def _row_span(row, dy, width):
    """First and one past the last column in which alpha reaches 1/255, in the row `dy` below the centre."""
    inside = dy * dy * (row[KB] * row[KB] - row[KA] * row[KC]) + 2 * row[KA] * row[REACH]
    if inside < 0.0:
        return 0, 0
    root = math.sqrt(inside)
    first = max(row[U] + (-row[KB] * dy - root) / row[KA] - 0.5, -1.0)
    last = min(row[U] + (-row[KB] * dy + root) / row[KA] - 0.5, width + 1.0)
    return max(math.ceil(first), 0), min(math.floor(last) + 1, width)


@njit(cache=True, nogil=True)
def _composite(table, order, picture):
    """Fill `picture` (H, W, 5): transmittance, red, green, blue, depth."""
    height, width = picture.shape[0], picture.shape[1]
    picture[:, :, 0] = 1.0
    for n in order:
        row = table[n]
        if row[REACH] <= 0.0:
            continue
        ka, kb, kc, opacity = row[KA], row[KB], row[KC], row[OPACITY]
        red, green, blue, depth = row[RED], row[GREEN], row[BLUE], row[DEPTH]
        shrink = math.exp(-ka)
        top = max(math.ceil(max(row[V] - row[HALF_ROWS] - 0.5, 0.0)), 0)
        bottom = math.floor(min(row[V] + row[HALF_ROWS] - 0.5, height - 1.0)) + 1
        for i in range(top, bottom):
            dy = i + 0.5 - row[V]
            first, last = _row_span(row, dy, width)
            if first >= last:
                continue
            dx = first + 0.5 - row[U]
            value = opacity * math.exp(-0.5 * (ka * dx * dx + kc * dy * dy) - kb * dx * dy)
            ratio = math.exp(-ka * (dx + 0.5) - kb * dy)
            for j in range(first, last):
                alpha = min(value, ALPHA_MAX)
                value *= ratio
                ratio *= shrink
                through = picture[i, j, 0]
                if alpha < ALPHA_MIN or through < TRANSMITTANCE_STOP:
                    continue
                weight = alpha * through
                picture[i, j, 0] = through - weight
                picture[i, j, 1] += weight * red
                picture[i, j, 2] += weight * green
                picture[i, j, 3] += weight * blue
                picture[i, j, 4] += weight * depth


@njit(cache=True, nogil=True)
def _composite_backward(table, order, picture, upstream):
    """Gradients (N, 10) of sum(upstream * picture) with respect to the table's columns.

    `upstream` (H, W, 5) holds the gradients of alpha (= 1 - transmittance), red, green, blue, depth.
    """
    height, width = picture.shape[0], picture.shape[1]
    gradients = np.zeros((table.shape[0], 10))
    through_left = np.ones((height, width))  # transmittance in front of the Gaussian at hand
    behind = np.empty((height, width))  # upstream-weighted value of everything from that Gaussian backwards
    for i in range(height):
        for j in range(width):
            behind[i, j] = upstream[i, j, 0] * (1.0 - picture[i, j, 0])
            for c in range(1, 5):
                behind[i, j] += upstream[i, j, c] * picture[i, j, c]
    for n in order:
        row = table[n]
        if row[REACH] <= 0.0:
            continue
        ka, kb, kc, opacity = row[KA], row[KB], row[KC], row[OPACITY]
        red, green, blue, depth = row[RED], row[GREEN], row[BLUE], row[DEPTH]
        shrink = math.exp(-ka)
        g_red, g_green, g_blue, g_depth, g_opacity = 0.0, 0.0, 0.0, 0.0, 0.0
        s_x, s_y, s_xx, s_xy, s_yy = 0.0, 0.0, 0.0, 0.0, 0.0  # moments of d loss / d sigma over the pixels
        top = max(math.ceil(max(row[V] - row[HALF_ROWS] - 0.5, 0.0)), 0)
        bottom = math.floor(min(row[V] + row[HALF_ROWS] - 0.5, height - 1.0)) + 1
        for i in range(top, bottom):
            dy = i + 0.5 - row[V]
            first, last = _row_span(row, dy, width)
            if first >= last:
                continue
            dx = first + 0.5 - row[U]
            value = opacity * math.exp(-0.5 * (ka * dx * dx + kc * dy * dy) - kb * dx * dy)
            ratio = math.exp(-ka * (dx + 0.5) - kb * dy)
            r_0, r_x, r_xx = 0.0, 0.0, 0.0
            for j in range(first, last):
                unclamped = value
                value *= ratio
                ratio *= shrink
                through = through_left[i, j]
                if unclamped < ALPHA_MIN or through < TRANSMITTANCE_STOP:
                    continue
                alpha = min(unclamped, ALPHA_MAX)
                weight = alpha * through
                u_red, u_green, u_blue = upstream[i, j, 1], upstream[i, j, 2], upstream[i, j, 3]
                worth = upstream[i, j, 0] + u_red * red + u_green * green + u_blue * blue + upstream[i, j, 4] * depth
                rest = behind[i, j] - weight * worth
                behind[i, j] = rest
                through_left[i, j] = through - weight
                g_red += weight * u_red
                g_green += weight * u_green
                g_blue += weight * u_blue
                g_depth += weight * upstream[i, j, 4]
                if unclamped < ALPHA_MAX:
                    g_sigma = -unclamped * (through * worth - rest / (1.0 - alpha))
                    offset = j + 0.5 - row[U]
                    r_0 += g_sigma
                    r_x += g_sigma * offset
                    r_xx += g_sigma * offset * offset
            g_opacity -= r_0
            s_x += r_x
            s_y += r_0 * dy
            s_xx += r_xx
            s_xy += r_x * dy
            s_yy += r_0 * dy * dy
        out = gradients[n]
        out[G_RED], out[G_GREEN], out[G_BLUE], out[G_DEPTH] = g_red, g_green, g_blue, g_depth
        out[G_OPACITY] = g_opacity / opacity
        out[G_U], out[G_V] = -(ka * s_x + kb * s_y), -(kb * s_x + kc * s_y)
        out[G_KA], out[G_KB], out[G_KC] = 0.5 * s_xx, s_xy, 0.5 * s_yy
    return gradients


@njit(cache=True, nogil=True)
def _project_backward(means, scales, rotations, view, camera, height, width, table, gradients, out):
    """Carry the gradients of the table back to `out` (N, 14): mean 3, scale 3, quaternion 4, opacity 1, colour 3."""
    limits = _slope_limits(camera, height, width)
    jacobian, turn, mixed, spread = np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    g_spread, g_mixed, g_turn = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 3))
    g_quaternion = np.zeros(4)
    for n in range(means.shape[0]):
        if table[n, REACH] <= 0.0:
            continue
        g = gradients[n]
        m0, m1, m2 = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
        y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
        z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
        slope_x, slope_y = _jacobian(x, y, z, camera, limits, jacobian)
        quaternion = rotations[n].astype(np.float64)
        length = _rotation(quaternion, turn)
        for i in range(2):
            for k in range(3):
                mixed[i, k] = jacobian[i, i] * view[i, k] + jacobian[i, 2] * view[2, k]
        for i in range(2):
            for k in range(3):
                spread[i, k] = scales[n, k] * (
                    mixed[i, 0] * turn[0, k] + mixed[i, 1] * turn[1, k] + mixed[i, 2] * turn[2, k]
                )
        # covariance S = spread spread^T + low pass, conic K = S^-1: dS = -K dK K, and dspread = 2 dS spread
        ka, kb, kc = table[n, KA], table[n, KB], table[n, KC]
        ga, gb, gc = g[G_KA], 0.5 * g[G_KB], g[G_KC]
        p00, p01, p10, p11 = ka * ga + kb * gb, ka * gb + kb * gc, kb * ga + kc * gb, kb * gb + kc * gc
        c00, c01, c11 = -(p00 * ka + p01 * kb), -(p00 * kb + p01 * kc), -(p10 * kb + p11 * kc)
        for k in range(3):
            g_spread[0, k] = 2 * (c00 * spread[0, k] + c01 * spread[1, k])
            g_spread[1, k] = 2 * (c01 * spread[0, k] + c11 * spread[1, k])
        # spread[i, k] = scale[k] sum_a mixed[i, a] turn[a, k]
        g_mixed[:] = 0.0
        for k in range(3):
            g_scale = 0.0
            for a in range(3):
                pulled = mixed[0, a] * g_spread[0, k] + mixed[1, a] * g_spread[1, k]
                g_scale += pulled * turn[a, k]
                g_turn[a, k] = pulled * scales[n, k]
                g_mixed[0, a] += g_spread[0, k] * scales[n, k] * turn[a, k]
                g_mixed[1, a] += g_spread[1, k] * scales[n, k] * turn[a, k]
            out[n, 3 + k] = g_scale
        # mixed[i] = jacobian[i, i] view[i] + jacobian[i, 2] view[2]
        g_x, g_y, g_z = 0.0, 0.0, g[G_DEPTH]
        fx, fy = camera[0, 0], camera[1, 1]
        gj00 = g_mixed[0, 0] * view[0, 0] + g_mixed[0, 1] * view[0, 1] + g_mixed[0, 2] * view[0, 2]
        gj02 = g_mixed[0, 0] * view[2, 0] + g_mixed[0, 1] * view[2, 1] + g_mixed[0, 2] * view[2, 2]
        gj11 = g_mixed[1, 0] * view[1, 0] + g_mixed[1, 1] * view[1, 1] + g_mixed[1, 2] * view[1, 2]
        gj12 = g_mixed[1, 0] * view[2, 0] + g_mixed[1, 1] * view[2, 1] + g_mixed[1, 2] * view[2, 2]
        g_slope_x = -fx / z * gj02
        g_slope_y = -fy / z * gj12
        g_z += (-fx * gj00 + fx * slope_x * gj02 - fy * gj11 + fy * slope_y * gj12) / (z * z)
        if -limits[0] < x / z < limits[1]:
            g_x += g_slope_x / z
            g_z -= g_slope_x * x / (z * z)
        if -limits[2] < y / z < limits[3]:
            g_y += g_slope_y / z
            g_z -= g_slope_y * y / (z * z)
        g_x += fx / z * g[G_U]
        g_y += fy / z * g[G_V]
        g_z -= (fx * x * g[G_U] + fy * y * g[G_V]) / (z * z)
        for k in range(3):
            out[n, k] = view[0, k] * g_x + view[1, k] * g_y + view[2, k] * g_z
        # the rotation matrix of the unit quaternion, then the division by its length
        w, qx, qy, qz = quaternion[0] / length, quaternion[1] / length, quaternion[2] / length, quaternion[3] / length
        t = g_turn
        g_quaternion[0] = 2 * (qx * (t[2, 1] - t[1, 2]) + qy * (t[0, 2] - t[2, 0]) + qz * (t[1, 0] - t[0, 1]))
        g_quaternion[1] = 2 * (
            qy * (t[0, 1] + t[1, 0]) + qz * (t[0, 2] + t[2, 0]) + w * (t[2, 1] - t[1, 2]) - 2 * qx * (t[1, 1] + t[2, 2])
        )
        g_quaternion[2] = 2 * (
            qx * (t[0, 1] + t[1, 0]) + qz * (t[1, 2] + t[2, 1]) + w * (t[0, 2] - t[2, 0]) - 2 * qy * (t[0, 0] + t[2, 2])
        )
        g_quaternion[3] = 2 * (
            qx * (t[0, 2] + t[2, 0]) + qy * (t[1, 2] + t[2, 1]) + w * (t[1, 0] - t[0, 1]) - 2 * qz * (t[0, 0] + t[1, 1])
        )
        along = g_quaternion[0] * w + g_quaternion[1] * qx + g_quaternion[2] * qy + g_quaternion[3] * qz
        out[n, 6] = (g_quaternion[0] - along * w) / length
        out[n, 7] = (g_quaternion[1] - along * qx) / length
        out[n, 8] = (g_quaternion[2] - along * qy) / length
        out[n, 9] = (g_quaternion[3] - along * qz) / length
        out[n, 10] = g[G_OPACITY]
        out[n, 11], out[n, 12], out[n, 13] = g[G_RED], g[G_GREEN], g[G_BLUE]


class _Splat(torch.autograd.Function):
    """(picture) = splat(means, scales, rotations, opacities, colours); the camera gets no gradient."""

    @staticmethod
    def forward(ctx, means, scales, rotations, opacities, colours, view, camera, height, width):
        arrays = [tensor.detach().contiguous().numpy() for tensor in (means, scales, rotations, opacities, colours)]
        table = _project(*arrays, view, camera, height, width)
        order = np.argsort(table[:, DEPTH], kind="stable")
        picture = np.zeros((height, width, 5), dtype=arrays[0].dtype)
        _composite(table, order, picture)
        ctx.kept = (*arrays[:3], view, camera, table, order, picture)
        result = torch.from_numpy(picture.copy() if any(ctx.needs_input_grad) else picture)
        return result

    @staticmethod
    def backward(ctx, upstream):
        means, scales, rotations, view, camera, table, order, picture = ctx.kept
        height, width = picture.shape[:2]
        # channel 0 leaves as transmittance; the kernel speaks of alpha = 1 - transmittance
        signed = upstream.detach().contiguous().numpy().copy()
        signed[..., 0] *= -1
        gradients = _composite_backward(table, order, picture, signed)
        out = np.zeros((len(means), 14), dtype=means.dtype)
        _project_backward(means, scales, rotations, view, camera, height, width, table, gradients, out)
        both = torch.from_numpy(out)
        return both[:, :3], both[:, 3:6], both[:, 6:10], both[:, 10], both[:, 11:], None, None, None, None


def draw(
    means: torch.Tensor,
    scales: torch.Tensor,
    rotations: torch.Tensor,
    opacities: torch.Tensor,
    colours: torch.Tensor,
    view: np.ndarray,
    camera: np.ndarray,
    height: int,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour (H, W, 3) over black, transmittance (H, W) and alpha-weighted depth (H, W): CPU tensors."""
    picture = _Splat.apply(means, scales, rotations, opacities, colours, view, camera, height, width)
    return picture[..., 1:4], picture[..., 0], picture[..., 4]
