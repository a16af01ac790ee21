"""Where the torso is: what tracking by the face leaves open, found before an avatar is fitted.

Landmarks lie on the face. Tracking knows how the head lies in the world, leaves the torso upright and unturned, and
gives it the shape of an average body without clothes, centimetres from the garment that the cameras see. Fitting
colours to such a surface blurs it in the pictures at hand and displaces it in every other view; gradients through a
rasterizer do not get out of there, because colours adapt faster than places.

So the surface is registered first: one point of it should have one colour in all pictures that show it (photo-
consistency, as in multi-view stereo). Over points of torso and neck, their mean colours c over pictures, weights w of
how squarely and whether a picture shows them,

    min  sum_point,picture  w (|I_picture(project(x)) - c|² + 0.02²)^½  +  penalties,
         x = move_t(place + height · normal)

`height` is a smooth field over the surface; `move_t` a small rigid motion about the joint of the neck, piecewise linear
in time, weighted by how much of a point hangs on the root bone. From blurred pictures to sharp ones, by Adam.

What is constant of the motion goes into the places of the Gaussians together with the heights, and the pictures' mean
colours into their colours, so that the avatar posed by tracked poses has its torso where it mostly was. What remains,
the sway, belongs to the capture: it moves the guides of its frames and is not saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fportrait.avatar.evidence import mesh_picture
from fportrait.avatar.model import BODY_PARTS, Expression, GaussianAvatar, PosedGuide

if TYPE_CHECKING:
    from fportrait.avatar.captures import Capture
    from fportrait.avatar.views import CaptureFrame, View

KNOT_FRAMES = 10  # between knots of the motion: 0.4 s at 25 frames per second; people sway slowly
PICTURES, POINTS, SIZE = 88, 6000, 192  # what is looked at, at most, and the pictures' side
BLURS = (3.0, 1.5, 0.3)  # pixels
STEPS = 60  # per blur
ANCHORS, FIELD_RANGE = 80, 0.02  # of the heights: how many places, and how far each reaches, metres
RATES = {"height": 0.0015, "turn": 0.002, "shift": 0.0005}  # metres, radians, metres
PENALTIES = {"height": 10.0, "turn": 0.1, "shift": 1.0}  # of mean squares: what no picture asks for stays where it was
ROBUST = 0.02  # of a colour's distance: beyond it (a strand of hair, the chin) errors count linearly
TOLERANCE = 0.006  # metres between a point and the mesh in front of the camera
REACH = 0.95  # of the limit of an offset that a Gaussian may start at


@dataclass
class _Points:
    """Points of the surface (n,) of the layout, and per picture which are seen: weight (P, n)."""

    index: torch.Tensor
    weight: torch.Tensor


class TorsoMotion(torch.nn.Module):
    """Rotation vectors and shifts at knots in time, for frames of a capture."""

    _weights: torch.Tensor
    _joints: torch.Tensor

    def __init__(self, avatar: GaussianAvatar, frames: Sequence[CaptureFrame]):
        super().__init__()
        joint = np.asarray(avatar.body.rest_joints(avatar.shape), dtype=np.float64)[1]
        joints = np.stack([m.pose.body_rotation @ joint + m.pose.body_translation for m in frames])
        self.register_buffer("_weights", torch.from_numpy(_interpolation(frames)).float())
        self.register_buffer("_joints", torch.from_numpy(joints).float())
        self.turn = torch.nn.Parameter(torch.zeros(self._weights.shape[1], 3))
        self.shift = torch.nn.Parameter(torch.zeros(self._weights.shape[1], 3))

    def forward(self, frame: int, places: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """(N, 3) world places at a frame, moved by `share` (N, 1); linear in the rotation, which is a few degrees."""
        vector, shift = self._weights[frame] @ self.turn, self._weights[frame] @ self.shift
        around = places - self._joints[frame]
        return places + share * (torch.linalg.cross(vector.expand_as(around), around) + shift)

    @torch.no_grad()
    def guide(self, frame: int, guide: PosedGuide, share: torch.Tensor) -> PosedGuide:
        """The guide of a frame, moved."""
        vector = self._weights[frame] @ self.turn
        sideways = torch.linalg.cross(vector.view(1, 3, 1).expand_as(guide.turn), guide.turn, dim=1)
        return PosedGuide(guide.turn + share[:, :, None] * sideways, self(frame, guide.centre, share))


def _interpolation(frames: Sequence[CaptureFrame]) -> np.ndarray:
    """(M, K) weights of the knots around each frame, linear within its segment; rows sum to 1."""
    numbers = np.array([frame.number for frame in frames], dtype=np.float64)
    columns = []
    for segment in sorted({frame.segment for frame in frames}):
        inside = np.array([frame.segment == segment for frame in frames])
        first, last = numbers[inside].min(), numbers[inside].max()
        knots = np.linspace(first, last, max(round((last - first) / KNOT_FRAMES), 0) + 1)
        spacing = max((last - first) / max(len(knots) - 1, 1), 1.0)
        near = np.clip(1 - np.abs(numbers[:, None] - knots[None]) / spacing, 0, None)
        columns.append(near / np.maximum(near.sum(axis=1, keepdims=True), 1e-9) * inside[:, None])
    return np.concatenate(columns, axis=1)


def root_share(avatar: GaussianAvatar) -> torch.Tensor:
    """(N, 1) how much of each Gaussian hangs on the root bone."""
    corners = np.asarray(avatar.body.skinning)[avatar.body.faces[avatar.triangle], 0]
    return torch.from_numpy((corners * avatar.layout.barycentric).sum(axis=1, keepdims=True).astype(np.float32))


def register_torso(capture: Capture) -> dict[str, float] | None:
    """Find where the torso is in the pictures that may be fitted, and put it there.

    Changes `capture.avatar` (offsets, and colours where seen, of torso and neck) and `capture.guides`; nothing, when
    fewer than 3 pictures show any of the torso or consistency would not improve.

    Returns:
        consistency before and after (mean robust distance of colours in 0 to 1), and how far the torso went: the root
        mean square of the heights (mm), of the constant turn and of the sway (degrees); None when nothing changed.
    """
    avatar, views = capture.avatar, _spread(capture.group("fitted"), PICTURES)
    share = root_share(avatar)
    body = np.flatnonzero(np.isin(avatar.parts, BODY_PARTS) & (share[:, 0].numpy() > 0.3))
    with torch.no_grad():
        kept = avatar.offset.detach().clone()
        avatar.offset[torch.from_numpy(body)] = 0.0
        rest = Expression(torch.zeros(avatar.action_bias.shape), torch.zeros(avatar.config.latents))
        shown = sorted({view.frame for view in views})
        places = {m: avatar.without_view(rest, capture.guides[m])[0].means[body] for m in shown}
        weight = torch.stack([_visibility(capture, view, body, places[view.frame]) for view in views])
    seen = np.flatnonzero(((weight > 0).sum(dim=0) >= 3).numpy())
    motion = TorsoMotion(avatar, capture.frames)
    if len(seen) == 0:
        avatar.offset.data.copy_(kept)
        return None
    chosen = seen[:: -(-len(seen) // POINTS)]
    points = _Points(torch.from_numpy(body[chosen]), weight[:, chosen])
    nearby = {frame: part[chosen] for frame, part in places.items()}
    anchors, basis = _field(avatar.layout.centre, body[chosen])
    heights, before, after = _optimise(capture, views, points, nearby, motion, share, basis)
    if not after < before:
        avatar.offset.data.copy_(kept)
        return None

    with torch.no_grad():
        height = _spread_over(avatar.layout.centre, anchors) @ heights * share[:, 0]
        used = [index for index in range(len(capture.frames)) if index not in capture.kept_frames]
        mean = motion._weights[used].mean(dim=0)
        turn, shift = mean @ motion.turn, mean @ motion.shift
        _bake(avatar, body, height, turn, shift, share)
        motion.turn.sub_(turn)
        motion.shift.sub_(shift)
        capture.guides = [motion.guide(index, guide, share) for index, guide in enumerate(capture.guides)]
        _colour(capture, views, body, weight)
        sway = motion._weights @ motion.turn
    return {
        "consistency_before": round(before, 4),
        "consistency_after": round(after, 4),
        "height_mm": round(1e3 * float(heights.square().mean().sqrt()), 2),
        "turn_degrees": round(float(torch.rad2deg(turn.norm())), 2),
        "sway_degrees": round(float(torch.rad2deg(sway.square().sum(dim=1).mean().sqrt())), 2),
    }


def _spread(views: Sequence[View], count: int) -> list[View]:
    return [views[i] for i in np.unique(np.linspace(0, len(views) - 1, min(count, len(views))).astype(int))]


def _visibility(capture: Capture, view: View, index: np.ndarray, places: torch.Tensor) -> torch.Tensor:
    """(n,) cosine to the camera, less 0.15, of points that the guide mesh shows there; else 0."""
    avatar = capture.avatar
    triangles, depth = mesh_picture(avatar, capture.frames[view.frame], view)
    normals = (capture.guides[view.frame].turn[index] @ avatar._rest_frames[index][:, :, 2:])[:, :, 0].numpy()
    rotation = view.world_to_camera[:3, :3]
    # the mesh that hides is the tracked one, so places are compared as it has them
    inside = capture.guides[view.frame].centre[index].numpy() @ rotation.T + view.world_to_camera[:3, 3]
    pixels = inside @ view.intrinsics.T
    column, row = np.floor(pixels[:, :2] / np.maximum(pixels[:, 2:], 1e-6)).astype(int).T
    size = view.image.shape[0]
    good = (column >= 1) & (row >= 1) & (column < size - 1) & (row < size - 1) & (inside[:, 2] > 0.05)
    column, row = np.where(good, column, 0), np.where(good, row, 0)
    good &= (triangles[row, column] >= 0) & (np.abs(depth[row, column] - inside[:, 2]) < TOLERANCE)
    good &= view.covered[row, column] > 0.99
    towards = -inside / np.linalg.norm(inside, axis=1, keepdims=True)
    facing = (normals @ rotation.T * towards).sum(axis=1) - 0.15
    return torch.from_numpy(np.where(good, np.clip(facing, 0, None), 0).astype(np.float32))


def _field(centre: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Places (A, 3) of the heights' anchors among points of the layout, and what each means to each point (n, A)."""
    from fportrait.avatar.prior import farthest_points

    places = centre[index].astype(np.float64)
    anchors = places[farthest_points(places, min(ANCHORS, len(places)))]
    return anchors, _spread_over(places, anchors)


