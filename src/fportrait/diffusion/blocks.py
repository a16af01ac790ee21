"""Wan's block with modulation per latent frame: the one place where the method touches Wan's layers."""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanTransformerBlock
from torch import nn

KeyValue = tuple[torch.Tensor, torch.Tensor]


def rotate(tokens_BSHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Wan's rotary embedding: the same numbers, without strided writes (slow on CPU)."""
    x1, x2 = tokens_BSHE.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1).flatten(-2).type_as(tokens_BSHE)


class FactorPortraitAttnProcessor(WanAttnProcessor):
    """Wan's attention; its cross-attention also takes one prompt for a whole batch, or its cached keys and values."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | KeyValue | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        if isinstance(encoder_hidden_states, tuple):
            key, value = encoder_hidden_states
        else:
            key, value = self.key_value(attn, hidden_states if encoder_hidden_states is None else encoder_hidden_states)
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        if key.shape[0] != query.shape[0]:  # one prompt for the whole batch
            key = key.expand(query.shape[0], -1, -1, -1)
            value = value.expand(query.shape[0], -1, -1, -1)
        parallel_config = self._parallel_config if encoder_hidden_states is None else None
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3).type_as(query)))

    @staticmethod
    def key_value(attn: WanAttention, tokens: torch.Tensor) -> KeyValue:
        """Keys and values `B S heads E` of `tokens` `B S D`."""
        key = attn.norm_k(attn.to_k(tokens)).unflatten(2, (attn.heads, -1))
        return key, attn.to_v(tokens).unflatten(2, (attn.heads, -1))


class LandmarkAttention(nn.Module):
    """Tokens of a latent frame attend to that frame's landmark features; the reference frame has none.

    The output layer starts at zero, so that a pretrained base is untouched.
    """

    def __init__(self, dim: int, heads: int, eps: float = 1e-6):
        super().__init__()
        self.norm = FP32LayerNorm(dim, eps, elementwise_affine=True)
        head_dim = dim // heads
        self.attention = WanAttention(
            dim, heads, head_dim, eps, cross_attention_dim_head=head_dim, processor=FactorPortraitAttnProcessor()
        )
        self.reset_output()

    def reset_output(self) -> None:
        for parameter in self.attention.to_out[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden_BFND: torch.Tensor, landmarks_BlPD: torch.Tensor) -> torch.Tensor:
        queries = self.norm(hidden_BFND[:, 1:].float()).type_as(hidden_BFND).flatten(0, 1)
        attended = self.attention(queries, landmarks_BlPD.flatten(0, 1).type_as(queries), None, None)
        attended = attended.unflatten(0, (len(hidden_BFND), -1))
        return hidden_BFND + torch.cat([torch.zeros_like(attended[:, :1]), attended], 1)


class FactorPortraitBlock(WanTransformerBlock):
    """A Wan block whose modulation is per latent frame, broadcast over that frame's tokens.

    With `landmarks` it has one more cross-attention, after the prompt's (the ablation C3).
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str | None = "rms_norm_across_heads",
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        landmarks: bool = False,
    ):
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps)
        self.attn1.set_processor(FactorPortraitAttnProcessor())
        self.attn2.set_processor(FactorPortraitAttnProcessor())
        self.landmark_attention = LandmarkAttention(dim, num_heads, eps) if landmarks else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        prompt: torch.Tensor | KeyValue,
        modulation_BF6D: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        landmarks_BlPD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`hidden_states` `B F*N D`, `modulation_BF6D` for F = 1+l latent frames; returns `B F*N D`."""
        frames = modulation_BF6D.shape[1]
        table = (self.scale_shift_table.unsqueeze(0) + modulation_BF6D.float()).unsqueeze(2)  # B F 1 6 D: no token axis
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(3)
        hidden = hidden_states.unflatten(1, (frames, -1))

        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        attended = self.attn1(normed.flatten(1, 2), None, None, rotary_emb).view_as(hidden)
        hidden = (hidden.float() + attended * gate).type_as(hidden)

        normed = self.norm2(hidden.float()).type_as(hidden)
        hidden = hidden + self.attn2(normed.flatten(1, 2), prompt, None, None).view_as(hidden)
        if self.landmark_attention is not None:
            hidden = self.landmark_attention(hidden, landmarks_BlPD)

        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        hidden = (hidden.float() + self.ffn(normed).float() * ffn_gate).type_as(hidden)
        return hidden.flatten(1, 2)
