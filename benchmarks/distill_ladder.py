"""The ladder of model calls: a student in 1, 2 and 4, its teacher without guidance and as shipped, on the same people.

    python benchmarks/distill_ladder.py --student BUNDLE [--teacher BUNDLE] [--people 2] [--frames 5]

Embedded people of seeds that nothing else draws, all rows in one run on the same scenes, noise and rendered truth:
PSNR, perceptual distance (LPIPS where its weights are there), gains of the probes, sharpness, and processor seconds of
the modelmodel's calls. Writes `benchmarks/results/distill_ladder.json` and a plot beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _result import write_result

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.schedule import make_scheduler
from fportrait.evaluation.embedded import Studio
from fportrait.evaluation.metrics import make
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.evaluation.metrics.sharpness import sharpness
from fportrait.evaluation.probes import EXPRESSIONS, ProbeSettings, measure, probe_person
from fportrait.tracking.expression import ExpressionEncoder

FIRST_SEED = 150_600_000  # of the people


def measured(
    name: str,
    pipeline: Any,
    steps: int,
    guidance: dict[str, float],
    studio: Studio,
    people: Sequence[Any],
    frames: int,
    perceptual: Any,
) -> dict[str, Any]:
    """One row: means over people and their probes."""
    probes = ProbeSettings(people=1, frames=frames, batch=10, tracker=False, guidance=guidance)
    forward, calls, seconds = pipeline.transformer.forward, [0], [0.0]

    def counted(*args: Any, **given: Any) -> Any:
        begun = time.process_time()
        value = forward(*args, **given)
        seconds[0] += time.process_time() - begun
        calls[0] += 1
        return value

    pipeline.transformer.forward = counted
    quality, distance, sharp, gains, clips = [], [], [], [], 0
    for person, other in people:
        probed = probe_person(Sampler(pipeline, steps, guidance=guidance), studio, person, other, probes)
        clips += len(probed.scenes)
        for scene in (one for one in probed.scenes if one != "rest"):
            ours, truth = probed.videos["ours"][scene], probed.scenes[scene].video
            quality.append(psnr(ours, truth).mean())
            sharp.append(np.nanmean(sharpness(ours, truth)))
            if perceptual is not None:
                distance.append(perceptual(ours[-1:], truth[-1:]).mean())
        gains.append({key: entry["gain"] for key, entry in measure(probed, "ours")["gains"].items()})
    pipeline.transformer.forward = forward
    mean = {key: float(np.mean([one[key] for one in gains])) for key in gains[0]}
    row = {
        "name": name,
        "calls": round(calls[0] / len(people) / max(1, -(-clips // len(people) // probes.batch))),
        "psnr": round(float(np.mean(quality)), 2),
        "perceptual": round(float(np.mean(distance)), 4) if distance else None,
        "sharpness": round(float(np.mean(sharp)), 3),
        "expression_gain": round(float(np.mean([mean[key] for key in EXPRESSIONS])), 3),
        "gains": {key: round(value, 3) for key, value in mean.items()},
        "cpu_ms_per_frame": round(1000 * seconds[0] / (clips * frames), 2),
    }
    print(row, flush=True)
    return row


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (key, label) in zip(
        axes,
        (("psnr", "PSNR, dB"), ("expression_gain", "expression gain"), ("sharpness", "sharpness of the truth's")),
        strict=True,
    ):
        for row in rows:
            student = row["name"].startswith("student")
            axis.plot(row["cpu_ms_per_frame"], row[key], "o" if student else "s", color="C0" if student else "C1")
            axis.annotate(f" {row['calls']}", (row["cpu_ms_per_frame"], row[key]))
        axis.set_xscale("log")
        axis.set_xlabel("processor ms a frame")
        axis.set_title(label)
    axes[0].plot([], [], "o", color="C0", label="student")
    axes[0].plot([], [], "s", color="C1", label="teacher")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, default=SHIPPED_BASE)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--frames", type=int, default=5)
    arguments = parser.parse_args()
    settings = read_settings(arguments.teacher)
    pipelines = {}
    for name in ("teacher", "student"):
        pipelines[name] = FactorPortraitPipeline.from_bundle(getattr(arguments, name))
        pipelines[name].set_progress_bar_config(disable=True)
    encoder = ExpressionEncoder.from_pretrained(arguments.teacher / "expression_encoder")
    studio = Studio(encoder, settings.size, settings.camera_distance, settings.crop_metres)
    people = [
        (sample_person(seed, studio.body), sample_person(seed + 1, studio.body))
        for seed in range(FIRST_SEED, FIRST_SEED + 2 * arguments.people, 2)
    ]
    try:
        perceptual = make("lpips")
    except Exception as error:
        perceptual = None
        print(f"no perceptual distance: {error}")
    rest = (studio, people, arguments.frames, perceptual)
    rows = []
    for steps in (1, 2, 4):
        rows.append(measured(f"student, {steps}", pipelines["student"], steps, {}, *rest))
    teacher = pipelines["teacher"]
    rows.append(measured("teacher, guided", teacher, settings.steps, dict(settings.guidance), *rest))
    rows.append(measured("teacher, not guided", teacher, settings.steps, {}, *rest))
    teacher.register_modules(scheduler=make_scheduler("euler", settings.shift))
    rows.append(measured("teacher, 1 call", teacher, 1, {}, *rest))
    full = rows[3]
    plot(rows, Path(__file__).parent / "results/distill_ladder.png")
    write_result(
        "distill_ladder",
        "processor time of the model's calls a frame, student in one call against its guided teacher",
        rows[0]["cpu_ms_per_frame"],
        "ms",
        bound=8.0,
        n=len(people),
        theirs=full["cpu_ms_per_frame"],
        peer="the guided teacher",
        rows=rows,
    )


if __name__ == "__main__":
    main()