def _spread_over(places: np.ndarray, anchors: np.ndarray) -> torch.Tensor:
    """(N, A) normalised Gaussian weights; they fade to nothing away from all anchors."""
    square = ((places[:, None].astype(np.float64) - anchors[None]) ** 2).sum(axis=2)
    reach = np.exp(-0.5 * square / FIELD_RANGE**2)
    return torch.from_numpy((reach / (reach.sum(axis=1, keepdims=True) + 1e-3)).astype(np.float32))


def _optimise(
    capture: Capture,
    views: Sequence[View],
    points: _Points,
    places: dict[int, torch.Tensor],
    motion: TorsoMotion,
    share: torch.Tensor,
    basis: torch.Tensor,
) -> tuple[torch.Tensor, float, float]:
    """Heights (A,) of the anchors, and the consistency at the sharpest level before and after."""
    import cv2

    heights = torch.zeros(basis.shape[1], requires_grad=True)
    index, weight = points.index, points.weight
    share = share[index]
    rest_normals = capture.avatar._rest_frames[index][:, :, 2:]
    normals = {m: (capture.guides[m].turn[index] @ rest_normals)[:, :, 0] for m in places}
    side = min(views[0].image.shape[0], SIZE)
    cameras = torch.from_numpy(np.stack([view.intrinsics @ view.world_to_camera[:3] for view in views])).float()
    scale = 2 / views[0].image.shape[0]
    small = [cv2.resize(view.image, (side, side), interpolation=cv2.INTER_AREA) for view in views]

    def consistency(pictures: torch.Tensor) -> torch.Tensor:
        lifted = (basis @ heights)[:, None]
        moved = {m: motion(m, place + lifted * normals[m], share) for m, place in places.items()}
        world = torch.stack([moved[view.frame] for view in views])
        pixels = world @ cameras[:, :, :3].transpose(1, 2) + cameras[:, None, :, 3]
        grid = pixels[..., :2] / pixels[..., 2:] * scale - 1
        colours = torch.nn.functional.grid_sample(pictures, grid[:, :, None], align_corners=False)[..., 0]
        colours = colours.transpose(1, 2)  # (P, n, 3)
        mean = (weight[..., None] * colours).sum(dim=0) / weight.sum(dim=0)[:, None]
        distance = ((colours - mean).square().sum(dim=2) + ROBUST**2).sqrt()
        return (weight * distance).sum() / weight.sum()

    def blurred(sigma: float) -> torch.Tensor:
        return torch.from_numpy(np.stack([cv2.GaussianBlur(p, (0, 0), sigma) for p in small])).permute(0, 3, 1, 2)

    sharp = blurred(BLURS[-1])
    with torch.no_grad():
        before = float(consistency(sharp))
    parameters = {"height": heights, "turn": motion.turn, "shift": motion.shift}
    for sigma in BLURS:
        pictures = blurred(sigma)
        optimizer = torch.optim.Adam([{"params": [value], "lr": RATES[key]} for key, value in parameters.items()])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / STEPS))
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            penalty = sum(PENALTIES[key] * value.square().mean() for key, value in parameters.items())
            (consistency(pictures) + penalty).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return heights.detach(), before, float(consistency(sharp))


