"""Which sampler, how many steps, and from which noise level on to guide: PSNR and gains by model calls.

    python benchmarks/sampling_steps.py [--people 3] [--frames 9]

The shipped base on embedded people of seeds that neither captures nor pretraining draw, every setting on the same
people, noise and rendered truth. `twice` is what `FlowMatchEulerDiscreteScheduler(shift=5).set_timesteps(n)` does by
itself; the others take Wan's levels (`fportrait.diffusion.schedule`). A guided step costs one call more per factor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from _result import write_result
from diffusers import FlowMatchEulerDiscreteScheduler

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.schedule import make_scheduler
from fportrait.evaluation.embedded import Studio
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.evaluation.probes import EXPRESSIONS, ProbeSettings, measure, probe_person
from fportrait.tracking.expression import ExpressionEncoder

FIRST_SEED = 150_500_000  # of the people; the probes of an evaluation begin at 150,000,000
SETTINGS = (  # scheduler, steps, guided from this noise level down
    ("twice", 6, 0.8),
    ("euler", 4, 0.8),
    ("euler", 5, 0.8),
    ("euler", 6, 0.8),
    ("euler", 6, 0.85),
    ("euler", 8, 0.8),
    ("unipc", 4, 0.85),
    ("unipc", 5, 0.8),
    ("unipc", 6, 0.8),
    ("dpm++", 5, 0.8),
    ("dpm++", 6, 0.8),
)


class ShiftsTwice(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """diffusers' own levels, which begin from a smallest one that is shifted already."""

    def set_timesteps(self, *args: Any, sigmas: Any = None, **options: Any) -> None:
        super().set_timesteps(len(sigmas), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--frames", type=int, default=9)
    arguments = parser.parse_args()
    settings = read_settings(SHIPPED_BASE)
    pipeline = FactorPortraitPipeline.from_bundle(SHIPPED_BASE)
    pipeline.set_progress_bar_config(disable=True)
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    studio = Studio(encoder, settings.size, settings.camera_distance, settings.crop_metres)
    probes = ProbeSettings(people=1, frames=arguments.frames, batch=10, tracker=False, guidance=dict(settings.guidance))
    people = [
        (sample_person(seed, studio.body), sample_person(seed + 1, studio.body))
        for seed in range(FIRST_SEED, FIRST_SEED + 2 * arguments.people, 2)
    ]
    rows = [measured(pipeline, studio, people, probes, *row, settings.shift) for row in SETTINGS]
    base = rows[0]
    chosen = next(r for r in rows if (r["scheduler"], r["steps"]) == (settings.scheduler, settings.steps))
    write_result(
        "sampling_steps",
        "model calls of a clip, as shipped, against six steps shifted twice",
        chosen["calls"],
        "calls",
        bound=1.0,
        n=len(people),
        theirs=base["calls"],
        peer="FlowMatchEulerDiscreteScheduler(shift=5), 6 steps",
        rows=rows,
    )


def measured(
    pipeline: Any,
    studio: Studio,
    people: Sequence[tuple[Any, Any]],
    probes: ProbeSettings,
    scheduler: str,
    steps: int,
    below: float,
    shift: float,
) -> dict[str, Any]:
    """One row: means over people of PSNR over all probes, and of the gains."""
    twice = scheduler == "twice"
    pipeline.register_modules(scheduler=ShiftsTwice(shift=shift) if twice else make_scheduler(scheduler, shift))
    pipeline.register_to_config(guidance_below=below)
    forward, calls = pipeline.transformer.forward, [0]

    def counted(*args: Any, **given: Any) -> Any:
        calls[0] += 1
        return forward(*args, **given)

    pipeline.transformer.forward = counted
    started, quality, gains = time.process_time(), [], []
    for person, other in people:
        probed = probe_person(Sampler(pipeline, steps), studio, person, other, probes)
        names = [name for name in probed.scenes if name != "rest"]
        quality += [psnr(probed.videos["ours"][name], probed.scenes[name].video).mean() for name in names]
        gains.append({name: entry["gain"] for name, entry in measure(probed, "ours")["gains"].items()})
    pipeline.transformer.forward = forward
    mean = {name: float(np.mean([one[name] for one in gains])) for name in gains[0]}
    row = {
        "scheduler": scheduler,
        "steps": steps,
        "guidance_below": below,
        "calls": calls[0] // len(people),
        "psnr": round(float(np.mean(quality)), 2),
        "expression_gain": round(float(np.mean([mean[name] for name in EXPRESSIONS])), 3),
        "pose_gain": round(mean["pose"], 3),
        "view_gain": round(mean["view"], 3),
        "gains": {name: round(value, 3) for name, value in mean.items()},
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
