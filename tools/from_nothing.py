"""The ablation from nothing: what each component is worth to a model without a base's head start.

    python tools/from_nothing.py --work FOLDER [--output docs/results/from_nothing.json]

The published ablation starts from a base that has seen joint motion, normal maps and codes, which hides what leaving
one of them out costs. Here every arm is a transformer that knows nothing, small enough to learn a few embedded people
in minutes: known people, unseen motion. Every arm draws equally many clips, in the paper's last mixture or, without
DynamicSweep, in C1's. They are scored on clips in which head, face and camera move at once, each clip from the same
noise in all arms of a seed, driven by the person's own codes or landmarks and by those of a stranger who makes the
same faces, and by probes. Conditions are exact, not tracked.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.dataset.sampling import Sampler, make_pipeline
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.conditions import Conditions
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.diffusion.variants import VARIANTS
from fportrait.evaluation.control import face_errors
from fportrait.evaluation.embedded import Scene, Shot, Studio, generate, scene_batch
from fportrait.evaluation.probes import EXPRESSIONS, PROBES, ProbeSettings, measure, probe_person, summarise
from fportrait.scale.map_engine import map_units
from fportrait.tracking.crops import face_crop
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.training.base import BaseTraining, train_base

FIRST_PERSON, STRANGER, FRAMES, STEPS_SAMPLED, SHIFT = 190_000_000, 1000, 5, 12, 5.0
MIXTURE = {"PhoneCapture": 20, "StudioCapture": 20, "ViewSweep": 30, "DynamicSweep": 30}  # percent, Table 1, stage 4
ARMS = {"full": ("full", MIXTURE), "c1": ("full", VARIANTS["c1"].mixture), "c2": ("c2", MIXTURE), "c3": ("c3", MIXTURE)}
PER_FRAME = ("video", "normals", "codes", "cameras", "landmarks", "driver_landmarks")
CLOSE = ("full", "c1", "c3")  # they differ little, so every seed is run; c2 is told apart by the first alone
METRICS = ("psnr", "expression", "head")
DRIVERS = {"self": "clips.npz", "stranger": "driven.npz"}  # who makes the faces of a held clip, and its file
MOVES = {  # dataset: whether face, head and camera move within a clip
    "PhoneCapture": (True, True, False),
    "StudioCapture": (True, True, False),
    "ViewSweep": (False, False, True),
    "DynamicSweep": (True, True, True),
}


def random_shot(rng: np.random.Generator, turned: bool) -> Shot:
    """Any mixture of the probed expressions, head angles and, if `turned`, camera angles."""
    chosen = rng.choice(EXPRESSIONS, rng.integers(0, 4), replace=False)
    actions = {
        name: strength * share
        for factor in chosen
        for share in [rng.uniform(0.2, 1)]
        for name, strength in PROBES[factor][0].actions
    }
    head = tuple(np.clip(rng.normal(0, (14, 7, 4)), -30, 30).round(1).tolist())
    camera = (round(rng.uniform(-35, 35), 1), round(rng.uniform(-10, 15), 1)) if turned else (0.0, 0.0)
    return Shot(tuple(sorted(actions.items())), head, camera)


def between(a: Shot, b: Shot, share: float) -> Shot:
    def mix(x: float, y: float) -> float:
        return x + share * (y - x)

    names = sorted({name for shot in (a, b) for name, _ in shot.actions})
    first, last = dict(a.actions), dict(b.actions)
    return Shot(
        tuple((name, mix(first.get(name, 0.0), last.get(name, 0.0))) for name in names),
        tuple(mix(x, y) for x, y in zip(a.head, b.head, strict=True)),  # type: ignore[arg-type]
        tuple(mix(x, y) for x, y in zip(a.camera, b.camera, strict=True)),  # type: ignore[arg-type]
    )


def random_clip(dataset: str, rng: np.random.Generator) -> list[Shot]:
    face, head, camera = MOVES[dataset]
    a, b = (random_shot(rng, dataset != "PhoneCapture") for _ in range(2))
    b = Shot(b.actions if face else a.actions, b.head if head else a.head, b.camera if camera else a.camera)
    return [between(a, b, t / (FRAMES - 1)) for t in range(FRAMES)]


def studio_of() -> Studio:
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    return Studio(encoder, read_settings(SHIPPED_BASE).size)


def render_clips(unit: tuple[int, str, int, bool], folder: Path) -> int:
    """Write the scenes of one unit (person, kind, how many, held out or not); held ones driven by a stranger, too."""
    number, dataset, clips, held = unit
    studio, rng = studio_of(), np.random.default_rng([number, list(MOVES).index(dataset), held])
    person, stranger = (sample_person(FIRST_PERSON + n, studio.body) for n in (number, STRANGER + number))
    moves = [random_clip(dataset, rng) for _ in range(clips)]
    for driver in DRIVERS if held else ("self",):
        scenes = [studio.scene(person, shots, None if driver == "self" else stranger) for shots in moves]
        fields = {name: np.stack([getattr(scene, name) for scene in scenes]) for name in Scene.__dataclass_fields__}
        np.savez_compressed(folder / DRIVERS[driver], **fields)
    return clips


def read_scenes(folder: Path, driver: str = "self") -> list[Scene]:
    with np.load(folder / DRIVERS[driver], allow_pickle=False) as found:
        values = {name: found[name] for name in Scene.__dataclass_fields__}
    return [Scene(**{name: value[i] for name, value in values.items()}) for i in range(len(values["video"]))]


def still(scene: Scene, end: str) -> Scene:
    """The first or last frame of a scene."""
    part = slice(0, 1) if end == "first" else slice(-1, None)
    return replace(scene, **{name: getattr(scene, name)[part] for name in PER_FRAME})


def fresh(variant: str, width: int, layers: int, seed: int) -> FactorPortraitTransformer:
    """A transformer that knows nothing, shaped for the shipped codec."""
    shape = dict(FactorPortraitTransformer.load_config(SHIPPED_BASE / "transformer"))
    shape |= {
        "num_attention_heads": width // 32,
        "attention_head_dim": 32,
        "ffn_dim": 3 * width,
        "num_layers": layers,
        "controller_width": None,
        "controller_init_std": 0.02,
        **VARIANTS[variant].config,
    }
    torch.manual_seed(seed)
    return FactorPortraitTransformer(**{key: value for key, value in shape.items() if not key.startswith("_")})


def run_arm(
    unit: tuple[str, int], folder: Path, sizes: dict[str, int], trained: Sequence[str], held: Sequence[str]
) -> dict[str, Any]:
    """Train one arm from nothing and score it; `trained`, `held`: folders of clips."""
    arm, seed = unit
    variant, mixture = ARMS[arm]
    torch.set_num_threads(1)
    vae, model = load_vae(SHIPPED_BASE / "vae"), fresh(variant, sizes["width"], sizes["layers"], seed)
    clips: dict[str, dict[str, Any]] = {}
    for dataset in MOVES:
        scenes = [scene for path in trained if f"/{dataset}/" in path for scene in read_scenes(Path(path))]
        clips[dataset] = scene_batch(vae, scenes, model.reads, 8.0)
        for end in ("first", "last"):
            clips[f"{dataset} {end}"] = scene_batch(vae, [still(scene, end) for scene in scenes], model.reads, 8.0)
    shares = np.array([mixture[name] for name in MOVES]) / 100

    def batches(step: int) -> dict[str, Any]:
        """Eight clips, and in every second step the first and last pictures of eight: pairs teach expression."""
        rng = np.random.default_rng([seed, step])
        names, places = rng.choice(list(MOVES), 8, p=shares), rng.random(8)
        if step % 2:
            names = np.array([f"{name} {end}" for end in ("first", "last") for name in names])
            places = np.tile(places, 2)
        chosen = [clips[name] for name in names]
        picks = [int(place * len(of["latents"])) for place, of in zip(places, chosen, strict=True)]
        rows = [(of, slice(pick, pick + 1)) for of, pick in zip(chosen, picks, strict=True)]
        return {
            "latents": torch.cat([of["latents"][row] for of, row in rows]),
            "conditions": Conditions.cat(of["conditions"][row] for of, row in rows),
            "weights": torch.cat([of["weights"][row] for of, row in rows]),
        }

    settings = BaseTraining(
        minutes=1e6,
        steps=sizes["steps"],
        learning_rate=1e-3,
        controller_learning_rate=2e-3,
        ema=0.99,
        dropout=0.0,
        seed=seed,
    )
    losses: list[float] = []
    every = min(100, sizes["steps"])
    model = train_base(model, batches, settings, lambda values, step: losses.append(values["loss"]), every)
    sampler, studio = Sampler(make_pipeline(model.eval(), vae, SHIFT), STEPS_SAMPLED, seed), studio_of()
    scores: dict[str, dict[str, list[float]]] = {driver: {name: [] for name in METRICS} for driver in DRIVERS}
    for path, driver in itertools.product(held, DRIVERS):
        scenes = read_scenes(Path(path), driver)
        for scene, video in zip(scenes, generate(sampler, scenes), strict=True):
            for name, value in score(scene, video, studio).items():
                scores[driver][name].append(value)
    settings_of_probes = ProbeSettings(frames=FRAMES, factors=(*EXPRESSIONS, "pose", "view"), tracker=False)
    measured = []
    for number in range(sizes["people"]):
        person = sample_person(FIRST_PERSON + number, studio.body)
        probed = probe_person(sampler, studio, person, person, settings_of_probes)
        measured.append(measure(probed, "ours"))
    gains = {name: entry["gain"]["mean"] for name, entry in summarise(measured, seed)["gains"].items()}
    return {"scores": scores, "gains": gains, "loss": losses[-1]}


def score(scene: Scene, video: np.ndarray, studio: Studio) -> dict[str, float]:
    """`psnr`; `expression`: error of the codes read back, standard deviations; `head`: degrees, by a tracker."""
    size = studio.encoder.crop_size
    read = [
        studio.encoder.encode(
            np.stack(
                [
                    face_crop(frame, points.astype(np.float32), size)
                    for frame, points in zip(frames, scene.landmarks, strict=True)
                ]
            )
        )
        for frames in (video, scene.video)
    ]
    return {
        "psnr": float(10 * np.log10(255**2 / np.square(video.astype(float) - scene.video).mean())),
        "expression": float(np.sqrt(np.mean((read[0] - read[1]) ** 2))),
        "head": face_errors(video, scene.landmarks, scene.intrinsics).head_degrees,
    }


def compare(ours: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """Mean of scores `seeds clips`, and their difference from the full model's with its standard error over clips."""
    entry: dict[str, Any] = {"clips": int(np.isfinite(ours).sum())}  # a head is told only where a face is found
    if entry["clips"]:
        entry["mean"] = round(float(np.nanmean(ours)), 3)
    differs = (ours - full).mean(0)
    differs = differs[np.isfinite(differs)]
    if ours is not full and len(differs) > 1:
        entry["difference"] = round(float(differs.mean()), 3)
        entry["standard_error"] = round(float(differs.std(ddof=1) / np.sqrt(len(differs))), 3)
    return entry


