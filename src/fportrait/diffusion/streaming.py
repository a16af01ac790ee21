"""A model for a stream on a processor: one small window after another, in half the time, for the same pictures.

Of a window of two or three latent frames much of a call goes to what is done around the products. So queries, keys and
values come from one product; attention is written out; cross-attention to a prompt whose keys are all alike (the
shipped base's) is the constant that it is; and where the processor multiplies bfloat16 itself, products and the codec's
convolutions take numbers of that type, sums and what is passed on stay float32. That alone changes no pixel by more
than a grey level. Two things are the same in every window or nearly so, and are computed once: what other frames ask of
the portrait's own (`StreamedBlocks`), and the codec's correction of what is compared (`decoded_beside`). They change
one pixel in two hundred by more than a grey level (docs/live.md). What is stored, trained or measured is made by the
original.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fportrait.diffusion.blocks import FactorPortraitBlock, KeyValue
from fportrait.diffusion.codec import BlockCodec, decode_latents, denormalise, encode_video
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
        turns: torch.Tensor,
        landmarks_BlPD: torch.Tensor | None = None,
        held: KeyValue | None = None,
    ) -> tuple[torch.Tensor, KeyValue]:
        """As `FactorPortraitBlock`; sums are float32.

        Args:
            turns: `rotary` of the tokens. held: keys and values `B H S E` of tokens that stand before the given ones.

        Returns:
            the tokens, and their own keys and values.
        """
        table = (self.table + modulation_BF6D.float()).unsqueeze(2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(3)
        hidden = hidden_states.unflatten(1, (modulation_BF6D.shape[1], -1))
        normed = torch.addcmul(shift, self._normed(hidden), 1 + scale).flatten(1, 2)
        attended, own = self._attend(normed, turns, held)
        hidden = torch.addcmul(hidden, attended.float().view_as(hidden), gate)
        hidden = hidden + self._prompted(hidden, prompt)
        if self.own.landmark_attention is not None:
            hidden = self.own.landmark_attention(hidden, landmarks_BlPD)
        normed = torch.addcmul(ffn_shift, self._normed(hidden), 1 + ffn_scale).to(self.dtype)
        inner = F.gelu(F.linear(normed, *self.first), approximate=self.approximate)
        return torch.addcmul(hidden, F.linear(inner, *self.last).float(), ffn_gate).flatten(1, 2), own

    def _normed(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], eps=self.own.norm1.eps)

    def _attend(
        self, tokens: torch.Tensor, turns: torch.Tensor, held: KeyValue | None
    ) -> tuple[torch.Tensor, KeyValue]:
        """Self-attention `B S D` of `tokens` `B S D`, and their keys and values `B H S E`."""
        read = F.linear(tokens.to(self.dtype), *self.read).unflatten(2, (3, -1))
        both = read[:, :, :2].float()  # B S 2 D: queries, keys
        both = both * (both.square().mean(-1, keepdim=True) + self.own.attn1.norm_q.eps).rsqrt() * self.norms
        pairs = torch.view_as_complex(both.unflatten(-1, (self.heads, -1, 2))) * turns  # B S 2 H E/2
        query, key = torch.view_as_real(pairs).flatten(-2).to(self.dtype).permute(2, 0, 3, 1, 4)  # B H S E
        value = read[:, :, 2].unflatten(2, (self.heads, -1)).transpose(1, 2)
        own = key, value
        if held is not None:
            key, value = (torch.cat(parts, 2) for parts in zip(held, own, strict=True))
        shares = torch.softmax(query @ key.transpose(2, 3), -1)
        return F.linear((shares @ value).transpose(1, 2).flatten(2), *self.out), own

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


def rotary(rotary_emb: Rotary) -> torch.Tensor:
    """Wan's rotary embedding as complex numbers, `1 S 1 1 E/2`."""
    return torch.complex(rotary_emb[0][..., 0::2].float(), rotary_emb[1][..., 1::2].float()).unsqueeze(2)


