"""Fit one person's Gaussians to a tracked studio capture.

Order of work: read the moments and their pictures; colour each Gaussian with the median of the pixels in which the mesh
shows it; take each camera's background as the median of what the mesh never covers; read first actions off the
landmarks; then Adam over random pictures, with L1 and structural similarity. One camera and some moments are kept out
of all of this, and give the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from fportrait.avatar.actions import actions_from_landmarks, ridge
from fportrait.avatar.model import AvatarConfig, GaussianAvatar, PosedGuide, avatar_config
from fportrait.avatar.views import Moment, View, load_views
from fportrait.errors import UserError, refuse_unknown_keys

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.body.model import BodyModel

MIN_VIEWS = 3
HEAD_RADIUS = 0.12  # metres; a camera nearer than this to the head's centre is inside the head
BODY_PARTS = ("torso", "neck")


@dataclass(frozen=True)
class FitConfig:
    """How an avatar is fitted.

    size: side of the pictures it is fitted to. steps, batch: Adam steps and pictures per step. max_moments: moments
    read from the capture. holdout_every: every so many moments one is kept for scoring (0: none). holdout_camera: keep
    one camera too, when there are at least five.
    """

    avatar: AvatarConfig = field(default_factory=AvatarConfig)
    size: int = 128
    steps: int = 350
    batch: int = 3
    max_moments: int = 256
    holdout_every: int = 8
    holdout_camera: bool = True
    similarity_weight: float = 0.2
    code_penalty: float = 0.05


RATES = {  # learning rates per parameter; colours and places of a few thousand Gaussians settle at different speeds
    "offset": 0.02,
    "log_scale": 0.01,
    "rotation": 0.005,
    "opacity": 0.02,
    "colour": 0.01,
    "view_colour": 0.002,
    "shading": 0.005,
    "action_weight": 0.0005,
    "action_bias": 0.002,
    "latent_weight": 0.002,
    "correction": 0.004,
}


def fit_config(values: Mapping[str, Any]) -> FitConfig:
    """A `FitConfig` from nested mappings; unknown keys are refused."""
    values = dict(values)
    refuse_unknown_keys(values, FitConfig.__dataclass_fields__, "the parameters of fit_avatars")
    return FitConfig(**{**values, "avatar": avatar_config(values.get("avatar", {}))})


def fit_avatar(
    frames: pd.DataFrame,
    shape: np.ndarray,
    body: BodyModel,
    config: FitConfig | None = None,
    seed: int = 0,
    root: str | Path = ".",
    read_video: Callable[[Path], np.ndarray] | None = None,
    log: Callable[[str], None] | None = None,
) -> GaussianAvatar:
    """Fit one identity.

    Args:
        frames: that identity's rows of the annotation table (`tracks/frames.parquet`), synchronised cameras.
        shape (K,): its identity coefficients. body: the body model they belong to.
        root: what the table's paths are relative to. read_video: reader to use instead of `video_io.read_video`.
        log: called with a line of progress now and then.

    Returns:
        the avatar; `avatar.scores` holds PSNR in decibels inside the head, on the views it was fitted to
        (`psnr_fitted`), on moments it never saw (`psnr_moments`), on a camera it never saw (`psnr_camera`), and of both
        at once (`psnr_both`); seconds, steps, and `stopped` (why the fit ended early, or null).

    Raises:
        UserError: fewer than 3 cameras; a camera inside the head; not one identity; a shape that is not finite.
    """
    started = time.perf_counter()
    config = config or FitConfig()
    if read_video is None:
        from fportrait.capture import video_io

        read_video = video_io.read_video
    name = _check(frames, np.asarray(shape), config)
    moments, views = load_views(frames, config.size, config.max_moments, Path(root), read_video)
    torch.manual_seed(seed)
    avatar = GaussianAvatar(shape, body, config.avatar)
    _check_cameras(avatar, moments, views, name)
    guides = [avatar.guide(moment.pose) for moment in moments]
    kept_camera, kept_moments = _held_out(moments, views, config)
    training = [view for view in views if view.camera != kept_camera and view.moment not in kept_moments]

    masks = {id(view): _head_mask(avatar, moments[view.moment], view) for view in views}
    backgrounds = _backgrounds(avatar, moments, views)
    _initialise_colours(avatar, moments, training, guides)
    _initialise_expression(avatar, moments, training, kept_moments, config)
    with torch.no_grad():
        avatar.background.copy_(torch.stack(list(backgrounds.values())).mean(dim=(0, 1, 2)))
    stopped = _optimise(avatar, moments, guides, training, backgrounds, masks, config, seed, name, log)

    scores: dict[str, Any] = {"steps": config.steps, "stopped": stopped, "kept_camera": kept_camera}
    groups: dict[str, list[View]] = {"fitted": training[:: max(1, len(training) // 24)]}
    groups["moments"] = [v for v in views if v.moment in kept_moments and v.camera != kept_camera]
    groups["camera"] = [v for v in views if v.moment not in kept_moments and v.camera == kept_camera]
    groups["both"] = [v for v in views if v.moment in kept_moments and v.camera == kept_camera]
    for group, members in groups.items():
        scores[f"psnr_{group}"] = _head_psnr(avatar, moments, guides, members, backgrounds, masks)
    scores["seconds"] = round(time.perf_counter() - started, 2)
    avatar.scores = scores
    return avatar


def _check(frames: pd.DataFrame, shape: np.ndarray, config: FitConfig) -> str:
    identities = sorted(set(frames["identity"]))
    if len(identities) != 1:
        raise UserError(
            f"{len(identities)} identities in one table", "the rows of one identity", "filter the table first"
        )
    name = identities[0]
    if not np.isfinite(shape).all():
        raise UserError(
            f"a body shape of {name} that is not finite", "a fitted body", f"track the capture of {name} again"
        )
    cameras = sorted(set(frames["camera"]))
    if len(cameras) < MIN_VIEWS:
        raise UserError(
            f"{len(cameras)} cameras in the capture of {name}",
            f"at least {MIN_VIEWS}",
            "leave this capture out, or add cameras",
        )
    if config.steps < 1 or config.batch < 1 or config.size < 16:
        raise UserError(
            f"steps {config.steps}, batch {config.batch}, size {config.size}",
            "at least 1, 1 and 16",
            "mend the parameters",
        )
    return name


def _check_cameras(avatar: GaussianAvatar, moments: Sequence[Moment], views: Sequence[View], name: str) -> None:
    centres = [avatar.body.head_centre(avatar.shape, moment.pose) for moment in moments]
    for view in views:
        eye = -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3]
        distance = float(np.linalg.norm(eye - centres[view.moment]))
        if not distance >= HEAD_RADIUS:
            raise UserError(
                f"camera {view.camera} of {name} {distance:.3f} m from the centre of the head",
                f"cameras at least {HEAD_RADIUS} m away",
                "check the units of the calibration (metres) and the tracked pose",
            )


def _held_out(moments: Sequence[Moment], views: Sequence[View], config: FitConfig) -> tuple[str | None, set[int]]:
    """The camera nearest to the middle of all, and moments spread over the capture."""
    kept: set[int] = set()
    if config.holdout_every > 0 and len(moments) >= 2 * config.holdout_every:
        kept = set(range(config.holdout_every // 2, len(moments), config.holdout_every))
    places: dict[str, np.ndarray] = {}
    for view in views:
        places.setdefault(view.camera, -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3])
    if not config.holdout_camera or len(places) < 5:
        return None, kept
    middle = np.mean(list(places.values()), axis=0)
    # the second nearest to the middle: the nearest is often the front view, which no fit should miss
    return sorted(places, key=lambda camera: float(np.linalg.norm(places[camera] - middle)))[1], kept


def _mesh_picture(avatar: GaussianAvatar, moment: Moment, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Which face of the mesh each pixel shows (-1: none), and at what depth."""
    from fportrait.body.rasterizer import rasterize

    vertices = np.asarray(avatar.body.vertices(avatar.shape, None, moment.pose))
    inside = vertices @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
    size = view.image.shape[0]
    triangles, _, depth = rasterize(inside, avatar.body.faces, view.intrinsics, size, size)
    return triangles, depth


