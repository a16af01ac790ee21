"""A few clips of one person, or of several, to an adapter of the model: `fportrait adapt CLIPS --name NAME`.

One clip of every person is held out, and judges: base and adapter are scored on it, as the first frame driven by the
clip itself. Everything between is the chain's own work (`ingest`, `track`, `encode`, a training stage with `lora`), in
a folder of its own, and is not done twice. Clips of the embedded world are mixed in, lest the model forget how to be
controlled.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.animate.adapt_parts import AdaptSettings, Part, divide, numbered, place
from fportrait.animate.adapt_shards import encode_parts, reads_of, shares
from fportrait.animate.carried import FOLDER, LEFT, MOUTH, RIGHT, carry
from fportrait.animate.clip_check import check_clips, clips_of
from fportrait.atomic_io import atomic_folder, write_json
from fportrait.capture.ingest import has_consent
from fportrait.capture.withdrawn import of_withdrawn, refuse_withdrawn
from fportrait.errors import UserError
from fportrait.tracking.actions import ActionReadout

if TYPE_CHECKING:
    from fportrait.training.config import StageConfig

RECORD = "adapt.json"  # beside the adapter: what it was made from, and how it was judged
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
STILL = 6.0  # decibels from the codec's limit: a factor of two in error
LOSS = {"psnr": 0.05, "lpips": 0.002, "csim": 0.2}  # up to which nothing counts as lost: no eye tells
REMEMBERED = 128  # tracks of portraits, clips and an adapter's pictures
Tell = Callable[[str, int, int], None]


def check_adapter_name(name: str) -> str:
    """The name, when it can name a folder and a registered version.

    Raises:
        UserError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"the adapter's name {name!r}", "letters, digits, - and _, 64 at most", "choose another --name")
    return name


@contextmanager
def at_work(work: Path, name: str) -> Iterator[None]:
    """Nobody else trains or deletes the adapter `name` meanwhile.

    Raises:
        UserError: somebody does.
    """
    lock = work / "adapters" / f".{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"the adapter '{name}' at work in another `fportrait adapt`", "one at a time", "wait for it, or stop it"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def adapt(
    clips: str | Path,
    name: str,
    base: str | Path,
    out: str | Path,
    work: str | Path,
    settings: AdaptSettings | None = None,
    tell: Tell = lambda what, done, total: None,
    require_consent: bool = False,
    keep_worse: bool = False,
) -> dict[str, Any]:
    """Train an adapter of `base` and judge it on clips held out; returns its record, also in `out/adapt.json`.

    Args:
        clips: videos of one person (called `name`), or a folder of them per person. base: a bundle.
        out: gets `adapter.safetensors`, `adapter.json`, `portraits/` (`carried`), `adapt.json` and `report/`; replaced
            as a whole.
        work: tracks, shards and checkpoints; kept, so that a stopped run goes on. Its parts are this name's own, but
            for the embedded clips. require_consent: leave people out without a consent file in their folder.
        keep_worse: write the adapter even if it is worse than the base on the clips held out.

    Raises:
        UserError: nothing that can be used, nobody with a clip to spare for judging, or an adapter worse than the base.
    """
    check_adapter_name(name)
    if importlib.util.find_spec("peft") is None:
        raise UserError("no peft package", "peft (for LoRA)", "pip install 'fportrait[lora]'")
    with at_work(Path(work), name):
        return _adapt(clips, name, base, out, work, settings or AdaptSettings(), tell, require_consent, keep_worse)


def _adapt(
    clips: str | Path,
    name: str,
    base: str | Path,
    out: str | Path,
    work: str | Path,
    settings: AdaptSettings,
    tell: Tell,
    require_consent: bool,
    keep_worse: bool,
) -> dict[str, Any]:
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    base, out, work = Path(base), Path(out), Path(work)
    people = clips_of(clips, name)
    aside = [person for person, videos in people.items() if any(map(of_withdrawn, videos))]
    if len(aside) == len(people):
        refuse_withdrawn(video for videos in people.values() for video in videos)
    for person in aside:
        people.pop(person)
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
    notes += [f"{len(aside)} left out: consent was withdrawn"] if aside else []  # who is not written down
    mark(seconds, "check", began)
    mine = work / "adapters" / name
    place(parts, mine / "clips", settings)
    shards = encode_parts(parts, mine, work, base, settings, tell)
    mark(seconds, "track and encode", began)
    trained = train_adapter(shards, mine, base, settings, tell)
    painted, readout = reads_of(base).warped_reference, ActionReadout.beside(base / "expression_encoder")
    pictures = carry(mine / "tracks", trained / "adapter", readout) if painted else []
    for picture in pictures:
        picture["person"] = numbered(parts)[picture["person"]]
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
        "pictures": pictures,
        "notes": notes,
        "scores": scores,
        "better": better(scores),
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "earlier": earlier(out),
    }
    brings = {picture["shows"] for picture in pictures} & {LEFT, RIGHT, MOUTH}
    if not (record["better"] or (brings and harmless(scores)) or keep_worse):
        raise UserError(
            f"an adapter that is no better than the base on the clips held out ({words(scores)})",
            "a gain over the base and over the repeated portrait",
            "film what `fportrait check` names, raise --steps, or keep it with --keep-worse",
        )
    with atomic_folder(out) as folder:
        for file in ("adapter.safetensors", "adapter.json"):
            shutil.copy2(trained / "adapter" / file, folder / file)
        if pictures:
            shutil.copytree(trained / "adapter" / FOLDER, folder / FOLDER)
        shutil.copytree(mine / "report", folder / "report")
        write_json(folder / RECORD, record)
    return record


