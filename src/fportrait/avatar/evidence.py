"""What a capture shows of each place on the UV map, and of the air above it.

A Gaussian's place at rest is carried onto the posed mesh and lifted along the surface normal to a few heights: hair
and clothes lie above the mesh, and the mesh may be too large. Every point is looked up in the pictures: its mean colour
over the cameras that see the surface there, how much these disagree (they agree where the surface really is), and
whether any camera sees the background through it (a soft visual hull). This is what the prior's hypernetwork knows of a
person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fportrait.avatar.model import BODY_PARTS, GaussianAvatar, PosedGuide
from fportrait.avatar.views import CaptureFrame, View

if TYPE_CHECKING:
    from fportrait.avatar.captures import Capture

HEIGHTS = (0.0, -0.010, 0.012, 0.026, 0.042)  # metres above the mesh; the surface itself comes first
PER_HEIGHT = 6  # colour 3, disagreement 1, hull: min and mean 2
SEEN_CHANNEL = len(HEIGHTS) * PER_HEIGHT  # how often the surface was seen, 0 to 1
CHANNELS = SEEN_CHANNEL + 4  # and: seen 1, the person's difference from the template 3
MAX_PICTURES = 40


def mesh_picture(avatar: GaussianAvatar, frame: CaptureFrame, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) each: which face of the guide mesh every pixel shows (-1: none), and at what depth."""
    from fportrait.body.rasterizer import rasterize

    vertices = np.asarray(avatar.body.vertices(avatar.shape, None, frame.pose))
    inside = vertices @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
    size = view.image.shape[0]
    triangles, _, depth = rasterize(inside, avatar.body.faces, view.intrinsics, size, size)
    return triangles, depth


def head_mask(avatar: GaussianAvatar, frame: CaptureFrame, view: View) -> np.ndarray:
    """(S, S) bool: pixels in which the guide mesh shows the head."""
    triangles, _ = mesh_picture(avatar, frame, view)
    body = avatar.body
    head = ~np.isin(np.asarray(body.part_names)[np.asarray(body.part)[body.faces[:, 0]]], BODY_PARTS)
    return (triangles >= 0) & head[np.maximum(triangles, 0)]


def foreground_mask(capture: Capture, view: View, threshold: float = 0.1) -> np.ndarray:
    """(S, S) bool: pixels that show the guide mesh, or differ from the camera's background (hair, clothes)."""
    triangles, _ = mesh_picture(capture.avatar, capture.frames[view.frame], view)
    return (triangles >= 0) | (np.abs(view.image - capture.backgrounds[view.clip].numpy()).max(axis=2) > threshold)


