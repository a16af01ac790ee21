"""The FactorPortrait transformer: Wan's blocks, a condition fusion layer before them, expression in their AdaLN.

Shapes: B batch, T video frames = 4k+1, l = (T+3)/4 latent frames, h x w latent size, N tokens per latent frame,
D width. The portrait is one more latent frame, prepended in time. Channel groups of the fusion layer, in this order:

    reference  [z_ref, 0 ...]    noise  [0, z_t ...]    rays  [0, rays ...]    normals  [0, normals ...]

At initialisation the new columns and the controller's output are zero, and the model equals, bit for bit, the bare
Wan transformer run on [zero latent frame, z_t].
"""

from __future__ import annotations

import itertools
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
    WanTransformer3DModel,
)
from torch import nn

from fportrait.diffusion import checkpoint
from fportrait.diffusion.blocks import FactorPortraitAttnProcessor, FactorPortraitBlock, KeyValue
from fportrait.diffusion.conditions import CONDITIONS, Conditions, Reads
from fportrait.diffusion.controller import ExpressionController, reset_parameters
from fportrait.diffusion.landmarks import LandmarkEncoder
from fportrait.diffusion.shapes import latent_frames
from fportrait.errors import UserError

logger = logging.getLogger(__name__)
SMALLEST_SIGMA = 0.05  # that a velocity to the painted portrait is divided by


