"""The conditions of a clip: what they are, and the one place where they are built, checked, dropped, padded and cut.

`CONDITIONS` declares them. Everything that holds for all conditions reads that table: shapes and their check, the
channels in which the transformer takes them in, dropout in training, guidance in sampling, windows of a long video,
batches. A new condition is a row there and a field of `Conditions` (docs/adding/condition.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.factors import FACTORS
from fportrait.diffusion.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, video_frames
from fportrait.errors import UserError, refuse_unknown_keys

if TYPE_CHECKING:
    from fportrait.diffusion.windows import Window


@dataclass(frozen=True)
class Reads:
    """What a transformer reads of the conditions; its own configuration's keys, and their defaults."""

    latent_channels: int = 16
    ray_channels: int = 24
    use_normals: bool = True
    reference_rays: str = "zeros"
    reference_normals: str = "zeros"
    warped_reference: bool = False
    bridge_level: float = 1.0
    expression: str = "codes"
    code_dim: int = 128
    landmarks: int = 238

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Reads:
        """Of a transformer's configuration, whose other keys are left out."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

    @property
    def expression_width(self) -> int:
        """Numbers per driving frame that the model calls its codes: 128, or 2 per landmark."""
        return 2 * self.landmarks if self.expression == "landmarks" else self.code_dim


@dataclass(frozen=True)
class Condition:
    """One condition, declared.

    Attributes:
        name: the field of `Conditions`, and the transformer's argument.
        factor: the factor of control that it carries: by this name it is dropped in training and guided in sampling.
            None for what belongs to every sample: never dropped, never guided.
        frames: what it follows in time: `one` frame beside the video (the portrait's), the video's `latent` frames, or
            its `video` frames. This says its shape, how windows cut it and how a batch stacks it.
        width: its channels (or numbers per frame) for a model.
        group: the channels of the fused input that it fills, in the reference's frame if it follows `one`, else in the
            video's; conditions of one group share channels. None for what enters as tokens: the model says where.
        read: does a model read it?
    """

    name: str
    factor: str | None
    frames: Literal["one", "latent", "video"]
    width: Callable[[Reads], int]
    group: str | None
    read: Callable[[Reads], bool] = lambda _: True

    def shape(self, reads: Reads, batch: int, frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape that it has beside latents `batch C frames height width`."""
        if self.frames == "video":
            return batch, video_frames(frames), self.width(reads)
        return batch, self.width(reads), 1 if self.frames == "one" else frames, height, width


CONDITIONS = (
    Condition("reference", "identity", "one", lambda reads: reads.latent_channels, "reference"),
    Condition("rays", "view", "latent", lambda reads: reads.ray_channels, "rays"),
    Condition(
        "normals", "pose", "latent", lambda reads: reads.latent_channels, "normals", lambda reads: reads.use_normals
    ),
    Condition("codes", "expression", "video", lambda reads: reads.expression_width, None),
    Condition(
        "reference_rays",
        None,
        "one",
        lambda reads: reads.ray_channels,
        "rays",
        lambda reads: reads.reference_rays == "identity",
    ),
    Condition(
        "reference_normals",
        "identity",
        "one",
        lambda reads: reads.latent_channels,
        "normals",
        lambda reads: reads.use_normals and reads.reference_normals == "portrait",
    ),
    Condition(
        "warped",
        "identity",
        "latent",
        lambda reads: reads.latent_channels,
        "reference",
        lambda reads: reads.warped_reference,
    ),
)
BY_NAME = {one.name: one for one in CONDITIONS}


@dataclass(frozen=True, eq=False)
class Conditions:
    """What controls `B` clips of `T` video frames, `l` latent frames, `h` x `w` latents, `C` latent channels.

    Attributes:
        reference: `B C 1 h w`, latents of the portrait: identity.
        rays: `B 24|6 l h w`, rays of the cameras (`camera.rays.folded_rays`): view.
        normals: `B C l h w`, latents of the body's normal maps: pose; None for a model without.
        codes: `B T 128`, standardised expression codes, or `B T 476`, landmarks (the ablation C3): expression.
        reference_rays: `B 24|6 1 h w`, rays of the portrait's own camera, for `reference_rays="identity"`; else None.
        reference_normals: `B C 1 h w`, latents of the portrait's own normal map, for `reference_normals="portrait"`:
            where on the portrait each part of the body lies; else None.
        warped: `B C l h w`, latents of the portrait painted on the body and drawn in each frame's pose
            (`body.painting`), for `warped_reference=True`; else None.
    """

    reference: Tensor
    rays: Tensor
    normals: Tensor | None
    codes: Tensor
    reference_rays: Tensor | None = None
    reference_normals: Tensor | None = None
    warped: Tensor | None = None

    @classmethod
    def of_clip(
        cls,
        reads: Reads,
        reference: Tensor,
        cameras: Cameras,
        normals: Tensor,
        codes: Tensor,
        reference_normals: Tensor | None = None,
        warped: Tensor | None = None,
    ) -> Conditions:
        """Of one clip (`B` = 1), for a model: `reference` `C 1 h w`, `normals` `C l h w`, `codes` `T 128|476`.

        Args:
            reference_normals: `C 1 h w`, wanted by a model with `reference_normals="portrait"`; others leave them out.
            warped: `C l h w`, wanted by a model with `warped_reference=True`; others leave it out.

        Raises:
            UserError: the number of cameras is not 4k+1, or something that the model reads is missing.
        """
        own: dict[str, Tensor] = {}
        for name, value in (("reference_normals", reference_normals), ("warped", warped)):
            if not BY_NAME[name].read(reads):
                continue
            if value is None:
                raise UserError(
                    f"no {name.replace('_', ' ')}",
                    "it, for a model that reads it",
                    f"pass {name}; from shards: run `kedro run --pipelines=encode` again",
                )
            own[name] = value[None].float()
        size = (reads.ray_channels, *(SPATIAL_STRIDE * side for side in reference.shape[-2:]))
        return cls(
            reference=reference[None].float(),
            rays=cameras.rays(*size),
            normals=normals[None].float(),
            codes=codes[None].float(),
            reference_rays=cameras.reference_rays(*size) if reads.reference_rays == "identity" else None,
            **own,
        )

    @classmethod
    def zeros(cls, reads: Reads, batch: int, frames: int, height: int, width: int) -> Conditions:
        """All dropped, beside latents `batch C frames height width`."""
        shapes = {one.name: one.shape(reads, batch, frames, height, width) for one in CONDITIONS if one.read(reads)}
        return cls(**{"normals": None, **{name: torch.zeros(shape) for name, shape in shapes.items()}})  # type: ignore[arg-type]

    @classmethod
    def cat(cls, parts: Iterable[Conditions]) -> Conditions:
        """One batch of several."""
        values: dict[str, list[Tensor]] = {}
        for part in parts:
            for name, value in part._given().items():
                values.setdefault(name, []).append(value)
        return cls(**{"normals": None, **{name: torch.cat(some) for name, some in values.items()}})  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.reference)

    def __getitem__(self, rows: slice | Tensor | np.ndarray) -> Conditions:
        """Some of the clips, by a slice or by row numbers."""
        return self._with(lambda _, value: value[rows])

    def __iter__(self) -> Any:
        raise TypeError("conditions are taken by rows or by name")  # else indexing makes them endless

    def to(self, device: torch.device | str) -> Conditions:
        return self._with(lambda _, value: value.to(device))

    def inputs(self) -> dict[str, Any]:
        """The transformer's arguments by name, or the pipeline's."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None or field.default is MISSING
        }

    def check(self, reads: Reads, latents: tuple[int, ...]) -> None:
        """Raise `UserError` for the first condition that a model reads and that does not fit latents `B C l h w`."""
        batch, _, *grid = latents
        for one in CONDITIONS:
            if not one.read(reads):
                continue
            value, shape = getattr(self, one.name), one.shape(reads, batch, *grid)
            if value is None:
                raise UserError(f"no {one.name}", f"{one.name} of shape {shape}", "pass them (zeros drop a condition)")
            if tuple(value.shape) != shape:
                raise UserError(f"{one.name} of shape {tuple(value.shape)}", str(shape), f"give {one.name} that shape")

    def carry(self, factor: str) -> bool:
        """Is there anything to drop of `factor`?"""
        return any(one.factor == factor and getattr(self, one.name) is not None for one in CONDITIONS)

    def without(self, factor: str) -> Conditions:
        """The same with what carries `factor` dropped: zeros, as in training."""
        return self._with(lambda one, value: torch.zeros_like(value) if one.factor == factor else value)

    def dropped(
        self,
        probability: float | Mapping[str, float] = 0.1,
        generator: torch.Generator | None = None,
        copies: int = 1,
    ) -> Conditions:
        """Zero each factor of each clip independently, with `probability` (one for all, or one per factor).

        Ours: FactorPortrait is silent about dropout, and guidance needs it (Ho and Salimans 2022, arXiv 2207.12598).
        The value is replaced and no module is skipped: skipped modules hang sharded training.

        Args:
            copies: the batch is so many parts alike; clips at the same place of each share what is dropped.

        Raises:
            UserError: `probability` names something that is no factor.
        """
        if isinstance(probability, Mapping):
            refuse_unknown_keys(probability, FACTORS, "dropout")
        keep = {}
        for factor in FACTORS:  # in this order, for the same random numbers
            if self.carry(factor):
                chance = probability.get(factor, 0.0) if isinstance(probability, Mapping) else probability
                drawn = torch.rand(len(self) // copies, generator=generator) >= chance
                keep[factor] = drawn.repeat(copies)

        def drop(one: Condition, value: Tensor) -> Tensor:
            if one.factor is None:
                return value
            kept = keep[one.factor].to(value.device).reshape(-1, *[1] * (value.ndim - 1))
            return torch.where(kept, value, torch.zeros_like(value))

        return self._with(drop)

    def window(self, window: Window) -> Conditions:
        """A window's part of a long video's conditions."""
        return self._with(lambda one, value: cut(one, value, window))

    def _given(self) -> dict[str, Tensor]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def _with(self, change: Callable[[Condition, Tensor], Tensor]) -> Conditions:
        given = self._given()
        changed = {one.name: change(one, given[one.name]) for one in CONDITIONS if one.name in given}
        return type(self)(**{"normals": None, **changed})  # type: ignore[arg-type]


def cut(condition: Condition, value: Tensor, window: Window) -> Tensor:
    """A window's part of one condition.

    The window's first latent frame is one video frame, 4j, which the whole video has as the last of a group of four.
    Folded rays of the group become that frame's own, four times; latents of a group cannot be cut like that, which is
    why normal maps of a long video are encoded window by window (`inputs.WindowConditions`).

    Raises:
        UserError: latents of a whole video, and a window that does not begin with it.
    """
    if condition.frames == "one":
        return value
    if condition.frames == "video":
        return value[:, window.frames]
    part = value[:, :, window.start : window.stop]
    if window.start > 0 and condition.group != "rays":
        raise UserError(
            f"{condition.name} as latents for a video of several windows",
            f"{condition.name} as pixels",
            "pass B 3 T H W",
        )
    if window.start > 0 and value.shape[1] == 6 * TEMPORAL_STRIDE:
        part = part.clone()
        part[:, :, 0] = part[:, -6:, 0].repeat(1, TEMPORAL_STRIDE, 1, 1)
    return part


def padded(frames: int) -> np.ndarray:
    """Numbers of `frames` frames with the last one repeated to make up T = 4k+1; the surplus is cut off a video again.

    Every condition of a clip is taken at these: cameras, normal maps and codes.
    """
    return np.minimum(np.arange(-(-(frames - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1), frames - 1)
