"""Bodies, cameras and poses as tracking gives them on people it was not made for.

A tracker's body is a compromise: its shape, the head's pitch, its place and the camera's distance are off together,
much alike through one clip, and tremble a little from frame to frame. Trained on exact bodies, a model believes the
mesh; trained on these, it takes the mesh for a hint and the portrait for the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fportrait.body.model import BodyModel, Pose
from fportrait.body.pose import rotation_matrix
from fportrait.camera.cameras import camera_centre
from fportrait.tracking.fit import to_pose

# Standard deviations at strength 1: of one clip, and of one frame.
SHAPE, PLACE, FRAME_PLACE = 0.6, np.array([0.003, 0.005, 0.006]), 0.0006  # unit variance; metres
TURN, FRAME_TURN = np.radians([4.5, 2.0, 1.5]), np.radians(0.5)  # pitch, yaw, roll
DISTANCE = 0.22  # of the logarithm: a field of view of 40° taken for one of 32° or 49°


@dataclass(frozen=True)
class Disturbance:
    """One clip's errors. `shape` (K,), `turn` (3,) radians, `place` (3,) metres, `distance` a factor."""

    shape: np.ndarray
    turn: np.ndarray
    place: np.ndarray
    distance: float
    tremble: float

    def body(
        self, body: BodyModel, identity: np.ndarray, pose: Pose, rng: np.random.Generator
    ) -> tuple[np.ndarray, Pose]:
        """Shape and pose as the tracker would report them: the torso upright, everything in the head's rotation."""
        shape = identity + self.shape
        wrong = rotation_matrix(self.turn + self.tremble * rng.normal(0, FRAME_TURN, 3))
        rotation = pose.body_rotation @ pose.head_rotation @ wrong
        place = body.head_centre(identity, pose) + self.place + self.tremble * rng.normal(0, FRAME_PLACE, 3)
        return shape, to_pose(body, shape, rotation, place)

    def camera(self, world_to_camera: np.ndarray) -> np.ndarray:
        """The camera moved along its axis to where a wrong field of view puts it, around a head at the origin."""
        moved = world_to_camera.copy()
        depth = float(np.linalg.norm(camera_centre(world_to_camera)))
        moved[2, 3] += (self.distance - 1) * depth
        return moved

    def intrinsics(self, intrinsics: np.ndarray) -> np.ndarray:
        """The focal length that goes with the wrong distance."""
        return np.asarray(intrinsics * np.array([[self.distance, 1, 1], [1, self.distance, 1], [1, 1, 1]]))


def sample_disturbance(body: BodyModel, rng: np.random.Generator, strength: float) -> Disturbance:
    """One clip's errors; none at strength 0, a third of clips half of it."""
    level = strength * rng.choice([0.5, 1.0, 1.0])
    return Disturbance(
        level * rng.normal(0, SHAPE, body.identity_dim),
        level * rng.normal(0, TURN),
        level * rng.normal(0, PLACE),
        float(np.exp(level * rng.normal(0, DISTANCE))),
        level,
    )