def table(found: Mapping[tuple[str, int], Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Means over clips and seeds, and by how much an arm differs from the full model, clip by clip."""
    result: dict[str, Any] = {}
    for arm in ARMS:
        run = [seed for seed in seeds if (arm, seed) in found]
        entry: dict[str, Any] = {"seeds": run}
        for driver in DRIVERS:
            values = {
                name: {
                    metric: np.array([found[name, seed]["scores"][driver][metric] for seed in run])
                    for metric in METRICS
                }
                for name in {arm, "full"}
            }
            entry[driver] = {metric: compare(values[arm][metric], values["full"][metric]) for metric in METRICS}
        gains = [found[arm, seed]["gains"] for seed in run]
        entry["gains"] = {name: round(float(np.mean([one[name] for one in gains])), 3) for name in gains[0]}
        entry["loss"] = round(float(np.mean([found[arm, seed]["loss"] for seed in run])), 4)
        result[arm] = entry
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for clips and finished arms; a stopped run goes on"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results/from_nothing.json"))
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--clips", type=int, default=48, help="of each person and kind")
    parser.add_argument("--held", type=int, default=32, help="unseen clips of each person, everything moving")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    work, sizes = arguments.work, {key: getattr(arguments, key) for key in ("people", "steps", "width", "layers")}
    clips: dict[bool, list[str]] = {}
    for held, kinds, count in ((False, list(MOVES), arguments.clips), (True, ["DynamicSweep"], arguments.held)):
        clips[held] = []
        for kind in kinds:
            units = [(person, kind, count, held) for person in range(arguments.people)]
            report = map_units(
                render_clips,
                units,
                workers=arguments.workers,
                progress=f"clips, {kind}",
                cache_folder=work / ("held" if held else "trained") / kind,
                key=list,
            )
            clips[held] += [result.folder.as_posix() for result in report.results]
    jobs = [(arm, seed) for number, seed in enumerate(arguments.seeds) for arm in ARMS if number == 0 or arm in CLOSE]
    report = map_units(
        functools.partial(run_arm, sizes=sizes, trained=clips[False], held=clips[True]),
        jobs,
        workers=arguments.workers,
        cache_folder=work / "arms",
        progress="arms",
        key=lambda job: [*job, sizes, *clips[False], *clips[True]],
    )
    if report.failures:
        raise SystemExit("; ".join(f"{failure.unit}: {failure.reason}" for failure in report.failures))
    found = {tuple(result.unit): result.value for result in report.results}
    settings = {**sizes, "clips": arguments.clips, "held": arguments.held, "seeds": arguments.seeds}
    write_json(
        arguments.output,
        {
            "command": "python tools/from_nothing.py --work FOLDER",
            "settings": settings,
            "arms": table(found, arguments.seeds),
        },
    )
    print(json.dumps(json.loads(arguments.output.read_text())["arms"], indent=1))


if __name__ == "__main__":
    main()
