"""A first reading of expression: actions from tracked landmarks of many cameras, then from codes.

The tracked table carries codes but no actions, and the avatar's decoder needs the map from one to the other. For each
frame the landmarks of all cameras give a bounded least-squares problem in the body model's actions,

    min_z  sum_camera,landmark  w |seen - projected(neutral + bias + offsets z)|²  +  penalty |z|²,    0 <= z <= 1,

where `bias`, one 3D vector per landmark at rest, takes up what the fitted shape misses of the person. Ridge regression
of the z on the standardised codes is where the decoder starts; fitting to the pictures refines it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fportrait.avatar.guide import triangle_frames
from fportrait.avatar.model import action_offsets
from fportrait.avatar.views import CaptureFrame, View

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

PENALTY = 2e-4  # square metres: an action must earn its strength
BIAS_PENALTY = 4.0  # in observations: the bias is that of a person, not of a frame
OUTLIER = 0.006  # metres; residuals beyond it weigh less (Huber)


def actions_from_landmarks(
    body: BodyModel, shape: np.ndarray, frames: Sequence[CaptureFrame], views: Sequence[View], rounds: int = 4
) -> np.ndarray:
    """(M, A) strengths in [0, 1] for every frame."""
    valid = np.asarray(body.landmark_valid)
    triangles = np.asarray(body.faces)[np.asarray(body.landmark_triangles)[valid]]
    weights = np.asarray(body.landmark_barycentric)[valid][:, :, None]
    rest = np.asarray(body.neutral(shape), dtype=np.float64)[triangles]
    rest_frames = _frames(rest)
    basis = (action_offsets(body, shape)[triangles] * weights[:, :, :, None]).sum(axis=1)  # (L, 3, A)
    count = basis.shape[2]

    posed = []
    for frame in frames:
        corners = np.asarray(body.vertices(shape, None, frame.pose), dtype=np.float64)[triangles]
        axes = _frames(corners)
        posed.append(((corners * weights).sum(axis=1), axes @ rest_frames.transpose(0, 2, 1), axes[:, :, 2]))
    # per view: residual (L, 2) in metres at the landmark's depth, its derivative by the rest position (L, 2, 3), weight
    # (L,)
    observations = []
    for view in views:
        place, turn, normal = posed[view.frame]
        rotation, offset = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
        inside = place @ rotation.T + offset
        slope = inside[:, :2] / inside[:, 2:]
        focal = np.array([view.intrinsics[0, 0], view.intrinsics[1, 1]])
        seen = (view.landmarks[valid] - view.intrinsics[:2, 2]) / focal
        across = rotation[None, :2] - slope[:, :, None] * rotation[None, 2:3]
        towards = -inside / np.linalg.norm(inside, axis=1, keepdims=True)
        facing = np.einsum("lc,lc->l", normal @ rotation.T, towards)
        weight = view.confidence * np.clip(facing - 0.2, 0, None)
        observations.append(((seen - slope) * inside[:, 2:], across @ turn, weight))

    strengths: np.ndarray = np.zeros((len(frames), count))
    bias: np.ndarray = np.zeros((len(basis), 3))
    for _ in range(rounds):
        normal_matrix = np.tile(PENALTY * np.eye(count), (len(frames), 1, 1))
        right = np.zeros((len(frames), count))
        bias_matrix = np.tile(BIAS_PENALTY * np.eye(3), (len(basis), 1, 1))
        bias_right = np.zeros((len(basis), 3))
        for view, (residual, derivative, weight) in zip(views, observations, strict=True):
            moved = basis @ strengths[view.frame]
            left = residual - np.einsum("lij,lj->li", derivative, bias + moved)
            robust = weight / np.maximum(1, np.linalg.norm(left, axis=1) / OUTLIER)
            rows = np.einsum("lij,lja->lia", derivative, basis)
            unbiased = residual - np.einsum("lij,lj->li", derivative, bias)
            normal_matrix[view.frame] += np.einsum("l,lia,lib->ab", robust, rows, rows, optimize=True)
            right[view.frame] += np.einsum("l,lia,li->a", robust, rows, unbiased, optimize=True)
            target = residual - np.einsum("lij,lj->li", derivative, moved)
            bias_matrix += np.einsum("l,lia,lib->lab", robust, derivative, derivative, optimize=True)
            bias_right += np.einsum("l,lia,li->la", robust, derivative, target, optimize=True)
        strengths = _bounded_least_squares(normal_matrix, right, strengths)
        bias = np.linalg.solve(bias_matrix, bias_right[:, :, None])[:, :, 0]
    return strengths


def ridge(codes: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (A, 128) and intercept (A,) of targets (M, A) on standardised codes (M, 128), in the dual form (M < 128).

    `penalty` is relative to the codes' mean squared length, so that it means the same for any number of dimensions.
    """
    mean_code, mean_target = codes.mean(axis=0), targets.mean(axis=0)
    centred = codes - mean_code
    gram = centred @ centred.T
    level = penalty * max(np.trace(gram) / len(gram), 1e-12)
    dual = np.linalg.solve(gram + level * np.eye(len(gram)), targets - mean_target)
    weights = dual.T @ centred
    return weights, mean_target - weights @ mean_code


def _bounded_least_squares(matrices: np.ndarray, right: np.ndarray, start: np.ndarray, steps: int = 400) -> np.ndarray:
    """Minimise z'Mz/2 - r'z over 0 <= z <= 1 for every frame at once: accelerated projected gradient."""
    length = 1.0 / np.linalg.norm(matrices, ord=2, axis=(1, 2))[:, None]
    z, ahead, pace = start, start, 1.0
    for _ in range(steps):
        following = np.clip(ahead - length * (np.einsum("mab,mb->ma", matrices, ahead) - right), 0.0, 1.0)
        next_pace = 0.5 * (1 + np.sqrt(1 + 4 * pace * pace))
        ahead = following + (pace - 1) / next_pace * (following - z)
        z, pace = following, next_pace
    return z


def _frames(corners: np.ndarray) -> np.ndarray:
    return triangle_frames(torch.from_numpy(np.ascontiguousarray(corners, dtype=np.float64))).numpy()
