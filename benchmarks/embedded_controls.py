"""How far every control reaches on embedded people nobody trained on: as the stages are scored, and as `animate` draws.

    python benchmarks/embedded_controls.py [--people 4] [--bundle FOLDER]

Gains of the probes (`evaluation/probes.py`) of one model three times: its pictures as `evaluate` scores them, whose
portrait has the model's own size; as `animate` writes them, painted from the portrait's file and reduced to that size;
and the codec's limit. Conditions are exact, so nothing here is the tracker's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _result import write_result

from fportrait.body.painting import PortraitPainter
from fportrait.body.warping import Target
from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.camera.cameras import scale_intrinsics
from fportrait.capture.people import Person, sample_person
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.conditions import Reads
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.evaluation.embedded import Shot, Studio, ramp_and_hold, scene_conditions
from fportrait.evaluation.probes import FIRST_SEED, PROBES, ProbeSettings, measure, probe_person, summarise
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.matting import matte_around

SEED, SCALE = 3, 4  # of the people; of the written pictures to the model's


def written(pipeline: Any, studio: Studio, large: Studio, scene: Any, who: Person, shots: list[Shot]) -> np.ndarray:
    """A probe's frames `T S S 3` as `animate` draws them, reduced to the model's size."""
    own, photograph = studio._draw(who, Shot()), large._draw(who, Shot())
    frames = [studio._draw(who, shot) for shot in shots]
    (start,), placed = (
        studio._placed([own], studio.encoder.encode(own["crop"][None])),
        studio._placed(frames, scene.codes),
    )
    body, size, lens = studio.body, studio.size, scale_intrinsics(studio.intrinsics, SCALE)
    small = PortraitPainter(body, own["picture"], start, studio.intrinsics)
    matte = matte_around(photograph["picture"], photograph["landmarks"].astype(np.float32))
    fine = PortraitPainter(body, photograph["picture"], start, lens, samples=1, matte=matte)
    targets = [Target(vertices, studio.intrinsics, body.faces, (size, size), 2) for vertices in placed]
    larger = [Target(vertices, lens, body.faces, (SCALE * size, SCALE * size), 1) for vertices in placed]
    inputs = dict(scene_conditions(pipeline.vae, [scene], Reads.of(pipeline.transformer.config)).inputs())
    output = pipeline(
        **inputs | {"warped": np.stack([small.paint(target) for target in targets])},
        generator=torch.Generator().manual_seed(SEED),
        larger=[fine.paint(target) for target in larger],
        trusted=[small.trust(target) for target in targets],
    )
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in output.frames[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BASE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, settings = time.process_time(), read_settings(arguments.bundle)
    encoder = ExpressionEncoder.from_pretrained(arguments.bundle / "expression_encoder")
    studio, large = Studio(encoder, settings.size), Studio(encoder, settings.size * SCALE)
    pipeline = FactorPortraitPipeline.from_bundle(arguments.bundle)
    pipeline.set_progress_bar_config(disable=True)
    sampler = Sampler(pipeline, settings.steps, SEED, settings.guidance)
    setup, everybody = ProbeSettings(people=arguments.people, tracker=False), []
    for index in range(arguments.people):
        first = FIRST_SEED + 2 * (1000 * SEED + index)
        person, other = (sample_person(seed, studio.body) for seed in (first, first + 1))
        probed = probe_person(sampler, studio, person, other, setup)
        shots = {"rest": [Shot()] * setup.frames} | {
            name: ramp_and_hold(PROBES[name][0], setup.frames) for name in PROBES
        }
        probed.videos["written"] = {
            name: written(
                pipeline, studio, large, probed.scenes[name], other if name == "identity" else person, shots[name]
            )
            for name in probed.scenes
        }
        everybody.append(probed)
    gains = {
        method: {
            name: round(entry["gain"]["mean"], 3)
            for name, entry in summarise([measure(one, method) for one in everybody], SEED)["gains"].items()
        }
        for method in ("ours", "written", "codec_limit")
    }
    for method, row in gains.items():
        print(f"{method:>12}", row)
    write_result(
        "embedded_controls",
        "mean gain of the controls on unseen embedded people, as animate writes them beside as evaluate scores them",
        ours=float(np.mean(list(gains["written"].values()))),
        theirs=float(np.mean(list(gains["ours"].values()))),
        peer="pictures of the model's own size",
        unit="gain",
        bound=1.0,
        n=arguments.people,
        lower_is_better=False,
        gains=gains,
        cpu_seconds=round(time.process_time() - started),
    )


if __name__ == "__main__":
    main()
