"""One person as animatable Gaussians: expression code, pose and camera each enter on their own.

The guide is the person's expression-neutral body mesh. A code moves it in two ways:

    code -> 52 actions -> the body model's own action offsets of the vertices (what a face can do, known beforehand)
    code -> a few latents -> per-Gaussian corrections of place, size, colour, opacity (what this person does, learned)

Both maps are linear and both are learned; the first starts from actions read off the tracked landmarks (`fitting`). The
pose acts afterwards, as the rigid motion of each triangle of the neutral mesh, so a code cannot turn the head. The
camera enters only in the projection and in a small view-dependent part of the colour. Light is no input: the light of
the capture is baked in, as one smooth function of the world normal per person, so that a turning head is shaded as the
capture's lamps shade it.

A Gaussian's place on the mesh is also a place on the UV map (`uv`): a prior over many persons can predict the per-
Gaussian parameters as maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fportrait.atomic_io import atomic_folder, atomic_path, write_json, write_safetensors
from fportrait.avatar import guide as surface
from fportrait.avatar.splat import render
from fportrait.errors import UserError, refuse_unknown_keys

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel, Pose

CODE_SIZE = 128
CORRECTIONS = 8  # per latent and Gaussian: place 3, colour 3, opacity 1, size 1
SH_0, SH_1 = 0.28209479177387814, 0.4886025119029199  # spherical harmonics constants of degree 0 and 1


@dataclass(frozen=True)
class AvatarConfig:
    """What decides an avatar's shape. `offset_limit` and `hair_offset_limit` bound how far a Gaussian may leave the
    mesh.
    """

    gaussians: int = 6000
    latents: int = 12
    offset_limit: float = 0.010
    hair_offset_limit: float = 0.045
    body_model: str = "embedded"


class PosedGuide(NamedTuple):
    """The neutral guide in one pose: per Gaussian its triangle's rotation (N, 3, 3) and its place (N, 3), world."""

    turn: torch.Tensor
    centre: torch.Tensor


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
        parts = surface.face_parts(body)
        density = np.array([surface.PART_DENSITY.get(str(part), surface.OTHER_DENSITY) for part in parts])
        triangle, barycentric, area = surface.sample_surface(neutral, body.faces, density, config.gaussians)
        self.parts = parts[triangle]
        self.triangle = triangle
        count = config.gaussians

        used, corner = np.unique(body.faces[triangle], return_inverse=True)
        self.used_vertices = used
        self._corner = torch.from_numpy(corner.reshape(-1, 3).astype(np.int64))
        self._neutral = torch.from_numpy(neutral[used].astype(np.float32))
        self._barycentric = torch.from_numpy(barycentric)[:, :, None]
        self._action_basis = torch.from_numpy(action_offsets(body, self.shape)[used]).reshape(3 * len(used), -1)
        rest = self._neutral[self._corner]
        self._rest_frames, self._rest_areas = surface.triangle_frames(rest), surface.triangle_areas(rest)
        self._rest_centre = (rest * self._barycentric).sum(dim=1)
        uv = np.asarray(body.uv)[body.faces[triangle]]
        self.uv = (uv * barycentric[:, :, None]).sum(axis=1).astype(np.float32)
        limit = np.where(self.parts == "scalp", config.hair_offset_limit, config.offset_limit).astype(np.float32)
        self._offset_limit = torch.from_numpy(limit)[:, None]
        # neighbours overlap at about one standard deviation, and the surface is thinner than it is wide
        spacing = torch.from_numpy(np.sqrt(area))
        self._base_log_scale = torch.log(torch.stack([0.6 * spacing, 0.6 * spacing, 0.2 * spacing], dim=1))

        actions = self._action_basis.shape[1]
        self.offset = nn.Parameter(torch.zeros(count, 3))
        self.log_scale = nn.Parameter(torch.zeros(count, 3))
        self.rotation = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(count, 1))
        self.opacity = nn.Parameter(torch.full((count,), 2.5))
        self.colour = nn.Parameter(torch.full((count, 3), 0.5))
        self.view_colour = nn.Parameter(torch.zeros(count, 3, 3))
        self.shading = nn.Parameter(torch.zeros(8, 3))
        self.action_weight = nn.Parameter(torch.zeros(actions, CODE_SIZE))
        self.action_bias = nn.Parameter(torch.zeros(actions))
        generator = torch.Generator().manual_seed(0)
        self.latent_weight = nn.Parameter(torch.randn(config.latents, CODE_SIZE, generator=generator) / CODE_SIZE**0.5)
        self.correction = nn.Parameter(torch.zeros(count, CORRECTIONS, config.latents))
        self.register_buffer("code_mean", torch.zeros(CODE_SIZE))
        self.register_buffer("code_scale", torch.ones(CODE_SIZE))
        self.register_buffer("background", torch.full((3,), 0.5))

    def guide(self, pose: Pose) -> PosedGuide:
        """The neutral mesh in `pose`. Costs a body-model call: keep the result when a pose is used again."""
        posed = np.asarray(self.body.vertices(self.shape, None, pose), dtype=np.float32)[self.used_vertices]
        corners = torch.from_numpy(posed)[self._corner]
        turn = surface.triangle_frames(corners) @ self._rest_frames.transpose(1, 2)
        return PosedGuide(turn, (corners * self._barycentric).sum(dim=1))

    def actions(self, code: torch.Tensor) -> torch.Tensor:
        """(128,) code to (52,) strengths of the body model's actions, held within a little more than 0 to 1."""
        standard = (code - self.code_mean) / self.code_scale
        return (self.action_weight @ standard + self.action_bias).clamp(-0.3, 1.3)

    def gaussians(self, code: torch.Tensor, guide: PosedGuide, eye: torch.Tensor) -> Gaussians:
        """The Gaussians in the world for one code (128,), one posed guide and one camera centre (3,)."""
        flat, light = self._without_view(code, guide)
        with torch.no_grad():
            towards = torch.nn.functional.normalize(flat.means - eye, dim=1)
            local = guide.turn.transpose(1, 2) @ towards[:, :, None]
        return flat._replace(colours=flat.colours + light * (self.view_colour @ local)[:, :, 0])

    def _without_view(self, code: torch.Tensor, guide: PosedGuide) -> tuple[Gaussians, torch.Tensor]:
        """The Gaussians less the view-dependent part of their colour, and the light (N, 3) on each."""
        moved = self._neutral + (self._action_basis @ self.actions(code)).reshape(-1, 3)
        corners = moved[self._corner]
        with torch.no_grad():  # places carry the gradient; how a frame turns with its corners is left out, for speed
            frames = guide.turn @ surface.triangle_frames(corners)
            stretch = 0.5 * torch.log((surface.triangle_areas(corners) + 1e-10) / (self._rest_areas + 1e-10))
            stretch = stretch.clamp(-0.7, 0.7)[:, None] * torch.tensor([1.0, 1.0, 0.0])
            frame_quaternions = surface.quaternions_from_matrices(frames)
            basis = _light_basis(frames[:, :, 2])
        standard = (code - self.code_mean) / self.code_scale
        change = self.correction @ torch.tanh(self.latent_weight @ standard)
        offset = self._offset_limit * torch.tanh(self.offset) + 0.01 * change[:, :3]
        on_mesh = (corners * self._barycentric).sum(dim=1) - self._rest_centre
        means = guide.centre + (guide.turn @ on_mesh[:, :, None] + frames @ offset[:, :, None])[:, :, 0]
        log_scales = self._base_log_scale + stretch + self.log_scale.clamp(-1.5, 0.6) + 0.5 * change[:, 7:].tanh()
        rotations = surface.multiply_quaternions(frame_quaternions, self.rotation)
        opacities = torch.sigmoid(self.opacity + change[:, 6])
        light = 1 + basis @ self.shading
        return Gaussians(means, log_scales.exp(), rotations, opacities, light * (self.colour + change[:, 3:6])), light

    def picture(
        self,
        code: torch.Tensor,
        guide: PosedGuide,
        world_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        height: int,
        width: int,
        background: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Differentiable colour (H, W, 3) in 0 to 1 (unclipped) and alpha (H, W)."""
        eye = torch.from_numpy(-world_to_camera[:3, :3].T @ world_to_camera[:3, 3]).float()
        background = self.background if background is None else background
        parts = self.gaussians(code, guide, eye)
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
        colour, _ = self.picture(
            self.check_code(code),
            self.guide(pose),
            np.asarray(world_to_camera),
            np.asarray(intrinsics),
            height,
            width,
            given,
        )
        return (colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()

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

    @torch.no_grad()
    def export_ply(self, path: str | Path, code: np.ndarray, pose: Pose) -> Path:
        """Write one posed frame as a Gaussian PLY (Kerbl et al. 2023: SH of degree 1, log scales, logit opacities)."""
        guide = self.guide(pose)
        parts, light = self._without_view(self.check_code(code), guide)
        # a view-dependent colour B turn^T d is linear in the world direction d: that is degree 1 exactly
        view = light[:, :, None] * (self.view_colour @ guide.turn.transpose(1, 2))
        first_degree = torch.stack([-view[:, :, 1], view[:, :, 2], -view[:, :, 0]], dim=2) / SH_1
        columns = {name: parts.means[:, i] for i, name in enumerate("xyz")}
        columns |= {f"n{name}": torch.zeros(len(parts.means)) for name in "xyz"}
        columns |= {f"f_dc_{i}": (parts.colours[:, i] - 0.5) / SH_0 for i in range(3)}
        columns |= {f"f_rest_{i}": first_degree.reshape(-1, 9)[:, i] for i in range(9)}
        columns |= {"opacity": torch.logit(parts.opacities.clamp(1e-6, 1 - 1e-6))}
        columns |= {f"scale_{i}": torch.log(parts.scales[:, i]) for i in range(3)}
        rotations = torch.nn.functional.normalize(parts.rotations, dim=1)
        columns |= {f"rot_{i}": rotations[:, i] for i in range(4)}
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(parts.means)}"]
        header += [f"property float {name}" for name in columns] + ["end_header", ""]
        table = torch.stack(list(columns.values()), dim=1).numpy().astype("<f4")
        with atomic_path(path) as temporary:
            temporary.write_bytes("\n".join(header).encode() + table.tobytes())
        return Path(path)

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
    """An `AvatarConfig` from a mapping; unknown keys are refused."""
    refuse_unknown_keys(values, AvatarConfig.__dataclass_fields__, "the avatar's parameters")
    return AvatarConfig(**values)


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
