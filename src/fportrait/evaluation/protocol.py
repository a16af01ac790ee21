"""The protocols: what is generated, what it is compared with, and how the numbers become a report.

- **Self-reenactment** of held-out people on every dataset: their own video's pose, camera and expression, from one
  portrait, against the true pixels. Beside it two baselines on the same clips: the codec's own limit (the true latents
  decoded) and the portrait repeated. A frame that is the portrait itself is left out of the picture scores of all.
- **Control modes** (`modes`): one embedded person does what another did, with a rendered truth.
- **Probes** (`probes`): one factor moved alone.
- **Cross-reenactment** (`cross`): a held-out person does what another one's annotations say, without a truth.

Every model is scored on the same records, drawn in the index's order; `holdout` names them and their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import value_hash, write_json
from fportrait.dataset.schema import DATASETS
from fportrait.dataset.shards import Record, ShardReader
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.evaluation.bootstrap import bootstrap_mean, paired_difference
from fportrait.evaluation.control import changes, face_errors, gain
from fportrait.evaluation.metrics import METRICS, available
from fportrait.evaluation.probes import ProbeSettings, run_probes
from fportrait.evaluation.sampling import (
    decode,
    held_out,
    load_encoder,
    make_pipeline,
    sample_records,
    sampling_settings,
)
from fportrait.evaluation.scoring import ClipScorer, FrechetScorer
from fportrait.evaluation.slices import (
    expression_strength,
    skin_degrees,
    slice_of,
    summarise_slices,
    view_degrees,
)
from fportrait.parameters import settings_from

__all__ = ["ClipResult", "Protocol", "evaluate", "held_out", "make_pipeline", "sample_records"]

METHODS = ("ours", "codec_limit", "repeated_portrait")
MIN_ASKED = 0.1  # root mean square change of the codes below which a clip asks for no expression
FACELESS = ("psnr", "ssim", "sharpness", "lpips", "iqa")  # what a repeated portrait is scored by


@dataclass(frozen=True)
class Protocol:
    """`records` per dataset, of as many identities as possible. None takes frames, steps and shift from the model."""

    records: int = 4
    frames: int | None = None
    steps: int | None = None
    shift: float | None = None
    batch: int = 4
    guidance: dict[str, float] | None = None  # scale per factor; None takes the model's own
    guidance_below: float | None = None  # highest noise level at which it acts; None takes the model's own
    scheduler: str | None = None  # euler, unipc or dpm++; None takes the model's own
    control: bool = True  # read expression codes and landmarks back from the generated frames
    metrics: dict[str, str] = field(default_factory=lambda: {"psnr": "auto", "ssim": "auto", "sharpness": "auto"})
    network_every: int = 1  # metrics with a network look at every so many frames
    shown: int = 8  # clips per dataset with players in the report; the others are in its tables

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        protocol = settings_from(cls, values, "evaluate.protocol")
        refuse_unknown_keys(protocol.metrics, METRICS, "evaluate.protocol.metrics")
        return protocol


@dataclass
class ClipResult:
    """One clip's scores and videos: `T H W 3` uint8 by method, `truth` and `normals`; the `portrait` `H W 3`.

    `scores` by METHOD/METRIC; `slices` by axis; `missed`: frames without a face, by METHOD/METRIC; `curve`: mean
    absolute difference of ours to the truth per frame, 0–255.
    """

    id: str
    identity: str
    videos: dict[str, np.ndarray]
    scores: dict[str, float]
    slices: dict[str, str] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)


@dataclass
class Scorers:
    """What every clip is measured with."""

    frame: dict[str, Any]
    frechet: dict[str, FrechetScorer]
    every: int
    encoder: Any
    control: bool
    lacking: dict[str, str]

    @classmethod
    def of(cls, protocol: Protocol, encoder: Any) -> Scorers:
        made, lacking = available(protocol.metrics)
        frechet = {name: FrechetScorer(made.pop(name)) for name in list(made) if METRICS[name].frechet}
        return cls(made, frechet, protocol.network_every, encoder, protocol.control, lacking)

    def backbones(self) -> dict[str, dict[str, str]]:
        found = {name: metric.backbone for name, metric in self.frame.items()}
        found |= {name: scorer.features.backbone for name, scorer in self.frechet.items()}
        return {name: {"name": backbone.name, "sha256": backbone.sha256} for name, backbone in sorted(found.items())}


def evaluate(
    transformer_folder: str | Path,
    base_folder: str | Path,
    shards_folder: str | Path,
    out_folder: str | Path,
    protocol: Protocol | Mapping[str, Any],
    seed: int = 0,
    probes: ProbeSettings | Mapping[str, Any] | None = None,
    modes: Mapping[str, int] | None = None,
    cross: Mapping[str, int] | None = None,
    annotations: Sequence[str | Path] = (),
    external: Mapping[str, str | Path] | None = None,
) -> dict[str, Any]:
    """Score a transformer; write videos, tables, `metrics.json`, `scores.json` (per clip and person) and `report.html`.

    Args:
        base_folder: holds `vae/`, and `expression_encoder/` for the control measures.
        modes: `people` and `frames` of the control modes. cross: `pairs` per dataset. Both off by default.
        annotations: folders with `frames.parquet` and `identities.parquet`, for `cross`.
        external: videos of other methods, name to folder, in the layout of docs/evaluation.md.

    Returns:
        By dataset: means with confidence intervals over clips. Beside them `slices`, `control`, `modes`, `cross`,
        `external`, `frechet`, `backbones`, `holdout`, `settings` and `warnings`.

    Raises:
        UserError: the shards are of another VAE, have no held-out records, or hold clips shorter than asked.
    """
    from fportrait.dataset.encode import vae_hash
    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.transformer import FactorPortraitTransformer
    from fportrait.evaluation.report import Report

    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)
    base, reader = Path(base_folder), ShardReader(shards_folder)
    if vae_hash(base / "vae") != reader.vae_hash:
        raise UserError(
            f"shards of another VAE than {base / 'vae'}",
            "shards of the model's VAE",
            "run `kedro run --pipelines=encode` again",
        )
    sampling = sampling_settings(protocol, Path(transformer_folder), base)
    frames, steps = sampling.frames, sampling.steps
    protocol = replace(protocol, guidance=sampling.guidance)
    vae = load_vae(base / "vae")
    transformer = FactorPortraitTransformer.from_pretrained(transformer_folder).eval()
    pipeline = make_pipeline(transformer, vae, sampling.shift, sampling.guidance_below, sampling.scheduler)
    scorers = Scorers.of(protocol, load_encoder(base / "expression_encoder") if protocol.control else None)
    report = Report(Path(out_folder), shown=protocol.shown)

    summary: dict[str, Any] = {}
    chosen: list[tuple[Record, int]] = []
    everything: list[ClipResult] = []
    for dataset in DATASETS:
        records = held_out(reader, dataset, protocol.records, frames)
        length = min([frames or 10**9, *(record.frames for record in records)])
        clips = []
        for first in range(0, len(records), protocol.batch):
            part = records[first : first + protocol.batch]
            samples = sample_records(pipeline, reader, part, length, steps, seed, protocol.guidance)
            for record, sample in zip(part, samples, strict=True):
                clip = score_record(reader, record, length, sample, vae, scorers, dataset)
                report.add(dataset, clip)
                clip.videos = {}  # on disk now
                clips.append(clip)
        chosen += [(record, length) for record in records]
        everything += clips
        if clips:
            summary[dataset] = summarise(clips, seed) | frechet_of(scorers, dataset)
    if not everything:
        raise UserError(
            f"no held-out records in {shards_folder}",
            "identities of the split 'test'",
            "raise the share of test identities in ingest, and encode again",
        )
    summary["slices"] = summarise_slices([(clip.slices, clip.scores) for clip in everything], seed)
    extra = further_protocols(pipeline, base, frames, steps, seed, protocol, scorers, report, probes, modes)
    probed = extra.get("control", {}).pop("each", {})  # per person, for the gate
    if cross and cross.get("pairs"):
        from fportrait.evaluation.cross import run_cross

        extra["cross"] = run_cross(
            pipeline, reader, annotations, frames, steps, seed, protocol, scorers, report, cross["pairs"]
        )
    if external:
        from fportrait.evaluation.external import score_external

        extra["external"] = {
            name: score_external(name, folder, reader, chosen, scorers, report, seed)
            for name, folder in external.items()
        }
    summary |= extra
    summary["holdout"] = value_hash(
        [[record.id, record.checksum, record.references_checksum, n] for record, n in chosen]
    )
    summary["backbones"] = scorers.backbones()
    summary["not_measured"] = scorers.lacking
    summary["settings"] = {
        "frames": frames,
        "steps": steps,
        "shift": sampling.shift,
        "seed": seed,
        "guidance": sampling.guidance,
        "guidance_below": sampling.guidance_below,
        "scheduler": sampling.scheduler,
        "network_every": protocol.network_every,
        "shards": reader.hash,
        "same": {"frames": frames, "steps": steps},
    }
    write_json(
        Path(out_folder) / "scores.json",
        {
            "holdout": summary["holdout"],
            "clips": {
                clip.id: {name: round(value, 6) for name, value in sorted(clip.scores.items()) if np.isfinite(value)}
                for clip in everything
            },
            "people": {clip.id: clip.identity for clip in everything},
            "probes": probed,
        },
    )
    report.finish(summary)
    return summary


def further_protocols(
    pipeline: Any,
    base: Path,
    frames: int | None,
    steps: int,
    seed: int,
    protocol: Protocol,
    scorers: Scorers,
    report: Any,
    probes: ProbeSettings | Mapping[str, Any] | None,
    modes: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Control modes and probes on embedded people."""
    probes = probes if isinstance(probes, ProbeSettings) or probes is None else ProbeSettings.from_dict(probes)
    people = int((modes or {}).get("people", 0))
    refuse_unknown_keys(modes or {}, ("people", "frames"), "evaluate.modes")
    if not people and not (probes and probes.people):
        return {}
    from fportrait.bundle import read_settings
    from fportrait.evaluation.embedded import Studio
    from fportrait.evaluation.modes import mode_scenes, run_modes
    from fportrait.tracking.expression import ExpressionEncoder

    stated = read_settings(base)
    encoder = ExpressionEncoder.from_pretrained(base / "expression_encoder")
    studio = Studio(
        encoder, stated.size, pipeline.transformer.config.ray_channels, stated.camera_distance, stated.crop_metres
    )
    extra: dict[str, Any] = {}
    if people:
        scenes = mode_scenes(studio, people, int((modes or {}).get("frames") or frames or stated.frames), seed)
        videos = run_modes(pipeline, scenes, steps, seed, protocol.batch, protocol.guidance or {})
        extra["modes"] = {}
        for mode, some in scenes.items():
            clips = []
            for index, (scene, shown) in enumerate(zip(some, videos[mode], strict=True)):
                request = Request(scene.video, scene.reference, scene.landmarks, scene.codes, scene.intrinsics)
                clip = score_clip(f"{mode}/{index}", f"target {index}", shown, request, scorers, "")
                report.add(f"mode: {mode.replace('_', ' ')}", clip)
                clip.videos = {}
                clips.append(clip)
            extra["modes"][mode] = summarise(clips, seed)
    if probes and probes.people:
        if probes.guidance is None:
            probes = replace(probes, guidance=protocol.guidance)
        control = run_probes(pipeline, studio, steps, seed, probes)
        report.add_probes(control, control.pop("pictures"))
        extra["control"] = control
    return extra


