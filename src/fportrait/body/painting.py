"""The portrait painted on the body's mesh and drawn in another pose: pictures that need no model."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fportrait.body.pose import Pose
from fportrait.body.rasterizer import rasterize
from fportrait.camera.cameras import scale_intrinsics

WARP_REACH, WARP_SCALE = 0.12, 2  # of the portrait that a model is given as a condition
DRAW_SCALE = 3  # the picture is drawn larger and averaged down, as filmed ones are


def acting_vertices(body: Any, shape: np.ndarray, actions: np.ndarray | None, pose: Pose) -> np.ndarray:
    """The vertices `V 3` that the portrait is painted on: the body with the facial actions that a code tells.

    The normal maps stay without expression, as the paper has them: what moves the painted face is the code alone. So a
    model is shown where lips and lids go, as the pose shows it where the head does.

    Args:
        actions: `52`, of `tracking.expression.ActionReadout`; None, and any body but the embedded one, stay at rest.
    """
    return np.asarray(body.vertices(shape, actions if hasattr(body, "action_names") else None, pose))


def warp_portrait(
    portrait: np.ndarray,
    portrait_vertices: np.ndarray,
    portrait_intrinsics: np.ndarray,
    vertices: np.ndarray,
    intrinsics: np.ndarray,
    faces: np.ndarray,
    reach: float = 0.0,
    scale: int = DRAW_SCALE,
) -> np.ndarray:
    """The portrait as a texture of the mesh, drawn elsewhere: `H W 3` uint8.

    Every pixel that sees the mesh takes the portrait's colour at the place where the same point of the surface was,
    which is a piecewise projective map (piecewise affine but for the perspective within a triangle). Points that the
    portrait does not see take what lies before them there; pixels beside the mesh keep the portrait's.

    Args:
        portrait: `H W 3` uint8. portrait_vertices, vertices: `V 3` in the space of their own OpenCV cameras, metres.
        portrait_intrinsics, intrinsics: `3 3`, pixels. faces: `F 3`.
        reach: how far the mesh takes along what lies beside it, hair and hats, as a share of the picture: a pixel
            there moves as the nearest one on the mesh, less by exp(-distance / reach). 0 leaves it where it is.
        scale: samples per pixel and side.
    """
    height, width = (scale * side for side in portrait.shape[:2])
    ids, weights, _ = rasterize(vertices, faces, scale_intrinsics(intrinsics, scale), height, width)
    y, x = np.nonzero(ids >= 0)
    corners = np.asarray(portrait_vertices, np.float32)[np.asarray(faces)[ids[y, x]]]  # N 3 3
    points = (weights[y, x].astype(np.float32)[..., None] * corners).sum(1)
    pixels = points @ np.asarray(portrait_intrinsics, np.float32).T
    front = pixels[:, 2] > 0
    y, x, pixels = y[front], x[front], pixels[front]
    across, down = ((np.arange(side, dtype=np.float32) + 0.5) / scale for side in (width, height))
    grid = np.stack(np.meshgrid(across, down), -1)
    moved = np.zeros((height, width, 2), np.float32)
    moved[y, x] = pixels[:, :2] / pixels[:, 2:] - grid[y, x]
    if reach and len(y):
        seen = np.zeros((height, width), bool)
        seen[y, x] = True
        moved = spread(moved, seen, reach * height)
    source = grid + moved - 0.5  # OpenCV samples at whole numbers
    drawn = cv2.remap(portrait, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return drawn if scale == 1 else cv2.resize(drawn, portrait.shape[1::-1], interpolation=cv2.INTER_AREA)


def spread(moved: np.ndarray, seen: np.ndarray, reach: float) -> np.ndarray:
    """Displacements `H W 2`, known where `seen`, from the nearest such pixel elsewhere, fading over `reach`."""
    beside = (~seen).astype(np.uint8)
    distance, label = cv2.distanceTransformWithLabels(beside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_label = np.zeros((int(label.max()) + 1, 2), np.float32)
    by_label[label[seen]] = moved[seen]
    return np.asarray(by_label[label] * np.exp(-distance / np.float32(reach))[..., None])
