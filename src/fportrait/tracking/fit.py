"""Fit the body model to face landmarks: identity once per person, head pose and expression per frame.

A frame is one picture of a single camera, or one time step of all synchronised cameras. The landmarks sit on the
head bone, so a frame has a rotation R and a translation T of the head; the root's translation follows from the neck.
The torso is taken as upright and unturned.

Damped Gauss-Newton on reprojection errors in units of the eye distance, with Huber weights; priors keep identity
coefficients and actions near zero. All frames are solved at once, as stacked small systems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fportrait.body.model import BodyModel, Pose, rotation_matrix, rotation_vector
from fportrait.tracking.calibration import Calibration
from fportrait.tracking.head_turn import HeadTurn, shipped_head_turn
from fportrait.tracking.points import SUBSET_238

LANDMARK_SIGMA = 0.02  # of the eye distance: what the landmark net is off by
INDEPENDENT_LANDMARKS = 100.0  # errors of neighbouring landmarks are alike; the sum counts as this many
INDEPENDENT_VIEWS = 40.0  # a person's many frames share the net's bias; together they count as this many
HUBER = 2.5  # sigmas
FIXED = 1e8  # stiffness of an unknown that must not move
ACTION_SIGMA = 0.25
FREE_ACTION_SIGMA = 1.0  # of people unlike the rendered ones: a jaw that opens must not read as a nod
MIN_FACING = 0.1  # weight of landmarks on the far side, which the net guesses
MIN_FRONTAL = 0.3  # cosine below which views count alike; the net errs 2.5 times as much at 60 degrees as in front
SIZE_SIGMA = 0.02  # of the head, relative; see `size_prior`
SMOOTH_FRAMES = 0.8  # standard deviation of the temporal filter
SMOOTH_FPS = 25.0  # at fewer, less is smoothed
EYES = (33, 263)
LEAST_SPREAD = 0.01  # standard deviation of a face's points before a lens of focal length 1: a face 5 m away


@dataclass
class Observations:
    """Landmarks `N cameras 478 2` in pixels (NaN where a camera saw no face), and the cameras' matrices: `cameras 4 4`
    and `cameras 3 3`.

    `turns` `N cameras 3 3` are measured rotations of the head in the world and `turn_weights` `N cameras` their
    stiffness, 1/rad².
    Without them every fit takes those of the shipped regression (`measured`), unless it is told to go by the landmarks
    `alone`. `action_sigma` is how far actions stray from rest.
    """

    landmarks: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    turns: np.ndarray | None = None
    turn_weights: np.ndarray | None = None
    action_sigma: float = ACTION_SIGMA

    def at(self, frames: np.ndarray) -> Observations:
        """Those of some frames."""
        turns, weights = self.turns, self.turn_weights
        return replace(
            self,
            landmarks=self.landmarks[frames],
            turns=None if turns is None else turns[frames],
            turn_weights=None if weights is None else weights[frames],
        )

    def alone(self) -> Observations:
        """The landmarks, and no measured turns."""
        shape = self.landmarks.shape[:2]
        return replace(self, turns=np.tile(np.eye(3), (*shape, 1, 1)), turn_weights=np.zeros(shape))

    def of_stranger(self) -> Observations:
        """The landmarks alone, with freer actions: for people unlike those that the regression has learned from."""
        return replace(self.alone(), action_sigma=FREE_ACTION_SIGMA)

    @property
    def seen(self) -> np.ndarray:
        """`N cameras`: whether that camera saw the face at that frame."""
        return np.asarray(np.isfinite(self.landmarks).all((2, 3)))


@dataclass
class Fit:
    """`rotations` `N 3 3` and `translations` `N 3` of the head bone in the world, `actions` `N 52`, `errors` `N`: root
    mean square reprojection error in eye distances."""

    rotations: np.ndarray
    translations: np.ndarray
    actions: np.ndarray
    errors: np.ndarray


class LandmarkModel:
    """The embedded landmarks as a linear function of identity and actions, at rest.

    Args:
        calibration: where the landmark net really puts its points on this body; default the shipped measurement.
    """

    def __init__(self, body: BodyModel, calibration: Calibration | None = None):
        self.body = body
        calibration = calibration or Calibration.load()
        corners = body.faces[body.landmark_triangles]
        weights = body.landmark_barycentric.astype(np.float64)
        self.points = np.einsum("lcx,lc->lx", body.template[corners].astype(np.float64), weights) + calibration.offsets
        # Contiguous: else every product with them copies them first.
        self.identity, self.actions = (
            np.ascontiguousarray(np.einsum("mlcx,lc->mlx", modes[:, corners].astype(np.float64), weights))
            for modes in (body.identity_modes, body.actions)
        )
        from fportrait.body.rasterizer import vertex_normals

        normals = vertex_normals(body.template, body.faces, body.weld)[corners]
        self.normals = np.einsum("lcx,lc->lx", normals.astype(np.float64), weights)
        # Neighbouring landmarks err together: every third, and all around eyes, brows and mouth, say what all would.
        chosen = (np.arange(len(self.points)) % 4 == 0) | np.isin(np.arange(len(self.points)), SUBSET_238[::3])
        self.valid = np.flatnonzero(body.landmark_valid & chosen)
        precision = calibration.sigmas[self.valid] ** -2
        self.precision = precision / precision.mean()  # `L`, relative
        self.variance = float((calibration.sigmas[self.valid] ** 2).mean())  # square eye distances
        self.action_modes = _by_landmark(self.actions[:, self.valid])

    def at(self, identity: np.ndarray, actions: np.ndarray | None = None) -> np.ndarray:
        """Landmarks at rest, `478 3`, or `N 478 3` when `actions` is `N 52`."""
        points = self.points + np.tensordot(identity, self.identity, 1)
        return points if actions is None else points + np.tensordot(actions, self.actions, 1)


def solve_frames(
    model: LandmarkModel, seen: Observations, identity: np.ndarray, rounds: int = 6, start: Fit | None = None
) -> Fit:
    """Head pose and actions of every frame for a known identity.

    Every frame needs one camera at least that saw the face.
    """
    seen = measured(seen)
    count = len(seen.landmarks)
    fit = start or _initial(model, seen, identity)
    rotations, translations, actions = fit.rotations, fit.translations, fit.actions
    targets, scale = np.nan_to_num(seen.landmarks), eye_distance(seen)
    visible = seen.seen
    modes = model.action_modes
    damping = np.concatenate([np.zeros(6), np.full(actions.shape[1], 1 / seen.action_sigma**2)])
    errors, own = np.zeros(count), model.at(identity)
    for _ in range(rounds):
        rest = own + np.tensordot(actions, model.actions, 1)
        turned = rest @ rotations.transpose(0, 2, 1)
        world = turned + translations[:, None]
        hessian = np.zeros((count, 6 + actions.shape[1], 6 + actions.shape[1]))
        gradient = np.zeros((count, 6 + actions.shape[1]))
        total, norm = np.zeros(count), np.zeros(count)
        for c, (w2c, k) in enumerate(zip(seen.world_to_camera, seen.intrinsics, strict=True)):
            residual, jacobian, weights = _camera_terms(
                model, world, turned, modes, rotations, w2c, k, targets[:, c], scale[:, c]
            )
            weights = weights * visible[:, c, None]
            left, flat = _normal_factors(jacobian, weights)
            hessian += left @ flat
            gradient += (left @ residual.reshape(count, -1, 1))[..., 0]
            total += (weights * (residual**2).sum(-1)).sum(1)
            norm += weights.sum(1)
        hessian += np.diag(damping + 1e-6)
        pull, stiffness = _turn_terms(seen, rotations)
        hessian[:, :3, :3] += stiffness[:, None, None] * np.eye(3)
        gradient[:, :3] += pull
        gradient += np.concatenate([np.zeros((count, 6)), actions / seen.action_sigma**2], 1)
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        rotations = rotation_matrix(np.clip(step[:, :3], -0.5, 0.5)) @ rotations
        translations = translations + np.clip(step[:, 3:6], -0.2, 0.2)
        actions = np.clip(actions + step[:, 6:], 0, 1)
        errors = np.sqrt(total / np.maximum(norm, 1e-9)) * LANDMARK_SIGMA
    return Fit(rotations, translations, actions, errors)


def _camera_terms(model, world, turned, modes, rotations, w2c, k, target, scale):
    """Residuals `N L 2` (in sigmas), derivatives `N L 2 6+M` and weights `N L` for one camera; `modes` `L 3 M`."""
    valid = model.valid
    axes, shift = w2c[:3, :3], w2c[:3, 3]
    local = world[:, valid] @ axes.T + shift
    depth = np.maximum(local[..., 2:], 0.05)
    focal = np.array([k[0, 0], k[1, 1]])
    pixels = local[..., :2] / depth * focal + k[:2, 2]
    unit = (LANDMARK_SIGMA * scale)[:, None, None]
    residual = (pixels - target[:, valid]) / unit
    # d pixels / d local point, then through the camera's rotation.
    by_point = np.zeros((*pixels.shape, 3))
    by_point[..., 0, 0], by_point[..., 1, 1] = focal[0] / depth[..., 0], focal[1] / depth[..., 0]
    by_point[..., 2] = -(pixels - k[:2, 2]) / depth
    by_world = by_point @ axes / unit[..., None]
    t = turned[:, valid]
    x, y, z = t[..., 0], t[..., 1], t[..., 2]
    zero = np.zeros_like(x)
    minus_skew = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).reshape(*x.shape, 3, 3)
    # One product per landmark over all frames; single precision is ample for a step's direction.
    by_rest = (by_world @ rotations[:, None]).astype(np.float32).transpose(1, 0, 2, 3).reshape(len(modes), -1, 3)
    by_mode = (by_rest @ modes).reshape(len(modes), len(t), 2, -1).transpose(1, 0, 2, 3)
    jacobian = np.concatenate([by_world @ minus_skew, by_world, by_mode], -1, dtype=np.float32)
    centre = -axes.T @ shift
    view = centre - world[:, valid]
    view /= np.linalg.norm(view, axis=-1, keepdims=True)
    frontal = np.clip((view.mean(1) * rotations[:, :, 2]).sum(-1), MIN_FRONTAL, 1) ** 3
    facing = ((model.normals[valid] @ rotations.transpose(0, 2, 1)) * view).sum(-1)
    size = np.linalg.norm(residual, axis=-1) * np.sqrt(model.precision)
    huber = np.minimum(1.0, HUBER / np.maximum(size, 1e-9))
    weights = huber * model.precision * np.clip(facing * 1.5, MIN_FACING, 1) * frontal[:, None]
    weights *= INDEPENDENT_LANDMARKS / len(valid)
    return residual, jacobian, weights


def with_turns(seen: Observations, head_turn: HeadTurn) -> Observations:
    """The same, with the rotations that the regression reads from every camera's landmarks."""
    turns = np.tile(np.eye(3), (*seen.landmarks.shape[:2], 1, 1))
    weights = np.zeros(seen.landmarks.shape[:2])
    visible = seen.seen
    for c, (w2c, k) in enumerate(zip(seen.world_to_camera, seen.intrinsics, strict=True)):
        rows = np.flatnonzero(visible[:, c])
        if len(rows):
            in_camera, sigmas = head_turn.rotations(seen.landmarks[rows, c].astype(np.float64), k)
            turns[rows, c] = w2c[:3, :3].T @ in_camera
            weights[rows, c] = sigmas**-2.0
    return replace(seen, turns=turns, turn_weights=weights)


