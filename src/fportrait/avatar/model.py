"""One person as animatable Gaussians: expression code, pose and camera each enter on their own.

The guide is the person's expression-neutral body mesh. An expression moves it in two ways:

    code -> 52 actions -> the body model's own action offsets of the vertices (what a face can do, known beforehand)
    actions and code -> a few latents -> corrections of place, size, colour, opacity per Gaussian (what is learned)

The map from codes to actions is this person's, starts from actions read off the tracked landmarks (`expression`) and is
the one thing that depends on which encoder made the codes. The pose acts afterwards, as the rigid motion of each
triangle of the neutral mesh, so a code cannot turn the head. The camera enters only in the projection and in a small
view-dependent part of the colour. Light is no input: the light of the capture is baked in, as one smooth function of
the world normal per person, so that a turning head is shaded as the capture's lamps shade it. The tracked shape is read
off landmarks of the face, which say little of the skull and the shoulders; `shape_change` is what the pictures correct.

The Gaussians lie at the same places of the body's UV map for everybody (`layout`). What is per Gaussian (`MAPS`) is
therefore a set of maps over that UV map: the prior (`prior`) predicts them for a person, fitting refines them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fportrait.atomic_io import atomic_folder, write_json, write_safetensors
from fportrait.avatar import guide as surface
from fportrait.avatar.splat import render
from fportrait.camera.cameras import camera_centre
from fportrait.errors import UserError
from fportrait.parameters import settings_from

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel, Pose

CODE_SIZE = 128
CORRECTIONS = 8  # per latent and Gaussian: place 3, colour 3, opacity 1, size 1
BODY_PARTS = ("torso", "neck")
MAPS = ("offset", "log_scale", "opacity", "colour", "view_colour", "correction")  # what a prior predicts per Gaussian


@dataclass(frozen=True)
class AvatarConfig:
    """What decides an avatar's shape.

    `offset_limit`, `hair_offset_limit` (the scalp) and `torso_offset_limit` (torso and neck: clothes, and a shape that
    tracking by the face only guesses) bound how far a Gaussian may leave the mesh, in metres. `torso_density` is the
    number of Gaussians per area on the torso, relative to the cheek: 0.1 is too coarse for a striped garment. The
    shipped prior is bound to the defaults, but for `torso_offset_limit`.
    """

    gaussians: int = 8000
    torso_density: float = surface.PART_DENSITY["torso"]
    latents: int = 12
    offset_limit: float = 0.010
    hair_offset_limit: float = 0.045
    torso_offset_limit: float = 0.03
    body_model: str = "embedded"


class PosedGuide(NamedTuple):
    """The neutral guide in one pose: per Gaussian its triangle's rotation (N, 3, 3) and its place (N, 3), world."""

    turn: torch.Tensor
    centre: torch.Tensor


class Expression(NamedTuple):
    """What an expression code becomes: strengths (A,) of the body model's actions, and latents (K,) of corrections."""

    actions: torch.Tensor
    latents: torch.Tensor


class Gaussians(NamedTuple):
    """What `splat.render` takes: means (N, 3), scales (N, 3), quaternions (N, 4), opacities (N,), colours (N, 3)."""

    means: torch.Tensor
    scales: torch.Tensor
    rotations: torch.Tensor
    opacities: torch.Tensor
    colours: torch.Tensor


