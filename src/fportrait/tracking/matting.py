"""A matte of the tracked person: the fitted mesh says roughly where, colours say exactly.

No segmentation network ships with the project. The mesh's silhouette, shrunk, is surely the person; what lies far from
it is surely not; GrabCut (Rother et al. 2004) decides the band between, which holds the hair. Hair of the
background's colour, hands and props are where it fails.
"""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.errors import UserError

WORKING_SIZE = 192  # pixels of the longer side that GrabCut works at
SURE_INSIDE = 0.03  # of the head's size: the silhouette is shrunk by this
REACH = 0.45  # hair may reach this far outside the silhouette
ROUNDS = 3


def matte(
    image: np.ndarray, vertices: np.ndarray, faces: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray
) -> np.ndarray:
    """Opacity of the person, `H W` float32 in [0, 1].

    Args:
        image: `H W 3` uint8. vertices: `V 3` of the posed body, world. intrinsics: pixels of `image`.

    Raises:
        UserError: the body lies outside the picture.
    """
    from fportrait.body.rasterizer import normal_map

    height, width = image.shape[:2]
    factor = min(1.0, WORKING_SIZE / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scaled = np.diag([size[0] / width, size[1] / height, 1.0]) @ intrinsics
    drawn = normal_map(vertices, faces, world_to_camera, scaled, size[1], size[0])
    silhouette = np.asarray(drawn.any(-1), np.uint8)
    if silhouette.sum() < 16:
        raise UserError("a body outside the picture", "one that is in sight", "pass the camera that saw it")
    head = 0.24 * scaled[0, 0] / np.median((vertices @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])[:, 2])
    sure = cv2.erode(silhouette, _disc(SURE_INSIDE * head), borderValue=1)
    near = cv2.dilate(silhouette, _disc(REACH * head))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[near > 0] = cv2.GC_PR_BGD
    labels[silhouette > 0] = cv2.GC_PR_FGD
    labels[sure > 0] = cv2.GC_FGD
    if (labels == cv2.GC_BGD).sum() >= 16 or (labels == cv2.GC_PR_BGD).sum() >= 16:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        pixels, unused = cv2.cvtColor(small, cv2.COLOR_RGB2BGR), (0, 0, 1, 1)
        cv2.grabCut(pixels, labels, unused, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    person = _connected(cv2.morphologyEx(person, cv2.MORPH_CLOSE, _disc(0.03 * head)), sure)
    soft = cv2.GaussianBlur(person.astype(np.float32), (0, 0), 0.8)
    return np.clip(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def _disc(radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _connected(person: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """The parts of `person` that touch `sure`."""
    _, parts = cv2.connectedComponents(person)
    kept = np.unique(parts[(sure > 0) & (person > 0)])
    return (np.isin(parts, kept) & (person > 0)).astype(np.uint8)
