"""The alignment encoder: an upper-body crop to where head and body are and how the head is turned (section 8.1).

Its nine numbers are those of a camera that sees exactly the crop: x and y in half crop widths from its centre (right
and down), and the logarithm of the crop's width in metres at that depth over 0.4 m, negated, so that all grow with
size and none depends on the lens. The rotation vector (radians) turns a head that looks straight at this camera.
"""

from __future__ import annotations

import numpy as np

from fportrait.body.model import BodyModel, Pose, rotation_vector
from fportrait.camera.cameras import project
from fportrait.tracking.backbone import ResNet34Encoder

ALIGNMENT_NAMES = (
    "head_x",
    "head_y",
    "head_size",
    "body_x",
    "body_y",
    "body_size",
    "head_rotation_x",
    "head_rotation_y",
    "head_rotation_z",
)
CROP_METRES = 0.4
FACING = np.diag([1.0, -1.0, -1.0])  # world axes of a head that looks at an OpenCV camera


class AlignmentEncoder(ResNet34Encoder):
    """Upper-body crops to `ALIGNMENT_NAMES`."""

    outputs = len(ALIGNMENT_NAMES)
    weights_name = "alignment_encoder.safetensors"
    kind = "alignment encoder"
    crop_function = "use crops.upper_body_crop"

    def __init__(self, width: int = 64, crop_size: int = 64):
        super().__init__(width, crop_size)


def alignment_of(
    body: BodyModel, identity: np.ndarray, pose: Pose, world_to_camera: np.ndarray, intrinsics: np.ndarray, size: int
) -> np.ndarray:
    """The nine numbers `9` of a known pose in a square picture of `size` pixels whose intrinsics are `3 3`."""
    rotations, shifts = body.bone_transforms(identity, pose)
    neck = rotations[0] @ body.rest_joints(identity)[1] + shifts[0]
    pixels, depth = project(np.stack([shifts[2], neck]), world_to_camera, intrinsics)
    place = 2 * pixels / size - 1
    scale = -np.log(size * depth / intrinsics[0, 0] / CROP_METRES)
    turn = rotation_vector(FACING @ world_to_camera[:3, :3] @ rotations[2])
    return np.concatenate([place[0], scale[:1], place[1], scale[1:], turn]).astype(np.float32)
