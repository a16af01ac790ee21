"""What is asked of a body's mesh as a surface: its parts, values that spread over it, and how it was turned."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

STILL = 0.0005  # metres that no action moves a vertex by which tells how a head stands
ACROSS = 0.01  # weight of an edge between two kinds of surface, beside 1 within one


def of_part(body: Any, name: str) -> np.ndarray:
    """Which vertices `V` are of a part."""
    return np.asarray(body.part) == list(body.part_names).index(name)


def spread_over(
    body: Any, known: np.ndarray, wanted: np.ndarray, edges: np.ndarray | None = None, smoothed: int = 0
) -> np.ndarray:
    """Values `V C` that solve Laplace's equation where nothing is known of them.

    Args:
        known: how surely they are, `V`, beside the weight 1 of an edge. wanted: `V C`, the values times that.
        edges: weights of the body's edges, `E` of `edges_of`; all 1 when None.
        smoothed: steps of diffusion over all edges alike, at the end.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    ends, first = edges_of(body)
    plain = _laplacian(body, np.ones(len(ends)))
    laplacian = plain if edges is None else _laplacian(body, edges)
    total = np.bincount(first, known, laplacian.shape[0])
    sums = np.stack([np.bincount(first, channel, len(total)) for channel in wanted.T], 1)
    solved = splu((laplacian + diags(total)).tocsc()).solve(sums)
    for _ in range(smoothed):
        solved -= 0.5 * (plain @ solved) / plain.diagonal()[:, None]
    return np.asarray(solved[first])


def parted(body: Any, kind: np.ndarray) -> np.ndarray:
    """Weights of the edges, `E`: 1 within one `kind` `V` of vertices, and `ACROSS` between two."""
    ends, _ = edges_of(body)
    return np.where(kind[ends[:, 0]] == kind[ends[:, 1]], 1.0, ACROSS)


@functools.lru_cache(maxsize=4)
def edges_of(body: Any) -> tuple[np.ndarray, np.ndarray]:
    """A mesh's edges, the two vertices of each, `E 2`, and of each vertex the welded one, `V`: seams of the texture are
    none of the surface."""
    weld = np.asarray(body.weld if body.weld is not None else np.arange(len(body.template)))
    faces = np.asarray(body.faces)
    return np.concatenate([faces[:, pair] for pair in ((0, 1), (1, 2), (2, 0))]), np.unique(weld, return_inverse=True)[
        1
    ]


def _laplacian(body: Any, weights: np.ndarray) -> Any:
    """`W W` of the welded mesh."""
    from scipy.sparse import coo_matrix, diags

    ends, first = edges_of(body)
    a, b = first[ends].T
    count = first.max() + 1
    edges = coo_matrix((np.r_[weights, weights], (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()
    return diags(np.asarray(edges.sum(1)).ravel()) - edges


@functools.lru_cache(maxsize=4)
def mirror_vertices(body: Any) -> np.ndarray | None:
    """For every vertex the one, of its part, that lies nearest to its mirror image at rest, `V`; None of a body whose
    template is not known."""
    if not (hasattr(body, "template") and hasattr(body, "part")):
        return None
    from scipy.spatial import cKDTree

    template, part = np.asarray(body.template, np.float64), np.asarray(body.part)
    mirror = np.arange(len(template))
    for number in np.unique(part):
        own = np.flatnonzero(part == number)
        _, nearest = cKDTree(template[own]).query(template[own] * (-1, 1, 1))
        mirror[own] = own[nearest]
    return mirror


@functools.lru_cache(maxsize=4)
def mirrored_faces(body: Any) -> np.ndarray | None:
    """The triangles `F 3` that lie where a body's would in a mirror, corner by corner from the last to the first, for a
    mirrored triangle turns the other way; None without `mirror_vertices`."""
    mirror = mirror_vertices(body)
    return None if mirror is None else np.ascontiguousarray(mirror[np.asarray(body.faces)][:, ::-1].astype(np.int32))


def turned_by(before: np.ndarray, after: np.ndarray) -> float:
    """Degrees between two poses of a body's vertices `V 3`."""
    return math.degrees(turn_between(before, after).magnitude())


def turn_between(before: np.ndarray, after: np.ndarray) -> Any:
    """The rotation from one pose of a body's vertices `V 3` to another (Kabsch 1976)."""
    from scipy.spatial.transform import Rotation

    first, second = (one[::16] - one[::16].mean(0) for one in (before, after))
    return Rotation.align_vectors(second, first)[0]


@functools.lru_cache(maxsize=4)
def still_in_the_head(body: Any) -> np.ndarray:
    """Vertices that turn with the head and that no expression moves."""
    still = np.abs(body.actions).max((0, 2)) < STILL
    return np.flatnonzero((np.asarray(body.skinning)[:, -1] > 0.99) & still)[::4]
