"""Scores of one clip, and what many clips' scores come to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from fportrait.dataset.crops import filmed_pixels, only_filmed
from fportrait.dataset.sampling import decode, sample_records
from fportrait.dataset.shards import Record, ShardReader
from fportrait.evaluation.bootstrap import estimate
from fportrait.evaluation.control import changes, face_errors, gain
from fportrait.evaluation.scoring import ClipScorer
from fportrait.evaluation.slices import expression_strength, skin_degrees, slice_of, view_degrees
from fportrait.evaluation.types import OWN_CLIPS, ClipResult, Evaluation, Request, Scorers

METHODS = ("ours", "codec_limit", "repeated_portrait")
COMPARED = (*METHODS, "truth")
MIN_ASKED = 0.1  # root mean square change of the codes below which a clip asks for no expression
FACELESS = (
    "psnr",
    "ssim",
    "sharpness",
    "lpips",
    "iqa",
)  # of a repeated portrait; of own clips CSIM, too


def score_record(
    reader: ShardReader, record: Record, frames: int, sample: np.ndarray, vae: Any, scorers: Scorers, group: str
) -> ClipResult:
    """Scores of one sample and of its baselines; control measures where the record and the encoder allow them."""
    window, portraits = reader.read(record, frames), reader.references(record)
    request = Request.of(window, portraits)
    truth, portrait, landmarks = request.truth, request.portrait, request.landmarks
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


def score_group(evaluation: Evaluation, group: str, chosen: Sequence[tuple[Record, int]]) -> Iterator[ClipResult]:
    """Self-reenactment of records of one length, sampled batch by batch; videos and scores of each."""
    reader, batch = evaluation.reader, evaluation.protocol.batch
    for first in range(0, len(chosen), batch):
        part = [record for record, _ in chosen[first : first + batch]]
        length = chosen[first][1]
        samples = sample_records(evaluation.sampler, reader, part, length)
        for record, sample in zip(part, samples, strict=True):
            yield score_record(reader, record, length, sample, evaluation.sampler.vae, evaluation.scorers, group)


def score_clip(
    name: str, identity: str, videos: dict[str, np.ndarray], request: Request, scorers: Scorers, group: str
) -> ClipResult:
    """Every measure of every method among `videos`; `group` is what Fréchet distances are taken over, "" for none.

    Where nothing was filmed (`Request.inside`) there is no truth: all videos, the truth too, are black there. A clip of
    which nothing was filmed has no scores.
    """
    inside = request.inside
    videos = {key: only_filmed(video, inside) if key in COMPARED else video for key, video in videos.items()}
    truth, clip = only_filmed(request.truth, inside), ClipResult(name, identity, videos, {}, inside=inside)
    if inside is not None and not truth[(0, *filmed_pixels(inside))].size:
        return clip  # there is nothing to judge
    # A frame that is the portrait itself asks for nothing, and would give the repeated portrait an infinite score.
    portrait = only_filmed(request.portrait, inside)
    same = [t for t, frame in enumerate(truth) if np.array_equal(frame, portrait)]
    skip = same if len(same) < len(truth) else []
    for method in METHODS:
        if method not in videos:
            continue
        told = (*FACELESS, "csim") if group == OWN_CLIPS else FACELESS
        some = {key: metric for key, metric in scorers.frame.items() if method != "repeated_portrait" or key in told}
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
                frechet.feed(f"{group}/{method}", list(videos[method]), name)
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


def frechet_of(scorers: Scorers, group: str, clips: Collection[str] | None = None) -> dict[str, Any]:
    """Fréchet distances of a group's clips to the truth: `{"frechet": {METHOD: {METRIC: {"value", "warning"}}}}`.

    Args:
        clips: only of these (the scorers have kept them apart).
    """
    table: dict[str, Any] = {}
    for name, scorer in scorers.frechet.items():
        for method in METHODS[:2]:
            found = scorer.distance(f"{group}/{method}", f"{group}/truth", clips)
            if found is not None:
                table.setdefault(method, {})[name] = {"value": round(found[0], 4), "warning": found[1]}
    return {"frechet": table} if table else {}


def summarise(clips: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Means over clips with 95% intervals over people; `ours_minus_portrait` is the paired difference in PSNR,
    of clips that have scores: one of which nothing was filmed has none."""
    summary: dict[str, Any] = {"clips": len(clips), "identities": len({clip.identity for clip in clips})}
    names = sorted({name for clip in clips for name in clip.scores})
    for name in names:
        found = estimate(((clip.identity, clip.scores.get(name, np.nan)) for clip in clips), seed)
        if found is None:
            continue
        method, metric = name.split("/")
        entry: dict[str, Any] = {**found.cell(), "clips": found.clips}
        missed = sum(clip.missed.get(name, 0) for clip in clips)
        if missed:
            entry["frames_without_face"] = missed
        summary.setdefault(method, {})[metric] = entry
    some = [clip for clip in clips if clip.scores]
    pairs = [[clip.scores.get(f"{method}/psnr", np.nan) for method in ("ours", "repeated_portrait")] for clip in some]
    if np.isfinite(pairs).all():
        people = (clip.identity for clip in some)
        difference = estimate(zip(people, (ours - theirs for ours, theirs in pairs), strict=True), seed)
        summary["ours_minus_portrait"] = difference.cell() if difference else {}
    return summary


def by_person(clips: Sequence[ClipResult]) -> dict[str, dict[str, float]]:
    """Means of every score over each person's clips, and how many clips these are."""
    people: dict[str, dict[str, float]] = {}
    for person in dict.fromkeys(clip.identity for clip in clips):
        own = [clip.scores for clip in clips if clip.identity == person]
        names = sorted({name for scores in own for name in scores})
        means = {name: float(np.nanmean([scores[name] for scores in own if name in scores])) for name in names}
        people[person] = {"clips": len(own), **{name: round(value, 4) for name, value in means.items()}}
    return people
