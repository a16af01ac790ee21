"""The ladder of model calls: quality by processor time, of a base by its steps, or of a student and its teacher.

    python benchmarks/distill_ladder.py [--teacher BUNDLE] [--people 2] [--frames 5] [--plot FILE]
    python benchmarks/distill_ladder.py --student BUNDLE [--teacher BUNDLE]

Without a student: the shipped base in 1, 2, 4 and 6 steps, each with its own guidance and without any. With one: the
student in 1, 2 and 4 calls, its teacher without guidance and as shipped.

Embedded people of seeds that nothing else draws, all rows in one run on the same scenes, noise and rendered truth:
PSNR, perceptual distance (LPIPS where its weights are there), gains of the probes, sharpness, and processor seconds of
the model's calls. Writes `benchmarks/results/base_ladder.json` or `distill_ladder.json` and a plot, and prints the
table of docs/live.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _result import RESULTS, write_result

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
from fportrait.provenance import model_name
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

    kinds = list(dict.fromkeys(row["name"].partition(",")[0] for row in rows))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (key, label) in zip(
        axes,
        (
            ("psnr", "PSNR, dB"),
            ("expression_gain", "expression gain"),
            ("sharpness", "sharpness of the truth's"),
        ),
        strict=True,
    ):
        for number, kind in enumerate(kinds):
            of_kind = [row for row in rows if row["name"].partition(",")[0] == kind]
            spent, value = [row["cpu_ms_per_frame"] for row in of_kind], [row[key] for row in of_kind]
            axis.plot(
                spent, value, "os"[number % 2] + ("" if kind == "teacher" else "-"), color=f"C{number}", label=kind
            )
            for row in of_kind:
                axis.annotate(f" {row['calls']}", (row["cpu_ms_per_frame"], row[key]))
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="minor", labelsize=6)
        axis.set_xlabel("processor ms a frame")
        axis.set_title(label)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, as they stand in docs/live.md."""
    keys = ("calls", "psnr", "perceptual", "sharpness", "expression_gain")
    lines = [
        "| | calls | PSNR | perceptual | sharpness | expression gain | pose | view | identity | CPU ms a frame |",
        "| --- |" + " ---: |" * 9,
    ]
    for row in rows:
        values = [row[key] for key in keys] + [row["gains"].get(key) for key in ("pose", "view", "identity")]
        lines.append(" | ".join(["| " + row["name"], *map(str, values), f"{row['cpu_ms_per_frame']:.1f} |"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path)
    parser.add_argument("--teacher", type=Path, default=SHIPPED_BASE)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 6], help="of the ladder without a student")
    parser.add_argument("--plot", type=Path, help="default: beside the result")
    arguments = parser.parse_args()
    settings = read_settings(arguments.teacher)
    teacher = FactorPortraitPipeline.from_bundle(arguments.teacher)
    teacher.set_progress_bar_config(disable=True)
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
    own = dict(settings.guidance)
    rows = []
    if arguments.student is None:
        name, ours, full = "base_ladder", 0, -1
        for kind, guidance in (("not guided", {}), *([("guided", own)] if own else [])):
            for steps in arguments.steps:
                rows.append(measured(f"{kind}, {steps} step{'s' * (steps > 1)}", teacher, steps, guidance, *rest))
        peer, what = rows[-1]["name"], f"a frame by {rows[0]['name']}, against {rows[-1]['name']}"
    else:
        name, ours, full = "distill_ladder", 0, 3
        student = FactorPortraitPipeline.from_bundle(arguments.student)
        student.set_progress_bar_config(disable=True)
        for steps in (1, 2, 4):
            rows.append(measured(f"student, {steps}", student, steps, {}, *rest))
        rows.append(measured("teacher, guided", teacher, settings.steps, own, *rest))
        rows.append(measured("teacher, not guided", teacher, settings.steps, {}, *rest))
        teacher.register_modules(scheduler=make_scheduler("euler", settings.shift))
        rows.append(measured("teacher, 1 call", teacher, 1, {}, *rest))
        peer, what = "the guided teacher", "a frame, student in one call against its guided teacher"
    plot(rows, arguments.plot or RESULTS / f"{name}.png")
    print(table(rows))
    write_result(
        name,
        f"processor time of the model's calls {what}",
        rows[ours]["cpu_ms_per_frame"],
        "ms",
        bound=8.0,
        n=len(people),
        theirs=rows[full]["cpu_ms_per_frame"],
        peer=peer,
        base=model_name(arguments.teacher)["hash"],
        rows=rows,
    )


if __name__ == "__main__":
    main()
