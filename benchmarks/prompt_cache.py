"""What are the cached prompt and skipped guidance branches worth per sampling step?

One denoising step of the small base's configuration with Wan's 512 prompt tokens: prompt keys and values computed in
every step against once; guidance on one factor or none against all four. And a whole sampling of six steps with four
factors guided: in every step, against those at little noise alone. In turns, one thread, CPU time.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _result import write_result
from step_time import CONFIG, interval

from fportrait.diffusion.codec import BlockCodec
from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.factors import FACTORS
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.schedule import make_scheduler
from fportrait.diffusion.transformer import FactorPortraitTransformer

ROUNDS = 30
LATENT_FRAMES = 5


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config: dict[str, Any] = {**CONFIG, "text_dim": 4096}
    model = FactorPortraitTransformer(**config, prompt_tokens=512, controller_init_std=0.02).eval()
    pipeline = FactorPortraitPipeline(model, BlockCodec(), make_scheduler())
    shape = (1, 16, LATENT_FRAMES, 8, 8)
    conditions = Conditions(
        reference=torch.randn(1, 16, 1, 8, 8),
        rays=torch.randn(1, 24, *shape[2:]),
        normals=torch.randn(shape),
        codes=torch.randn(1, 4 * LATENT_FRAMES - 3, 128),
    )
    latents, timestep = torch.randn(shape), torch.tensor(500.0)
    with torch.no_grad():
        cache = model.prompt_key_values()
    runs: dict[str, tuple[dict[str, float], Any]] = {
        "no cache": ({}, None),
        "cached prompt": ({}, cache),
        "one factor guided": ({"expression": 2.0}, cache),
        "four factors guided": (dict.fromkeys(FACTORS, 2.0), cache),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, (guidance, given_cache) in list(runs.items())[:: 1 if turn % 2 else -1]:
            started = time.process_time()
            with torch.no_grad():
                pipeline._velocity(latents, timestep, conditions, guidance, given_cache)
            times[name].append(time.process_time() - started)
    inputs = conditions.inputs()
    pipeline.set_progress_bar_config(disable=True)
    sampled: dict[float, list[float]] = {1.0: [], 0.8: []}
    for turn in range(ROUNDS // 3 + 1):
        for below in list(sampled)[:: 1 if turn % 2 else -1]:
            pipeline.register_to_config(guidance_below=below)
            started = time.process_time()
            pipeline(**inputs, num_inference_steps=6, guidance=dict.fromkeys(FACTORS, 2.0), output_type="latent")
            sampled[below].append(time.process_time() - started)
    every_step, late_steps = (np.array(values[1:]) for values in sampled.values())
    measured = {name: np.array(values[1:]) for name, values in times.items()}
    factors = {
        "cached prompt": interval(measured["no cache"], measured["cached prompt"]),
        "three guidance branches skipped": interval(measured["four factors guided"], measured["one factor guided"]),
        "four guidance branches skipped": interval(measured["four factors guided"], measured["cached prompt"]),
        "six steps, guided below 0.8": interval(every_step, late_steps),
    }
    for name, (factor, low, high) in factors.items():
        print(f"{name}: {factor:.2f} times faster (95%: {low:.2f} to {high:.2f})")
    write_result(
        name="prompt_cache",
        what="one denoising step with the prompt's keys and values cached, 320 + 64 tokens and 512 of prompt",
        ours=round(float(np.median(measured["cached prompt"])) * 1e3, 2),
        theirs=round(float(np.median(measured["no cache"])) * 1e3, 2),
        peer="the same step without the cache",
        unit="ms of CPU time",
        bound=1.05,
        n=ROUNDS,
        factors={name: [round(value, 3) for value in values] for name, values in factors.items()},
    )


if __name__ == "__main__":
    main()
