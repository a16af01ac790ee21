"""A few clips of one person, or of several, to an adapter of the model: `fportrait adapt CLIPS --name NAME`.

One clip of every person is held out, and judges: base and adapter are scored on it, as the first frame driven by the
clip itself. Everything between is the chain's own work (`ingest`, `track`, `encode`, a training stage with `lora`), in
a folder of its own, and is not done twice. Clips of the embedded world are mixed in, lest the model forget how to be
controlled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fportrait.animate.clip_check import ClipCheck, PersonCheck, check_clips, clips_of
from fportrait.atomic_io import atomic_folder, file_hash, value_hash, write_json
from fportrait.bundle import read_settings
from fportrait.capture.clock import picked
from fportrait.capture.ingest import has_consent, ingest_captures
from fportrait.capture.video_io import constant_frames, iter_video, probe, write_video
from fportrait.errors import UserError

RECORD = "adapt.json"  # beside the adapter: what it was made from, and how it was judged
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
HELD_SHARE = 0.3  # of the only clip of a person, at its end
EMBEDDED_SEED = 21_000_000  # of clips that no capture and no pretraining has
EMBEDDED_DATASETS = {"studio": "StudioCapture", "view_sweep": "ViewSweep", "dynamic_sweep": "DynamicSweep"}
LEAST_SECONDS = 3.0  # of the only clip
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AdaptSettings:
    """What is learned, and for how long.

    `embedded` is the percentage of samples from the embedded world, `embedded_clips` how many of its clips are filmed.
    """

    steps: int = 60
    frames: int = 9
    batch_size: int = 8
    learning_rate: float = 1e-3
    rank: int = 16
    embedded: int = 40
    embedded_clips: int = 48
    max_frames: int = 300  # of every clip
    judged_frames: int = 49  # of every clip held out
    gains: bool = True  # probe the controls of base and adapter on an embedded person
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.embedded < 100:
            raise UserError(f"{self.embedded}% embedded clips", "0 to 99", "change --embedded")
        if self.frames < 5 or self.frames % 4 != 1:
            raise UserError(f"{self.frames} frames", "5, 9, 13, 17 …", "change --frames")


@dataclass
class Part:
    """One clip of the work: where it comes from, whether it is held out, and frames `start` to `stop` of it."""

    clip: ClipCheck
    held_out: bool
    start: int = 0
    stop: int | None = None

    def as_dict(self) -> dict[str, Any]:
        clip = self.clip
        return {
            "person": clip.person,
            "clip": clip.name,
            "sha256": clip.sha256,
            "held_out": self.held_out,
            "frames": [self.start, self.stop if self.stop is not None else clip.frames],
        }


def check_adapter_name(name: str) -> str:
    """The name, when it can name a folder and a registered version.

    Raises:
        UserError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"the adapter's name {name!r}", "letters, digits, - and _, 64 at most", "choose another --name")
    return name