def channel_groups(reads: Reads) -> dict[str, slice]:
    """Channels of the patch embedding's input: the portrait's, the noisy latents', then each condition's."""
    widths = {"reference": reads.latent_channels, "latents": reads.latent_channels}
    for one in CONDITIONS:
        if one.group is not None and one.read(reads):
            widths.setdefault(one.group, one.width(reads))
    ends = itertools.accumulate(widths.values())
    return {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


class PaintedGate(nn.Linear):
    """Of every latent cell and channel, how much the model changes of the portrait painted on the body: logits.

    Ours. A model of `bridge_level` below 1 says v = g v' + (1 - g) (z_t - p) / sigma, v' its own velocity and the other
    that of paths that end at the painted latents p, g the sigmoid of these logits. What p shows already need not pass
    through the blocks, which would blur it.
    """

    START = 1.0

    def __init__(self, dim: int, outputs: int):
        super().__init__(dim, outputs)
        self.reset_output()

    def reset_output(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.START)


class FactorPortraitTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):  # type: ignore[misc]
    """Velocity of the noisy latents given portrait, camera rays, normal maps and expression codes.

    Args beyond Wan's own:
        latent_channels: C, channels of a VAE latent (Wan 2.1: 16).
        prompt_tokens: length of the empty prompt's embedding, which is a buffer of the checkpoint.
        expression: `codes` through the controller, or `landmarks` through cross-attention (the ablation C3).
        code_dim: width of an expression code.
        landmarks: number of landmarks; `codes` then holds their x and y (`tracking.points.landmark_codes`).
        ray_channels: 24 (four frames folded) or 6 (every fourth frame).
        use_normals: False leaves the normal maps out (the ablation C2).
        reference_init: the reference's columns start at `zeros`, or as a copy of the noise columns (`wan`).
        reference_rays: the reference's ray map is `zeros`, or `identity`: given by the caller for the identity camera.
        reference_normals: the reference's normal map is `zeros`, as in the paper, or the `portrait`'s own.
        warped_reference: the reference's channels beside the l frames are zeros, as in the paper, or (True) hold the
            portrait painted on the body in each frame's pose.
        bridge_level: the noise level up to which paths start at that portrait, noised so far (`flow.bridged_noise`);
            1, as in the paper: at noise alone. Sampling starts there, and what is painted may be kept (`PaintedGate`).
        controller_width: C; D // 4 when None.
        controller_init_std: of the controller's output layer; 0 keeps the base exact at initialisation.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["FactorPortraitBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["FactorPortraitBlock"]
    _skip_layerwise_casting_patterns = WanTransformer3DModel._skip_layerwise_casting_patterns
    _keep_in_fp32_modules = WanTransformer3DModel._keep_in_fp32_modules

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        latent_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        prompt_tokens: int = 512,
        expression: str = "codes",
        code_dim: int = 128,
        landmarks: int = 238,
        ray_channels: int = 24,
        use_normals: bool = True,
        reference_init: str = "zeros",
        reference_rays: str = "zeros",
        reference_normals: str = "zeros",
        warped_reference: bool = False,
        bridge_level: float = 1.0,
        controller_width: int | None = None,
        controller_layers: int = 2,
        controller_init_std: float = 0.0,
    ):
        super().__init__()
        for name, value, known in (
            ("ray_channels", ray_channels, (24, 6)),
            ("expression", expression, ("codes", "landmarks")),
            ("reference_init", reference_init, ("zeros", "wan")),
            ("reference_rays", reference_rays, ("zeros", "identity")),
            ("reference_normals", reference_normals, ("zeros", "portrait")),
            ("patch_size[0]", patch_size[0], (1,)),
        ):
            if value not in known:
                raise UserError(f"{name} = {value!r}", " or ".join(map(repr, known)), f"set {name} to one of them")
        if not 0 < bridge_level <= 1 or (bridge_level < 1 and not warped_reference):
            raise UserError(
                f"bridge_level = {bridge_level} with warped_reference = {warped_reference}",
                "1, or less of a model that reads the painted portrait",
                "set warped_reference to true, or bridge_level to 1",
            )
        dim = num_attention_heads * attention_head_dim
        self.reads = Reads.of(self.config)
        self.groups = channel_groups(self.reads)
        in_channels = max(channels.stop for channels in self.groups.values())

        self.rope = WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = WanTimeTextImageEmbedding(dim, freq_dim, 6 * dim, text_dim)
        width, by_landmarks = controller_width or dim // 4, expression == "landmarks"
        self.controller, self.landmark_encoder = None, None
        if by_landmarks:
            self.landmark_encoder = LandmarkEncoder(landmarks, width, dim)
        else:
            self.controller = ExpressionController(code_dim, width, dim, controller_layers, controller_init_std)
        self.blocks = nn.ModuleList(
            [
                FactorPortraitBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps, by_landmarks)
                for _ in range(num_layers)
            ]
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        outputs = latent_channels * patch_size[1] * patch_size[2]
        self.proj_out = nn.Linear(dim, outputs)
        self.painted_gate = PaintedGate(dim, outputs) if bridge_level < 1 else None
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.register_buffer("prompt_embedding", torch.zeros(1, prompt_tokens, text_dim))
        self.gradient_checkpointing = False
        if self.patch_embedding.weight.is_meta:
            return  # nothing to widen, and copying nothing would import a computer algebra system
        with torch.no_grad():
            noise_columns = self.patch_embedding.weight[:, latent_channels : 2 * latent_channels].clone()
            self.patch_embedding.weight.copy_(self.widen_patch_embedding(noise_columns))

    @property
    def expression_width(self) -> int:
        """Numbers per driving frame that the model calls its codes: 128, or 2 per landmark."""
        return self.reads.expression_width

    def new_modules(self) -> dict[str, nn.Module]:
        """What Wan does not have, by name. (Its patch embedding is wider besides.)"""
        ours = ("controller", "landmark_encoder", "landmark_attention", "painted_gate")
        return {name: module for name, module in self.named_modules() if name.rsplit(".", 1)[-1] in ours}

    def widen_patch_embedding(self, noise_columns: torch.Tensor) -> torch.Tensor:
        """Wan's patch weight `D 16 1 p p` in its place among the new columns, which start as `reference_init` says."""
        channels = self.config.latent_channels
        weight = noise_columns.new_zeros(self.patch_embedding.weight.shape)
        weight[:, channels : 2 * channels] = noise_columns
        if self.config.reference_init == "wan":
            weight[:, :channels] = noise_columns
        return weight

    def fuse_conditions(self, latents: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The input of the patch embedding, `B 3C+24 1+l h w`: every group is one reference frame, then l frames.

        What no condition fills is zero: the portrait's channels beside the l frames, the others' in its own.
        """
        batch, _, frames, height, width = latents.shape
        fused = latents.new_zeros(batch, self.patch_embedding.in_channels, 1 + frames, height, width)
        fused[:, self.groups["latents"], 1:] = latents
        for one in CONDITIONS:
            if one.group is not None and one.read(self.reads):
                place = slice(0, 1) if one.frames == "one" else slice(1, None)
                fused[:, self.groups[one.group], place] = getattr(conditions, one.name)
        return fused

    def modulation(self, timestep: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Time embeddings `B 1+l D` and modulation `B 1+l 6 D`, one per latent frame; the reference's e is zero."""
        embedder = self.condition_embedder
        # In full precision even under autocast: a code's effect is small beside the time embedding's.
        device = timestep.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            time_dtype = embedder.time_embedder.linear_1.weight.dtype
            if timestep.ndim == 2:  # a level per latent frame; the reference's is that of the noisiest
                timestep = torch.cat([timestep.amax(1, keepdim=True), timestep], 1)
            shared = embedder.time_embedder(embedder.timesteps_proj(timestep.flatten()).to(time_dtype))
            shared = shared.to(embedder.time_proj.weight.dtype)
            if timestep.ndim == 1 and self.controller is None:
                projected = embedder.time_proj(embedder.act_fn(shared)).unflatten(1, (6, -1))
                frames = 1 + latent_frames(codes.shape[1])
                return shared[:, None].expand(-1, frames, -1), projected[:, None].expand(-1, frames, -1, -1)
            times_BFD = shared[:, None] if timestep.ndim == 1 else shared.unflatten(0, timestep.shape)
            if self.controller is not None:
                expression = self.controller(codes.to(self.controller.input.weight.dtype))
                times_BFD = times_BFD + torch.cat([torch.zeros_like(expression[:, :1]), expression], dim=1)
            # Frame by frame: B rows are what bare Wan multiplies, and a matrix product's last bits depend on its rows.
            by_frame = [embedder.time_proj(embedder.act_fn(time)) for time in times_BFD.unbind(1)]
        return times_BFD, torch.stack(by_frame, dim=1).unflatten(2, (6, -1))

    @torch.no_grad()
    def prompt_key_values(self, prompt: torch.Tensor | None = None) -> list[KeyValue]:
        """Each block's cross-attention keys and values of the prompt (the checkpoint's own when None).

        The prompt never changes while sampling, so a sampler computes this once and passes it as `prompt_cache`.
        """
        embedded = self.condition_embedder.text_embedder(self._prompt(prompt))
        return [FactorPortraitAttnProcessor.key_value(block.attn2, embedded) for block in self.blocks]

    def _prompt(self, prompt: torch.Tensor | None) -> torch.Tensor:
        weight = self.condition_embedder.text_embedder.linear_1.weight
        return (self.prompt_embedding if prompt is None else prompt).to(weight.dtype)

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        reference: torch.Tensor,
        rays: torch.Tensor,
        normals: torch.Tensor | None,
        codes: torch.Tensor,
        prompt: torch.Tensor | None = None,
        prompt_cache: list[KeyValue] | None = None,
        reference_rays: torch.Tensor | None = None,
        reference_normals: torch.Tensor | None = None,
        warped: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Velocity `B C l h w` of the l noisy frames (the reference frame is dropped).

        Args:
            latents: `B C l h w`, noisy, normalised.
            timestep: `B`, sigma * 1000; or `B l`, where some latents are less noisy than others (a student's, given
                what came before).
            reference: `B C 1 h w`, the portrait's latent.
            rays: `B 24 l h w` or `B 6 l h w`.
            normals: `B C l h w`; unused (may be None) without `use_normals`.
            codes: `B T 128`, standardised, T = 4l - 3 (`B T 476` with `expression="landmarks"`).
            prompt: `B|1 tokens text_dim`; the checkpoint's empty prompt when None.
            prompt_cache: `prompt_key_values()`, instead of `prompt`.
            reference_rays: `B 24|6 1 h w`, only with `reference_rays="identity"`.
            reference_normals: `B C 1 h w`, only with `reference_normals="portrait"`.
            warped: `B C l h w`, only with `warped_reference=True`.

        Raises:
            UserError: a shape does not fit; the message names it.
        """
        conditions = Conditions(reference, rays, normals, codes, reference_rays, reference_normals, warped)
        self.check_inputs(latents, conditions)
        fused = self.fuse_conditions(latents, conditions)
        rotary_emb = self.rope(fused)
        embedded = self.patch_embedding(fused.to(self.patch_embedding.weight.dtype))
        grid = embedded.shape[2:]
        hidden = embedded.flatten(2).transpose(1, 2).contiguous()

        times_BFD, modulation_BF6D = self.modulation(timestep, codes)
        landmarks = None
        if self.landmark_encoder is not None:
            landmarks = self.landmark_encoder(codes.to(self.landmark_encoder.input.weight.dtype))
        prompts: list[Any] | None = prompt_cache
        if prompts is None:
            prompts = [self.condition_embedder.text_embedder(self._prompt(prompt))] * len(self.blocks)
        for block, block_prompt in zip(self.blocks, prompts, strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(
                    block, hidden, block_prompt, modulation_BF6D, rotary_emb, landmarks
                )
            else:
                hidden = block(hidden, block_prompt, modulation_BF6D, rotary_emb, landmarks)

        shift, scale = (self.scale_shift_table.unsqueeze(0) + times_BFD.unsqueeze(2)).unsqueeze(2).unbind(3)
        hidden = hidden.unflatten(1, (grid[0], -1))
        hidden = (self.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden).flatten(1, 2)
        velocity = self._unpatchify(self.proj_out(hidden), grid)[:, :, 1:]
        if self.painted_gate is None or warped is None:
            return velocity
        gate = self._unpatchify(self.painted_gate(hidden), grid)[:, :, 1:].float().sigmoid()
        sigma = (timestep.float() / 1000).clamp(min=SMALLEST_SIGMA).reshape(len(timestep), 1, -1, 1, 1)
        return gate * velocity + (1 - gate) * (latents.float() - warped) / sigma

    def _unpatchify(self, tokens: torch.Tensor, grid: torch.Size) -> torch.Tensor:
        _, patch_h, patch_w = self.config.patch_size
        tokens = tokens.unflatten(1, tuple(grid)).unflatten(-1, (patch_h, patch_w, -1))  # B f y x ph pw c
        return tokens.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def check_inputs(self, latents: torch.Tensor, conditions: Conditions) -> None:
        """Raise `UserError` naming the first condition whose shape does not fit `latents`."""
        config = self.config
        batch, _, frames, height, width = latents.shape
        if height % config.patch_size[1] or width % config.patch_size[2]:
            raise UserError(
                f"latents of {height}x{width}", f"sizes that divide by the patch {config.patch_size[1:]}", "crop or pad"
            )
        shape = (batch, config.latent_channels, frames, height, width)
        if tuple(latents.shape) != shape:
            raise UserError(f"latents of shape {tuple(latents.shape)}", str(shape), "give latents that shape")
        conditions.check(self.reads, shape)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> FactorPortraitTransformer:
        """Load a folder written by `save_pretrained`.

        Raises:
            UserError: no such folder, a pickle instead of safetensors, or keys missing, extra or misshapen (listed).
        """
        location = checkpoint.model_folder(folder, kwargs.pop("subfolder", None))
        return checkpoint.load_model(cls, location, super().from_pretrained, **kwargs)

    @classmethod
    def from_wan(
        cls,
        source: str | Path | WanTransformer3DModel,
        prompt_embedding: torch.Tensor | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> FactorPortraitTransformer:
        """Widen a Wan 2.1 text-to-video transformer; every weight of Wan's is kept.

        Args:
            source: a folder in diffusers' layout or the original one (the transformer's own, or its parent), or a
                model in memory.
            prompt_embedding: `1 tokens text_dim` of the empty prompt (`prompt.encode_empty_prompt`); zeros when None,
                which no Wan was trained with: a warning says so.
            torch_dtype: of the result; as stored when None.
            kwargs: this class's own configuration (`reference_init`, `ray_channels`, ...).

        Raises:
            UserError: a pickle, an image-to-video model, or keys missing, extra or misshapen (all listed).
        """
        wan = checkpoint.open_wan(source)
        state, config = wan.read(), wan.config
        shared = {key: config[key] for key in checkpoint.WAN_SHARED_CONFIG if key in config}
        shared["latent_channels"] = config["in_channels"]
        if prompt_embedding is not None:
            shared["prompt_tokens"] = prompt_embedding.shape[1]
        elif not isinstance(source, WanTransformer3DModel):
            logger.warning("%s is widened without its empty prompt: pass encode_empty_prompt's result", wan.where)
        model = checkpoint.empty_model(cls, {**shared, **kwargs})
        if torch_dtype is not None:
            state = {key: value.to(torch_dtype) for key, value in state.items()}
        state["patch_embedding.weight"] = model.widen_patch_embedding(state["patch_embedding.weight"])
        missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
        new = (*model.new_modules(), "prompt_embedding")
        assert all(key.startswith(new) for key in missing), missing
        for module in model.new_modules().values():
            reset_parameters(module.to_empty(device="cpu"))
            module.to(state["proj_out.weight"].dtype)
        if prompt_embedding is not None:
            model.prompt_embedding.copy_(prompt_embedding)
        return model.eval()
