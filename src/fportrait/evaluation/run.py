"""The protocols: what is generated, what it is compared with, and how the numbers become a report.

- **Self-reenactment** of held-out people on every dataset: their own video's pose, camera and expression, from one
  portrait, against the true pixels. Beside it two baselines on the same clips: the codec's own limit (the true latents
  decoded) and the portrait repeated. A frame that is the portrait itself is left out of the picture scores of all.
- **Own people** (`held_clips`): the same on the clips that were held out of people who are trained on, by person.
- **Control modes** (`modes`): one embedded person does what another did, with a rendered truth.
- **Probes** (`probes`): one factor moved alone.
- **Cross-reenactment** (`cross`): a held-out person does what another one's annotations say, without a truth.

Every model is scored on the same records, drawn in the index's order; `holdout` names them and their bytes. Other
methods' videos of these records (`external`) stand beside it, all averaged over the clips that all have (`comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import write_json
from fportrait.bundle import read_settings
from fportrait.dataset.encode import vae_hash
from fportrait.dataset.sampling import Sampler, held_out, make_pipeline
from fportrait.dataset.shards import Record, ShardReader
from fportrait.devices import pick_device, sampling_dtype
from fportrait.diffusion.codec import load_vae
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.evaluation.clips import frechet_of, score_clip, score_group, summarise
from fportrait.evaluation.comparison import compare
from fportrait.evaluation.cross import run_cross
from fportrait.evaluation.embedded import Studio
from fportrait.evaluation.export import holdout_of
from fportrait.evaluation.external import score_external
from fportrait.evaluation.held_clips import held_clips, score_own_people
from fportrait.evaluation.modes import mode_scenes, run_modes
from fportrait.evaluation.probes import ProbeSettings, run_probes
from fportrait.evaluation.report import Report
from fportrait.evaluation.slices import summarise_slices
from fportrait.evaluation.types import (
    OWN_CLIPS,
    ClipResult,
    Evaluation,
    Protocol,
    Request,
    SamplingSettings,
    Scorers,
    load_encoder,
    sampling_settings,
)
from fportrait.tables.schema import DATASETS
from fportrait.tracking.actions import ActionReadout
from fportrait.tracking.expression import ExpressionEncoder


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
        By dataset: means with confidence intervals over people. Beside them `comparison`, `slices`, `people`,
        `control`, `modes`, `cross`, `external`, `frechet`, `backbones`, `holdout`, `settings` and `warnings`.

    Raises:
        UserError: the shards are of another VAE, have no held-out records, or hold clips shorter than asked.
    """
    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)
    base, reader = Path(base_folder), ShardReader(shards_folder)
    if vae_hash(base / "vae") != reader.vae_hash:
        raise UserError(
            f"shards of another VAE than {base / 'vae'}",
            "shards of the model's VAE",
            "run `kedro run --pipelines=encode` again",
        )
    sampling = sampling_settings(protocol, Path(transformer_folder), base)
    device = pick_device()
    dtype = sampling_dtype(device)
    transformer = FactorPortraitTransformer.from_pretrained(transformer_folder, torch_dtype=dtype).to(device).eval()
    vae = load_vae(base / "vae").to(device)
    pipeline = make_pipeline(transformer, vae, sampling.shift, sampling.guidance_below, sampling.scheduler)
    evaluation = Evaluation(
        Sampler(pipeline, sampling.steps, seed, sampling.guidance),
        reader,
        replace(protocol, guidance=sampling.guidance),
        Scorers.of(protocol, load_encoder(base / "expression_encoder") if protocol.control else None, bool(external)),
        Report(Path(out_folder), shown=protocol.shown),
    )
    chosen = chosen_records(reader, protocol.records, sampling.frames)
    held = held_clips(shards_folder, protocol.own_clips, sampling.frames)
    if not chosen and not held:
        raise UserError(
            f"no held-out records in {shards_folder}",
            "identities of the split 'test'",
            "raise the share of test identities in ingest, and encode again",
        )
    summary, clips = score_held_out(evaluation, chosen)
    found, own = score_own_people(evaluation, held) if held else ({}, [])
    summary |= found
    clips += own
    summary["slices"] = summarise_slices(clips, seed)
    extra = on_embedded_people(evaluation, base, sampling.frames, probes, modes)
    probed = extra.get("control", {}).pop("each", {})  # per person, for the gate
    if cross and cross.get("pairs"):
        readout = ActionReadout.beside(base / "expression_encoder")
        extra["cross"] = run_cross(evaluation, annotations, sampling.frames, cross["pairs"], readout)
    others: dict[str, list[ClipResult]] = {}
    for name, folder in (external or {}).items():
        found, others[name] = score_external(evaluation, name, folder, chosen)
        extra.setdefault("external", {})[name] = found
    groups = {dataset: [clip for clip in clips if clip.id.startswith(f"{dataset}/")] for dataset in DATASETS}
    groups = {dataset: some for dataset, some in groups.items() if some} | ({OWN_CLIPS: own} if own else {})
    summary["comparison"] = compare(groups, others, evaluation.scorers, seed)
    summary |= extra
    summary["holdout"] = holdout_of([*chosen, *(held.chosen if held else ())])
    summary["backbones"] = evaluation.scorers.backbones()
    summary["not_measured"] = evaluation.scorers.lacking
    summary["settings"] = settings_of(evaluation, sampling)
    write_json(
        Path(out_folder) / "scores.json",
        {
            "holdout": summary["holdout"],
            "clips": {
                clip.id: {name: round(value, 6) for name, value in sorted(clip.scores.items()) if np.isfinite(value)}
                for clip in clips
            },
            "people": {clip.id: clip.identity for clip in clips},
            "probes": probed,
        },
    )
    evaluation.report.finish(summary)
    return summary