def adapt(
    clips: str | Path,
    name: str,
    base: str | Path,
    out: str | Path,
    work: str | Path,
    settings: AdaptSettings = AdaptSettings(),
    tell: Tell = lambda what, done, total: None,
    require_consent: bool = False,
    keep_worse: bool = False,
) -> dict[str, Any]:
    """Train an adapter of `base` and judge it on clips held out; returns its record, also in `out/adapt.json`.

    Args:
        clips: videos of one person (called `name`), or a folder of them per person. base: a bundle.
        out: gets `adapter.safetensors`, `adapter.json`, `adapt.json` and `report/`; replaced as a whole.
        work: tracks, shards and checkpoints; kept, so that a stopped run goes on. Its parts are this name's own, but
            for the embedded clips. require_consent: leave people out without a consent file in their folder.
        keep_worse: write the adapter even if it is worse than the base on the clips held out.

    Raises:
        UserError: nothing that can be used, nobody with a clip to spare for judging, or an adapter worse than the base.
    """
    check_adapter_name(name)
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    base, out, work = Path(base), Path(out), Path(work)
    people = clips_of(clips, name)
    refused = without_consent(people, Path(clips)) if require_consent else []
    for person in refused:
        people.pop(person)
    if not people:
        raise UserError(
            f"no consent file for {', '.join(refused)}",
            "consent.txt (or .md, .pdf, .json) in every person's folder",
            "write down what they agreed to",
        )
    checked = check_clips(people, tell)
    parts, notes = divide(checked)
    notes += [f"{person} is left out: no consent file" for person in refused]
    mark(seconds, "check", began)
    mine = work / "adapters" / name
    place(parts, mine / "clips", settings)
    shards = encode_parts(parts, mine, work, base, settings, tell)
    mark(seconds, "track and encode", began)
    trained = train_adapter(shards, mine, base, settings, tell)
    mark(seconds, "train", began)
    scores = judge(parts, mine, base, trained / "adapter", settings, tell)
    mark(seconds, "judge", began)
    notes += [f"{who}'s clip that was held out could not be scored" for who, one in scores["people"].items() if not one]
    record = {
        "name": name,
        "base": bundle_name(base),
        "settings": asdict(settings),
        "clips": [part.as_dict() for part in parts],
        "people": [person.as_dict() for person in checked],
        "notes": notes,
        "scores": scores,
        "better": better(scores),
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
    }
    if not record["better"] and not keep_worse:
        raise UserError(
            f"an adapter that is no better than the base on the clips held out ({words(scores)})",
            "a gain over the base and over the repeated portrait",
            "film what `fportrait check` names, raise --steps, or keep it with --keep-worse",
        )
    with atomic_folder(out) as folder:
        for file in ("adapter.safetensors", "adapter.json"):
            shutil.copy2(trained / "adapter" / file, folder / file)
        shutil.copytree(mine / "report", folder / "report")
        write_json(folder / RECORD, record)
    return record


def mark(seconds: dict[str, float], what: str, began: float) -> None:
    """Note how long a part took; parts add up to the time since `began`."""
    seconds[what] = time.perf_counter() - began - sum(seconds.values())


def without_consent(people: Mapping[str, Sequence[Path]], clips: Path) -> list[str]:
    """People whose folder (the clips' own, for those at the top) has no consent file."""
    top = clips if clips.is_dir() else clips.parent
    return [person for person in people if not has_consent(top / person if (top / person).is_dir() else top)]


def divide(checked: Sequence[PersonCheck]) -> tuple[list[Part], list[str]]:
    """Which clips are learned from and which are held out, one of every person; and what was left out, in sentences.

    The clip that is held out turns least: what is shown once alone must be learned. The end of an only clip is held
    out.

    Raises:
        UserError: nobody's clips can be used.
    """
    parts, notes = [], []
    for person in checked:
        notes += [
            f"{clip.person}/{clip.name} is left out: {'; '.join(clip.reasons)}"
            for clip in person.clips
            if not clip.usable
        ]
        notes += person.reasons
        usable = person.usable
        if len(usable) > 1:
            spare = min(usable, key=lambda clip: (clip.yaw[1] - clip.yaw[0] + clip.pitch[1] - clip.pitch[0], clip.name))
            parts += [Part(clip, clip is spare) for clip in usable]
        elif usable and usable[0].seconds >= LEAST_SECONDS:
            cut = int(usable[0].frames * (1 - HELD_SHARE))
            parts += [Part(usable[0], False, 0, cut), Part(usable[0], True, cut, None)]
            notes.append(f"{person.person} has one clip: its last {HELD_SHARE:.0%} is held out, which judges less")
        elif usable:
            notes.append(
                f"{person.person} is left out: one clip of {usable[0].seconds:.1f} s; two clips, or one of "
                f"{LEAST_SECONDS:g} s, are needed to learn and to judge"
            )
    if not any(not part.held_out for part in parts):
        raise UserError(
            "no clips to adapt to: " + ("; ".join(notes) or "nothing usable"),
            "a person with two usable clips, or one of some seconds",
            "see `fportrait check`, and film what it names",
        )
    return parts, notes


