"""Sampling: one portrait, rays, normal maps and expression codes in; a video out. A diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from fportrait.diffusion.codec import decode_latents, encode_video, load_vae
from fportrait.diffusion.flow import FACTORS
from fportrait.diffusion.shapes import latent_frames
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.windows import Window, blend, plan_windows, window_rays
from fportrait.errors import UserError, refuse_unknown_keys

Video = torch.Tensor | np.ndarray
Conditions = dict[str, torch.Tensor | None]
OUTPUT_TYPES = ("uint8", "pt", "latent")


@dataclass
class FactorPortraitPipelineOutput(BaseOutput):
    """`frames`: `B T H W 3` uint8 (numpy), or `B 3 T H W` in [-1, 1], or normalised latents `B 16 l h w`."""

    frames: Any


class FactorPortraitPipeline(DiffusionPipeline):
    """Args:
    transformer: the denoiser.
    vae: `BlockCodec` or `AutoencoderKLWan`.
    scheduler: a flow-matching scheduler of diffusers.
    window_frames: the clip length the transformer was trained on; longer videos go in overlapping windows of it.
    """

    model_cpu_offload_seq = "transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: FactorPortraitTransformer,
        vae: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
        window_frames: int | None = None,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.register_to_config(window_frames=window_frames)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, torch_dtype: torch.dtype | None = None, **components: Any
    ) -> FactorPortraitPipeline:
        """Load what `save_pretrained` wrote; `components` replace stored ones.

        Raises:
            UserError: no such folder, or a component that does not fit (see the components' own loaders).
        """
        folder = Path(folder)
        index = folder / "model_index.json"
        if not index.is_file():
            raise UserError(f"no {index}", "a pipeline folder", "check the path, or save a pipeline there")
        stored = json.loads(index.read_text(encoding="utf-8"))
        components.setdefault("window_frames", stored.get("window_frames"))
        if "transformer" not in components:
            loaded = FactorPortraitTransformer.from_pretrained(folder / "transformer", torch_dtype=torch_dtype)
            components["transformer"] = loaded
        if "vae" not in components:
            components["vae"] = load_vae(folder / "vae", torch_dtype)
        if "scheduler" not in components:
            import diffusers

            name = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
            components["scheduler"] = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
        return cls(**components)

    @torch.no_grad()
    def __call__(
        self,
        reference: Video,
        rays: torch.Tensor,
        normals: Video | None,
        codes: torch.Tensor,
        num_inference_steps: int = 30,
        guidance: Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "uint8",
        callback_on_step_end: Callable[..., dict[str, torch.Tensor] | None] | None = None,
        reference_rays: torch.Tensor | None = None,
        window_frames: int | None = None,
        overlap_frames: int | None = None,
    ) -> FactorPortraitPipelineOutput:
        """Sample a video of as many frames as there are codes.

        Args:
            reference: the portrait, `H W 3` or `1 H W 3` uint8, `B 3 1 H W` in [-1, 1], or latents `B 16 1 h w`.
            rays: `B 24|6 l h w`, folded.
            normals: `T H W 3` uint8 (numpy), `B 3 T H W` in [-1, 1], or latents `B 16 l h w` (short videos only).
            codes: `B T 128`, standardised, T = 4k+1.
            guidance: scale per factor, any of expression, pose, view, identity; 1, the default, costs nothing, any
                other value one more model call per step. v + sum over f of (g_f - 1)(v - v without f).
            generator: the same seed gives the same bits on the same machine.
            output_type: `uint8`, `pt` or `latent`.
            callback_on_step_end: called with (pipeline, step, timestep, {"latents"}); may return new latents.
            reference_rays: only for models with `reference_rays="identity"`.
            window_frames: overrides the pipeline's own.
            overlap_frames: shared by neighbouring windows of a long video; about a third of a window when None.

        Raises:
            UserError: shapes or lengths that do not fit, unknown factors, values that are not finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type '{output_type}'", " or ".join(OUTPUT_TYPES), "choose one of them")
        guidance = dict(guidance or {})
        refuse_unknown_keys(guidance, FACTORS, "guidance")
        if codes.ndim != 3:
            raise UserError(f"codes of shape {tuple(codes.shape)}", "B T 128", "give one code per driving frame")
        frames = codes.shape[1]
        total = latent_frames(frames)
        windows = plan_windows(frames, window_frames or self.config.window_frames, overlap_frames)
        device = self._execution_device
        portrait = self._latents_of(reference, "reference", device)
        conditions = [
            self._window_conditions(window, windows, portrait, rays, normals, codes, device) for window in windows
        ]
        for window_conditions in conditions:
            window_conditions["reference_rays"] = None if reference_rays is None else reference_rays.to(device)

        shape = (codes.shape[0], self.transformer.config.latent_channels, total, *portrait.shape[3:])
        latents = randn_tensor(shape, generator, device=device, dtype=torch.float32)
        anchor_shape = (*shape[:2], 1, *shape[3:])
        anchors = [randn_tensor(anchor_shape, generator, device=device, dtype=torch.float32) for _ in windows[1:]]
        prompt_cache = self.transformer.prompt_key_values()
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        with self.progress_bar(total=num_inference_steps) as progress:
            for step, timestep in enumerate(self.scheduler.timesteps):
                velocities = []
                for index, window in enumerate(windows):
                    part = latents[:, :, window.start : window.stop]
                    if index > 0:
                        part = torch.cat([anchors[index - 1], part[:, :, 1:]], 2)
                    velocities.append(self._velocity(part, timestep, conditions[index], guidance, prompt_cache))
                # Anchors ride along as extra frames, so that one scheduler step moves everything alike.
                joined = torch.cat([latents, *anchors], 2)
                velocity = torch.cat([blend(velocities, windows, total), *[v[:, :, :1] for v in velocities[1:]]], 2)
                joined = self.scheduler.step(velocity, timestep, joined, return_dict=False)[0]
                latents, anchors = joined[:, :, :total], list(joined[:, :, total:].split(1, 2)) if anchors else []
                if not torch.isfinite(latents).all():
                    raise UserError(
                        f"values that are not finite after step {step + 1} of {num_inference_steps} "
                        f"(timestep {float(timestep):.0f}, weights in {self.transformer.proj_out.weight.dtype})",
                        "finite latents",
                        "sample in bfloat16 or float32, or lower the guidance",
                    )
                if callback_on_step_end is not None:
                    changed = callback_on_step_end(self, step, timestep, {"latents": latents}) or {}
                    latents = changed.get("latents", latents)
                progress.update()
        self.maybe_free_model_hooks()
        if output_type == "latent":
            return FactorPortraitPipelineOutput(frames=latents)
        video = decode_latents(self.vae, latents).float()
        if output_type == "uint8":
            pixels = ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            return FactorPortraitPipelineOutput(frames=pixels.permute(0, 2, 3, 4, 1).cpu().numpy())
        return FactorPortraitPipelineOutput(frames=video)

    def _velocity(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditions: Conditions,
        guidance: Mapping[str, float],
        prompt_cache: list[Any],
    ) -> torch.Tensor:
        """The guided velocity; a factor whose scale is 1 costs no model call."""
        times = timestep.to(latents).expand(latents.shape[0])
        full = self.transformer(latents, times, **conditions, prompt_cache=prompt_cache).float()
        guided = full
        for factor, scale in guidance.items():
            carrier = conditions[FACTORS[factor]]
            if scale == 1 or carrier is None:
                continue
            without = {**conditions, FACTORS[factor]: torch.zeros_like(carrier)}
            dropped = self.transformer(latents, times, **without, prompt_cache=prompt_cache).float()
            guided = guided + (scale - 1) * (full - dropped)
        return guided

    def _window_conditions(
        self,
        window: Window,
        windows: list[Window],
        portrait: torch.Tensor,
        rays: torch.Tensor,
        normals: Video | None,
        codes: torch.Tensor,
        device: torch.device,
    ) -> Conditions:
        total = windows[-1].stop
        if rays.ndim != 5 or rays.shape[2] != total:
            count = rays.shape[2] if rays.ndim == 5 else rays.shape
            raise UserError(
                f"rays of {count} latent frames for {codes.shape[1]} codes ({total} latent frames)",
                "one camera per driving frame",
                "extend the camera path or cut the driving video",
            )
        if not self.transformer.config.use_normals or normals is None:
            part = None
        elif len(windows) == 1:
            part = self._latents_of(normals, "normals", device)
        else:
            video = self._video_of(normals, "normals")
            if video.shape[1] != 3:
                raise UserError(
                    "normals as latents for a video of several windows", "normal maps as pixels", "pass B 3 T H W"
                )
            if video.shape[2] != codes.shape[1]:
                raise UserError(
                    f"{video.shape[2]} normal maps for {codes.shape[1]} codes", "one per frame", "cut the longer one"
                )
            part = self._latents_of(video[:, :, window.frames], "normals", device)
        conditions: Conditions = {
            "reference": portrait,
            "rays": window_rays(rays, window).float().to(device),
            "normals": part,
            "codes": codes[:, window.frames].float().to(device),
        }
        for name, value in conditions.items():
            if value is not None and not torch.isfinite(value).all():
                raise UserError(f"{name} that are not finite", "finite numbers", f"look for NaN where {name} are made")
        return conditions

    @staticmethod
    def _video_of(value: Video, name: str) -> torch.Tensor:
        """Numpy pictures as `1 3 T H W` in [-1, 1]; tensors of five axes as they are."""
        if isinstance(value, np.ndarray):
            pictures = value[None] if value.ndim == 3 else value
            if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
                raise UserError(f"{name} of {value.dtype} {value.shape}", "uint8 T H W 3", "convert it to RGB pictures")
            return torch.from_numpy(np.ascontiguousarray(pictures)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        if value.ndim != 5:
            raise UserError(f"{name} of shape {tuple(value.shape)}", "B 3 T H W or B 16 l h w", f"reshape {name}")
        return value

    def _latents_of(self, value: Video, name: str, device: torch.device) -> torch.Tensor:
        video = self._video_of(value, name).to(device)
        if video.shape[1] == 3:
            return encode_video(self.vae, video).float()
        return video.float()