def settings_of(evaluation: Evaluation, sampling: SamplingSettings) -> dict[str, Any]:
    """What was asked, for the report; `same` is what two evaluations must share to be compared."""
    return {
        "frames": sampling.frames,
        "size": picture_size(evaluation.reader),
        "steps": sampling.steps,
        "shift": sampling.shift,
        "seed": evaluation.seed,
        "guidance": sampling.guidance,
        "guidance_below": sampling.guidance_below,
        "scheduler": sampling.scheduler,
        "network_every": evaluation.protocol.network_every,
        "shards": evaluation.reader.hash,
        "same": {"frames": sampling.frames, "steps": sampling.steps},
    }


def picture_size(reader: ShardReader) -> int:
    """Pixels of the people's square: what the model was trained at, whatever its base says."""
    record = next(one for split in ("test", "train") for some in reader.records(split).values() for one in some)
    return int(reader.references(record)["images"].shape[1])


def chosen_records(reader: ShardReader, count: int, frames: int | None) -> list[tuple[Record, int]]:
    """The held-out records that every model and method is scored on, dataset by dataset, and how many frames of each.

    Args:
        count: per dataset. frames: the model's; None takes the shortest record of a dataset.

    Raises:
        UserError: a record is shorter than `frames`.
    """
    chosen = []
    for dataset in DATASETS:
        records = held_out(reader, dataset, count, frames)
        length = min([frames or 10**9, *(record.frames for record in records)])
        chosen += [(record, length) for record in records]
    return chosen


def score_held_out(
    evaluation: Evaluation, chosen: Sequence[tuple[Record, int]]
) -> tuple[dict[str, Any], list[ClipResult]]:
    """Self-reenactment of the chosen records: the summary by dataset, and the clips' scores."""
    summary: dict[str, Any] = {}
    everything: list[ClipResult] = []
    for dataset in DATASETS:
        clips = []
        for clip in score_group(evaluation, dataset, [entry for entry in chosen if entry[0].dataset == dataset]):
            evaluation.keep(dataset, clip)
            clips.append(clip)
        everything += clips
        if clips:
            summary[dataset] = summarise(clips, evaluation.seed) | frechet_of(evaluation.scorers, dataset)
    return summary, everything


def on_embedded_people(
    evaluation: Evaluation,
    base: Path,
    frames: int | None,
    probes: ProbeSettings | Mapping[str, Any] | None,
    modes: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Control modes and probes, on people whose truth is rendered."""
    probes = probes if isinstance(probes, ProbeSettings) or probes is None else ProbeSettings.from_dict(probes)
    people = int((modes or {}).get("people", 0))
    refuse_unknown_keys(modes or {}, ("people", "frames"), "evaluate.modes")
    if not people and not (probes and probes.people):
        return {}
    stated, sampler = read_settings(base), evaluation.sampler
    encoder = ExpressionEncoder.from_pretrained(base / "expression_encoder").to(pick_device())
    size = picture_size(evaluation.reader)
    studio = Studio(encoder, size, stated.camera_distance, stated.crop_metres)
    extra: dict[str, Any] = {}
    if people:
        scenes = mode_scenes(studio, people, int((modes or {}).get("frames") or frames or stated.frames), sampler.seed)
        videos = run_modes(sampler, scenes, evaluation.protocol.batch)
        extra["modes"] = {}
        for mode, some in scenes.items():
            clips = []
            for index, (scene, shown) in enumerate(zip(some, videos[mode], strict=True)):
                request = Request(scene.video, scene.reference, scene.landmarks, scene.codes, scene.intrinsics)
                clip = score_clip(f"{mode}/{index}", f"target {index}", shown, request, evaluation.scorers, "")
                evaluation.keep(f"mode: {mode.replace('_', ' ')}", clip)
                clips.append(clip)
            extra["modes"][mode] = summarise(clips, evaluation.seed)
    if probes and probes.people:
        if probes.guidance is None:
            probes = replace(probes, guidance=evaluation.protocol.guidance)
        control = run_probes(sampler, studio, probes)
        evaluation.report.add_probes(control, control.pop("pictures"))
        extra["control"] = control
    return extra
