"""Teeth that a portrait shows, and what is beside them, as its head turns and its mouth opens.

Ours. A smile's teeth lie millimetres before the body's own. Drawn on those, they slide behind a lip as the head turns,
beside them comes into view what nobody saw, and as the mouth opens they are smeared over its tongue. Here they go with
the lips while these are as far apart as in the portrait, and from a mouth that opens wider with the upper jaw: below
them is what is usual there (`body.mouth`).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fportrait.body.mesh import of_part
from fportrait.body.mouth import Inside
from fportrait.body.warping import Target, project

RING, LEAST_RING = 40, 8  # places of the lips around a mouth that tell where what it shows goes; so many at least
STIFF = 0.06  # of the spline: far corners, where lips are folded, would make it swirl
LIPS_SEEN = 0.1  # cosine that each is seen with
# Times as wide open as the portrait's from which what a mouth shows goes less with the lips, and from which with the
# upper jaw alone; and how much of a face a mouth is that shows teeth at all.
WIDER, TEETH = (1.4, 2.0), 0.004
LIPS = 0.3  # of `mouth_weights` from which a place belongs to the lips


class ShownMouth:
    """What the mouth of a portrait shows.

    Args:
        body, inside: of `mouth.inside_of`. weights: `V`, of `mouth.mouth_weights`. vertices: `V 3`, of the portrait's
            own pose and face before its camera of `intrinsics` `3 3`. opening: how much of the mesh that it sees is
            inside the mouth.
    """

    def __init__(
        self,
        body: Any,
        inside: Inside,
        weights: np.ndarray,
        vertices: np.ndarray,
        intrinsics: np.ndarray,
        opening: float,
    ):
        self._part, self._weights, self._opening = inside.part, weights[body.faces], opening
        self._skull = np.flatnonzero(of_part(body, "scalp") | of_part(body, "ears"))[::4]
        lips = np.flatnonzero(np.asarray(body.masks["lips"]) > 0.5)
        lips = lips[:: max(len(lips) // RING, 1)]
        self._own, self._lips, self._places = vertices[self._skull], vertices[lips], project(vertices[lips], intrinsics)

    def __call__(
        self, target: Target, places: np.ndarray, sight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Where the portrait has a target's points, `N 2` pixels, and how well it sees them, `N`, once more with what
        its mouth shows; how much it shows of it, and how much of that goes with the lips."""
        unchanged = places, sight, (0.0, 0.0)
        inside = self._part[target.triangles] > 0
        if not inside.any():
            return unchanged
        share = self.filled(inside)
        carried = self.carried(target, sight, places) if share else None
        share *= carried is not None
        jaw = self._with_the_jaw(target, inside) if share < 1 and self._opening >= TEETH else None
        if carried is None and jaw is None:
            return unchanged
        moved = places[inside] if jaw is None else jaw
        moved = moved if carried is None else moved + np.float32(share) * (carried - moved)
        whole = share if jaw is None else 1.0
        places, sight = places.copy(), sight.copy()
        places[inside] = moved
        sight[inside] = np.maximum(sight[inside], whole)
        return places, sight, (whole, share)

    def filled(self, inside: np.ndarray) -> float:
        """How far what the portrait's lips part on fills a target's mouth, in [0, 1]; its points `inside`, `N`."""
        return float(np.clip((WIDER[1] - inside.mean() / self._opening) / (WIDER[1] - WIDER[0]), 0, 1))

    def carried(self, target: Target, sight: np.ndarray, places: np.ndarray) -> np.ndarray | None:
        """`carried_by_lips` of a target's points that the portrait sees so well, `N`, at such `places` `N 2`."""
        inside = self._part[target.triangles] > 0
        lips = (self._weights[target.triangles] * target.weights).sum(1) > LIPS
        return carried_by_lips(target.places, target.covered, inside, places, sight * lips)

    def _with_the_jaw(self, target: Target, inside: np.ndarray) -> np.ndarray | None:
        """Where the portrait would have what a target's mouth shows if its lips were as the portrait's are, `M 2`."""
        from scipy.spatial.transform import Rotation

        before, after = self._own, target.vertices[self._skull]
        turn = Rotation.align_vectors(after - after.mean(0), before - before.mean(0))[0]
        posed = project(turn.apply(self._lips - before.mean(0)) + after.mean(0), target.intrinsics)
        return splined(posed, self._places, target.grid.reshape(-1, 2)[target.places[inside]])


def carried_by_lips(
    samples: np.ndarray, covered: np.ndarray, inside: np.ndarray, sources: np.ndarray, sight: np.ndarray
) -> np.ndarray | None:
    """Where in a portrait its lips' opening has what is inside a mouth that is open as far, `M 2` pixels.

    A thin-plate spline (Duchon 1977) through places around the opening. None of lips that the portrait hardly sees.

    Args:
        samples: `N`, the mesh's in `covered` `H W`, row by row. inside: which of them are in the mouth, `N`, of which
            there are M. sources: `N 2`, where the portrait has them. sight: how well it sees those of the lips, `N`; 0
            of others (a cheek may stand before a corner of the mouth).
    """
    tall, wide = covered.shape
    rows, columns = np.divmod(samples[inside], wide)
    top, left = max(int(rows.min()) - 2, 0), max(int(columns.min()) - 2, 0)
    window = np.s_[top : int(rows.max()) + 3, left : int(columns.max()) + 3]
    number = np.full((tall, wide), -1, np.int32)
    number.reshape(-1)[samples] = np.arange(len(samples))
    number = number[window]
    mouth = np.zeros(number.shape, np.uint8)
    mouth[rows - top, columns - left] = 1
    beside = number[(cv2.dilate(mouth, np.ones((3, 3), np.uint8)) > mouth) & (number >= 0)]
    beside = beside[sight[beside] > LIPS_SEEN]
    if len(beside) < LEAST_RING:
        return None
    here = np.stack(np.divmod(samples, wide)[::-1], 1).astype(np.float64)
    middle = here[beside].mean(0)
    around = np.argsort(np.arctan2(*(here[beside] - middle).T), kind="stable")
    beside = beside[around[np.linspace(0, len(around) - 1, min(RING, len(around))).astype(int)]]
    places, first = np.unique(here[beside], axis=0, return_index=True)
    return splined(places, sources[beside][first], here[inside])


def splined(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """A thin-plate spline's values `M 2` at `wanted` `M 2`, of `values` `N 2` at places `known` `N 2` around them; None
    of places on one line: a mouth that is all but closed."""
    from scipy.interpolate import RBFInterpolator

    middle, spread = known.mean(0), max(float(known.std()), 1e-6)
    try:
        spline = RBFInterpolator((known - middle) / spread, values, smoothing=STIFF)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(spline((wanted - middle) / spread), np.float32)