@dataclass(frozen=True)
class Request:
    """What was asked for: `truth` `T H W 3` and `portrait` `H W 3` uint8, `landmarks` `T 478 2`, `codes` `T 128`,
    `intrinsics` `3 3`."""

    truth: np.ndarray
    portrait: np.ndarray
    landmarks: np.ndarray | None
    codes: np.ndarray
    intrinsics: np.ndarray


def score_record(
    reader: ShardReader, record: Record, frames: int, sample: np.ndarray, vae: Any, scorers: Scorers, group: str
) -> ClipResult:
    """Scores of one sample and of its baselines; control measures where the record and the encoder allow them."""
    window, portraits = reader.read(record, frames), reader.references(record)
    truth, portrait = window["video"].numpy(), portraits["images"][0].numpy()
    landmarks = window["landmarks"].numpy() if "landmarks" in window else None
    request = Request(truth, portrait, landmarks, window["codes"].numpy(), window["intrinsics"].numpy())
    videos = {
        "ours": sample,
        "codec_limit": decode(vae, window["latents"]),
        "repeated_portrait": np.broadcast_to(portrait, truth.shape).copy(),
        "truth": truth,
        "normals": decode(vae, window["normals"]),
        "portrait": portrait,
    }
    clip = score_clip(record.id, record.identity, videos, request, scorers, group)
    degrees = view_degrees(window["world_to_camera"].numpy(), portraits["world_to_camera"][0].numpy())
    clip.slices = {
        "view": slice_of("view", degrees),
        "expression": slice_of("expression", expression_strength(request.codes)),
    }
    if landmarks is not None:
        clip.slices["skin"] = slice_of("skin", skin_degrees(truth[0], landmarks[0]))
    return clip


