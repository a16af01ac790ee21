"""Which adapts better at equal steps: low-rank updates, or the whole transformer as stage 1 trains it? And what do the
pictures and films bring that an adapter carries beside its updates?

    python benchmarks/adapt.py [CLIPS] [--steps 60] [--frames 49] [--work FOLDER]

CLIPS holds a folder of videos per person (`fportrait adapt`); without it two embedded people are filmed. Both learn
from the same shards, with the same order of samples, and are judged on the clip of everyone that was held out.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from _result import RESULTS, machine

from fportrait.animate.adapt import scores_of, stage_of
from fportrait.animate.adapt_parts import AdaptSettings, divide, place
from fportrait.animate.adapt_shards import encode_parts, shares
from fportrait.animate.animator import Animator
from fportrait.animate.carried import carry
from fportrait.animate.clip_check import check_clips, clips_of
from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.world import WorldConfig, write_embedded_world
from fportrait.dataset.shards import ShardReader
from fportrait.provenance import model_name
from fportrait.tracking.actions import ActionReadout
from fportrait.training.loop import train
from fportrait.training.stages import load_start

SEED = 8_765
SCORES = ("psnr", "lpips", "csim")
SHOWN = (*(f"{who}/{score}" for who in ("ours", "repeated_portrait") for score in SCORES), "codec_limit/psnr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--frames", type=int, default=49, help="judged of every clip that was held out")
    parser.add_argument("--whole-rate", type=float, default=1e-4, help="learning rate of the whole transformer")
    parser.add_argument("--work", type=Path, help="tracks, shards and checkpoints; kept")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    settings = AdaptSettings(steps=arguments.steps, judged_frames=arguments.frames)
    if arguments.clips is None:
        world = WorldConfig(phone_identities=2, phone_clips=3, studio_identities=0, size=192, supersample=1)
        write_embedded_world(work / "filmed", work / "truth", world, SEED)
    parts, notes = divide(check_clips(clips_of(arguments.clips or work / "filmed/phone")))
    print("\n".join(notes))
    mine = work / "adapters" / "benchmark"
    place(parts, mine / "clips", settings)
    reader = ShardReader(encode_parts(parts, mine, work, SHIPPED_BASE, settings, lambda what, done, total: None))
    there = {name: len(found) for name, found in reader.records("train").items()}
    lora = stage_of(settings, shares(settings, there), SHIPPED_BASE)
    people: dict[str, dict[str, dict[str, float]]] = {}
    seconds = {}
    for label, stage in (
        ("base", None),
        ("lora", lora),
        ("whole", replace(lora, lora=None, learning_rate=arguments.whole_rate)),
    ):
        began = time.process_time()
        bundle = SHIPPED_BASE
        if stage is not None:
            train(stage, load_start(stage, SHIPPED_BASE), reader, mine / label, lambda values, step: None)
            bundle = shutil.copytree(SHIPPED_BASE, mine / f"{label}-bundle", dirs_exist_ok=True)
            shutil.rmtree(bundle / "transformer")
            shutil.copytree(mine / label / "transformer", bundle / "transformer")
        seconds[label] = round(time.process_time() - began, 1)
        models = {label: Animator(bundle)}
        if label == "lora":
            began, adapter = time.process_time(), mine / "lora/adapter"
            carry(mine / "tracks", adapter, ActionReadout.beside(SHIPPED_BASE / "expression_encoder"))
            seconds["carried"] = round(time.process_time() - began, 1)
            models["lora and what it carries"] = Animator(SHIPPED_BASE, adapter=adapter)
        judged = {name: scores_of(model, parts, mine, f"report-{label}", settings) for name, model in models.items()}
        for name, person, scores in ((n, p, s) for n, found in judged.items() for p, s in found.items()):
            people.setdefault(person, {})[name] = {key: scores[key] for key in SHOWN if key in scores}
            print(person, name, people[person][name], flush=True)
    write_json(
        RESULTS / "adapt.json",
        {
            "name": "adapt",
            "base": model_name(SHIPPED_BASE)["hash"],
            "steps": arguments.steps,
            "judged_frames": arguments.frames,
            "training_cpu_seconds": seconds,
            "people": people,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
