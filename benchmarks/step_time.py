"""How much slower is a training step with all conditions than bare Wan's on as many tokens?

Forward and backward of the small base's configuration, in turns with diffusers' `WanTransformer3DModel` of the same
size, one thread, in CPU time of this process, so that what else the machine does falls on neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _result import write_result
from diffusers import WanTransformer3DModel

from fportrait.diffusion.transformer import FactorPortraitTransformer

CONFIG: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "text_dim": 32,
    "ffn_dim": 768,
    "num_layers": 8,
}
ROUNDS = 40
FRAMES = {"T = 17": 5, "T = 81": 21}  # latent frames without the reference


def seconds(step: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    step().square().mean().backward()
    return time.process_time() - started


def compare(latent_frames: int, batch: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of `rounds` steps of ours and of theirs, at 64 x 64 pixels."""
    torch.manual_seed(0)
    ours = FactorPortraitTransformer(**CONFIG, prompt_tokens=2, reference_init="wan", controller_init_std=0.02)
    wan = WanTransformer3DModel(**CONFIG, in_channels=16, out_channels=16)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape)

    timestep = torch.rand(batch) * 1000
    given = {
        "latents": draw(16, latent_frames, 8, 8),
        "timestep": timestep,
        "reference": draw(16, 1, 8, 8),
        "rays": draw(24, latent_frames, 8, 8),
        "normals": draw(16, latent_frames, 8, 8),
        "codes": draw(4 * latent_frames - 3, 128),
    }
    latents, prompt = draw(16, 1 + latent_frames, 8, 8), torch.zeros(batch, 2, 32)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    steps = {"ours": lambda: ours(**given), "theirs": lambda: wan(latents, timestep, prompt, return_dict=False)[0]}
    for turn in range(rounds + 2):
        for name in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            (ours if name == "ours" else wan).zero_grad(set_to_none=True)
            times[name].append(seconds(steps[name]))
    return np.array(times["ours"][2:]), np.array(times["theirs"][2:])


def interval(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of medians and its 95% bootstrap interval over pairs."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(ours), (2000, len(ours)))
    ratios = np.median(ours[picks], 1) / np.median(theirs[picks], 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)


def main() -> None:
    torch.set_num_threads(1)
    table = {}
    for name, latent_frames in FRAMES.items():
        ours, theirs = compare(latent_frames, 4 if latent_frames < 10 else 1, ROUNDS)
        ratio, low, high = interval(ours, theirs)
        table[name] = {
            "ours_ms": float(np.median(ours)) * 1e3,
            "theirs_ms": float(np.median(theirs)) * 1e3,
            "slowdown": ratio,
            "low": low,
            "high": high,
        }
        print(
            f"{name}: ours {1e3 * np.median(ours):.0f} ms, Wan {1e3 * np.median(theirs):.0f} ms, "
            f"{ratio:.3f} times (95%: {low:.3f} to {high:.3f})"
        )
    worst = max(table.values(), key=lambda row: row["slowdown"])
    write_result(
        name="step_time",
        what="forward and backward with all conditions against bare Wan at equal tokens (bound: at most 1.05 times)",
        ours=worst["ours_ms"],
        theirs=worst["theirs_ms"],
        peer="diffusers WanTransformer3DModel",
        unit="ms of CPU time",
        bound=round(1 / 1.05, 4),
        n=ROUNDS,
        slowdown={name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()},
    )


if __name__ == "__main__":
    main()