def place(parts: Sequence[Part], folder: Path, settings: AdaptSettings) -> None:
    """Lay the clips out, `learn/phone/pNN/cNN` and `held/pNN/cNN`, cut and uneven ones anew."""
    key = value_hash([[part.as_dict() for part in parts], settings.max_frames, settings.judged_frames])
    if (folder / "key").is_file() and (folder / "key").read_text() == key:
        return
    with atomic_folder(folder) as target:
        numbers = {person: f"p{index:02d}" for index, person in enumerate(dict.fromkeys(p.clip.person for p in parts))}
        for index, part in enumerate(parts):
            source = Path(part.clip.path).resolve()
            limit = settings.judged_frames if part.held_out else settings.max_frames
            name = f"c{index:02d}{source.suffix.lower()}"
            to = target / ("held" if part.held_out else "learn/phone") / numbers[part.clip.person] / name
            to.parent.mkdir(parents=True, exist_ok=True)
            info = probe(source)
            stop = min(info.frames if part.stop is None else part.stop, part.start + limit)
            if part.start == 0 and stop == info.frames and not info.variable_rate:
                os.symlink(source, to)
                continue
            if info.variable_rate:
                fps, stored = constant_frames(source)
                wanted = stored[part.start : stop].tolist()
                frames = picked(iter_video(source, 0, int(wanted[-1]) + 1), wanted)
            else:
                fps, frames = info.fps, iter_video(source, part.start, stop)
            write_video(to.with_suffix(".mp4"), frames, fps, crf=6.0)
        (target / "key").write_text(key)