def earlier(out: Path) -> list[str]:
    """Hashes of the adapters that this one replaces: what they made is deleted with it."""
    from fportrait.diffusion.lora import adapter_name

    found = named_before(read_record(out))
    with contextlib.suppress(UserError, OSError):  # none there, or a broken one: it is replaced all the same
        found.append(adapter_name(out)["hash"])
    return found


def named_before(record: Mapping[str, Any]) -> list[str]:
    """The hashes that a record says its adapter's name had before."""
    told = record.get("earlier")
    return [str(one) for one in told] if isinstance(told, list) else []


def read_record(folder: Path) -> dict[str, Any]:
    """What `adapt` wrote beside an adapter; empty for one that came otherwise, or whose record is broken."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mark(seconds: dict[str, float], what: str, began: float) -> None:
    """Note how long a part took; parts add up to the time since `began`."""
    seconds[what] = time.perf_counter() - began - sum(seconds.values())


def without_consent(people: Mapping[str, Sequence[Path]], clips: Path) -> list[str]:
    """People whose folder (the clips' own, for those at the top) has no consent file."""
    top = clips if clips.is_dir() else clips.parent
    return [person for person in people if not has_consent(top / person if (top / person).is_dir() else top)]


def stage_of(settings: AdaptSettings, mixture: dict[str, int], base: Path) -> StageConfig:
    """The training stage `adapt`: low-rank updates, whose loss weighs what moves as that of the base does.

    A base that samples in one step is asked at one noise level only, and learns there.
    """
    from fportrait.bundle import read_settings
    from fportrait.training.config import StageConfig

    return StageConfig(
        name="adapt",
        frames=settings.frames,
        iterations=settings.steps,
        learning_rate=settings.learning_rate,
        mixture=mixture,
        lora={"rank": settings.rank, "alpha": settings.rank, "conditions": False},
        batch_size=settings.batch_size,
        seed=settings.seed,
        warmup=min(10, settings.steps // 4),
        decay_from=0.6,
        ema=0.98,
        dropout=0.05,
        sigmas="start" if read_settings(base).steps == 1 else "uniform",
        focus_gain=8.0,
        contrast=3.0,
        held_out=0,
        log_every=5,
        checkpoint_every=max(settings.steps // 2, 1),
        keep_checkpoints=1,
    )


def train_adapter(shards: Path, mine: Path, base: Path, settings: AdaptSettings, tell: Tell) -> Path:
    """Train the stage; returns its folder (`adapter/`, `transformer/`)."""
    from fportrait.dataset.shards import ShardReader
    from fportrait.training.loop import train
    from fportrait.training.stages import load_start

    reader = ShardReader(shards)
    there = {name: len(found) for name, found in reader.records("train").items()}
    stage = stage_of(settings, shares(settings, there), base)
    out = mine / "trained"
    shutil.rmtree(out, ignore_errors=True)
    train(
        stage,
        load_start(stage, base),
        reader,
        out,
        lambda values, step: tell("train", step, settings.steps),
        checkpoint_folder=mine / "checkpoints",
    )
    return out


def judge(
    parts: Sequence[Part], mine: Path, base: Path, adapter: Path, settings: AdaptSettings, tell: Tell
) -> dict[str, Any]:
    """Scores by person on the clip held out, of `base` and `adapted`, and the controls' gains of both.

    Each person's entry holds PSNR, SSIM, LPIPS and CSIM where their networks are there, of the model, of the repeated
    portrait and of the codec's limit.
    """
    from fportrait.animate.animator import Animator

    found: dict[str, dict[str, dict[str, float]]] = {part.clip.person: {} for part in parts if part.held_out}
    gains: dict[str, dict[str, float]] = {}
    plain = Animator(base, remember=REMEMBERED)  # clips are tracked once for both
    for index, (label, given) in enumerate((("base", None), ("adapted", adapter))):
        tell("judge on clips held out", index, 2)
        animator = plain if given is None else plain.with_adapter(given)
        for person, scores in scores_of(animator, parts, mine, "report" if given else "report_base", settings).items():
            found[person][label] = scores
        if settings.gains:
            gains[label] = control_gains(animator, settings)
    tell("judge on clips held out", 2, 2)
    return {"people": found, "gains": gains}


def scores_of(
    animator: Any, parts: Sequence[Part], mine: Path, report: str, settings: AdaptSettings
) -> dict[str, dict[str, float]]:
    """Scores of a model by person, on the clip of theirs that was held out; the report goes to `mine/report`."""
    from fportrait.animate.own_clips import evaluate_clips

    people = numbered(parts)
    metrics = {"psnr": "auto", "ssim": "auto", "lpips": "auto", "csim": "auto"}
    protocol = {"metrics": metrics, "control": True, "shown": 4}
    shutil.rmtree(mine / report, ignore_errors=True)
    how = (protocol, settings.seed, settings.judged_frames, settings.judged_scale)
    evaluate_clips(animator, mine / "clips/held", mine / report, *how)
    stored = json.loads((mine / report / "scores.json").read_text())["clips"]
    return {people[clip.partition("/")[0]]: scores for clip, scores in stored.items()}


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


def hardly_moves(base: Mapping[str, float]) -> bool:
    """Whether a clip is so still that its first frame, repeated, errs less than twice as much as the codec alone: no
    model can be asked to beat that."""
    return base["repeated_portrait/psnr"] >= base.get("codec_limit/psnr", float("inf")) - STILL


def better(scores: Mapping[str, Any]) -> bool:
    """Whether the adapter gains for somebody and loses for nobody, on the clips held out.

    A clip that moves has gained with a higher PSNR than the base's and the repeated portrait's. One that hardly moves
    can show little: what it shows was in its first frame, whose own pixels are kept (`diffusion.detail`). It must not
    lose, and has gained when the PSNR rises by more than `LOSS`. Nobody's PSNR, LPIPS or CSIM may lose more than that.
    """
    judged = [entry for entry in scores["people"].values() if "adapted" in entry and "base" in entry]
    pairs = [(entry["base"], entry["adapted"]) for entry in judged]
    return all(keeps(*pair) for pair in pairs) and any(gained(*pair) for pair in pairs)


def harmless(scores: Mapping[str, Any]) -> bool:
    """Whether the adapter loses nothing that counts for anybody, and is judged on somebody.

    Enough to keep one that carries pictures of what no portrait shows (`carried`): clips from their own first frames
    cannot show what those bring.
    """
    judged = [entry for entry in scores["people"].values() if "adapted" in entry and "base" in entry]
    return bool(judged) and all(keeps(one["base"], one["adapted"], LOSS["psnr"]) for one in judged)


def gained(base: Mapping[str, float], adapted: Mapping[str, float]) -> bool:
    """Whether one person's clip shows a gain over the base."""
    return adapted["ours/psnr"] > base["ours/psnr"] + (LOSS["psnr"] if hardly_moves(base) else 0)


def keeps(base: Mapping[str, float], adapted: Mapping[str, float], allowance: float = 0.0) -> bool:
    """Whether one person's clip lost nothing that counts; one that moves has to gain on the base, or to lose no more
    than the allowance, in decibels."""
    least = max(base["ours/psnr"] - allowance, base["repeated_portrait/psnr"])
    if not hardly_moves(base) and adapted["ours/psnr"] <= least:
        return False
    for name, allowed in LOSS.items():
        key, sign = f"ours/{name}", -1 if name == "lpips" else 1
        if key in base and key in adapted and sign * (adapted[key] - base[key]) < -allowed:
            return False
    return True


def words(scores: Mapping[str, Any]) -> str:
    """The judgement, a sentence a person."""
    told = []
    for person, entry in scores["people"].items():
        if "adapted" not in entry or "base" not in entry:
            continue
        base, adapted = entry["base"], entry["adapted"]
        parts = [
            f"{person}: {base['ours/psnr']:.2f} dB with the base, {adapted['ours/psnr']:.2f} with it, "
            f"{base['repeated_portrait/psnr']:.2f} the first frame repeated"
        ]
        if hardly_moves(base):
            parts.append(
                f"(the clip hardly moves: it must only not lose, and the codec ends at {base['codec_limit/psnr']:.1f})"
            )
        for key, name, digits in (("lpips", "LPIPS", 3), ("csim", "identity", 1)):
            if f"ours/{key}" in base and f"ours/{key}" in adapted:
                first, second = base[f"ours/{key}"], adapted[f"ours/{key}"]
                parts.append(f"{name} {first:.{digits}f} to {second:.{digits}f}")
        told.append(", ".join(parts).replace(", (", " ("))
    return "; ".join(told)


def bundle_name(base: Path) -> dict[str, str]:
    from fportrait.provenance import model_name

    return model_name(base)