def measured(seen: Observations) -> Observations:
    """The same, with the shipped regression's turns if it has none."""
    return with_turns(seen, shipped_head_turn()) if seen.turns is None else seen


def with_estimates(seen: Observations, rotations: np.ndarray, sigma: float) -> Observations:
    """The same, with rotations `N cameras 3 3` in the cameras' axes that an estimator gave, `sigma` radians off
    per axis.
    """
    turns = seen.world_to_camera[:, :3, :3].transpose(0, 2, 1) @ rotations
    return replace(seen, turns=turns, turn_weights=seen.seen * sigma**-2.0)


def _turn_terms(seen: Observations, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient `N 3` and stiffness `N` of the measured turns at `rotations`, with Huber weights."""
    assert seen.turns is not None and seen.turn_weights is not None
    off = rotation_vector(rotations[:, None] @ seen.turns.transpose(0, 1, 3, 2))
    size = np.linalg.norm(off, axis=-1) * np.sqrt(seen.turn_weights)
    weights = seen.turn_weights * np.minimum(1, HUBER / np.maximum(size, 1e-9))
    return (weights[..., None] * off).sum(1), weights.sum(1)


def _by_landmark(modes: np.ndarray) -> np.ndarray:
    """Modes `M L 3` as `L 3 M`, single precision."""
    return np.ascontiguousarray(modes.transpose(1, 2, 0), np.float32)


def _normal_factors(jacobian: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(WJ)ᵀ `N P 2L` and J `N 2L P` of the normal equations."""
    flat = jacobian.reshape(len(jacobian), -1, jacobian.shape[-1])
    return (flat * np.repeat(weights, 2, axis=1)[..., None].astype(np.float32)).transpose(0, 2, 1), flat


def eye_distance(seen: Observations) -> np.ndarray:
    """Size of the face, `N cameras` pixels: the longer of eye distance and 0.9 × nose-to-brow height,
    robust in profile.
    """
    points = np.nan_to_num(seen.landmarks)
    apart = np.linalg.norm(points[..., EYES[0], :] - points[..., EYES[1], :], axis=-1)
    height = np.linalg.norm(points[..., 10, :] - points[..., 2, :], axis=-1)
    return np.maximum(np.maximum(apart, 0.9 * height), 1.0)


def _initial(model: LandmarkModel, seen: Observations, identity: np.ndarray) -> Fit:
    """Perspective-n-point from the camera that sees the largest face at each frame."""
    count = len(seen.landmarks)
    size = np.where(seen.seen, eye_distance(seen), -1)
    rotations, translations = np.zeros((count, 3, 3)), np.zeros((count, 3))
    rest = model.at(identity)[model.valid]
    for n, c in enumerate(size.argmax(1)):
        points = seen.landmarks[n, c][model.valid].astype(np.float64)
        lens = seen.intrinsics[c].copy()
        # OpenCV refuses faces that are smaller before the lens: seen nearer, through a wider one, they look much alike.
        nearer = min(1.0, float(points.std(0).max() / lens[0, 0]) / LEAST_SPREAD)
        lens[[0, 1], [0, 1]] *= nearer
        _, vector, shift = cv2.solvePnP(rest, points, lens, None, flags=cv2.SOLVEPNP_SQPNP)
        shift[2] /= nearer
        axes, origin = seen.world_to_camera[c][:3, :3], seen.world_to_camera[c][:3, 3]
        rotations[n] = axes.T @ rotation_matrix(vector[:, 0])
        translations[n] = axes.T @ (shift[:, 0] - origin)
    return Fit(rotations, translations, np.zeros((count, len(model.actions))), np.zeros(count))


def size_prior(model: LandmarkModel) -> np.ndarray:
    """Quadratic prior `K K` that holds the head's size near the template's, for fits without a second camera.

    From one camera, a smaller head nearby looks like a larger one far away but for its perspective, and the landmark
    net's bias there outweighs the truth: without this prior, heads came out 8% too small and too near.
    """
    centred = model.points[model.valid] - model.points[model.valid].mean(0)
    slope = np.einsum("lx,klx->k", centred, model.identity[:, model.valid]) / (centred**2).sum()
    return np.outer(slope, slope) / SIZE_SIGMA**2


def fit_identity(model: LandmarkModel, groups: list[Observations], rounds: int = 4, frames: int = 32) -> np.ndarray:
    """Identity coefficients `K` from frames spread over all the observations of one person.

    Alternates poses and actions (given identity) with a linear step in the identity that lets them follow. A person's
    many frames share the landmark net's bias, so together they count as `INDEPENDENT_VIEWS` against the unit prior.
    """
    identity = np.zeros(model.body.identity_dim)
    prior = np.eye(len(identity))
    if all(len(group.intrinsics) == 1 for group in groups):
        prior += size_prior(model)
    share = max(2, frames // len(groups))
    picked = []
    for group in groups:
        usable = np.flatnonzero(group.seen.any(1))
        picks = usable[np.linspace(0, len(usable) - 1, min(share, len(usable))).astype(int)]
        picked.append(measured(group.at(picks)))
    fits: list[Fit | None] = [None] * len(picked)
    modes = _by_landmark(np.concatenate([model.actions, model.identity])[:, model.valid])
    for turn in range(rounds):
        hessian, gradient, count = prior.copy(), prior @ identity, 0.0
        data_h, data_g = np.zeros_like(hessian), np.zeros_like(gradient)
        for index, group in enumerate(picked):
            fit = solve_frames(model, group, identity, 2 if turn else 4, fits[index])
            fits[index] = fit
            turned = model.at(identity, fit.actions) @ fit.rotations.transpose(0, 2, 1)
            world = turned + fit.translations[:, None]
            scale, visible = eye_distance(group), group.seen
            free = 6 + len(model.actions)
            unknowns = free + len(identity)
            full, slope = np.zeros((len(world), unknowns, unknowns)), np.zeros((len(world), unknowns))
            for c in range(len(group.intrinsics)):
                residual, jacobian, weights = _camera_terms(
                    model,
                    world,
                    turned,
                    modes,
                    fit.rotations,
                    group.world_to_camera[c],
                    group.intrinsics[c],
                    np.nan_to_num(group.landmarks[:, c]),
                    scale[:, c],
                )
                left, flat = _normal_factors(jacobian, weights * visible[:, c, None])
                full, slope = full + left @ flat, slope + (left @ residual.reshape(len(flat), -1, 1))[..., 0]
            # Eliminate each frame's pose and actions, so that identity does not fight ones held fixed. Actions at
            # rest stay there: they cannot turn negative.
            stiff = np.where(fit.actions > 0, 1 / group.action_sigma**2, FIXED)
            diagonal = np.concatenate([np.full((len(world), 6), 1e-6), stiff], 1)
            h_pp = full[:, :free, :free] + diagonal[:, :, None] * np.eye(free)
            pull, stiffness = _turn_terms(group, fit.rotations)
            h_pp[:, :3, :3] += stiffness[:, None, None] * np.eye(3)
            h_ps, h_ss = full[:, :free, free:], full[:, free:, free:]
            g_p, g_s = slope[:, :free].copy(), slope[:, free:]
            g_p[:, 6:] += fit.actions / group.action_sigma**2
            g_p[:, :3] += pull
            back = np.linalg.solve(h_pp, np.concatenate([h_ps, g_p[..., None]], -1))
            data_h += (h_ss - h_ps.transpose(0, 2, 1) @ back[..., :-1]).sum(0)
            data_g += (g_s - (h_ps.transpose(0, 2, 1) @ back[..., -1:])[..., 0]).sum(0)
            count += float(visible.sum())
        effective = min(count, INDEPENDENT_VIEWS) / max(count, 1.0)
        identity = identity - np.linalg.solve(hessian + data_h * effective, gradient + data_g * effective)
        identity = np.clip(identity, -3, 3)
    return identity


def smoothing(fps: float) -> float:
    """Standard deviation in frames of the temporal filter: at few frames a second, faces move further between two."""
    return SMOOTH_FRAMES * min(1.0, fps / SMOOTH_FPS)


def smooth(values: np.ndarray, sigma: float = SMOOTH_FRAMES) -> np.ndarray:
    """Gaussian filter over the first axis, ends repeated."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, sigma, axis=0, mode="nearest") if len(values) > 1 else values


def smooth_rotations(rotations: np.ndarray, sigma: float = SMOOTH_FRAMES) -> np.ndarray:
    """Filter the matrices and take the nearest rotations, `N 3 3`."""
    u, _, vt = np.linalg.svd(smooth(rotations, sigma))
    u[..., -1] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt


def to_pose(body: BodyModel, identity: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> Pose:
    """The pose whose head bone has this rotation and translation; the torso upright and unturned."""
    _, shifts = body.bone_transforms(identity, Pose(np.eye(3), np.zeros(3), rotation))
    return Pose(np.eye(3), translation - shifts[2], rotation)


def bridge_gaps(fit_rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Values at `fit_rows` (sorted frame numbers) spread over `count` frames, linear in between, held at the ends."""
    frames = np.arange(count)
    flat = values.reshape(len(values), -1)
    out = np.stack([np.interp(frames, fit_rows, flat[:, i]) for i in range(flat.shape[1])], 1)
    return out.reshape(count, *values.shape[1:])