def score_clip(
    name: str, identity: str, videos: dict[str, np.ndarray], request: Request, scorers: Scorers, group: str
) -> ClipResult:
    """Every measure of every method among `videos`; `group` is what Fréchet distances are taken over, "" for none."""
    truth, clip = request.truth, ClipResult(name, identity, videos, {})
    # A frame that is the portrait itself asks for nothing, and would give the repeated portrait an infinite score.
    same = [t for t, frame in enumerate(truth) if np.array_equal(frame, request.portrait)]
    skip = same if len(same) < len(truth) else []
    for method in METHODS:
        if method not in videos:
            continue
        some = {
            key: metric for key, metric in scorers.frame.items() if method != "repeated_portrait" or key in FACELESS
        }
        scores = ClipScorer(some, scorers.every).score(videos[method], truth, skip, request.landmarks)
        clip.scores |= {f"{method}/{key}": value for key, value in scores.means.items()}
        clip.missed |= {f"{method}/{key}": count for key, count in scores.missed.items() if count}
        if method == "ours":
            clip.curve = [round(value, 2) for value in scores.per_frame["difference"]]
        if scorers.control and method != "repeated_portrait":
            clip.scores |= {
                f"{method}/{key}": value
                for key, value in control_scores(videos[method], request, scorers.encoder).items()
            }
    for frechet in scorers.frechet.values() if group else ():
        for method in ("truth", *METHODS[:2]):
            if method in videos:
                frechet.feed(f"{group}/{method}", list(videos[method]))
                frechet.end_clip(f"{group}/{method}")
    return clip


