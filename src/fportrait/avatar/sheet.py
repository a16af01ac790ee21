"""A contact sheet per identity: views across, expressions down, the truth beside what the avatar draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fportrait.avatar.captures import Capture
from fportrait.avatar.fitting import draw_view
from fportrait.avatar.model import GaussianAvatar
from fportrait.avatar.views import CaptureFrame

GAP, HEADER = 2, 14


@torch.no_grad()
def contact_sheet(capture: Capture, expressions: int = 5, cameras: int = 4) -> np.ndarray:
    """(H, W, 3) uint8: one row per expression, one pair (truth, avatar) per camera.

    Shown are the frames whose expressions differ most, among those that the fit never saw if there are any, and the
    camera that it never saw first.
    """
    names, kept = sorted({view.camera for view in capture.views}), capture.kept_camera
    if kept in names:
        names.remove(kept)
        names = [kept, *_spread(names, cameras - 1)]
    else:
        names = _spread(names, cameras)
    by_place = {(view.frame, view.camera): view for view in capture.views}
    candidates = sorted(capture.kept_frames) or list(range(len(capture.frames)))
    rows = []
    for frame in _different(capture.avatar, capture.frames, candidates, expressions):
        cells = []
        for name in names:
            view = by_place[frame, name]
            cells += [_bytes(view.image), _bytes(draw_view(capture, view).numpy())]
        rows.append(_row(cells))
    return np.concatenate([_header(names, kept, capture.views[0].image.shape[0]), *rows], axis=0)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _row(cells: list[np.ndarray]) -> np.ndarray:
    gap = np.full((len(cells[0]), GAP, 3), 255, np.uint8)
    wide = np.full((len(cells[0]), 3 * GAP, 3), 255, np.uint8)
    parts = [part for index, cell in enumerate(cells) for part in (cell, wide if index % 2 else gap)]
    return np.concatenate(
        [np.concatenate(parts, axis=1), np.full((GAP, sum(p.shape[1] for p in parts), 3), 255, np.uint8)]
    )


def _header(names: Sequence[str], kept: str | None, size: int) -> np.ndarray:
    import cv2

    strip = np.full((HEADER, len(names) * (2 * size + 4 * GAP), 3), 255, np.uint8)
    for index, name in enumerate(names):
        text = f"{name}{' (never seen)' if name == kept else ''}: truth, avatar"
        place = (index * (2 * size + 4 * GAP) + 2, HEADER - 4)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _spread(names: list[str], count: int) -> list[str]:
    if len(names) <= count:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]


def _different(
    avatar: GaussianAvatar, frames: Sequence[CaptureFrame], candidates: Sequence[int], count: int
) -> list[int]:
    """The candidates whose actions differ most from each other, beginning with the calmest face."""
    actions = np.stack([avatar.expression(avatar.check_code(frames[i].code)).actions.numpy() for i in candidates])
    chosen = [int(np.abs(actions).sum(axis=1).argmin())]
    distance = np.linalg.norm(actions - actions[chosen[0]], axis=1)
    for _ in range(min(count, len(candidates)) - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(actions - actions[chosen[-1]], axis=1))
    return [candidates[i] for i in chosen]
