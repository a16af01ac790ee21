"""Crops for the encoders: the face with its roll taken out, and the upper body (section 8.1 of the paper)."""

from __future__ import annotations

import math

import cv2
import numpy as np

LEFT_EYE = (362, 263, 386, 374)  # the person's left
RIGHT_EYE = (33, 133, 159, 145)
BRIDGE, NOSE_BASE, FOREHEAD, CHIN = 168, 2, 10, 152
FACE_WIDTH = 2.6  # side of the face crop in units of the face's scale, about 16 cm
BELOW_EYES = 0.6  # of the crop's centre, in the same units


def face_frame(landmarks: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Eye midpoint `2`, scale in pixels, and the unit vector `2` along the eyes (picture's left to right).

    The scale is the larger of the eye distance and 1.25 × the nose's length: neither jaw nor yaw changes it much. In
    profile the eyes nearly coincide, so the line from forehead to chin takes their place.
    """
    points = np.asarray(landmarks, np.float64)
    left, right = points[list(LEFT_EYE)].mean(0), points[list(RIGHT_EYE)].mean(0)
    eyes = left - right
    apart = float(np.linalg.norm(eyes))
    nose = float(np.linalg.norm(points[NOSE_BASE] - points[BRIDGE]))
    down = points[CHIN] - points[FOREHEAD]
    across = np.array([down[1], -down[0]]) / max(float(np.linalg.norm(down)), 1e-6)
    axis = eyes / max(apart, 1e-6) * apart + across * nose
    return (left + right) / 2, max(apart, 1.25 * nose, 1e-3), axis / max(float(np.linalg.norm(axis)), 1e-6)


def face_crop(image: np.ndarray, landmarks: np.ndarray, size: int = 96, wider: float = 1.0) -> np.ndarray:
    """Roll-normalised face, `size size 3` uint8; what lies outside the image is black.

    Args:
        image: `H W 3` uint8. landmarks: `478 2`, pixels with centres at +0.5. wider: times the side that encoders see.
    """
    eyes, scale, axis = face_frame(landmarks)
    down = np.array([-axis[1], axis[0]])
    centre = eyes + BELOW_EYES * scale * down
    step = wider * FACE_WIDTH * scale / size  # image pixels per crop pixel
    return _sample(image, centre, axis * step, down * step, size)


def upper_body_crop(image: np.ndarray, landmarks: np.ndarray, size: int = 128) -> np.ndarray:
    """Head and shoulders, upright, `size size 3` uint8."""
    centre, side = upper_body_square(landmarks)
    return _sample(image, centre, np.array([side / size, 0.0]), np.array([0.0, side / size]), size)


def upper_body_square(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre `2` and side of the upper-body crop, pixels."""
    eyes, scale, _ = face_frame(landmarks)
    return eyes + np.array([0, 1.2 * scale]), 5.6 * scale


def _sample(image: np.ndarray, centre: np.ndarray, right: np.ndarray, down: np.ndarray, size: int) -> np.ndarray:
    """Resample a square: `right` and `down` are the image-pixel steps of one crop pixel. Shrinking is averaged."""
    step = float(np.linalg.norm(right))
    # Pixel centres lie at +0.5 for us and at 0 for OpenCV.
    origin = centre - (right + down) * (size - 1) / 2 - 0.5
    if step > 1.5:  # bilinear sampling alone would alias
        corners = origin + size * np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ np.stack([right, down])
        image = _blurred(image, corners, 0.35 * step)
    matrix = np.stack([right, down, origin], 1)
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT
    )


def _blurred(image: np.ndarray, corners: np.ndarray, sigma: float) -> np.ndarray:
    """The image with a Gaussian over the box around `corners` `N 2`, as if over the whole: a face is a part of it."""
    reach, limits = math.ceil(4 * sigma) + 2, image.shape[1::-1]
    low, high = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 3
    (left, top), (right, bottom) = np.clip(low, 0, limits), np.clip(high, 0, limits)
    if right <= left or bottom <= top:
        return image
    x, y = max(0, left - reach), max(0, top - reach)
    part = cv2.GaussianBlur(image[y : bottom + reach, x : right + reach], (0, 0), sigma)
    image = image.copy()
    image[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]
    return image