def control_scores(video: np.ndarray, request: Request, encoder: Any) -> dict[str, float]:
    """Expression gain and the faces' errors of one video against what was asked; those without an answer are left out.

    Face crops are cut at the true landmarks in every video alike, so that a difference is one of pixels.
    """
    scores: dict[str, float] = {}
    if request.landmarks is None:
        return scores
    asked = changes(request.codes)
    if encoder is not None and np.sqrt(np.mean(asked**2)) >= MIN_ASKED:
        read = encoder(video, request.landmarks)
        measured = gain(asked, changes(read))
        scores["expression_gain"] = measured.gain
        scores["expression_correlation"] = measured.correlation
        scores["expression_error"] = float(np.sqrt(np.mean((read - request.codes) ** 2)))
    errors = face_errors(video, request.landmarks, request.intrinsics)
    scores |= {
        "faces_found": errors.found,
        "landmark_error": errors.landmarks,
        "reprojection_error": errors.reprojection,
        "head_pose_error": errors.head_degrees,
        "lip_error": errors.lips,
        "gaze_error": errors.gaze,
        "landmark_gain": errors.gain,
    }
    return {name: value for name, value in scores.items() if np.isfinite(value)}


def frechet_of(scorers: Scorers, group: str) -> dict[str, Any]:
    """Fréchet distances of a group's clips to the truth: `{"frechet": {METHOD: {METRIC: {"value", "warning"}}}}`."""
    table: dict[str, Any] = {}
    for name, scorer in scorers.frechet.items():
        for method in METHODS[:2]:
            found = scorer.distance(f"{group}/{method}", f"{group}/truth")
            if found is not None:
                table.setdefault(method, {})[name] = {"value": round(found[0], 4), "warning": found[1]}
    return {"frechet": table} if table else {}


def summarise(clips: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Means over clips with 95% intervals; `ours_minus_portrait` is the paired difference in PSNR."""
    summary: dict[str, Any] = {"clips": len(clips), "identities": len({clip.identity for clip in clips})}
    names = sorted({name for clip in clips for name in clip.scores})
    for name in names:
        values = [clip.scores[name] for clip in clips if name in clip.scores]
        finite = [value for value in values if np.isfinite(value)]
        if not finite:
            continue
        estimate = bootstrap_mean(finite, seed)
        method, metric = name.split("/")
        entry: dict[str, Any] = {"mean": round(estimate.mean, 4), "clips": estimate.clips}
        if estimate.clips > 1:
            entry |= {"low": round(estimate.low, 4), "high": round(estimate.high, 4)}
        missed = sum(clip.missed.get(name, 0) for clip in clips)
        if missed:
            entry["frames_without_face"] = missed
        summary.setdefault(method, {})[metric] = entry
    ours, theirs = (
        [clip.scores.get(f"{method}/psnr", np.nan) for clip in clips] for method in ("ours", "repeated_portrait")
    )
    if np.isfinite([*ours, *theirs]).all():
        difference = paired_difference(ours, theirs, seed)
        summary["ours_minus_portrait"] = {"mean": round(difference.mean, 4)}
        if difference.clips > 1:
            summary["ours_minus_portrait"] |= {"low": round(difference.low, 4), "high": round(difference.high, 4)}
    return summary
