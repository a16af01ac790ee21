"""What do the conditions cost? Parameters and operations of one forward pass at 512 x 512, 81 frames, per design.

Counted with torch's FLOP counter on the meta device, so no weights are needed. The peer for cost is a control branch as
ControlNet adds it: a copy of the first half of the blocks that runs over the condition's tokens, each block's output
added to the model's through a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from _result import write_result
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fportrait.diffusion.shapes import latent_frames
from fportrait.diffusion.transformer import FactorPortraitTransformer

SIZES = {
    "1.3B": {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
    "14B": {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40},
}
FRAMES, SIDE = 81, 512
GROUPS, CELLS = latent_frames(FRAMES), SIDE // 8


class ControlBranch(nn.Module):
    """A copy of half of Wan's blocks over condition tokens, as ControlNet has it."""

    def __init__(self, num_attention_heads: int, attention_head_dim: int, ffn_dim: int, num_layers: int):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.rope = WanRotaryPosEmbed(attention_head_dim, (1, 2, 2), 1024)
        self.patch_embedding = nn.Conv3d(72, dim, (1, 2, 2), (1, 2, 2))
        self.blocks = nn.ModuleList(
            WanTransformerBlock(dim, ffn_dim, num_attention_heads, "rms_norm_across_heads", True)
            for _ in range(num_layers // 2)
        )
        self.joins = nn.ModuleList(nn.Linear(dim, dim) for _ in self.blocks)

    def forward(self, conditions: torch.Tensor) -> torch.Tensor:
        hidden = self.patch_embedding(conditions).flatten(2).transpose(1, 2)
        dim, rope = hidden.shape[2], self.rope(conditions)
        prompt, modulation = hidden.new_empty(1, 512, dim), hidden.new_empty(1, 6, dim)
        for block, join in zip(self.blocks, self.joins, strict=True):
            hidden = block(hidden, prompt, modulation, rope)
            hidden = hidden + join(hidden)  # stands for the sum with the model's own tokens
        return hidden


def count(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[int, int]:
    """Parameters, and floating-point operations of one forward pass (two per multiply-add)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def designs(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    def latents(channels: int, frames: int = GROUPS) -> torch.Tensor:
        return torch.empty(1, channels, frames, CELLS, CELLS)

    with torch.device("meta"):
        wan, prompt = WanTransformer3DModel(**config), torch.empty(1, 512, 4096)
        time = torch.empty(1)
        given = {
            "latents": latents(16),
            "timestep": time,
            "reference": latents(16, 1),
            "rays": latents(24),
            "normals": latents(16),
            "codes": torch.empty(1, FRAMES, 128),
        }
        rows = {
            "bare Wan, 21 latent frames": count(wan, latents(16), time, prompt),
            "bare Wan, 22 latent frames (room for the reference)": count(wan, latents(16, GROUPS + 1), time, prompt),
            "fportrait": count(FactorPortraitTransformer(**config), **given),
            "C2, without normals": count(
                FactorPortraitTransformer(**config, use_normals=False), **{**given, "normals": None}
            ),
            "C3, landmarks through cross-attention": count(
                FactorPortraitTransformer(**config, expression="landmarks"),
                **{**given, "codes": torch.empty(1, FRAMES, 476)},
            ),
        }
        base = rows["bare Wan, 22 latent frames (room for the reference)"]
        branch = count(ControlBranch(**config), latents(72, GROUPS + 1))
    rows["a control branch (copy of half the blocks)"] = (base[0] + branch[0], base[1] + branch[1])
    return rows


def main() -> None:
    tables: dict[str, Any] = {}
    for size, config in SIZES.items():
        rows = designs(config)
        parameters, operations = rows["bare Wan, 22 latent frames (room for the reference)"]
        tables[size] = {
            name: {
                "parameters": own_parameters,
                "parameters_percent": round(100 * (own_parameters / parameters - 1), 3),
                "flops": own_operations,
                "flops_percent": round(100 * (own_operations / operations - 1), 3),
            }
            for name, (own_parameters, own_operations) in rows.items()
        }
        print(f"\n| {size}, {SIDE}², T = {FRAMES} | parameters | | TFLOPs forward | |\n| --- | --- | --- | --- | --- |")
        for name, row in tables[size].items():
            print(
                f"| {name} | {row['parameters'] / 1e6:,.1f} M | {row['parameters_percent']:+.2f}% "
                f"| {row['flops'] / 1e12:,.1f} | {row['flops_percent']:+.3f}% |"
            )
    ours = tables["1.3B"]["fportrait"]
    write_result(
        name="conditioning",
        what="operations that conditioning adds to bare Wan 1.3B at equal tokens, 512², T = 81 (parameters: 1%)",
        ours=ours["flops_percent"],
        unit="% of FLOPs",
        bound=0.1,
        n=1,
        tables=tables,
        parameters_hold=ours["parameters_percent"] <= 1,
    )


if __name__ == "__main__":
    main()