class GaussianAvatar(nn.Module):
    """Gaussians on one person's guide mesh; see the module's text.

    Args:
        shape (K,): the person's identity coefficients in the body model.
        body: the body model that `config.body_model` names.
    """

    _corner: torch.Tensor
    _neutral: torch.Tensor
    _barycentric: torch.Tensor
    _shape_basis: torch.Tensor
    _action_basis: torch.Tensor
    _rest_frames: torch.Tensor
    _rest_areas: torch.Tensor
    _rest_centre: torch.Tensor
    _offset_limit: torch.Tensor
    _base_log_scale: torch.Tensor
    _flat: torch.Tensor
    code_mean: torch.Tensor
    code_scale: torch.Tensor
    background: torch.Tensor

    def __init__(self, shape: np.ndarray, body: BodyModel, config: AvatarConfig | None = None):
        super().__init__()
        self.config = config = config or AvatarConfig()
        self.body = body
        self.shape = np.asarray(shape, dtype=np.float64)
        self.scores: dict[str, Any] = {}
        neutral = np.asarray(body.neutral(self.shape), dtype=np.float64)
        layout = surface.layout_of(body, config.gaussians, config.torso_density)
        triangle, barycentric = layout.triangle, layout.barycentric
        self.layout, self.parts, self.triangle = layout, layout.parts, triangle
        count = config.gaussians

        used, corners = np.unique(body.faces[triangle], return_inverse=True)
        self.used_vertices = used
        corner = torch.from_numpy(corners.reshape(-1, 3).astype(np.int64))
        rest_vertices = torch.from_numpy(neutral[used].astype(np.float32))
        weights = torch.from_numpy(barycentric)[:, :, None]
        rest = rest_vertices[corner]
        rest_areas = surface.triangle_areas(rest)
        limits = {"scalp": config.hair_offset_limit, **dict.fromkeys(BODY_PARTS, config.torso_offset_limit)}
        limit = np.array([limits.get(str(part), config.offset_limit) for part in self.parts], dtype=np.float32)
        # neighbours overlap at about one standard deviation, and the surface is thinner than it is wide
        spacing = torch.from_numpy(layout.spacing) * (rest_areas / torch.from_numpy(layout.triangle_area)).sqrt()
        constants: dict[str, torch.Tensor] = {
            "_corner": corner,
            "_neutral": rest_vertices,
            "_barycentric": weights,
            "_shape_basis": torch.from_numpy(shape_offsets(body, self.shape)[used]).reshape(3 * len(used), -1),
            "_action_basis": torch.from_numpy(action_offsets(body, self.shape)[used]).reshape(3 * len(used), -1),
            "_rest_frames": surface.triangle_frames(rest),
            "_rest_areas": rest_areas,
            "_rest_centre": (rest * weights).sum(dim=1),
            "_offset_limit": torch.from_numpy(limit)[:, None],
            "_base_log_scale": torch.log(spacing[:, None] * torch.tensor([0.6, 0.6, 0.2])),
            "_flat": torch.tensor([1.0, 1.0, 0.0]),
        }
        for name, value in constants.items():  # they follow the module to its device, and are not saved
            self.register_buffer(name, value, persistent=False)

        actions = self._action_basis.shape[1]
        self.offset = nn.Parameter(torch.zeros(count, 3))
        self.log_scale = nn.Parameter(torch.zeros(count, 3))
        self.rotation = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(count, 1))
        self.opacity = nn.Parameter(torch.full((count,), 2.5))
        self.colour = nn.Parameter(torch.full((count, 3), 0.5))
        self.view_colour = nn.Parameter(torch.zeros(count, 3, 3))
        self.shading = nn.Parameter(torch.zeros(8, 3))
        self.shape_change = nn.Parameter(torch.zeros(self._shape_basis.shape[1]))
        self.action_weight = nn.Parameter(torch.zeros(actions, CODE_SIZE))
        self.action_bias = nn.Parameter(torch.zeros(actions))
        generator = torch.Generator().manual_seed(0)
        self.latent_actions = nn.Parameter(torch.randn(config.latents, actions, generator=generator) / actions**0.5)
        self.latent_code = nn.Parameter(torch.randn(config.latents, CODE_SIZE, generator=generator) / CODE_SIZE**0.5)
        self.correction = nn.Parameter(torch.zeros(count, CORRECTIONS, config.latents))
        self.register_buffer("code_mean", torch.zeros(CODE_SIZE))
        self.register_buffer("code_scale", torch.ones(CODE_SIZE))
        self.register_buffer("background", torch.full((3,), 0.5))

    @property
    def refined_shape(self) -> np.ndarray:
        """(K,) the identity coefficients with what the pictures corrected in them."""
        return self.shape + self.shape_change.detach().cpu().numpy().astype(np.float64)

    def guide(self, pose: Pose) -> PosedGuide:
        """The neutral mesh in `pose`. Costs a body-model call: keep the result when a pose is used again."""
        posed = np.asarray(self.body.vertices(self.shape, None, pose), dtype=np.float32)[self.used_vertices]
        corners = torch.from_numpy(posed).to(self._neutral.device)[self._corner]
        turn = surface.triangle_frames(corners) @ self._rest_frames.transpose(1, 2)
        return PosedGuide(turn, (corners * self._barycentric).sum(dim=1))

    def expression(self, code: torch.Tensor) -> Expression:
        """(128,) code to strengths of the actions, held within a little more than 0 to 1, and latents."""
        standard = (code - self.code_mean) / self.code_scale
        actions = (self.action_weight @ standard + self.action_bias).clamp(-0.3, 1.3)
        return Expression(actions, torch.tanh(self.latent_actions @ actions + self.latent_code @ standard))

    def expression_of_actions(self, actions: torch.Tensor) -> Expression:
        """The expression that strengths (A,) of the actions mean, without a code."""
        return Expression(actions, torch.tanh(self.latent_actions @ actions))

    def gaussians(self, expression: Expression, guide: PosedGuide, world_to_camera: np.ndarray) -> Gaussians:
        """The Gaussians in the world for one expression, one posed guide and one camera (4, 4)."""
        return self.seen_from(*self.without_view(expression, guide), guide, world_to_camera)

    def seen_from(
        self, flat: Gaussians, light: torch.Tensor, guide: PosedGuide, world_to_camera: np.ndarray
    ) -> Gaussians:
        """Add what the camera's direction does to the colours: all that a still person needs when the camera moves."""
        with torch.no_grad():
            eye = torch.from_numpy(camera_centre(world_to_camera)).to(flat.means)
            towards = torch.nn.functional.normalize(flat.means - eye, dim=1)
            local = guide.turn.transpose(1, 2) @ towards[:, :, None]
        return flat._replace(colours=flat.colours + light * (self.view_colour @ local)[:, :, 0])

    def without_view(self, expression: Expression, guide: PosedGuide) -> tuple[Gaussians, torch.Tensor]:
        """The Gaussians less the view-dependent part of their colour, and the light (N, 3) on each."""
        change = self._shape_basis @ self.shape_change + self._action_basis @ expression.actions
        corners = (self._neutral + change.reshape(-1, 3))[self._corner]
        with torch.no_grad():  # places carry the gradient; how a frame turns with its corners is left out, for speed
            frames = guide.turn @ surface.triangle_frames(corners)
            stretch = 0.5 * torch.log((surface.triangle_areas(corners) + 1e-10) / (self._rest_areas + 1e-10))
            stretch = stretch.clamp(-0.7, 0.7)[:, None] * self._flat
            frame_quaternions = surface.quaternions_from_matrices(frames)
            basis = _light_basis(frames[:, :, 2])
        change = self.correction @ expression.latents
        offset = self._offset_limit * torch.tanh(self.offset) + 0.01 * change[:, :3]
        on_mesh = (corners * self._barycentric).sum(dim=1) - self._rest_centre
        means = guide.centre + (guide.turn @ on_mesh[:, :, None] + frames @ offset[:, :, None])[:, :, 0]
        log_scales = self._base_log_scale + stretch + self.log_scale.clamp(-1.5, 0.6) + 0.5 * change[:, 7:].tanh()
        rotations = surface.multiply_quaternions(frame_quaternions, self.rotation)
        opacities = torch.sigmoid(self.opacity + change[:, 6])
        light = 1 + basis @ self.shading
        return Gaussians(means, log_scales.exp(), rotations, opacities, light * (self.colour + change[:, 3:6])), light

    def forward(
        self,
        expression: Expression,
        guide: PosedGuide,
        world_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        height: int,
        width: int,
        background: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Differentiable colour (H, W, 3) in 0 to 1 (unclipped) and alpha (H, W)."""
        background = self.background if background is None else background
        parts = self.gaussians(Expression(*expression), guide, world_to_camera)
        colour, alpha, _ = render(*parts, world_to_camera, intrinsics, height, width, background)
        return colour, alpha

    @torch.no_grad()
    def render(
        self,
        code: np.ndarray,
        pose: Pose,
        world_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        size: int | tuple[int, int],
        background: np.ndarray | None = None,
    ) -> np.ndarray:
        """One picture, (H, W, 3) uint8.

        Args:
            code (128,): expression code as the encoder gives it.
            pose: body and head pose in the world.
            world_to_camera (4, 4), intrinsics (3, 3): the camera, for a picture of `size` (H = W, or (H, W)) pixels.
            background (3,): RGB in 0 to 1; the capture's mean background when None.
        """
        height, width = (size, size) if isinstance(size, int) else size
        given = None if background is None else torch.as_tensor(background, dtype=torch.float32)
        given = given if given is None else given.to(self._neutral.device)
        colour, _ = self(
            self.expression(self.check_code(code).to(self._neutral.device)),
            self.guide(pose),
            np.asarray(world_to_camera),
            np.asarray(intrinsics),
            height,
            width,
            given,
        )
        return (colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()

    @staticmethod
    def check_code(code: np.ndarray) -> torch.Tensor:
        """The code as a float32 tensor.

        Raises:
            UserError: not 128 finite numbers.
        """
        array = np.asarray(code, dtype=np.float32)
        if array.shape != (CODE_SIZE,) or not np.isfinite(array).all():
            raise UserError(
                f"an expression code of shape {array.shape}",
                "128 finite numbers",
                "take codes from the expression encoder",
            )
        return torch.from_numpy(array.copy())

    def save(self, folder: str | Path) -> Path:
        """Write `avatar.safetensors` and `config.json` into `folder`, which appears or is replaced as a whole."""
        with atomic_folder(folder) as temporary:
            write_safetensors(temporary / "avatar.safetensors", dict(self.state_dict()))
            record = {**asdict(self.config), "shape": self.shape.tolist(), "scores": self.scores}
            write_json(temporary / "config.json", record)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, body: BodyModel | None = None) -> GaussianAvatar:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or broken, or belongs to another kind of model.
        """
        import json

        from safetensors.torch import load_file

        folder = Path(folder)
        fix = "fit it with: kedro run --pipelines=fit_avatars"
        if not (folder / "config.json").is_file() or not (folder / "avatar.safetensors").is_file():
            raise UserError(f"no avatar in {folder}", "avatar.safetensors and config.json", fix)
        try:
            record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            shape, scores = np.array(record.pop("shape"), dtype=np.float64), record.pop("scores")
            record.setdefault("torso_offset_limit", record["offset_limit"])  # avatars from before it was a setting
            config = avatar_config(record)
            tensors = load_file(str(folder / "avatar.safetensors"))
            if body is None:
                from fportrait.body.model import load_body

                body = load_body(config.body_model)
            avatar = cls(shape, body, config)
            avatar.load_state_dict(tensors)
        except UserError:
            raise
        except Exception as error:  # whatever a broken file raises, its reader needs one sentence
            raise UserError(f"a broken avatar in {folder} ({error})", "what GaussianAvatar.save writes", fix) from error
        avatar.scores = scores
        return avatar


def avatar_config(values: Mapping[str, Any]) -> AvatarConfig:
    """An `AvatarConfig` from a mapping; unknown keys are refused, and body models without actions and a UV map."""
    config = settings_from(AvatarConfig, values, "the avatar's parameters")
    check_body_model(config.body_model)
    if not 0 < config.torso_density < math.inf:
        raise UserError(f"torso_density {config.torso_density}", "a positive number", "mend the avatar's parameters")
    return config


def check_body_model(name: str) -> None:
    """Refuse every body model but the embedded one.

    Raises:
        UserError: another body. Avatars need its actions, parts and UV map, and a prior is bound to its mesh.
    """
    if name != "embedded":
        raise UserError(
            f"the body model '{name}' for an avatar",
            "'embedded': avatars and their prior lie on its mesh and use its expression actions",
            "set body_model: embedded, and track the captures with the embedded body",
        )


def shape_offsets(body: BodyModel, shape: np.ndarray) -> np.ndarray:
    """(V, 3, K) float32: how a unit of each identity coefficient moves the neutral vertices."""
    neutral = np.asarray(body.neutral(shape))
    steps = shape + np.eye(len(shape))
    return np.stack([np.asarray(body.neutral(step)) - neutral for step in steps], axis=-1).astype(np.float32)


def action_offsets(body: BodyModel, shape: np.ndarray) -> np.ndarray:
    """(V, 3, A) float32: how each of the A actions, alone and at full strength, moves the vertices at rest."""
    from fportrait.body.model import Pose

    rest = Pose.rest()
    neutral = np.asarray(body.vertices(shape, None, rest))
    offsets = np.empty((*neutral.shape, len(body.action_names)), dtype=np.float32)
    for index in range(offsets.shape[2]):
        strengths = np.zeros(offsets.shape[2])
        strengths[index] = 1.0
        offsets[:, :, index] = np.asarray(body.vertices(shape, strengths, rest)) - neutral
    return offsets


def _light_basis(normals: torch.Tensor) -> torch.Tensor:
    """(N, 8) polynomials of degree 1 and 2 in unit normals: what diffuse light far away can do, less its mean
    (Ramamoorthi and Hanrahan 2001)."""
    x, y, z = normals.unbind(dim=1)
    return torch.stack([x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], dim=1)