def _head_mask(avatar: GaussianAvatar, moment: Moment, view: View) -> np.ndarray:
    """(S, S) bool: pixels in which the guide mesh shows the head."""
    triangles, _ = _mesh_picture(avatar, moment, view)
    body = avatar.body
    head = ~np.isin(np.asarray(body.part_names)[np.asarray(body.part)[body.faces[:, 0]]], BODY_PARTS)
    return (triangles >= 0) & head[np.maximum(triangles, 0)]


def _backgrounds(avatar: GaussianAvatar, moments: Sequence[Moment], views: Sequence[View]) -> dict[str, torch.Tensor]:
    """Per clip (S, S, 3): the median of each pixel while the mesh, grown by the hair's reach, does not cover it.

    What is always covered is filled smoothly from what is not.
    """
    import cv2

    by_clip: dict[str, list[View]] = {}
    for view in views:
        by_clip.setdefault(view.clip, []).append(view)
    found = {}
    for clip, members in by_clip.items():
        chosen = members[:: max(1, len(members) // 8)]
        stack = []
        for view in chosen:
            triangles, depth = _mesh_picture(avatar, moments[view.moment], view)
            reach = (
                1.2
                * avatar.config.hair_offset_limit
                * view.intrinsics[0, 0]
                / max(float(np.median(depth[triangles >= 0])), 0.1)
            )
            radius = int(np.ceil(reach)) if (triangles >= 0).any() else 0
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            grown = cv2.dilate((triangles >= 0).astype(np.uint8), kernel) > 0
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


def _initialise_colours(
    avatar: GaussianAvatar, moments: Sequence[Moment], views: Sequence[View], guides: Sequence[PosedGuide]
) -> None:
    """Median colour of each Gaussian over the pictures that show it; unseen ones take a neighbour's."""
    from scipy.spatial import cKDTree

    chosen = views[:: max(1, len(views) // 48)]
    samples = np.full((len(chosen), avatar.config.gaussians, 3), np.nan, dtype=np.float32)
    for index, view in enumerate(chosen):
        triangles, depth = _mesh_picture(avatar, moments[view.moment], view)
        centre = guides[view.moment].centre.numpy()
        inside = centre @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
        pixels = inside[:, :2] / inside[:, 2:] * np.diag(view.intrinsics)[:2] + view.intrinsics[:2, 2]
        column, row = np.floor(pixels).astype(int).T
        size = view.image.shape[0]
        good = (column >= 0) & (row >= 0) & (column < size) & (row < size) & (inside[:, 2] > 0.05)
        column, row = np.where(good, column, 0), np.where(good, row, 0)
        good &= (triangles[row, column] >= 0) & (np.abs(depth[row, column] - inside[:, 2]) < 0.004)
        good &= view.covered[row, column] > 0.99
        samples[index, good] = view.image[row[good], column[good]]
    seen = np.asarray(np.isfinite(samples[:, :, 0]).any(axis=0))
    if not seen.any():
        return
    colours = np.zeros((avatar.config.gaussians, 3), dtype=np.float32)
    colours[seen] = np.nanmedian(samples[:, seen], axis=0)
    places = avatar._rest_centre.numpy()
    _, nearest = cKDTree(places[seen]).query(places[~seen])
    colours[~seen] = colours[seen][nearest]
    with torch.no_grad():
        avatar.colour.copy_(torch.from_numpy(colours))


def _initialise_expression(
    avatar: GaussianAvatar, moments: Sequence[Moment], views: Sequence[View], kept: set[int], config: FitConfig
) -> None:
    """Standardise the codes and start the decoder from the actions that the landmarks show."""
    strengths = actions_from_landmarks(avatar.body, avatar.shape, moments, views)
    usable = [index for index in range(len(moments)) if index not in kept]
    codes = np.stack([moments[index].code for index in usable]).astype(np.float64)
    mean, scale = codes.mean(axis=0), codes.std(axis=0)
    scale = np.maximum(scale, 0.1 * max(float(scale.mean()), 1e-6))
    weights, intercept = ridge((codes - mean) / scale, strengths[usable], config.code_penalty)
    with torch.no_grad():
        avatar.code_mean.copy_(torch.from_numpy(mean))
        avatar.code_scale.copy_(torch.from_numpy(scale))
        avatar.action_weight.copy_(torch.from_numpy(weights))
        avatar.action_bias.copy_(torch.from_numpy(intercept))


def structural_similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Map of SSIM over 7×7 boxes of two (H, W, 3) pictures: (1, 3, H-6, W-6). Cheap, for a loss; scores are computed
    elsewhere.
    """
    x, y = (picture.permute(2, 0, 1)[None] for picture in (one, other))

    def box(value: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(value, 7, stride=1)

    mean_x, mean_y = box(x), box(y)
    variance_x, variance_y = box(x * x) - mean_x**2, box(y * y) - mean_y**2
    covariance = box(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    return top / ((mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2))


def _optimise(
    avatar: GaussianAvatar,
    moments: Sequence[Moment],
    guides: Sequence[PosedGuide],
    views: Sequence[View],
    backgrounds: Mapping[str, torch.Tensor],
    masks: Mapping[int, np.ndarray],
    config: FitConfig,
    seed: int,
    name: str,
    log: Callable[[str], None] | None,
) -> str | None:
    """Adam over random pictures; returns why it stopped early, or None. The avatar is left in its last good state."""
    rng = np.random.default_rng(seed)
    groups = [{"params": [parameter], "lr": RATES[key]} for key, parameter in avatar.named_parameters()]
    optimizer = torch.optim.Adam(groups, eps=1e-10, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / config.steps))
    codes = [torch.from_numpy(moment.code) for moment in moments]
    pixels = {id(view): torch.from_numpy(view.image) for view in views}
    weights = {
        id(v): torch.from_numpy((v.covered * (0.5 + masks[id(v)])).astype(np.float32))[:, :, None] for v in views
    }
    order: list[int] = []
    good = {key: value.clone() for key, value in avatar.state_dict().items()}
    for step in range(config.steps):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(config.batch):
            order = order or list(rng.permutation(len(views)))
            view = views[order.pop()]
            size = config.size
            truth, weight = pixels[id(view)], weights[id(view)]
            try:
                colour, _ = avatar.picture(
                    codes[view.moment], guides[view.moment], view.world_to_camera, view.intrinsics, size, size,
                    backgrounds[view.clip],
                )  # fmt: skip
            except UserError as error:
                avatar.load_state_dict(good)
                return f"{name}, step {step}: {error.found}; kept the last good state"
            loss = (weight * (colour - truth).abs()).mean()
            if config.similarity_weight:
                gap = (1 - structural_similarity(colour, truth)) * weight[3:-3, 3:-3].permute(2, 0, 1)[None]
                loss = loss + config.similarity_weight * gap.mean()
            (loss / config.batch).backward()
            total += float(loss.detach()) / config.batch
        penalty = (
            1e-3 * (avatar.offset**2).mean()
            + 0.02 * (avatar.view_colour**2).mean()
            + 1e-3 * (avatar.log_scale**2).mean()
        )
        (penalty + 2e-3 * (1 - torch.sigmoid(avatar.opacity)).mean() + 1e-2 * (avatar.correction**2).mean()).backward()
        finite = all(bool(torch.isfinite(p.grad).all()) for p in avatar.parameters() if p.grad is not None)
        if not np.isfinite(total) or not finite:
            avatar.load_state_dict(good)
            return f"{name}, step {step}: the loss or a gradient is not finite; kept the last good state"
        if step % 25 == 0:
            good = {key: value.clone() for key, value in avatar.state_dict().items()}
            if log:
                log(f"{name} step {step}/{config.steps} loss {total:.4f}")
        optimizer.step()
        schedule.step()
    return None


@torch.no_grad()
def _head_psnr(
    avatar: GaussianAvatar,
    moments: Sequence[Moment],
    guides: Sequence[PosedGuide],
    views: Sequence[View],
    backgrounds: Mapping[str, torch.Tensor],
    masks: Mapping[int, np.ndarray],
) -> float | None:
    """Mean over views of the PSNR of 8-bit pictures inside the head, in decibels; None without views."""
    values = []
    for view in views:
        inside = masks[id(view)] & (view.covered > 0.99)
        if not inside.any():
            continue
        size = view.image.shape[0]
        code = torch.from_numpy(moments[view.moment].code)
        colour, _ = avatar.picture(
            code, guides[view.moment], view.world_to_camera, view.intrinsics, size, size, backgrounds[view.clip]
        )
        drawn = np.round(colour.clamp(0, 1).numpy() * 255) / 255
        error = float(((drawn - view.image)[inside] ** 2).mean())
        values.append(-10 * np.log10(max(error, 1e-10)))
    return round(float(np.mean(values)), 2) if values else None
