"""Pictures that show what was tracked: landmarks and the fitted mesh drawn over a frame."""

from __future__ import annotations

import cv2
import numpy as np

from fportrait.tracking.points import GROUPS

COLOURS = {
    "lips": (255, 70, 70), "eyes": (80, 255, 80), "brows": (255, 255, 0), "iris": (0, 255, 255),
    "oval": (255, 255, 255), "nose": (255, 0, 255), "rest": (80, 120, 255),
}  # fmt: skip
SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel


def draw_landmarks(image: np.ndarray, landmarks: np.ndarray, scale: int = 2) -> np.ndarray:
    """The 238 named points of `landmarks` `478 2` over `image` `H W 3` uint8, enlarged `scale` times."""
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for name, points in GROUPS.items():
        for x, y in landmarks[list(points)]:
            cv2.circle(picture, _place(x, y, scale), 1 << SUBPIXEL_BITS, COLOURS[name], -1, cv2.LINE_AA, SUBPIXEL_BITS)
    return picture


def draw_mesh(
    image: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    opacity: float = 0.5,
) -> np.ndarray:
    """A posed mesh `V 3`, `F 3` (world) as a normal map blended over a frame of that camera."""
    from fportrait.body.rasterizer import normal_map

    height, width = image.shape[:2]
    shape = normal_map(vertices, faces, world_to_camera, intrinsics, height, width)
    covered = shape.any(-1, keepdims=True) * opacity
    return np.round(image * (1 - covered) + shape * covered).astype(np.uint8)


def _place(x: float, y: float, scale: int) -> tuple[int, int]:
    """Pixels with centres at +0.5 to OpenCV's fixed-point numbers, whose centres are whole."""
    return round((x * scale - 0.5) * (1 << SUBPIXEL_BITS)), round((y * scale - 0.5) * (1 << SUBPIXEL_BITS))