class StreamedBlocks(nn.Module):
    """All blocks in one, through which the portrait's tokens go once.

    What the portrait's latent frame is given is the same in every window, and what its tokens become nearly so: only
    their attention to the other frames tells them of a window. So the keys and values that other frames ask of them are
    kept from the first call with such a frame, and every call computes the other frames alone.
    """

    KEPT = 64  # at most: noise levels of a sampler, and the conditions that guidance leaves out

    def __init__(self, blocks: Iterable[FactorPortraitBlock], dtype: torch.dtype):
        super().__init__()
        self.streamed = nn.ModuleList([StreamedBlock(block, dtype) for block in blocks])
        self.kept: list[tuple[torch.Tensor, torch.Tensor, list[KeyValue]]] = []  # tokens, modulation, keys and values

    def forward(
        self,
        hidden_states: torch.Tensor,
        prompts: list[torch.Tensor | KeyValue],
        modulation_BF6D: torch.Tensor,
        rotary_emb: Rotary,
        landmarks_BlPD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As the blocks one after another; the portrait's tokens come out as zeros, for nothing reads them."""
        hidden, turns = hidden_states.float(), rotary(rotary_emb)
        if landmarks_BlPD is not None:  # they attend by frame, the portrait's among them
            return self._through(hidden, prompts, modulation_BF6D, turns, landmarks_BlPD)[0].type_as(hidden_states)
        count = hidden.shape[1] // modulation_BF6D.shape[1]
        portrait, modulation = hidden[:, :count], modulation_BF6D[:, :1]
        matches = (held for own, by, held in self.kept if torch.equal(own, portrait) and torch.equal(by, modulation))
        held = next(matches, None)
        if held is None:
            _, made = self._through(hidden, prompts, modulation_BF6D, turns)
            held = [(key[:, :, :count].clone(), value[:, :, :count].clone()) for key, value in made]
            self.kept = [*self.kept[1 - self.KEPT :], (portrait.clone(), modulation.clone(), held)]
        others, _ = self._through(hidden[:, count:], prompts, modulation_BF6D[:, 1:], turns[:, count:], held=held)
        return torch.cat([torch.zeros_like(portrait), others], 1).type_as(hidden_states)

    def _through(
        self,
        hidden: torch.Tensor,
        prompts: list[torch.Tensor | KeyValue],
        modulation_BF6D: torch.Tensor,
        turns: torch.Tensor,
        landmarks_BlPD: torch.Tensor | None = None,
        held: list[KeyValue] | None = None,
    ) -> tuple[torch.Tensor, list[KeyValue]]:
        """Tokens behind all blocks, and what each block's keys and values of them are."""
        made = []
        for number, (block, prompt) in enumerate(zip(self.streamed, prompts, strict=True)):
            before = None if held is None else held[number]
            hidden, own = block(hidden, prompt, modulation_BF6D, turns, landmarks_BlPD, before)
            made.append(own)
        return hidden, made


class HalfRefiner(nn.Module):
    """A codec's refiner, whose convolutions take another type; the pixels that it corrects stay as they are."""

    def __init__(self, own: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.own, self.dtype = own, dtype
        self._half = [copy.deepcopy(own).to(dtype)]  # not among the parameters, whose type is the codec's

    def forward(self, video: torch.Tensor, latents: torch.Tensor, from_start: bool = True) -> torch.Tensor:
        corrected: torch.Tensor = self._half[0](video.to(self.dtype), latents.to(self.dtype), from_start)
        return corrected.float()


@torch.no_grad()
def decoded_beside(vae: Any, latents: torch.Tensor, painted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A window's video `B 3 T H W` in [-1, 1], and what the codec makes of the `painted` pictures of the same frames.

    Of a `BlockCodec` both take the correction that its refiner finds for the video, which costs nearly all of decoding:
    what they differ by is small where the painted ones are kept (`diffusion.detail`), and so is what that changes.

    Args:
        latents: `B C l h w`, normalised. painted: `B 3 T H W` in [-1, 1].
    """
    coded = encode_video(vae, painted).to(latents)
    if not isinstance(vae, BlockCodec) or latents.shape[2] > vae.part(latents.shape[3] * latents.shape[4]):
        video, own = decode_latents(vae, torch.cat([latents, coded])).float().chunk(2)
        return video, own
    video, own = vae.decode_blocks(denormalise(vae, torch.cat([latents, coded]))).chunk(2)
    if vae.refiner is not None:
        correction = vae.refiner(video, latents)
        video, own = video + correction, own + correction
    return video.clamp(-1, 1), own.clamp(-1, 1)


def streamed(pipeline: FactorPortraitPipeline, dtype: torch.dtype | None = None) -> FactorPortraitPipeline:
    """A pipeline like `pipeline`, for windows one by one on a processor. It shares what it does not change.

    Args:
        dtype: of what is multiplied; None asks `product_type`.
    """
    dtype = dtype or product_type()
    transformer, vae = _twin(pipeline.transformer), pipeline.vae
    prompt = transformer.prompt_key_values()
    transformer.blocks = nn.ModuleList([StreamedBlocks(transformer.blocks, dtype)])
    transformer.prompt_key_values = lambda: [prompt]
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
