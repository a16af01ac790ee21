"""The surface that carries the Gaussians: points sampled on the body mesh, triangle frames, quaternions.

A Gaussian lives at a fixed place of the mesh (triangle and barycentric coordinates, hence a place on the UV map), and
what it learns is expressed in that triangle's frame: tangent along the first edge, bitangent, outward normal.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fportrait.errors import UserError

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

# Gaussians per area, relative to the cheek: small parts that carry expression and identity need the most.
PART_DENSITY = {
    "face": 1.0,
    "ears": 0.8,
    "eyes": 2.5,
    "teeth": 2.5,
    "tongue": 1.0,
    "mouth_cavity": 0.3,
    "eye_cavity": 0.3,
    "scalp": 0.7,
    "neck": 0.3,
    "torso": 0.1,
}
OTHER_DENSITY = 0.5


def face_parts(body: BodyModel) -> np.ndarray:
    """(F,) name of the part that each face belongs to, taken from its first vertex."""
    names = np.asarray(body.part_names)
    return names[np.asarray(body.part)[body.faces[:, 0]]]


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, density: np.ndarray, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` points spread over a mesh, in proportion to area × density.

    Args:
        vertices (V, 3): metres. faces (F, 3). density (F,): relative Gaussians per area.

    Returns:
        triangle (N,) int64, barycentric (N, 3) float32, area (N,) float32: the square metres that each point stands
        for.

    Systematic sampling along the faces and a low-discrepancy sequence inside them keep the spacing even.
    """
    if count < 1:
        raise UserError(f"{count} Gaussians", "at least one", "raise 'gaussians' in the avatar's parameters")
    corners = vertices[faces]
    areas = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    weight = areas * density
    edges = np.cumsum(weight)
    ticks = (np.arange(count) + np.random.default_rng(seed).uniform()) / count * edges[-1]
    triangle = np.minimum(np.searchsorted(edges, ticks, side="right"), len(faces) - 1)
    # R2 sequence (Roberts 2018): additive recurrence with the plastic number's inverse powers
    first, second = (np.arange(count) * 0.7548776662466927) % 1, (np.arange(count) * 0.5698402909980532) % 1
    flip = first + second > 1
    first, second = np.where(flip, 1 - first, first), np.where(flip, 1 - second, second)
    barycentric = np.stack([1 - first - second, first, second], axis=1)
    area = edges[-1] / count / density[triangle]
    return triangle.astype(np.int64), barycentric.astype(np.float32), area.astype(np.float32)


@dataclass(frozen=True)
class Layout:
    """Where the N Gaussians of every avatar of one body model lie on its UV map, whoever the person is.

    triangle (N,), barycentric (N, 3): the place on the mesh. uv (N, 2): the same on the UV map. parts (N,): the part's
    name. centre (N, 3), spacing (N,), triangle_area (N,): on the template, metres.
    """

    triangle: np.ndarray
    barycentric: np.ndarray
    uv: np.ndarray
    parts: np.ndarray
    centre: np.ndarray
    spacing: np.ndarray
    triangle_area: np.ndarray


@functools.lru_cache(maxsize=4)
def layout_of(body: BodyModel, count: int, torso_density: float = PART_DENSITY["torso"]) -> Layout:
    """Spread `count` Gaussians over the template, denser where expression and identity need it.

    torso_density: Gaussians per area on the torso, relative to the cheek.
    """
    template = np.asarray(body.neutral(np.zeros(body.identity_dim)), dtype=np.float64)
    parts = face_parts(body)
    densities = {**PART_DENSITY, "torso": torso_density}
    density = np.array([densities.get(str(part), OTHER_DENSITY) for part in parts])
    triangle, barycentric, area = sample_surface(template, body.faces, density, count)
    corners = template[body.faces[triangle]]
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return Layout(
        triangle,
        barycentric,
        (np.asarray(body.uv)[body.faces[triangle]] * barycentric[:, :, None]).sum(axis=1).astype(np.float32),
        parts[triangle],
        (corners * barycentric[:, :, None]).sum(axis=1).astype(np.float32),
        np.sqrt(area).astype(np.float32),
        (0.5 * doubled).astype(np.float32),
    )


def triangle_frames(corners: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) corners (corner, xyz) to (N, 3, 3) rotations whose columns are tangent, bitangent, normal."""
    edge, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    tangent = torch.nn.functional.normalize(edge, dim=1, eps=1e-12)
    normal = torch.nn.functional.normalize(torch.linalg.cross(edge, other), dim=1, eps=1e-16)
    return torch.stack([tangent, torch.linalg.cross(normal, tangent), normal], dim=2)


def triangle_areas(corners: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) corners to (N,) areas."""
    return 0.5 * torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)


def quaternions_from_matrices(matrices: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3) rotations to (N, 4) unit quaternions (w, x, y, z).

    Each of the four classical forms divides by one component; the largest component is used, so nothing is near zero.
    """
    m = matrices
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    squares = torch.stack([1 + trace, *(1 + 2 * m[:, i, i] - trace for i in range(3))], dim=1)  # 4 w², 4 x², ...
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    forms = torch.stack(
        [
            torch.stack([squares[:, 0], a, b, c], 1),
            torch.stack([a, squares[:, 1], d, e], 1),
            torch.stack([b, d, squares[:, 2], f], 1),
            torch.stack([c, e, f, squares[:, 3]], 1),
        ],
        dim=1,
    )
    chosen = forms[torch.arange(len(m)), squares.argmax(dim=1)]
    return torch.nn.functional.normalize(chosen, dim=1)


def multiply_quaternions(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Hamilton product of (N, 4) quaternions: rotate by `right`, then by `left`."""
    w1, x1, y1, z1 = left.unbind(dim=1)
    w2, x2, y2, z2 = right.unbind(dim=1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        dim=1,
    )
