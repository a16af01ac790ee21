"""One person's studio capture as fitting and the prior take it: checked, read, posed, with part of it kept aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fportrait.avatar.coverage import Coverage
from fportrait.avatar.evidence import backgrounds_of, gather_evidence
from fportrait.avatar.model import AvatarConfig, GaussianAvatar, PosedGuide
from fportrait.avatar.views import CaptureFrame, View, load_views
from fportrait.camera.cameras import camera_centre
from fportrait.capture.manifest import PHONE
from fportrait.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.body.model import BodyModel

MIN_VIEWS = 3
HEAD_RADIUS = 0.12  # metres; a camera nearer than this to the head's centre is inside the head


@dataclass
class Capture:
    """What a fit knows: `avatar` as yet unfitted, a guide per frame, a background (S, S, 3) per clip, and the camera
    and the frames that only the scores may see.
    """

    name: str
    avatar: GaussianAvatar
    frames: list[CaptureFrame]
    views: list[View]
    guides: list[PosedGuide]
    backgrounds: Mapping[str, torch.Tensor]
    kept_camera: str | None
    kept_frames: set[int]
    coverage: Coverage | None = None  # of phone clips: the angles that they show

    def group(self, which: str) -> list[View]:
        """The views of kept `frames`, of the kept `camera`, of `both` at once, or of neither (`fitted`)."""
        wanted = {"fitted": (False, False), "frames": (True, False), "camera": (False, True), "both": (True, True)}
        return [v for v in self.views if (v.frame in self.kept_frames, v.camera == self.kept_camera) == wanted[which]]

    def evidence(self) -> np.ndarray:
        """(N, CHANNELS): see `gather_evidence`; from nothing that is kept aside."""
        return gather_evidence(self.avatar, self.frames, self.group("fitted"), self.guides, self.backgrounds)


def read_capture(
    table: pd.DataFrame,
    shape: np.ndarray,
    body: BodyModel,
    config: AvatarConfig,
    size: int,
    max_frames: int,
    holdout_every: int = 0,
    holdout_camera: bool = False,
    margin: float = 1.0,
    root: str | Path = ".",
    read_video: Callable[[Path], np.ndarray] | None = None,
) -> Capture:
    """Read one identity's capture: a studio's, or phone clips of one camera in which the head turns.

    Args:
        table: that identity's rows of the annotation table (`tracks/frames.parquet`), synchronised cameras.
        shape (K,): its identity coefficients. body: the body model they belong to.
        size: side of the pictures. margin: see `load_views`. max_frames: frames read, spread evenly over the capture.
        holdout_every: every so many frames one is kept aside (0: none). holdout_camera: keep one camera aside too,
            when there are at least five.
        root: what the table's paths are relative to. read_video: reader to use instead of `video_io.read_video`.

    Raises:
        UserError: fewer than 3 cameras, or phone clips that cover less than `coverage.LEAST_TURN`; a camera inside the
            head; not one identity; a shape or a mesh that is not finite; see also `load_views`.
    """
    if read_video is None:
        from fportrait.capture import video_io

        read_video = video_io.read_video
    name = _check(table, np.asarray(shape))
    frames, views = load_views(table, size, max_frames, Path(root), read_video, margin)
    avatar = GaussianAvatar(shape, body, config)
    guides = _guides(avatar, frames, name)
    _check_cameras(avatar, frames, views, name)
    kept_camera, kept_frames = _held_out(frames, views, holdout_every, holdout_camera)
    backgrounds = backgrounds_of(avatar, frames, views)
    coverage = None
    if monocular(table):
        coverage = Coverage.of(frames, views, lambda frame: body.head_centre(avatar.shape, frame.pose))
        coverage.refuse_still(name)
    return Capture(name, avatar, frames, views, guides, backgrounds, kept_camera, kept_frames, coverage)


def monocular(table: pd.DataFrame) -> bool:
    """Whether the rows are of phone clips: one camera, before which the head turns."""
    return set(table["dataset"]) == {PHONE}


def _check(table: pd.DataFrame, shape: np.ndarray) -> str:
    identities = sorted(set(table["identity"]))
    if len(identities) != 1:
        raise UserError(
            f"{len(identities)} identities in one table", "the rows of one identity", "filter the table first"
        )
    name = identities[0]
    if not np.isfinite(shape).all():
        raise UserError(
            f"a body shape of {name} that is not finite", "a fitted body", f"track the capture of {name} again"
        )
    cameras = sorted(set(table["camera"]))
    if len(cameras) < MIN_VIEWS and not monocular(table):
        raise UserError(
            f"{len(cameras)} cameras in the capture of {name}",
            f"at least {MIN_VIEWS}",
            "leave this capture out, or add cameras",
        )
    return name


def _guides(avatar: GaussianAvatar, frames: Sequence[CaptureFrame], name: str) -> list[PosedGuide]:
    guides = []
    for frame in frames:
        pose = frame.pose
        if not all(np.isfinite(part).all() for part in (pose.body_rotation, pose.body_translation, pose.head_rotation)):
            raise UserError(
                f"a mesh of {name} that is not finite, at frame {frame.number} of {frame.segment}",
                "a tracked pose",
                f"track the capture of {name} again, or leave that segment out",
            )
        guides.append(avatar.guide(pose))
    return guides


def _check_cameras(avatar: GaussianAvatar, frames: Sequence[CaptureFrame], views: Sequence[View], name: str) -> None:
    centres = [avatar.body.head_centre(avatar.shape, frame.pose) for frame in frames]
    for view in views:
        distance = float(np.linalg.norm(camera_centre(view.world_to_camera) - centres[view.frame]))
        if not distance >= HEAD_RADIUS:
            raise UserError(
                f"camera {view.camera} of {name} {distance:.3f} m from the centre of the head",
                f"cameras at least {HEAD_RADIUS} m away",
                "check the units of the calibration (metres) and the tracked pose",
            )


def _held_out(
    frames: Sequence[CaptureFrame], views: Sequence[View], holdout_every: int, holdout_camera: bool
) -> tuple[str | None, set[int]]:
    """The camera nearest to the centre of all, and frames spread over the capture."""
    kept: set[int] = set()
    if holdout_every > 0 and len(frames) >= 2 * holdout_every:
        kept = set(range(holdout_every // 2, len(frames), holdout_every))
    places: dict[str, np.ndarray] = {}
    for view in views:
        places.setdefault(view.camera, camera_centre(view.world_to_camera))
    if not holdout_camera or len(places) < 5:
        return None, kept
    centre = np.mean(list(places.values()), axis=0)
    # the second nearest to the centre: the nearest is often the front view, which no fit should miss
    return sorted(places, key=lambda camera: float(np.linalg.norm(places[camera] - centre)))[1], kept
