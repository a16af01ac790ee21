"""Draw docs/images/factors.jpg: each factor moved alone, what was asked above what the model made of it.

    python tools/factor_strips.py [--model BUNDLE] [--person SEED] [--steps N] [--output PICTURE]

Rows: expression, head pose, viewpoint, then everything at once; last the same expression, pose and view given to three
other portraits. People are drawn from seeds that no training clip uses; the truth is rendered, not sampled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image
from fportrait.dataset.sampling import Sampler
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.evaluation.embedded import Scene, Shot, Studio, generate, ramp_and_hold
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.tracking.expression import ExpressionEncoder

CELL, COLUMNS, LABEL = 80, 6, 100
SMILE = (("mouthSmileLeft", 1.0), ("mouthSmileRight", 1.0), ("jawOpen", 0.7))
STRIPS = {
    "expression": Shot(actions=SMILE),
    "head pose": Shot(head=(25.0, 0.0, 0.0)),
    "viewpoint": Shot(camera=(35.0, 8.0)),
    "all three": Shot(actions=SMILE, head=(-10.0, 4.0, 0.0), camera=(20.0, 8.0)),
}
OTHERS = 3  # further portraits for the last rows


def strip(label: str, first: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """A label, a picture to start from, and frames evenly through time."""
    times = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
    cells = [cv2.resize(p, (CELL, CELL), interpolation=cv2.INTER_CUBIC) for p in (first, *frames[times])]
    head = np.full((CELL, LABEL, 3), 255, np.uint8)
    for line, text in enumerate(label.split("\n")):
        cv2.putText(head, text, (6, CELL // 2 + 18 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    gap = np.full((CELL, 8, 3), 255, np.uint8)
    return np.hstack([head, cells[0], gap, *cells[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHIPPED_BASE)
    parser.add_argument("--person", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, default=Path("docs/images/factors.jpg"))
    arguments = parser.parse_args()

    settings = read_settings(arguments.model)
    pipeline = FactorPortraitPipeline.from_bundle(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    encoder = ExpressionEncoder.from_pretrained(arguments.model / "expression_encoder")
    studio = Studio(encoder, settings.size, settings.camera_distance, settings.crop_metres)
    person = sample_person(arguments.person)
    scenes: dict[str, Scene] = {
        name: studio.scene(person, ramp_and_hold(shot, settings.frames)) for name, shot in STRIPS.items()
    }
    for number in range(1, OTHERS + 1):
        other = sample_person(arguments.person + number)
        # The driver is the first person: only the portrait, and the body's own shape, are another's.
        shots = ramp_and_hold(STRIPS["all three"], settings.frames)
        scenes[f"identity {number}"] = studio.scene(other, shots, driver=person)
    sampler = Sampler(pipeline, arguments.steps or settings.steps, 0, settings.guidance)
    videos = generate(sampler, list(scenes.values()))

    white = np.full((CELL // 8, LABEL + CELL + 8 + CELL * COLUMNS, 3), 255, np.uint8)
    rows = []
    for (name, scene), video in zip(scenes.items(), videos, strict=True):
        blank = np.full_like(scene.reference, 255)
        if name in STRIPS:
            rows += [strip(f"{name}\nasked", blank, scene.video), strip("made", scene.reference, video), white]
        else:
            rows.append(strip(f"{name}\nmade", scene.reference, video))
        print(f"{name}: {psnr(video, scene.video).mean():.1f} dB to what was asked")
    write_image(arguments.output, np.vstack(rows))
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
