"""What is regional compilation worth? Forward and backward of the small base, eager against compiled blocks.

`compile_repeated_blocks` compiles one block and uses it for all. One thread, CPU time of this process, in turns.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _result import write_result
from step_time import CONFIG, interval, seconds

from fportrait.diffusion.transformer import FactorPortraitTransformer

ROUNDS, BATCH, LATENT_FRAMES = 10, 2, 5


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {
        name: FactorPortraitTransformer(**CONFIG, prompt_tokens=2, controller_init_std=0.02)
        for name in ("eager", "ours")
    }
    models["ours"].load_state_dict(models["eager"].state_dict())
    models["ours"].compile_repeated_blocks(fullgraph=True)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, *shape)

    given: dict[str, Any] = {
        "latents": draw(16, LATENT_FRAMES, 8, 8),
        "timestep": torch.rand(BATCH) * 1000,
        "reference": draw(16, 1, 8, 8),
        "rays": draw(24, LATENT_FRAMES, 8, 8),
        "normals": draw(16, LATENT_FRAMES, 8, 8),
        "codes": draw(4 * LATENT_FRAMES - 3, 128),
    }
    started = time.perf_counter()
    models["ours"](**given).square().mean().backward()
    first = time.perf_counter() - started
    with torch.no_grad():
        difference = float((models["ours"](**given) - models["eager"](**given)).abs().max())
    if difference > 1e-3:
        raise SystemExit(f"compiled and eager differ by {difference:.1e}: nothing to compare")
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in list(models.items())[:: 1 if turn % 2 else -1]:
            model.zero_grad(set_to_none=True)
            times[name].append(seconds(lambda model=model: model(**given)))
    ours, eager = (np.array(times[name][1:]) for name in ("ours", "eager"))
    factor, low, high = interval(eager, ours)
    print(
        f"compiled {1e3 * np.median(ours):.0f} ms, eager {1e3 * np.median(eager):.0f} ms: {factor:.2f} times faster "
        f"(95%: {low:.2f} to {high:.2f}); the first step took {first:.0f} s"
    )
    write_result(
        name="compiled",
        what="forward and backward of the small base with compiled blocks",
        ours=round(float(np.median(ours)) * 1e3, 1),
        theirs=round(float(np.median(eager)) * 1e3, 1),
        peer="the same model, eager",
        unit="ms of CPU time",
        bound=1.0,
        n=ROUNDS,
        interval=[round(low, 3), round(high, 3)],
        first_step_seconds=round(first, 1),
        difference=difference,
    )


if __name__ == "__main__":
    main()
