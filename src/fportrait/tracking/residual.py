"""What one portrait's face has that the fitted body has not: where its landmarks lie beside the body's.

The body's shapes are few, and a fit to one picture is held near the mean. A chin that reaches lower than the body's is
then painted on the neck below it, and lids and lips open beside the portrait's own. Ours: the difference of the seen
and the fitted landmarks, as a displacement of the head's surface across the line of sight, spread over its
neighbourhood. It belongs to the person, stays fixed to the head, and only what is painted has it; normal maps show the
body as it is.
"""

from __future__ import annotations

import numpy as np

from fportrait.body.model import BodyModel
from fportrait.camera.cameras import project
from fportrait.tracking.fit import LandmarkModel

REACHES = (0.012, 0.004)  # metres: deviations of the Gaussians that displacements are spread with, one after the other
SPARSE = 0.3  # weight of "no displacement" beside a vertex's landmarks: far from all of them it wins
MOST = 0.008  # metres
FACING = -0.15  # cosine between surface and line of sight: contours count, what lies behind them the net guesses


def landmark_offsets(
    body: BodyModel,
    model: LandmarkModel,
    shape: np.ndarray,
    actions: np.ndarray | None,
    rotation: np.ndarray,
    translation: np.ndarray,
    camera: np.ndarray,
    intrinsics: np.ndarray,
    landmarks: np.ndarray,
) -> np.ndarray:
    """Displacements `V 3` of the body's vertices, metres in the head's axes; zeros without a face.

    Args:
        shape: `K`. actions: `52`, None at rest. rotation, translation: `3 3` and `3` of the head's bone in the world.
        camera: `4 4`, world to camera. intrinsics: `3 3`. landmarks: `478 2`, pixels.
    """
    corners = body.faces[body.landmark_triangles]
    offsets = np.zeros((len(body.template), 3))
    if not np.isfinite(landmarks).all():
        return offsets
    points = model.at(shape, None if actions is None else actions[None].astype(np.float64))
    points = points[0] if points.ndim == 3 else points
    world = points @ rotation.T + translation
    pixels, depth = project(world, camera, intrinsics)
    normals = model.normals @ rotation.T
    sight = -camera[:3, :3].T @ camera[:3, 3] - world
    facing = (normals * sight).sum(1) / np.linalg.norm(sight, axis=1)
    across = np.zeros((len(points), 3))
    across[:, :2] = (landmarks - pixels) * depth[:, None] / intrinsics[[0, 1], [0, 1]]
    moved = across @ camera[:3, :3] @ rotation  # from the camera's axes to the head's
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    moved *= np.minimum(1, MOST / np.maximum(length, 1e-9))
    use = np.flatnonzero(body.landmark_valid & (facing > FACING))
    at_rest = np.einsum("lcx,lc->lx", body.template[corners], body.landmark_barycentric)[use]
    head = np.linalg.norm(body.template - at_rest.mean(0), axis=1) < 0.2
    left = moved[use]  # the finer Gaussian spreads what the wider leaves: lids and lips lie closer than cheeks
    for reach in REACHES:
        offsets[head] += _spread(body.template[head], at_rest, left, reach)
        left = left - _spread(at_rest, at_rest, left, reach)
    return offsets


def _spread(places: np.ndarray, points: np.ndarray, values: np.ndarray, reach: float) -> np.ndarray:
    """Values `L 3` at points `L 3`, averaged around places `N 3` with a Gaussian of deviation `reach`."""
    weights = np.exp(-((places[:, None] - points[None]) ** 2).sum(-1) / (2 * reach**2))
    return np.asarray(weights @ values / (weights.sum(1, keepdims=True) + SPARSE))
