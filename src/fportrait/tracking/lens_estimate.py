"""The field of view of a camera of which neither user nor file says anything, as its pictures of a face tell it.

Near a camera a nose is large and ears vanish; the same head far away, through a longer lens, is flat. So the body is
fitted under several lenses, and what each makes of the landmarks, with the priors of shape and actions, is the lens's
likelihood. A single face tells little (a flat face and a long lens look alike), a head that turns tells much. What the
face leaves open is left to where people are photographed from: most pictures are taken 0.4 to 4 m away (`DISTANCE`),
whatever the lens, and crops of pictures are, too: a face that fills its picture was seldom a hand's breadth away.

docs/real-faces.md has what it is right to within, on rendered people and on photographs whose lens is recorded.
"""

from __future__ import annotations

import numpy as np

from fportrait.tracking.clips import ClipLandmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.fit import LandmarkModel, Observations, fit_identity, solve_frames
from fportrait.tracking.lens import ASSUMED_FOV
from fportrait.tracking.segments import front_camera

CANDIDATES = np.array([5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 75.0])  # degrees across the longer side
FINE = np.exp(np.linspace(np.log(CANDIDATES[0]), np.log(CANDIDATES[-1]), 57))  # among which the posterior is summed
LOOKED_AT = 6  # frames
EVIDENCE = 16.0  # landmarks of a face whose errors count as independent: real faces are none that the body has exactly
DISTANCE, DISTANCE_SPREAD = 1.2, 0.6  # metres from the camera, and the deviation of their logarithm: a factor of 1.8


def estimated_lens(model: LandmarkModel, seen: ClipLandmarks, assumed: np.ndarray) -> np.ndarray:
    """Intrinsics `3 3` of a camera by the face that it saw: the posterior mean of the field of view's logarithm.

    Args:
        seen: its frames; up to six of them are looked at. assumed: `3 3`, of `ASSUMED_FOV`; returned with another focal
            length.
    """
    usable = np.flatnonzero(seen.confidence > 0)
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, min(LOOKED_AT, len(usable))).astype(int))]
    camera = front_camera(TrackConfig(), seen.quarter_turns)
    points = seen.landmarks[rows][:, None].astype(np.float64)
    energies, distances = [], []
    for degrees in CANDIDATES:
        faces = Observations(points, camera[None], through(assumed, degrees)[None]).of_stranger()
        shape = fit_identity(model, [faces])
        fit = solve_frames(model, faces, shape)
        misfit = EVIDENCE * (fit.errors**2).sum() / model.variance
        energies.append(misfit + (shape**2).sum() + (fit.actions**2).sum() / faces.action_sigma**2)
        distances.append((fit.translations @ camera[2, :3] + camera[2, 3]).mean())
    grid = np.log(FINE)
    energy, distance = (np.interp(grid, np.log(CANDIDATES), some) for some in (energies, np.log(distances)))
    likely = -energy / 2 - ((distance - np.log(DISTANCE)) / DISTANCE_SPREAD) ** 2 / 2
    weights = np.exp(likely - likely.max())
    return through(assumed, float(np.exp(weights @ grid / weights.sum())))


def through(assumed: np.ndarray, degrees: float) -> np.ndarray:
    """Intrinsics `3 3` of `ASSUMED_FOV` as those of another field of view."""
    lens = assumed.copy()
    lens[[0, 1], [0, 1]] *= np.tan(np.radians(ASSUMED_FOV) / 2) / np.tan(np.radians(degrees) / 2)
    return lens


def fov_of(intrinsics: np.ndarray) -> float:
    """Degrees across the longer side of a picture whose middle is the principal point."""
    return float(2 * np.degrees(np.arctan(intrinsics[:2, 2].max() / intrinsics[0, 0])))
