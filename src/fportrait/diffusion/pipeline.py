"""Sampling: one portrait, rays, normal maps and expression codes in; a video out. A diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from fportrait.bundle import BundleSettings, read_settings
from fportrait.devices import pick_device, sampling_dtype
from fportrait.diffusion import checkpoint
from fportrait.diffusion.codec import decode_parts, encode_video, load_vae
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.diffusion.detail import with_detail
from fportrait.diffusion.factors import FACTORS
from fportrait.diffusion.inputs import Cameras, FrameStream, Pictures, WindowConditions, as_latents, read_codes
from fportrait.diffusion.lora import apply_adapter
from fportrait.diffusion.numerics import first_not_finite
from fportrait.diffusion.schedule import make_scheduler, set_noise_levels
from fportrait.diffusion.shapes import latent_frames
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.windows import Blend, Window, plan_windows
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.pixels import to_model_range, to_uint8

OUTPUT_TYPES = ("uint8", "pt", "latent", "stream")
SETTINGS = ("window_frames", "guidance_below", "steps", "guidance", "detail")


@dataclass
class FactorPortraitPipelineOutput(BaseOutput):
    """`frames`: `B T H W 3` uint8 (numpy), or `B 3 T H W` in [-1, 1], or normalised latents `B C l h w`, or an
    iterator of `B t H W 3` uint8 whose t sum to T.
    """

    frames: Any


class FactorPortraitPipeline(DiffusionPipeline):
    """Args:
    transformer: the denoiser.
    vae: `BlockCodec` or `AutoencoderKLWan`.
    scheduler: a flow-matching scheduler of diffusers (`schedule.make_scheduler`); its levels are Wan's.
    window_frames: the clip length the transformer was trained on; longer videos go in overlapping windows of it.
    steps, guidance: of a call that does not say; a bundle's own where it comes from one. Guidance per factor is ours:
        FactorPortrait samples without it, as far as it says.
    guidance_below: guidance acts at noise levels up to this one, from 0 to 1; 1 is every step. Steps above it cost one
        model call. What a factor asks for is settled late, where little noise is left; scaled velocities before that
        only harden the picture (guidance in a limited interval: Kynkäänniemi et al. 2024, arXiv 2404.07724).
    detail: what the codec loses of painted portraits comes back into the result (`detail`), of models that start there.
    """

    model_cpu_offload_seq = "transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: FactorPortraitTransformer,
        vae: Any,
        scheduler: SchedulerMixin,
        window_frames: int | None = None,
        guidance_below: float = BundleSettings.guidance_below,
        steps: int = BundleSettings.steps,
        guidance: Mapping[str, float] | None = None,
        detail: bool = True,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.register_to_config(
            window_frames=window_frames,
            guidance_below=guidance_below,
            steps=steps,
            guidance=dict(guidance or {}),
            detail=detail,
        )

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
        for setting in SETTINGS:
            if setting in stored:
                components.setdefault(setting, stored[setting])
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

    @classmethod
    def of(
        cls, transformer: torch.nn.Module, vae: Any, shift: float, scheduler: str = "euler", **settings: Any
    ) -> FactorPortraitPipeline:
        """A sampler of models in memory; `scheduler` and its `shift` as in `schedule.make_scheduler`.

        Args:
            settings: `window_frames`, `guidance_below`, `steps`, `guidance`, `detail`.
        """
        return cls(transformer, vae, make_scheduler(scheduler, shift), **settings)  # type: ignore[arg-type]

    @classmethod
    def from_bundle(
        cls,
        folder: str | Path,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | None = "cpu",
        adapter: str | Path | None = None,
    ) -> FactorPortraitPipeline:
        """The sampler of a bundle (`fportrait.bundle`), with the noise schedule, clip length, steps and guidance of its
        settings, on a device: None asks the rule of `fportrait.devices`, which then also chooses the type.

        Args:
            adapter: LoRA weights over the bundle's transformer (`lora.apply_adapter`).

        Raises:
            UserError: a part is missing or does not fit, an adapter of another base, or the device cannot be used.
        """
        settings = read_settings(folder)
        place = pick_device(device)
        if device is None and torch_dtype is None:
            torch_dtype = sampling_dtype(place)
        stored = torch_dtype if adapter is None else None  # updates are added to the weights as they were trained
        transformer = FactorPortraitTransformer.from_pretrained(Path(folder) / "transformer", torch_dtype=stored)
        if adapter is not None:
            apply_adapter(transformer, adapter)
            checkpoint.cast(transformer, torch_dtype)
        vae = load_vae(Path(folder) / "vae")
        made = cls.of(
            transformer.eval(),
            vae,
            settings.shift,
            settings.scheduler,
            window_frames=settings.frames,
            guidance_below=settings.guidance_below,
            steps=settings.steps,
            guidance=settings.guidance,
        )
        return made if place.type == "cpu" else made.to(place)

    @torch.no_grad()
    def __call__(
        self,
        reference: Pictures,
        rays: torch.Tensor | Cameras,
        normals: Pictures | Iterable[np.ndarray] | None,
        codes: torch.Tensor | str | Path,
        num_inference_steps: int | None = None,
        guidance: Mapping[str, float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "uint8",
        callback_on_step_end: Callable[..., dict[str, torch.Tensor] | None] | None = None,
        reference_rays: torch.Tensor | None = None,
        reference_normals: Pictures | None = None,
        warped: Pictures | Iterable[np.ndarray] | None = None,
        window_frames: int | None = None,
        overlap_frames: int | None = None,
        given: torch.Tensor | None = None,
        larger: Iterable[np.ndarray] | None = None,
        trusted: Sequence[np.ndarray] | None = None,
        placed: torch.device | None = None,
    ) -> FactorPortraitPipelineOutput:
        """Sample a video of as many frames as there are codes.

        A long video needs no more memory for its pictures than a short one when they come and go one by one: `normals`
        as a video file or an iterator, `rays` as `Cameras`, `output_type="stream"`.

        Args:
            reference: the portrait: a picture file, `H W 3` or `1 H W 3` uint8, `B 3 1 H W` in [-1, 1], or latents
                `B C 1 h w`.
            rays: `B 24|6 l h w`, folded, or `Cameras`.
            normals: a video file, an iterator of `H W 3` uint8, `T H W 3` uint8 (numpy), `B 3 T H W` in [-1, 1], or
                latents `B C l h w` (short videos only).
            codes: `B T 128`, standardised, T = 4k+1, or a file of them (`read_codes`).
            num_inference_steps: None takes the pipeline's own.
            guidance: scale per factor, any of expression, pose, view, identity; 1 costs nothing, any other value one
                more model call per guided step (`guidance_below`). v + sum over f of (g_f - 1)(v - v without f).
                None takes the pipeline's own, `{}` none.
            generator: the same seed gives the same bits on the same machine; a list holds one per sample.
            output_type: `uint8`, `pt`, `latent`, or `stream`: frames are decoded as the iterator is read.
            callback_on_step_end: called with (pipeline, step, timestep, {"latents"}); may return new latents.
            reference_rays: `B 24|6 1 h w`, only for models with `reference_rays="identity"`; `Cameras` bring their own.
            reference_normals: the portrait's own normal map, given like `reference`, only for models with
                `reference_normals="portrait"`.
            warped: the portrait painted on the body in every pose (`body.painting`), given like `normals`, only for
                models with `warped_reference=True`. Given as pictures to a model that starts from it, its detail comes
                back into the result.
            window_frames: overrides the pipeline's own.
            overlap_frames: shared by neighbouring windows of a long video; about a third of a window when None.
            given: `B C k h w`, latents that the video begins with and that stay: what follows goes on from them. Only
                students learn to read them (`training.distill`), and only in a video of one window.
            larger: pictures `kH kW 3` uint8 as of `warped`, drawn at a multiple of the model's size; the result then
                has that size (`detail.with_detail`). Only with `warped` as pictures, of one video.
            trusted: how far each of these pictures is trusted, `H W` in 0 to 255 uint8; read after them, so that a list
                may be filled while they are drawn. Only with `warped` as pictures, of one video.
            placed: where all components lie and stay; None asks every module whether it does, which takes milliseconds.

        Raises:
            UserError: files, shapes or lengths that do not fit, unknown factors, values that are not finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type '{output_type}'", " or ".join(OUTPUT_TYPES), "choose one of them")
        guidance = dict(self.config.guidance if guidance is None else guidance)
        steps = num_inference_steps or self.config.steps
        refuse_unknown_keys(guidance, FACTORS, "guidance")
        if isinstance(codes, str | Path):
            codes = read_codes(codes)
        if codes.ndim != 3:
            raise UserError(f"codes of shape {tuple(codes.shape)}", "B T 128", "give one code per driving frame")
        frames = codes.shape[1]
        latent_frames(frames)
        windows = plan_windows(frames, window_frames or self.config.window_frames, overlap_frames)
        device = placed or self._execution_device
        portrait = as_latents(self.vae, reference, "reference", device)
        conditions = WindowConditions(
            self.vae,
            Reads.of(self.transformer.config),
            windows,
            portrait,
            rays,
            normals,
            codes,
            reference_rays,
            device,
            reference_normals,
            warped,
        )
        if given is not None and (len(windows) > 1 or given.shape[2] >= windows[0].stop):
            raise UserError(
                f"{given.shape[2]} given latents in {len(windows)} windows of {windows[0].stop}",
                "fewer than one window has, in a video of one window",
                "sample window by window",
            )
        latents = self._denoise(windows, conditions, steps, guidance, generator, callback_on_step_end, given)
        keeps = self.config.detail and self.transformer.config.bridge_level < 1 and conditions.painted
        painted = torch.cat(conditions.painted, 2) if keeps else None
        del conditions
        if output_type == "latent":
            if placed is None:
                self.maybe_free_model_hooks()
            return FactorPortraitPipelineOutput(frames=latents)
        for name, value in (("larger painted pictures", larger), ("trust in painted pictures", trusted)):
            if value is not None and (painted is None or len(latents) > 1):
                what = "that do not start from painted ones" if painted is None else "at once"
                raise UserError(
                    f"{name} for {len(latents)} videos {what}",
                    "one video of a model that starts from the painted portrait, given as pictures",
                    "leave them out",
                )
        parts = self._decode(latents, painted, larger, trusted)
        if output_type == "pt":
            return FactorPortraitPipelineOutput(frames=torch.cat(list(parts), 2))
        pictures = map(to_uint8, parts)
        return FactorPortraitPipelineOutput(
            frames=pictures if output_type == "stream" else np.concatenate(list(pictures), 1)
        )

    def _decode(
        self,
        latents: torch.Tensor,
        painted: torch.Tensor | None = None,
        larger: Iterable[np.ndarray] | None = None,
        trusted: Sequence[np.ndarray] | None = None,
    ) -> Iterator[torch.Tensor]:
        """Parts `B 3 t H W` of the video; with the detail of `painted` `B 3 T H W` uint8 (`detail.with_detail`)."""
        parts = (part.float() for part in decode_parts(self.vae, latents))
        if painted is None:
            yield from parts
        else:
            own = painted.to(latents.device).float() / 127.5 - 1
            start, drawn = 0, None if larger is None else FrameStream(larger, "larger painted pictures")
            for part, coded in zip(parts, decode_parts(self.vae, encode_video(self.vae, own)), strict=True):
                window = slice(start, start + part.shape[2])
                sharp = None if drawn is None else to_model_range(drawn.take(window)[None]).to(part)
                trust = None if trusted is None else torch.from_numpy(np.stack(trusted[window])[None, None]).to(part)
                yield with_detail(part, own[:, :, window], coded.float(), sharp, None if trust is None else trust / 255)
                start = window.stop
        self.maybe_free_model_hooks()

    def _denoise(
        self,
        windows: list[Window],
        conditions: WindowConditions,
        steps: int,
        guidance: Mapping[str, float],
        generator: torch.Generator | list[torch.Generator] | None,
        callback: Callable[..., dict[str, torch.Tensor] | None] | None,
        given: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents `B C l h w` of the whole video, from noise.

        The paper's sampler is this loop with one window: `blend` then hands over the latents and gives the velocity
        back as they are. A video longer than a trained clip is ours: each step asks the model about every window and
        goes along the mean of what it says (`windows.Blend`). So is guidance (`_velocity`).
        """
        device, latent_size = conditions.device, conditions.portrait.shape[3:]
        shape = (len(conditions.codes), self.transformer.config.latent_channels, windows[-1].stop, *latent_size)
        blend = Blend(windows, device)
        latents = blend.noise(shape, lambda part: randn_tensor(part, generator, device=device, dtype=torch.float32))
        if hasattr(self.transformer, "_hf_hook"):  # offloaded: bring it to the device before its first forward
            self.transformer._hf_hook.pre_forward(self.transformer)
        prompt_cache = self.transformer.prompt_key_values()
        start = self.transformer.config.bridge_level
        set_noise_levels(self.scheduler, steps, device, start)
        if start < 1:
            latents = self._bridged(latents, blend, conditions)
        timesteps = self.scheduler.timesteps
        guided_from = self.config.guidance_below * self.scheduler.config.num_train_timesteps
        with self.progress_bar(total=len(timesteps)) as progress:
            for step, timestep in enumerate(timesteps):
                scales = guidance if float(timestep) <= guided_from else {}
                times = timestep.to(latents).expand(len(latents))
                if given is not None:
                    latents[:, :, : given.shape[2]] = given
                    times = times[:, None].repeat(1, latents.shape[2])
                    times[:, : given.shape[2]] = 0
                velocity = blend.mean(
                    self._velocity(blend.part(latents, index), times, conditions[index], scales, prompt_cache)
                    for index in range(len(windows))
                )
                if not torch.isfinite(velocity).all():
                    self._refuse_not_finite(step, steps, timestep, latents, windows, conditions)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback is not None:
                    changed = callback(self, step, timestep, {"latents": blend.video(latents)}) or {}
                    latents = blend.replaced(latents, changed.get("latents"))
                progress.update()
        video = blend.video(latents).clone()
        if given is not None:
            video[:, :, : given.shape[2]] = given
        return video

    def _bridged(self, noise: torch.Tensor, blend: Blend, conditions: WindowConditions) -> torch.Tensor:
        """Where the paths of a model below `bridge_level` 1 start: the portrait painted on the body, noised so far.

        Ours; `flow.bridged_noise` is the training's part.
        """
        sigma = self.scheduler.sigmas[0].to(noise)
        parts = [conditions[index].warped for index in range(len(blend.windows))]
        known = [part.to(noise) for part in parts if part is not None]
        if len(known) < len(parts):
            raise UserError(
                "no painted portrait for a model that starts from it",
                "`warped`: the portrait painted on the body in every pose (fportrait.body.painting)",
                "give it, or take a model that starts from noise",
            )
        painted = blend.mean(known)
        return (1 - sigma) * painted + sigma * noise

    def _velocity(
        self,
        latents: torch.Tensor,
        times: torch.Tensor,
        conditions: Conditions,
        guidance: Mapping[str, float],
        prompt_cache: list[Any] | None,
    ) -> torch.Tensor:
        """The model's velocity, and over it what guidance adds (ours); a factor of scale 1 costs no model call."""

        def model(given: Conditions) -> torch.Tensor:
            return self.transformer(latents, times, **given.inputs(), prompt_cache=prompt_cache).float()

        full = model(conditions)
        guided = full
        for factor, scale in guidance.items():
            if scale != 1 and conditions.carry(factor):
                guided = guided + (scale - 1) * (full - model(conditions.without(factor)))
        return guided

    def _refuse_not_finite(
        self,
        step: int,
        steps: int,
        timestep: torch.Tensor,
        state: torch.Tensor,
        windows: list[Window],
        conditions: WindowConditions,
    ) -> None:
        """Raise `UserError` that names the step and, when the model itself overflowed, the module."""
        dtype = self.transformer.proj_out.weight.dtype

        def run() -> None:
            for index, window in enumerate(windows):
                times = timestep.to(state).expand(len(state))
                self._velocity(state[:, :, window.start : window.stop], times, conditions[index], {}, None)

        where = first_not_finite(self.transformer, run)
        limit = f", whose largest number is {torch.finfo(dtype).max:.3g}" if where else ""
        raise UserError(
            f"values that are not finite at step {step + 1} of {steps} (timestep {float(timestep):.0f}), "
            + (f"first in {where}, in {dtype}{limit}" if where else "made by guidance"),
            "finite latents",
            "sample in bfloat16 or float32" if where else "lower the guidance",
        )
