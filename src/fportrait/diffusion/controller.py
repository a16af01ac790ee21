"""The expression controller: driving codes to one offset of the time embedding per latent frame.

Codes `B T 128` pass a linear layer and two temporal self-attention layers of width D/4, are grouped as the video
VAE groups frames (the first alone, repeated to fill its group, then fours) into `B l D`, as e which is added to the
shared time embedding: t_i = t + e_i (FactorPortrait, eq. 1 and the text before it).

Ours, where the paper is silent: an output layer that starts at zero between the groups and e, rotary positions over
time, pre-norm attention with heads of 64, and a projection where 4 times the layers' width is not D.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from torch import nn

from fportrait.diffusion.shapes import TEMPORAL_STRIDE


def group_frames(features_BTC: torch.Tensor) -> torch.Tensor:
    """`B T W` to `B l 4W`: the first frame four times, then every four frames, each group's channels in frame order."""
    first = features_BTC[:, :1].expand(-1, TEMPORAL_STRIDE - 1, -1)
    padded = torch.cat([first, features_BTC], dim=1)
    return padded.unflatten(1, (-1, TEMPORAL_STRIDE)).flatten(2)


class SelfAttention(nn.Module):
    """Pre-norm self-attention over axis 1 with a residual; zero `to_out` makes it the identity.

    Over frames (`over_time`) it has rotary positions (ours): it sees distances only, so a window may start anywhere in
    a long video.
    """

    def __init__(self, width: int, over_time: bool = True):
        super().__init__()
        self.over_time = over_time
        self.heads = max(1, width // 64) if width % max(1, width // 64) == 0 else 1
        if (width // self.heads) % 2:
            raise ValueError(f"controller width {width} leaves {width // self.heads} channels per head: make it even")
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, features_BTC: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm(features_BTC)).chunk(3, dim=-1)
        )
        if self.over_time:
            cos, sin = get_1d_rotary_pos_embed(query.shape[-1], features_BTC.shape[1], use_real=True)
            rotary = (cos.to(query.device), sin.to(query.device))
            query, key = apply_rotary_emb(query, rotary), apply_rotary_emb(key, rotary)
        attended = F.scaled_dot_product_attention(query, key, value)
        return features_BTC + self.to_out(attended.transpose(1, 2).flatten(2))


def reset_parameters(module: nn.Module) -> None:
    """Draw every parameter of a new module anew (needed after it was built on the meta device)."""
    for part in module.modules():
        if isinstance(part, nn.RMSNorm):
            nn.init.ones_(part.weight)
        elif isinstance(part, nn.Linear | nn.LayerNorm | nn.Embedding):
            part.reset_parameters()
    for part in module.modules():  # outputs that start at zero, last
        if hasattr(part, "reset_output"):
            part.reset_output()  # type: ignore[operator]


class ExpressionController(nn.Module):
    """Standardised codes `B T code_dim` (T = 4k+1) to time-embedding offsets `B l D`.

    The output layer is ours. `init_std` 0 starts it at zero, so that a pretrained base is untouched; a small base
    trained from scratch learns expression sooner from a live output (0.02).
    """

    def __init__(self, code_dim: int, width: int, dim: int, layers: int = 2, init_std: float = 0.0):
        super().__init__()
        self.init_std = init_std
        self.input = nn.Linear(code_dim, width)
        self.layers = nn.ModuleList([SelfAttention(width) for _ in range(layers)])
        grouped = TEMPORAL_STRIDE * width
        self.bridge = nn.Identity() if grouped == dim else nn.Linear(grouped, dim)
        self.output = nn.Linear(dim, dim)
        self.reset_output()

    def reset_output(self) -> None:
        nn.init.normal_(self.output.weight, std=self.init_std) if self.init_std else nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, codes_BTE: torch.Tensor) -> torch.Tensor:
        features = self.input(codes_BTE)
        for layer in self.layers:
            features = layer(features)
        return self.output(self.bridge(group_frames(features)))
