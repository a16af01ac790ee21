"""The universal avatar: what all people's Gaussians have in common, and what one capture says about one person.

A decoder that everybody shares turns an expression into Gaussians: mean maps over the UV map, and a basis of how they
change with the expression's latents. A hypernetwork on identity adds that person's *bias maps* to both. Identity is
what the capture shows of each place on the UV map (`evidence`), at three ranges: the place itself, its neighbours on
the surface, and the whole person.

    map_p(u, e) = mean(u) + bias_p(u) + (basis(u) + bias'_p(u)) · latents(e)

and corrects the tracked shape, which landmarks of the face cannot tell of the skull and the shoulders.

Pose and camera are not among the inputs: pose moves the guide mesh (`model`), the camera projects. Expression enters as
strengths of the body model's actions, which every encoder's codes are mapped to for each person, so that one prior
serves any encoder. Structure after the universal prior of Cao et al. 2022 (identity-conditioned hypernetwork, bias maps
on the UV map), with surface neighbourhoods in place of convolutions over a UV atlas: they do not stop at its seams.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fportrait.atomic_io import atomic_folder, write_json, write_safetensors
from fportrait.avatar.evidence import CHANNELS, SEEN_CHANNEL
from fportrait.avatar.guide import Layout, layout_of
from fportrait.avatar.model import BODY_PARTS, CORRECTIONS, MAPS, AvatarConfig, GaussianAvatar, avatar_config
from fportrait.errors import UserError
from fportrait.parameters import settings_from

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

SHIPPED = Path(__file__).parent.parent / "assets" / "avatar_prior"
WEIGHTS = "avatar_prior.safetensors"
# How far one unit of the network's output moves each map; the maps' natural sizes differ.
UNITS = {"offset": 0.5, "log_scale": 0.3, "opacity": 0.5, "colour": 0.3, "view_colour": 0.05, "correction": 0.05}
NEIGHBOURS, NEIGHBOUR_RANGE = 12, 0.008  # metres
ANCHORS, ANCHOR_RANGE = 192, 0.03


@dataclass(frozen=True)
class PriorConfig:
    """What decides a prior's shape. `avatar` is that of the avatars it predicts."""

    avatar: AvatarConfig = field(default_factory=AvatarConfig)
    hidden: int = 64
    embedding: int = 12
    person: int = 32


def prior_config(values: Mapping[str, Any]) -> PriorConfig:
    """A `PriorConfig` from nested mappings; unknown keys are refused."""
    nested = {**values, "avatar": avatar_config(values.get("avatar", {}))}
    return settings_from(PriorConfig, nested, "the prior's parameters")


class SurfaceMeans(nn.Module):
    """Means over surface neighbourhoods of the layout: (N, C) to (N, C) near and (N, C) far, and to (A, C) anchors."""

    near_index: torch.Tensor
    near_weight: torch.Tensor
    gather: torch.Tensor
    spread: torch.Tensor

    def __init__(self, layout: Layout):
        from scipy.spatial import cKDTree

        super().__init__()
        places = layout.centre.astype(np.float64)
        count = len(places)
        distance, index = cKDTree(places).query(places, k=min(NEIGHBOURS, count))
        weight = np.exp(-0.5 * (distance.reshape(count, -1) / NEIGHBOUR_RANGE) ** 2)
        anchors = farthest_points(places, min(ANCHORS, count))
        reach = np.exp(-0.5 * (np.linalg.norm(places[anchors][:, None] - places[None], axis=2) / ANCHOR_RANGE) ** 2)
        reach += 1e-9
        for name, value in {
            "near_index": index.reshape(count, -1),
            "near_weight": weight / weight.sum(axis=1, keepdims=True),
            "gather": reach / reach.sum(axis=1, keepdims=True),
            "spread": (reach / reach.sum(axis=0, keepdims=True)).T,
        }.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            self.register_buffer(
                name, tensor if value.dtype.kind == "i" else tensor.float().contiguous(), persistent=False
            )

    def near(self, values: torch.Tensor) -> torch.Tensor:
        return (values[self.near_index] * self.near_weight[:, :, None]).sum(dim=1)