def encode_parts(
    parts: Sequence[Part], mine: Path, work: Path, base: Path, settings: AdaptSettings, tell: Tell
) -> Path:
    """Shards of the clips to learn from, and of embedded clips beside them."""
    import pandas as pd

    from fportrait.dataset.encode import encode_tables, vae_hash
    from fportrait.dataset.shards import INDEX, ShardWriter
    from fportrait.tracking.captures import track_captures

    stated = read_settings(base)
    raw, units = (mine / "clips/learn").resolve(), mine / "units"
    tell("track", 0, 2)
    # A root that the clips do not lie in: the tables name them by absolute paths, whatever the working folder is.
    ingest_captures(raw, mine / "manifest", mine / "manifest", {}, 40.0, settings.frames)
    tracking = {"camera_distance": stated.camera_distance, "crop_metres": stated.crop_metres}
    track_captures(mine / "manifest", base, mine / "tracks", units / "track", tracking)
    tell("track", 1, 2)
    encoding = {"size": stated.size, "window": settings.frames, "stride": max(settings.frames // 2, 1)}
    encode_tables([mine / "tracks"], base / "vae", mine / "own", units / "shards", encoding)
    tell("track", 2, 2)
    folders = [mine / "own"]
    if settings.embedded:
        folders.append(embedded_shards(work / "embedded", base, settings, tell))
    shutil.rmtree(mine / "shards", ignore_errors=True)
    writer = ShardWriter(mine / "shards", vae_hash(base / "vae"), encoding)
    for folder in folders:
        index = pd.read_parquet(folder / INDEX)
        for shard, rows in index.groupby("shard", sort=True):
            writer.add(folder / str(shard), rows.drop(columns="shard").to_dict("records"))
    writer.finish()
    return mine / "shards"


def embedded_shards(folder: Path, base: Path, settings: AdaptSettings, tell: Tell) -> Path:
    """Shards of embedded people with exact conditions, each a person of their own: what every base has learned.

    They depend on the base's codec and encoder alone, and serve every adapter.
    """
    import numpy as np
    import torch

    from fportrait.body.model import load_body
    from fportrait.dataset.encode import vae_hash
    from fportrait.dataset.shards import INDEX, ShardWriter, write_shard
    from fportrait.diffusion.codec import encode_video, load_vae
    from fportrait.pixels import to_model_range
    from fportrait.tracking.expression import ExpressionEncoder
    from fportrait.training.base_clips import ClipRecipe, render_clip

    size = read_settings(base).size
    kinds = {"studio": 0.3, "view_sweep": 0.3, "dynamic_sweep": 0.4}
    recipe = ClipRecipe(
        clips=settings.embedded_clips, frames=settings.frames, size=size, seed=EMBEDDED_SEED, references=2, kinds=kinds
    )
    encoder_files = sorted((base / "expression_encoder").glob("*"))
    name = value_hash([recipe.name, vae_hash(base / "vae"), [file_hash(path) for path in encoder_files]])
    target = folder / name
    if (target / INDEX).is_file():
        return target
    vae, encoder, body = (
        load_vae(base / "vae"),
        ExpressionEncoder.from_pretrained(base / "expression_encoder"),
        load_body(),
    )

    def latents(pictures: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return encode_video(vae, to_model_range(pictures)).float().cpu()

    with atomic_folder(target) as made:
        writer = ShardWriter(made, vae_hash(base / "vae"), {"recipe": recipe.name})
        for index in range(recipe.clips):
            tell("film embedded clips", index, recipe.clips)
            clip = render_clip(index, recipe, body)
            video, normals = latents(np.stack([clip["video"], clip["normals"]]))
            cameras = torch.from_numpy(clip["world_to_camera"])
            tensors = {
                "latents": video.clone(),
                "normals": normals.clone(),
                "codes": torch.from_numpy(np.asarray(encoder.encode(clip["crops"]), np.float32)),
                "world_to_camera": cameras,
                "intrinsics": torch.from_numpy(clip["intrinsics"]),
                "focus": torch.from_numpy(clip["focus"]),
            }
            count = recipe.references
            references = {
                "latents": latents(clip["references"][:, None]),
                "images": torch.from_numpy(clip["references"]),
                "world_to_camera": torch.from_numpy(clip["reference_world_to_camera"]),
                "intrinsics": torch.from_numpy(np.repeat(clip["intrinsics"][None], count, 0)),
            }
            dataset = EMBEDDED_DATASETS[list(kinds)[int(clip["kind"])]]
            rows = write_shard(
                made / "one.safetensors",
                dataset=dataset,
                identity=f"embedded{index:04d}",
                split="train",
                records=[("clip", f"embedded{index:04d}/clip", 0, tensors)],
                references=references,
            )
            writer.add(made / "one.safetensors", rows)
            (made / "one.safetensors").unlink()
        writer.finish()
    tell("film embedded clips", recipe.clips, recipe.clips)
    return target


def train_adapter(shards: Path, mine: Path, base: Path, settings: AdaptSettings, tell: Tell) -> Path:
    """The stage `adapt`, with a low-rank adapter; returns its folder (`adapter/`, `transformer/`)."""
    from fportrait.dataset.shards import ShardReader
    from fportrait.training.config import StageConfig
    from fportrait.training.loop import train
    from fportrait.training.stages import load_start

    reader = ShardReader(shards)
    stage = StageConfig(
        name="adapt",
        frames=settings.frames,
        iterations=settings.steps,
        learning_rate=settings.learning_rate,
        mixture=shares(settings, {name: len(found) for name, found in reader.records("train").items()}),
        lora={"rank": settings.rank, "alpha": settings.rank, "conditions": False},
        batch_size=settings.batch_size,
        seed=settings.seed,
        warmup=min(10, settings.steps // 4),
        decay_from=0.6,
        ema=0.98,
        dropout=0.05,
        focus_gain=8.0,
        contrast=3.0,
        held_out=0,
        log_every=5,
        checkpoint_every=max(settings.steps // 2, 1),
        keep_checkpoints=1,
    )
    transformer = load_start(stage, base)
    out = mine / "trained"
    shutil.rmtree(out, ignore_errors=True)
    train(
        stage,
        transformer,
        reader,
        out,
        lambda values, step: tell("train", step, settings.steps),
        checkpoint_folder=mine / "checkpoints",
    )
    return out


def shares(settings: AdaptSettings, there: Mapping[str, int]) -> dict[str, int]:
    """Percent by dataset: the embedded share over the kinds of clips that were filmed, the rest is the user's own."""
    embedded = [name for name in EMBEDDED_DATASETS.values() if there.get(name)] if settings.embedded else []
    mixture = {name: settings.embedded // len(embedded) for name in embedded}
    mixture["PhoneCapture"] = 100 - sum(mixture.values())
    return mixture


def judge(
    parts: Sequence[Part], mine: Path, base: Path, adapter: Path, settings: AdaptSettings, tell: Tell
) -> dict[str, Any]:
    """Scores by person on the clip held out, of `base` and `adapted`, and the controls' gains of both.

    Each person's entry holds PSNR, SSIM, LPIPS and CSIM where their networks are there, of the model, of the repeated
    portrait and of the codec's limit.
    """
    from fportrait.animate.animator import Animator
    from fportrait.animate.own_clips import evaluate_clips

    held = [part.clip.person for part in parts if part.held_out]
    numbers = {person: f"p{index:02d}" for index, person in enumerate(dict.fromkeys(p.clip.person for p in parts))}
    people = {numbers[person]: person for person in held}
    metrics = {"psnr": "auto", "ssim": "auto", "lpips": "auto", "csim": "auto"}
    protocol = {"metrics": metrics, "network_every": 4, "control": True, "shown": 4}
    found: dict[str, dict[str, dict[str, float]]] = {person: {} for person in people.values()}
    gains: dict[str, dict[str, float]] = {}
    for index, (label, given) in enumerate((("base", None), ("adapted", adapter))):
        tell("judge on clips held out", index, 2)
        animator = Animator(base, adapter=given)
        report = mine / ("report" if given else "report_base")
        shutil.rmtree(report, ignore_errors=True)
        evaluate_clips(animator, mine / "clips/held", report, protocol, settings.seed, settings.judged_frames)
        stored = json.loads((report / "scores.json").read_text())
        for clip, scores in stored["clips"].items():
            found[people[clip.partition("/")[0]]][label] = scores
        if settings.gains:
            gains[label] = control_gains(animator, settings)
    tell("judge on clips held out", 2, 2)
    return {"people": found, "gains": gains}


def control_gains(animator: Any, settings: AdaptSettings) -> dict[str, float]:
    """Gain of every probe, on one embedded person (`fportrait.evaluation.probes`)."""
    from fportrait.dataset.sampling import Sampler
    from fportrait.evaluation.embedded import Studio
    from fportrait.evaluation.probes import ProbeSettings, run_probes

    stated = animator.settings
    sampler = Sampler(animator.pipeline, stated.steps, settings.seed, stated.guidance)
    studio = Studio(animator.encoder, stated.size, stated.camera_distance, stated.crop_metres)
    probes = run_probes(sampler, studio, ProbeSettings(people=1, frames=5, tracker=False))
    return {name: round(entry["gain"]["mean"], 4) for name, entry in probes["methods"]["ours"]["gains"].items()}


def better(scores: Mapping[str, Any]) -> bool:
    """Whether everybody's held-out clip has a higher PSNR with the adapter than with the base and, where it moves, than
    the portrait repeated.

    Of a clip so still that its first frame repeated beats even the codec's limit, no model can be better than that.
    """
    judged = [entry for entry in scores["people"].values() if "adapted" in entry and "base" in entry]

    def bar(base: Mapping[str, float]) -> float:
        repeated = base["repeated_portrait/psnr"]
        moves = repeated < base.get("codec_limit/psnr", float("inf"))
        return max(base["ours/psnr"], repeated) if moves else base["ours/psnr"]

    return bool(judged) and all(entry["adapted"]["ours/psnr"] > bar(entry["base"]) for entry in judged)


def words(scores: Mapping[str, Any]) -> str:
    """The judgement in a line."""
    return "; ".join(
        f"{person} {entry['base']['ours/psnr']:.1f} dB with the base, {entry['adapted']['ours/psnr']:.1f} with it, "
        f"{entry['base']['repeated_portrait/psnr']:.1f} the portrait repeated"
        for person, entry in scores["people"].items()
        if "adapted" in entry
    )


def bundle_name(base: Path) -> dict[str, str]:
    from fportrait.provenance import model_name

    return model_name(base)
