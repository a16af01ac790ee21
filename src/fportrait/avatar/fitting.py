"""Fit one person's Gaussians to a tracked studio capture.

Order of work: read the frames and their pictures; take each camera's background as the median of what the mesh never
covers; gather the evidence; let the prior predict the avatar from it (without a prior: the mesh, coloured by the
evidence); find where the torso is (`torso`); read actions off the landmarks; then Adam over random pictures, with L1
and structural similarity, held to where it began: what no camera saw stays as the prior has it. One camera and some
frames are kept out of all of this, and give the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fportrait.avatar.captures import Capture, read_capture
from fportrait.avatar.evidence import foreground_mask, head_mask, spread_to_unseen, surface_colours
from fportrait.avatar.expression import actions_from_landmarks, ridge
from fportrait.avatar.losses import picture_loss
from fportrait.avatar.model import AvatarConfig, GaussianAvatar, PosedGuide, avatar_config
from fportrait.avatar.prior import AvatarPrior
from fportrait.avatar.splat import splatting_device
from fportrait.avatar.torso import register_torso
from fportrait.avatar.views import View
from fportrait.errors import UserError
from fportrait.parameters import settings_from

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.body.model import BodyModel

GRAZED = 0.2  # of phone clips: what is seen less often than this (`evidence.SEEN_CHANNEL`) is seen at the rim alone


@dataclass(frozen=True)
class FitConfig:
    """How an avatar is fitted.

    size, margin: side of the pictures it is fitted to, and how many times wider than the model's crop they are.
    steps, batch: Adam steps and pictures per step. max_frames: frames read from the capture. holdout_every: every so
    many frames one is kept for scoring (0: none). holdout_camera: keep one camera too, when there are at least five.
    code_penalty: of the first map from codes to actions. anchor: how firmly the fit is held to where the prior put it.
    register_torso: find the torso in the pictures first (`torso`). device: `cpu`, or `cuda` with gsplat.
    """

    avatar: AvatarConfig = field(default_factory=AvatarConfig)
    size: int = 128
    steps: int = 350
    batch: int = 3
    max_frames: int = 256
    holdout_every: int = 8
    holdout_camera: bool = True
    similarity_weight: float = 0.2
    code_penalty: float = 0.05
    anchor: float = 1.0
    margin: float = 1.2
    register_torso: bool = True
    device: str = "cpu"


ANCHORS = {  # weight of the mean squared distance from where the fit began, per map
    "offset": 3e-3,
    "log_scale": 3e-3,
    "opacity": 1e-4,
    "colour": 1e-3,
    "view_colour": 0.02,
    "correction": 1e-2,
    "latent_code": 1e-3,
}
GRADIENT_FLOOR = 0.1  # in pixels: gradients of the mean over size² pixels scale with 1 / size²
RATES = {  # learning rates per parameter; colours and places of a few thousand Gaussians settle at different speeds
    "offset": 0.02,
    "log_scale": 0.01,
    "rotation": 0.005,
    "opacity": 0.02,
    "colour": 0.01,
    "view_colour": 0.002,
    "shading": 0.005,
    "shape_change": 0.03,
    "action_weight": 0.0005,
    "action_bias": 0.002,
    "latent_actions": 0.002,
    "latent_code": 0.002,
    "correction": 0.004,
}


def fit_config(values: Mapping[str, Any]) -> FitConfig:
    """A `FitConfig` from nested mappings; unknown keys are refused."""
    nested = {**values, "avatar": avatar_config(values.get("avatar", {}))}
    config = settings_from(FitConfig, nested, "the parameters of fit_avatars")
    if config.steps < 1 or config.batch < 1 or config.size < 16:
        raise UserError(
            f"steps {config.steps}, batch {config.batch}, size {config.size}",
            "at least 1, 1 and 16",
            "mend the parameters",
        )
    return config


def fit_avatar(
    table: pd.DataFrame,
    shape: np.ndarray,
    body: BodyModel,
    config: FitConfig | None = None,
    seed: int = 0,
    root: str | Path = ".",
    read_video: Callable[[Path], np.ndarray] | None = None,
    log: Callable[[str], None] | None = None,
    prior: AvatarPrior | None = None,
) -> GaussianAvatar:
    """Fit one identity.

    Args:
        log: called with a line of progress now and then. prior: where to start from; without one, the mesh. The others
            are those of `read_capture`.

    Returns:
        the avatar; its `scores` are those of `fit_capture`.

    Raises:
        UserError: see `read_capture` and `fit_config`.
    """
    config = config or FitConfig()
    capture = read_capture(
        table,
        shape,
        body,
        config.avatar,
        config.size,
        config.max_frames,
        config.holdout_every,
        config.holdout_camera,
        config.margin,
        root,
        read_video,
    )
    return fit_capture(capture, config, seed, prior, log)


def fit_capture(
    capture: Capture,
    config: FitConfig,
    seed: int = 0,
    prior: AvatarPrior | None = None,
    log: Callable[[str], None] | None = None,
) -> GaussianAvatar:
    """Fit `capture.avatar`, and return it.

    Its `scores` hold PSNR in decibels inside the foreground (`foreground_mask`), on the views it was fitted to
    (`psnr_fitted`), on frames it never saw (`psnr_frames`), on a camera it never saw (`psnr_camera`), and of both at
    once (`psnr_both`; of the head alone, `psnr_both_head`; before the first step, as the prior has it,
    `psnr_both_before`); `torso` (what `register_torso` found); seconds, steps, and `stopped` (why the fit ended early,
    or null); of phone clips `coverage`, the angles that they show.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    avatar = capture.avatar
    evidence = capture.evidence()
    if prior is None:
        with torch.no_grad():
            avatar.colour.copy_(torch.from_numpy(surface_colours(avatar, evidence)))
    else:
        prior.apply_to(avatar, evidence)
        if (
            capture.coverage is not None
        ):  # the prior knows people who were seen from all around: it leaves the rest grey
            with torch.no_grad():
                filled = spread_to_unseen(avatar, evidence, avatar.colour.numpy(force=True), GRAZED)
                avatar.colour.copy_(torch.from_numpy(filled))
    registered = register_torso(capture) if config.register_torso else None
    _initialise_expression(capture, config)
    with torch.no_grad():
        avatar.background.copy_(torch.stack(list(capture.backgrounds.values())).mean(dim=(0, 1, 2)))
    heads = {id(view): head_mask(avatar, capture.frames[view.frame], view) for view in capture.views}
    masks = {id(view): heads[id(view)] | foreground_mask(capture, view) for view in capture.views}
    before = mean_psnr(capture, capture.group("both"), masks)
    stopped = _optimise(capture, heads, config, seed, log)

    scores: dict[str, Any] = {"steps": config.steps, "stopped": stopped, "kept_camera": capture.kept_camera}
    scores["psnr_both_before"] = before
    scores["torso"] = registered
    for group in ("fitted", "frames", "camera", "both"):
        members = capture.group(group)
        if group == "fitted":
            members = members[:: max(1, len(members) // 24)]
        scores[f"psnr_{group}"] = mean_psnr(capture, members, masks)
    if capture.coverage is not None:
        scores["coverage"] = capture.coverage.as_dict()
    scores["psnr_both_head"] = mean_psnr(capture, capture.group("both"), heads)
    scores["seconds"] = round(time.perf_counter() - started, 2)
    avatar.scores = scores
    return avatar


def _initialise_expression(capture: Capture, config: FitConfig) -> None:
    """Standardise the codes and start the decoder from the actions that the landmarks show."""
    avatar, frames = capture.avatar, capture.frames
    strengths = actions_from_landmarks(avatar.body, avatar.shape, frames, capture.group("fitted"))
    usable = [index for index in range(len(frames)) if index not in capture.kept_frames]
    codes = np.stack([frames[index].code for index in usable]).astype(np.float64)
    mean, scale = codes.mean(axis=0), codes.std(axis=0)
    scale = np.maximum(scale, 0.1 * max(float(scale.mean()), 1e-6))
    weights, intercept = ridge((codes - mean) / scale, strengths[usable], config.code_penalty)
    with torch.no_grad():
        avatar.code_mean.copy_(torch.from_numpy(mean))
        avatar.code_scale.copy_(torch.from_numpy(scale))
        avatar.action_weight.copy_(torch.from_numpy(weights))
        avatar.action_bias.copy_(torch.from_numpy(intercept))


def _optimise(
    capture: Capture,
    masks: Mapping[int, np.ndarray],
    config: FitConfig,
    seed: int,
    log: Callable[[str], None] | None,
) -> str | None:
    """Adam over random pictures; returns why it stopped early, or None. The avatar is left in its last good state."""
    device = splatting_device(config.device)
    avatar, views, name = capture.avatar.to(device), capture.group("fitted"), capture.name
    rng = np.random.default_rng(seed)
    groups = [{"params": [parameter], "lr": RATES[key]} for key, parameter in avatar.named_parameters()]
    # Adam makes full steps of gradients however small, so that light leaking through the head would repaint its far
    # side; a floor at some hundredths of what a well-seen Gaussian gets (a few pixels' share of the mean) stops that.
    optimizer = torch.optim.Adam(groups, eps=GRADIENT_FLOOR / config.size**2, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / config.steps))
    codes = [torch.from_numpy(frame.code).to(device) for frame in capture.frames]
    guides = [PosedGuide(*(part.to(device) for part in guide)) for guide in capture.guides]
    backgrounds = {clip: picture.to(device) for clip, picture in capture.backgrounds.items()}
    tracked = torch.tensor(avatar.shape).float().to(device)
    order: list[int] = []
    good = {key: value.clone() for key, value in avatar.state_dict().items()}
    start = {key: good[key] for key in ANCHORS}
    stopped = None
    for step in range(config.steps):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        try:
            for _ in range(config.batch):
                order = order or list(rng.permutation(len(views)))
                view = views[order.pop()]
                truth = torch.from_numpy(view.image).to(device)
                weight = torch.from_numpy((view.covered * (0.5 + masks[id(view)])).astype(np.float32)).to(device)
                colour, _ = avatar(
                    avatar.expression(codes[view.frame]),
                    guides[view.frame],
                    view.world_to_camera,
                    view.intrinsics,
                    config.size,
                    config.size,
                    backgrounds[view.clip],
                )
                loss = picture_loss(colour, truth, weight[:, :, None], config.similarity_weight)
                (loss / config.batch).backward()
                total += float(loss.detach()) / config.batch
        except UserError as error:  # Gaussians that are not finite
            stopped = f"{name}, step {step}: {error.found}; kept the last good state"
            break
        _penalty(avatar, start, tracked, config.anchor).backward()
        finite = all(bool(torch.isfinite(p.grad).all()) for p in avatar.parameters() if p.grad is not None)
        if not np.isfinite(total) or not finite:
            stopped = f"{name}, step {step}: the loss or a gradient is not finite; kept the last good state"
            break
        if step % 25 == 0:
            good = {key: value.clone() for key, value in avatar.state_dict().items()}
            if log:
                log(f"{name} step {step}/{config.steps} loss {total:.4f}")
        optimizer.step()
        schedule.step()
    if stopped:
        avatar.load_state_dict(good)
    avatar.to("cpu")
    return stopped


def _penalty(
    avatar: GaussianAvatar, start: Mapping[str, torch.Tensor], tracked: torch.Tensor, anchor: float
) -> torch.Tensor:
    """What holds the fit to its start and to plausible shapes, and asks Gaussians to be opaque."""
    held = sum(
        (weight * ((getattr(avatar, key) - start[key]) ** 2).mean() for key, weight in ANCHORS.items()),
        torch.zeros((), device=tracked.device),
    )
    shape = ((tracked + avatar.shape_change) ** 2).mean() + (avatar.shape_change**2).mean()
    return anchor * held + 1e-4 * shape + 2e-3 * (1 - torch.sigmoid(avatar.opacity)).mean()


@torch.no_grad()
def mean_psnr(capture: Capture, views: Sequence[View], masks: Mapping[int, np.ndarray]) -> float | None:
    """Mean over views of the PSNR of 8-bit pictures inside masks, in decibels; None without views."""
    values = []
    for view in views:
        inside = masks[id(view)] & (view.covered > 0.99)
        if not inside.any():
            continue
        colour = draw_view(capture, view)
        drawn = np.round(colour.clamp(0, 1).numpy() * 255) / 255
        error = float(((drawn - view.image)[inside] ** 2).mean())
        values.append(-10 * np.log10(max(error, 1e-10)))
    return round(float(np.mean(values)), 2) if values else None


@torch.no_grad()
def draw_view(capture: Capture, view: View) -> torch.Tensor:
    """(S, S, 3) float32, unclipped: the avatar as it is now, where the view's picture was taken."""
    size = view.image.shape[0]
    colour, _ = capture.avatar(
        capture.avatar.expression(torch.from_numpy(capture.frames[view.frame].code)),
        capture.guides[view.frame],
        view.world_to_camera,
        view.intrinsics,
        size,
        size,
        capture.backgrounds[view.clip],
    )
    return colour
