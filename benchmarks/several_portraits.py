"""What further portraits of a person bring: to the painted portrait alone, and to the model's result, from the side.

    python benchmarks/several_portraits.py [--people 6] [--bundle FOLDER]

People of the embedded world, unseen in training, seen from 45 degrees to either side while the mouth opens. The
portrait is from the front, the second one 35 degrees towards the camera's side, the third as far to the other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _result import write_result

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.evaluation.embedded import Shot, Studio, generate
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.tracking.expression import ExpressionEncoder

FIRST = 172_000_000  # seeds of people whom no training has met
YAWS, ASIDE = (-45.0, 45.0), 35.0  # degrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BASE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, settings = time.process_time(), read_settings(arguments.bundle)
    studio = Studio(ExpressionEncoder.from_pretrained(arguments.bundle / "expression_encoder"), settings.size)
    pipeline = FactorPortraitPipeline.from_bundle(arguments.bundle)
    pipeline.set_progress_bar_config(disable=True)
    sampler = Sampler(pipeline, settings.steps, guidance=settings.guidance)
    scores: dict[str, dict[int, list[float]]] = {"painted": {}, "model": {}}
    for index in range(arguments.people):
        person = sample_person(FIRST + index, studio.body)
        for yaw in YAWS:
            shots = [Shot(camera=(yaw, 0.0), actions=(("jawOpen", t / 8),)) for t in range(9)]
            aside = [Shot(camera=(side * np.sign(yaw) * ASIDE, 0.0)) for side in (1, -1)]
            for count in (1, 2, 3):
                scene = studio.scene(person, shots, more=aside[: count - 1])
                videos = {"painted": scene.warped, "model": generate(sampler, [scene])[0]}
                for name, video in videos.items():
                    scores[name].setdefault(count, []).append(float(np.mean(psnr(video, scene.video))))
    table = {name: {n: round(float(np.mean(some)), 2) for n, some in rows.items()} for name, rows in scores.items()}
    print(table)
    write_result(
        "several_portraits",
        "PSNR of the model from 45 degrees aside, with a second portrait from that side beside one from the front",
        ours=table["model"][2],
        theirs=table["model"][1],
        peer="one portrait",
        unit="dB",
        bound=1.0,
        n=arguments.people * len(YAWS),
        lower_is_better=False,
        psnr=table,
        cpu_seconds=round(time.process_time() - started),
    )


if __name__ == "__main__":
    main()