def backgrounds_of(
    avatar: GaussianAvatar, frames: Sequence[CaptureFrame], views: Sequence[View]
) -> dict[str, torch.Tensor]:
    """Per clip (S, S, 3): the median of each pixel while the mesh, grown by the hair's reach, does not cover it.

    What is always covered is filled smoothly from what is not.
    """
    import cv2

    by_clip: dict[str, list[View]] = {}
    for view in views:
        by_clip.setdefault(view.clip, []).append(view)
    found = {}
    for clip, members in by_clip.items():
        stack = []
        for view in members[:: max(1, len(members) // 8)]:
            triangles, depth = mesh_picture(avatar, frames[view.frame], view)
            shown = triangles >= 0
            metres = max(float(np.median(depth[shown])), 0.1) if shown.any() else np.inf
            radius = int(np.ceil(1.2 * avatar.config.hair_offset_limit * view.intrinsics[0, 0] / metres))
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            grown = cv2.dilate(shown.astype(np.uint8), kernel) > 0
            stack.append(np.where((grown | (view.covered < 0.99))[:, :, None], np.nan, view.image))
        values = np.stack(stack)
        known = np.isfinite(values).any(axis=0).all(axis=2)
        picture = np.zeros(values.shape[1:], dtype=np.float32)
        picture[known] = np.nanmedian(values[:, known], axis=0)
        found[clip] = torch.from_numpy(_fill(picture, known))
    return found


def _fill(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Extend the known pixels smoothly over the rest: normalised blurs from narrow to wide."""
    import cv2

    if not known.any():
        return np.full_like(picture, 0.5)
    result, done = picture.copy(), known.copy()
    for sigma in (2.0, 6.0, 18.0, 54.0):
        weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), sigma)
        blurred = cv2.GaussianBlur(np.where(known[:, :, None], picture, 0).astype(np.float32), (0, 0), sigma)
        take = ~done & (weight > 0.05)
        result[take] = blurred[take] / weight[take][:, None]
        done |= take
    result[~done] = picture[known].mean(axis=0)
    return result


def gather_evidence(
    avatar: GaussianAvatar,
    frames: Sequence[CaptureFrame],
    views: Sequence[View],
    guides: Sequence[PosedGuide],
    backgrounds: Mapping[str, torch.Tensor],
    max_pictures: int = MAX_PICTURES,
) -> np.ndarray:
    """(N, CHANNELS) float32, in the order: per height colour, disagreement, hull; then seen; then shape."""
    count = avatar.config.gaussians
    chosen = [views[i] for i in np.unique(np.linspace(0, len(views) - 1, min(max_pictures, len(views))).astype(int))]
    heights = len(HEIGHTS)
    total, colour, square = np.zeros((heights, count)), np.zeros((heights, count, 3)), np.zeros((heights, count))
    hull, lowest, seen_by = np.zeros((heights, count)), np.ones((heights, count)), np.zeros((heights, count))
    surface_seen = np.zeros(count)
    rest_normal = avatar._rest_frames[:, :, 2:]
    for view in chosen:
        triangles, depth = mesh_picture(avatar, frames[view.frame], view)
        guide = guides[view.frame]
        normal = (guide.turn @ rest_normal)[:, :, 0].numpy()
        place = guide.centre.numpy()
        rotation, shift = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
        size = view.image.shape[0]
        difference = np.abs(view.image - backgrounds[view.clip].numpy()).max(axis=2)
        foreground = 1 - np.exp(-((difference / 0.08) ** 2))
        facing = np.zeros(count)
        for level, height in enumerate(HEIGHTS):
            inside = (place + height * normal) @ rotation.T + shift
            pixels = inside[:, :2] / np.maximum(inside[:, 2:], 1e-6) * np.diag(view.intrinsics)[:2]
            column, row = np.floor(pixels + view.intrinsics[:2, 2]).astype(int).T
            good = (column >= 0) & (row >= 0) & (column < size) & (row < size) & (inside[:, 2] > 0.05)
            column, row = np.where(good, column, 0), np.where(good, row, 0)
            good &= view.covered[row, column] > 0.99
            if level == 0:
                towards = -inside / np.linalg.norm(inside, axis=1, keepdims=True)
                visible = good & (triangles[row, column] >= 0) & (np.abs(depth[row, column] - inside[:, 2]) < 0.004)
                facing = np.where(visible, np.clip((normal @ rotation.T * towards).sum(axis=1), 0, None), 0.0)
                surface_seen += facing > 0
            pixel, shown = view.image[row, column], foreground[row, column]
            weight = facing * good
            total[level] += weight
            colour[level] += weight[:, None] * pixel
            square[level] += weight * (pixel**2).sum(axis=1)
            seen_by[level] += good
            hull[level] += np.where(good, shown, 0)
            lowest[level] = np.where(good, np.minimum(lowest[level], shown), lowest[level])
    safe = np.maximum(total, 1e-6)
    mean = colour / safe[:, :, None]
    spread = np.sqrt(np.clip(square / safe - (mean**2).sum(axis=2), 0, None))
    mean[total < 0.05] = 0.5
    spread[total < 0.05] = 0.0
    average = np.where(seen_by > 0, hull / np.maximum(seen_by, 1), 1.0)
    per_height = np.concatenate([mean, spread[:, :, None], lowest[:, :, None], average[:, :, None]], axis=2)
    shape = 20 * (avatar._rest_centre.numpy() - avatar.layout.centre)
    seen = np.minimum(surface_seen / max(0.15 * len(chosen), 1.0), 1.0)[:, None]
    return np.concatenate([per_height.transpose(1, 0, 2).reshape(count, -1), seen, shape], axis=1).astype(np.float32)


def surface_colours(avatar: GaussianAvatar, evidence: np.ndarray) -> np.ndarray:
    """(N, 3) mean colour of the surface itself; a place that no camera saw takes its nearest neighbour's."""
    return spread_to_unseen(avatar, evidence, evidence[:, :3])


def spread_to_unseen(
    avatar: GaussianAvatar, evidence: np.ndarray, colours: np.ndarray, least: float = 0.0
) -> np.ndarray:
    """Colours (N, 3) with those of places that no camera saw taken from their nearest neighbours that one did see.

    Args:
        least: how often a place must have been seen (`SEEN_CHANNEL`); more than that counts.
    """
    from scipy.spatial import cKDTree

    colours, seen = colours.copy(), evidence[:, SEEN_CHANNEL] > least
    if seen.any() and not seen.all():
        _, nearest = cKDTree(avatar.layout.centre[seen]).query(avatar.layout.centre[~seen])
        colours[~seen] = colours[seen][nearest]
    return colours