def _bake(
    avatar: GaussianAvatar,
    body: np.ndarray,
    height: torch.Tensor,
    turn: torch.Tensor,
    shift: torch.Tensor,
    share: torch.Tensor,
) -> None:
    """Put heights and the constant part of the motion into the offsets of torso and neck."""
    joint = torch.from_numpy(np.asarray(avatar.body.rest_joints(avatar.shape))[1]).float()
    around = avatar._rest_centre - joint
    moved = share * (torch.linalg.cross(turn.expand_as(around), around) + shift)
    frames = avatar._rest_frames
    local = (frames.transpose(1, 2) @ (moved + height[:, None] * frames[:, :, 2])[:, :, None])[:, :, 0]
    start = torch.atanh((local / avatar._offset_limit).clamp(-REACH, REACH))
    avatar.offset[torch.from_numpy(body)] = start[body]


def _colour(capture: Capture, views: Sequence[View], body: np.ndarray, weight: torch.Tensor) -> None:
    """Give the Gaussians of torso and neck the mean colour of the pictures, at the places where they now are."""
    avatar = capture.avatar
    rest = Expression(torch.zeros(avatar.action_bias.shape), torch.zeros(avatar.config.latents))
    total = torch.zeros(len(body), 3)
    places: dict[int, torch.Tensor] = {}
    for view, seen in zip(views, weight, strict=True):
        if view.frame not in places:
            places[view.frame] = avatar.without_view(rest, capture.guides[view.frame])[0].means[body]
        camera = torch.from_numpy(view.intrinsics @ view.world_to_camera[:3]).float()
        pixels = places[view.frame] @ camera[:, :3].T + camera[:, 3]
        grid = pixels[:, :2] / pixels[:, 2:] * (2 / view.image.shape[0]) - 1
        picture = torch.from_numpy(view.image).permute(2, 0, 1)[None]
        looked_up = torch.nn.functional.grid_sample(picture, grid[None, :, None], align_corners=False)
        total += seen[:, None] * looked_up[0, :, :, 0].T
    known = weight.sum(dim=0) > 0.05
    index = torch.from_numpy(body)[known]
    avatar.colour[index] = total[known] / weight.sum(dim=0)[known, None]