class AvatarPrior(nn.Module):
    """Predicts a person's avatar from the evidence of a capture; see the module's text.

    Args:
        body: the body model that `config.avatar.body_model` names.
    """

    evidence_mean: torch.Tensor
    evidence_scale: torch.Tensor

    def __init__(self, body: BodyModel, config: PriorConfig | None = None):
        super().__init__()
        self.config = config = config or PriorConfig()
        self.body = body
        self.record: dict[str, Any] = {}
        self.layout = layout_of(body, config.avatar.gaussians, config.avatar.torso_density)
        self.surface = SurfaceMeans(self.layout)
        count, latents = config.avatar.gaussians, config.avatar.latents
        self.shapes: dict[str, tuple[int, ...]] = {
            "offset": (3,),
            "log_scale": (3,),
            "opacity": (1,),
            "colour": (3,),
            "view_colour": (3, 3),
            "correction": (CORRECTIONS, latents),
        }
        self.outputs = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.mean_maps = nn.Parameter(torch.zeros(count, self.outputs))
        self.embedding = nn.Parameter(0.1 * torch.randn(count, config.embedding))
        self.latent_actions = nn.Parameter(torch.randn(latents, len(body.action_names)))
        self.person = nn.Sequential(nn.Linear(CHANNELS, 64), nn.SiLU(), nn.Linear(64, config.person), nn.SiLU())
        self.shading = nn.Linear(config.person, 24)
        self.shape_change = nn.Linear(config.person, body.identity_dim)
        inputs = 3 * CHANNELS + config.embedding + config.person
        self.inward = nn.Linear(inputs, config.hidden)
        self.middle = nn.Linear(config.hidden, config.hidden)
        self.outward = nn.Linear(config.hidden, self.outputs)
        for layer in (self.outward, self.shading, self.shape_change):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            start = self.split(self.mean_maps)
            start["opacity"].fill_(2.5 / UNITS["opacity"])
        self.register_buffer("evidence_mean", torch.zeros(CHANNELS))
        self.register_buffer("evidence_scale", torch.ones(CHANNELS))

    def split(self, maps: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, outputs) to named views of it, (N, ...) each."""
        named, start = {}, 0
        for name in MAPS:
            width = int(np.prod(self.shapes[name]))
            named[name] = maps[:, start : start + width].view(-1, *self.shapes[name])
            start += width
        return named

    def forward(self, evidence: torch.Tensor) -> dict[str, torch.Tensor]:
        """Evidence (N, CHANNELS) of one person to the parameters of that person's `GaussianAvatar`, by name."""
        known = (evidence - self.evidence_mean) / self.evidence_scale
        far = self.surface.gather @ known
        person = self.person(far).mean(dim=0)
        shared = person.expand(len(known), -1)
        ranges = [known, self.surface.near(known), self.surface.spread @ far, self.embedding, shared]
        hidden = nn.functional.silu(self.inward(torch.cat(ranges, dim=1)))
        hidden = nn.functional.silu(self.middle(hidden))
        maps = self.split(self.mean_maps + self.outward(hidden))
        found = {name: UNITS[name] * value for name, value in maps.items()}
        seen = evidence[:, SEEN_CHANNEL, None]
        found["colour"] = found["colour"] + seen * evidence[:, :3] + (1 - seen) * 0.5
        found["opacity"] = found["opacity"][:, 0]
        found["latent_actions"] = self.latent_actions / self.latent_actions.shape[1] ** 0.5
        found["shape_change"] = 0.3 * self.shape_change(person)
        found["shading"] = 0.1 * self.shading(person).view(8, 3)
        return found

    @torch.no_grad()
    def apply_to(self, avatar: GaussianAvatar, evidence: np.ndarray) -> dict[str, torch.Tensor]:
        """Give an avatar the predicted parameters; returns them, for a fit to hold on to.

        Raises:
            UserError: the avatar's configuration is not the prior's. Only `torso_offset_limit` may differ: offsets are
                converted.
        """
        limit = self.config.avatar.torso_offset_limit
        if replace(avatar.config, torso_offset_limit=limit) != self.config.avatar:
            raise UserError(
                f"a prior for {asdict(self.config.avatar)}",
                f"one for {asdict(avatar.config)}",
                "set the avatar's parameters to the prior's, train a prior for yours, or set prior: none",
            )
        found = {name: value.contiguous() for name, value in self(torch.from_numpy(evidence)).items()}
        body = torch.from_numpy(np.isin(avatar.parts, BODY_PARTS))
        metres = limit * torch.tanh(found["offset"][body])
        found["offset"][body] = torch.atanh((metres / avatar.config.torso_offset_limit).clamp(-0.999, 0.999))
        for name, value in found.items():
            getattr(avatar, name).copy_(value)
        return found

    def save(self, folder: str | Path, half: bool = True) -> Path:
        """Write safetensors and `config.json` into `folder`; half precision by default (a few megabytes)."""
        with atomic_folder(folder) as temporary:
            tensors = {k: v.half() if half and v.ndim > 1 else v for k, v in self.state_dict().items()}
            write_safetensors(temporary / WEIGHTS, tensors)
            write_json(temporary / "config.json", {**asdict(self.config), "record": self.record})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path = SHIPPED, body: BodyModel | None = None) -> AvatarPrior:
        """Read what `save` wrote; the shipped prior by default.

        Raises:
            UserError: a file is missing or broken, or its tensors are not those of its configuration.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        fix = "set prior: shipped or prior: captures, or train one with python -m fportrait.avatar.prior_training"
        if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
            raise UserError(f"no avatar prior in {folder}", f"{WEIGHTS} and config.json", fix)
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            record = values.pop("record")
            values["avatar"].setdefault("torso_offset_limit", values["avatar"]["offset_limit"])
            config = prior_config(values)
            if body is None:
                from fportrait.body.model import load_body

                body = load_body(config.avatar.body_model)
            prior = cls(body, config)
            tensors = load_file(str(folder / WEIGHTS))
            prior.load_state_dict({name: value.float() for name, value in tensors.items()})
        except UserError:
            raise
        except Exception as error:  # whatever a broken file raises, its reader needs one sentence
            raise UserError(
                f"a broken avatar prior in {folder} ({error})", "what AvatarPrior.save writes", fix
            ) from error
        prior.record = record
        return prior.eval()


def farthest_points(places: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` points spread over all: each the farthest from those before."""
    chosen = [0]
    distance = np.linalg.norm(places - places[0], axis=1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.array(chosen)
