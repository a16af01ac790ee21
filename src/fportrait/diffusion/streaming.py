"""A model for a stream on a processor: one small window after another, in half the time, for the same pictures.

Of a window of two or three latent frames much of a call goes to what is done around the products. So queries, keys and
values come from one product; attention is written out; cross-attention to a prompt whose keys are all alike (the
shipped base's) is the constant that it is; and where the processor multiplies bfloat16 itself, products and the codec's
convolutions take numbers of that type, sums and what is passed on stay float32. Pictures differ from the original's by
less than one grey level (`tests/diffusion/test_streaming.py`). What is stored, trained or measured is made by the
original.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fportrait.diffusion.blocks import FactorPortraitBlock, KeyValue
from fportrait.diffusion.pipeline import SETTINGS, FactorPortraitPipeline

Rotary = tuple[torch.Tensor, torch.Tensor]


def product_type() -> torch.dtype:
    """What this processor multiplies fastest of what is precise enough: bfloat16 where it has instructions for it."""
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # torch has no public name for it
    return torch.bfloat16 if has() else torch.float32


class StreamedBlock(nn.Module):
    """A block of the transformer, for sampling without gradients on a processor.

    Args:
        block: shared, not changed. dtype: of what is multiplied.
    """

    def __init__(self, block: FactorPortraitBlock, dtype: torch.dtype):
        super().__init__()
        self.own, self.dtype = block, dtype
        attention, (first, _, last) = block.attn1, block.ffn.net
        self.heads, self.width = attention.heads, attention.inner_dim
        parts = (attention.to_q, attention.to_k, attention.to_v)
        self.read = self._cast(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self.out = self._cast(attention.to_out[0].weight, attention.to_out[0].bias)
        self.first, self.last = self._cast(first.proj.weight, first.proj.bias), self._cast(last.weight, last.bias)
        self.approximate = first.approximate
        # The scale of attention goes with the query's normalisation.
        scale = (self.width // self.heads) ** -0.5
        self.norms = torch.stack([attention.norm_q.weight.float() * scale, attention.norm_k.weight.float()])
        self.table = block.scale_shift_table.float().unsqueeze(0)
        self.alike: tuple[KeyValue, torch.Tensor] | None = None  # a prompt, and what it adds

    def _cast(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return weight.detach().to(self.dtype).contiguous(), bias.detach().to(self.dtype)

    def forward(
        self,
        hidden_states: torch.Tensor,
        prompt: torch.Tensor | KeyValue,
        modulation_BF6D: torch.Tensor,
        rotary_emb: Rotary,
        landmarks_BlPD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `FactorPortraitBlock`; sums are float32."""
        table = (self.table + modulation_BF6D.float()).unsqueeze(2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(3)
        hidden = hidden_states.float().unflatten(1, (modulation_BF6D.shape[1], -1))
        normed = torch.addcmul(shift, self._normed(hidden), 1 + scale).flatten(1, 2)
        attended = self._attend(normed, rotary_emb).float().view_as(hidden)
        hidden = torch.addcmul(hidden, attended, gate)
        hidden = hidden + self._prompted(hidden, prompt)
        if self.own.landmark_attention is not None:
            hidden = self.own.landmark_attention(hidden, landmarks_BlPD)
        normed = torch.addcmul(ffn_shift, self._normed(hidden), 1 + ffn_scale).to(self.dtype)
        inner = F.gelu(F.linear(normed, *self.first), approximate=self.approximate)
        made = torch.addcmul(hidden, F.linear(inner, *self.last).float(), ffn_gate)
        return made.flatten(1, 2).type_as(hidden_states)

    def _normed(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], eps=self.own.norm1.eps)

    def _attend(self, tokens: torch.Tensor, rotary_emb: Rotary) -> torch.Tensor:
        """Self-attention `B S D` of `tokens` `B S D`."""
        read = F.linear(tokens.to(self.dtype), *self.read).unflatten(2, (3, -1))
        both = read[:, :, :2].float()  # B S 2 D: queries, keys
        both = both * (both.square().mean(-1, keepdim=True) + self.own.attn1.norm_q.eps).rsqrt() * self.norms
        turns = torch.complex(rotary_emb[0][..., 0::2].float(), rotary_emb[1][..., 1::2].float())
        pairs = torch.view_as_complex(both.unflatten(-1, (self.heads, -1, 2))) * turns.unsqueeze(2)  # B S 2 H E/2
        query, key = torch.view_as_real(pairs).flatten(-2).to(self.dtype).permute(2, 0, 3, 1, 4)  # B H S E
        value = read[:, :, 2].unflatten(2, (self.heads, -1)).transpose(1, 2)
        shares = torch.softmax(query @ key.transpose(2, 3), -1)
        return F.linear((shares @ value).transpose(1, 2).flatten(2), *self.out)

    def _prompted(self, hidden: torch.Tensor, prompt: torch.Tensor | KeyValue) -> torch.Tensor:
        """What cross-attention to the prompt adds, `B F N D`, or the same for every token: `1 1 1 D`."""
        block = self.own
        if isinstance(prompt, tuple):
            if self.alike is not None and self.alike[0] is prompt:
                return self.alike[1]
            key, value = prompt
            if len(key) == 1 and torch.equal(key, key[:, :1].expand_as(key)):  # any query then asks all alike
                mean = value.mean(1).flatten(1).to(block.attn2.to_out[0].weight.dtype)
                self.alike = prompt, block.attn2.to_out[0](mean).float()[:, None, None]
                return self.alike[1]
        weight = block.attn2.to_q.weight
        tokens = block.norm2(hidden).to(weight.dtype).flatten(1, 2)
        added: torch.Tensor = block.attn2(tokens, prompt, None, None)
        return added.float().view_as(hidden)


class HalfRefiner(nn.Module):
    """A codec's refiner, whose convolutions take another type; the pixels that it corrects stay as they are."""

    def __init__(self, own: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.own, self.dtype = own, dtype
        self._half = [copy.deepcopy(own).to(dtype)]  # not among the parameters, whose type is the codec's

    def forward(self, video: torch.Tensor, latents: torch.Tensor, from_start: bool = True) -> torch.Tensor:
        corrected: torch.Tensor = self._half[0](video.to(self.dtype), latents.to(self.dtype), from_start)
        return corrected.float()


def streamed(pipeline: FactorPortraitPipeline, dtype: torch.dtype | None = None) -> FactorPortraitPipeline:
    """A pipeline like `pipeline`, for windows one by one on a processor. It shares what it does not change.

    Args:
        dtype: of what is multiplied; None asks `product_type`.
    """
    dtype = dtype or product_type()
    transformer, vae = _twin(pipeline.transformer), pipeline.vae
    prompt = transformer.prompt_key_values()
    transformer.blocks = nn.ModuleList([StreamedBlock(block, dtype) for block in transformer.blocks])
    transformer.prompt_key_values = lambda: prompt
    if getattr(vae, "refiner", None) is not None and dtype != torch.float32:
        vae = _twin(vae)
        vae.refiner = HalfRefiner(vae.refiner, dtype)
    settings = {name: pipeline.config[name] for name in SETTINGS}
    made = FactorPortraitPipeline(transformer, vae, pipeline.scheduler, **settings)
    made.set_progress_bar_config(disable=True)
    return made


def _twin(module: Any) -> Any:
    """A module with the same parts, of which some may be replaced without changing the other's."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made
