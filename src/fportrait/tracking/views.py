"""What single views of a studio capture see otherwise than all together, measured on the capture and taken away.

The landmark network's error depends on the person and on how the head is turned to the camera. All cameras of a frame
share one pose, so that pose tells how far each view departs from what all see. A view's bias is the mean departure of
the views in which the head stands alike in the camera's axes (Nadaraya-Watson regression over the person's frames and
cameras), so it is as good as the capture holds views like it. What all views err by alike stays: only a truth from
elsewhere could tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fportrait.body.pose import rotation_matrix, rotation_vector
from fportrait.camera.cameras import project
from fportrait.tracking.fit import Fit, LandmarkModel, Observations, eye_distance, measured, solve_frames

ALIKE = np.radians(4.0)  # width of the kernel over the head's rotation in the camera's axes
SHRINK = 0.1  # views of no departure that every mean has among its own
MAX_FRAMES = 100  # of a segment


@dataclass(frozen=True)
class ViewBias:
    """Views of one person: `rotations` `S 9` of the head in the camera's axes as one view tells them, `landmarks`
    `S 956` (fitted minus seen, eye distances), `turns` `S 3` (rotation vectors in the head's axes, fitted to seen).
    """

    rotations: np.ndarray
    landmarks: np.ndarray
    turns: np.ndarray

    def at(self, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Departures `N 478 2` and `N 3` expected of views with these rotations `N 3 3`."""
        cosines = (rotations.reshape(-1, 9) @ self.rotations.T - 1) / 2
        weights = np.exp((cosines - 1) / ALIKE**2)
        weights /= weights.sum(1, keepdims=True) + SHRINK
        return (weights @ self.landmarks).reshape(-1, 478, 2), weights @ self.turns


def in_cameras(seen: Observations) -> np.ndarray:
    """Rotations `N cameras 3 3` of the head in each camera's axes, by that camera's own measured turn."""
    assert seen.turns is not None
    return seen.world_to_camera[:, :3, :3] @ seen.turns


def view_bias(model: LandmarkModel, groups: list[Observations], shape: np.ndarray) -> ViewBias | None:
    """Bias of one person's views, from frames that two cameras at least saw; None if there are no such frames.

    Args:
        groups: a person's segments. shape: `K`.
    """
    rotations, landmarks, turns = [], [], []
    for group in groups:
        several = np.flatnonzero(group.seen.sum(1) > 1)
        if not len(several):
            continue
        picks = several[np.linspace(0, len(several) - 1, min(len(several), MAX_FRAMES)).astype(int)]
        seen = measured(group.at(picks))
        assert seen.turns is not None
        fit = solve_frames(model, seen, shape)
        for c in range(len(seen.intrinsics)):
            rows = np.flatnonzero(seen.seen[:, c])
            if not len(rows):
                continue
            rotations.append(in_cameras(seen)[rows, c].reshape(-1, 9))
            landmarks.append(_departures(model, seen, fit, shape, c, rows))
            turns.append(rotation_vector(fit.rotations[rows].transpose(0, 2, 1) @ seen.turns[rows, c]))
    return ViewBias(*map(np.concatenate, (rotations, landmarks, turns))) if rotations else None


def _departures(
    model: LandmarkModel, seen: Observations, fit: Fit, shape: np.ndarray, camera: int, rows: np.ndarray
) -> np.ndarray:
    """Fitted minus seen landmarks of one camera, `R 956` eye distances."""
    world = model.at(shape, fit.actions[rows]) @ fit.rotations[rows].transpose(0, 2, 1)
    world += fit.translations[rows, None]
    pixels, _ = project(world.reshape(-1, 3), seen.world_to_camera[camera], seen.intrinsics[camera])
    size = eye_distance(seen)[rows, camera, None, None]
    return ((pixels.reshape(len(rows), -1, 2) - seen.landmarks[rows, camera]) / size).reshape(len(rows), -1)


def without_bias(seen: Observations, bias: ViewBias | None) -> Observations:
    """The same observations with every view's bias taken away."""
    if bias is None:
        return seen
    seen = measured(seen)
    assert seen.turns is not None
    shape = seen.landmarks.shape[:2]
    landmarks, turns = bias.at(in_cameras(seen).reshape(-1, 3, 3))
    scaled = landmarks.reshape(*shape, 478, 2) * eye_distance(seen)[..., None, None]
    return replace(
        seen, landmarks=seen.landmarks + scaled, turns=seen.turns @ rotation_matrix(-turns).reshape(*shape, 3, 3)
    )
