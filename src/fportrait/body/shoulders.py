"""What a portrait shows that goes with the shoulders, and not with the head: clothes, and hair that lies on them.

Ours. A mesh ends at the base of the neck. What stands beside it was dragged along by the nearest of its points, so a
collar under a jaw went with the jaw, and hair on a shoulder with the cheek. Here it follows the shoulders, the more
the lower and the further from the head it is: a head turns over a collar, and what falls from it bends.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from fportrait.body.backdrop import PERSON, Backdrop, around
from fportrait.body.mesh import of_part
from fportrait.body.warping import project

BONES = 3  # root, neck and head, as the embedded body has them
TRUNK = 0.5  # share of the shoulders' (the head's) own movement from which a vertex goes with them (with it)
AWAY = 0.06  # of the short side: how far from a head what stands beside it goes wholly with the shoulders
WORN, SEAM = 0.3, 0.008  # what goes with the shoulders by so much tells their colour; of the short side: a soft edge
LOWER = 1.0  # and how far below the ears, of the way from them to the chin


@functools.lru_cache(maxsize=4)
def trunk_of(body: Any) -> np.ndarray | None:
    """Which of a body's triangles go with the shoulders, and not with the head, `F`; None of a body that does not
    tell."""
    skinning = np.asarray(getattr(body, "skinning", np.zeros((0, 0))))
    if skinning.shape[1] != BONES:
        return None
    return np.asarray((skinning[:, 0] > TRUNK)[np.asarray(body.faces)].all(1))


def clothes_in(body: Any, places: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """How far what stands at a place of a portrait goes with the shoulders, `H W` in 0..1: the more the lower it is
    than the ears, and the further from the head's mesh, so that nothing is torn.

    Args:
        places: `V 2`, where the vertices are, pixels. vertex: one that each pixel sees, `H W`, -1 beside the mesh.
    """
    head = (vertex >= 0) & (np.asarray(body.skinning)[:, 2] > TRUNK)[vertex]
    away = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 5) / (AWAY * min(vertex.shape))
    return np.asarray(below_ears(body, places, len(vertex)) * np.clip(away, 0, 1) ** 2, np.float32)


def behind_the_chin(
    backdrop: Backdrop, body: Any, places: np.ndarray, portrait: np.ndarray, opacity: np.ndarray, seen: np.ndarray
) -> Backdrop:
    """A backdrop in which shoulders go on behind a head that hides them, and not the wall alone.

    Args:
        places: `V 2`, where the vertices are in the portrait `H W 3`, pixels. opacity: the person's, `H W`. seen: the
            mesh, `H W`.
    """
    assert backdrop.clothes is not None
    worn = (backdrop.clothes > WORN) & ~seen & (opacity > 0.5)
    known = worn | (opacity < PERSON)
    if not worn.any():
        return backdrop
    told = np.where(worn[..., None], portrait, backdrop.picture).astype(np.float32)
    hidden = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), SEAM * min(seen.shape))
    hidden *= below_ears(body, places, len(seen))
    mixed = backdrop.picture + hidden[..., None] * (around(told, known.astype(np.float32)) - backdrop.picture)
    return backdrop._replace(picture=np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def moved_by(body: Any, before: np.ndarray, after: np.ndarray, intrinsics: np.ndarray, short: int) -> float:
    """How far shoulders have moved in a picture, of its short side; between two poses of a body's vertices `V 3`."""
    own = np.flatnonzero(np.asarray(body.skinning)[:, 0] > TRUNK)[::8]
    first, second = (project(vertices[own], intrinsics) for vertices in (before, after))
    return float(np.linalg.norm(second - first, axis=1).mean()) / short


def below_ears(body: Any, places: np.ndarray, height: int) -> np.ndarray:
    """How far down from the ears to the chin every row of a portrait is, `H 1` in 0..1."""
    lobes, chin = places[of_part(body, "ears"), 1].max(), places[of_part(body, "face"), 1].max()
    down = (np.arange(height)[:, None] - lobes) / max(LOWER * (chin - lobes), 1)
    return np.asarray(np.clip(down, 0, 1), np.float32)
