"""Self-reenactment of a folder of real clips: each clip's first frame, driven by the clip, against the clip.

    fportrait evaluate --clips FOLDER

No shards and no stages are needed: what `animate` does with a file is done here, but from the clip's own camera and
crop, so that every frame has a true picture to be compared with. Scores and report are those of `evaluate`; beside the
model stand the codec's limit and the first frame repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.animate.animator import Animator, Prepared, Request
from fportrait.animate.clip_check import videos_below
from fportrait.animate.pictures import enlarge
from fportrait.animate.viewpoint import Viewpoint
from fportrait.atomic_io import file_hash, value_hash, write_json
from fportrait.camera.cameras import scale_intrinsics
from fportrait.capture.video_io import VIDEO_SUFFIXES, iter_video, write_image
from fportrait.capture.withdrawn import of_withdrawn, refuse_withdrawn
from fportrait.dataset.crops import inside_file
from fportrait.dataset.sampling import decode
from fportrait.errors import UserError
from fportrait.evaluation.clips import by_person, frechet_of, score_clip, summarise
from fportrait.evaluation.comparison import compare
from fportrait.evaluation.report import Report
from fportrait.evaluation.slices import expression_strength, skin_degrees, slice_of, summarise_slices, turn_degrees
from fportrait.evaluation.types import OWN_CLIPS, ClipResult, Protocol, Scorers, load_encoder
from fportrait.evaluation.types import Request as Asked


def evaluate_clips(
    animator: Animator,
    folder: str | Path,
    out: str | Path,
    protocol: Protocol | Mapping[str, Any],
    seed: int = 0,
    max_frames: int = 49,
    scale: int = 1,
) -> dict[str, Any]:
    """Score a model on a folder of videos of one person each; write the report of `evaluation.run.evaluate` to `out`.

    Args:
        folder: videos; those in a subfolder belong to the person that it is named for, others to one person each. Or
            one video.
        protocol: metrics and how often networks look; the rest is the model's own.
        max_frames: of every clip, from its start. scale: as large as `animate` writes pictures, everything is judged:
            so many times the model's own size.

    Returns:
        The summary; its `failures` name the clips that could not be scored, with reasons (also in `quarantine.json`).
        `withdrawn` counts those that were passed over, of people who withdrew (`capture.withdrawn`).

    Raises:
        UserError: no videos, none that could be scored, or people who withdrew alone.
    """
    from tqdm import tqdm

    folder, out = Path(folder), Path(out)
    files = [folder] if folder.is_file() else videos_below(folder)
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", "a folder of videos, or one video", "check --clips")
    if not files:
        raise UserError(f"no videos in {folder}", f"files that end with {', '.join(VIDEO_SUFFIXES)}", "check --clips")
    aside = [path for path in files if of_withdrawn(path)]
    if len(aside) == len(files):
        refuse_withdrawn(aside)
    files = [path for path in files if path not in aside]
    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)
    settings = animator.settings
    if protocol.steps:
        settings = animator.settings = replace(settings, steps=protocol.steps)
    encoder = load_encoder(animator.model / "expression_encoder") if protocol.control else None
    scorers, report = Scorers.of(protocol, encoder), Report(out, shown=protocol.shown)
    clips: list[ClipResult] = []
    failures: dict[str, str] = {}
    for path in tqdm(files, desc="clips", unit="clip"):
        name = path.relative_to(folder).as_posix()
        identity = name.partition("/")[0] if "/" in name else path.stem
        try:
            clip = score_own(animator, path, name, identity, scorers, seed, max_frames, scale)
        except UserError as error:
            failures[name], reason = str(error), error.found
            continue
        report.add(OWN_CLIPS, clip)
        clip.videos = {}
        clips.append(clip)
    write_json(out / "quarantine.json", [{"clip": name, "reason": reason} for name, reason in failures.items()])
    if not clips:
        named = "; ".join(failures) if len(failures) <= 5 else f"{len(failures)} clips"
        raise UserError(
            f"no clip that could be scored ({named}); the last one: {reason}",
            "one at least",
            f"mend its cause; all reasons are in {out / 'quarantine.json'}",
        )
    larger = [scale] * (scale > 1)  # what is judged at another size is no other's like
    summary: dict[str, Any] = {OWN_CLIPS: summarise(clips, seed) | frechet_of(scorers, OWN_CLIPS)}
    summary |= {
        "slices": summarise_slices(clips, seed),
        "comparison": compare({OWN_CLIPS: clips}, {}, scorers, seed),
        "people": by_person(clips),
        "holdout": value_hash([[clip.id, file_hash(folder / clip.id), max_frames, *larger] for clip in clips]),
        "backbones": scorers.backbones(),
        "not_measured": scorers.lacking,
        "failures": failures,
        **({"withdrawn": len(aside)} if aside else {}),  # which is not written down
        **({"adapter": animator.made_by} if animator.made_by else {}),
        "settings": {
            "frames": max_frames,
            "steps": settings.steps,
            "seed": seed,
            "guidance": settings.guidance,
            "guidance_below": settings.guidance_below,
            "size": settings.size if animator.picture.square else animator.picture.across_by_down,
            **({"scale": scale} if scale > 1 else {}),
        },
    }
    write_json(
        out / "scores.json",
        {
            "holdout": summary["holdout"],
            "clips": {clip.id: {k: round(v, 6) for k, v in sorted(clip.scores.items())} for clip in clips},
            "people": {clip.id: clip.identity for clip in clips},
        },
    )
    report.finish(summary)
    return summary


def score_own(
    animator: Animator,
    path: Path,
    name: str,
    identity: str,
    scorers: Scorers,
    seed: int,
    max_frames: int,
    scale: int = 1,
) -> ClipResult:
    """One clip's scores and videos, so many times as large as the model draws.

    Raises:
        UserError: it cannot be read or tracked, or has fewer than five frames.
    """
    prepared, first = from_first_frame(animator, path, seed, max_frames)
    count, picture, drive = len(prepared), animator.picture.times(scale), prepared.drive
    if count < 5:
        raise UserError(f"{path} of {count} frames", "five at least", "take a longer clip")
    truth = np.stack([drive.shown(frame, picture, filled=True) for frame in drive.pictures(range(count))])
    portrait = truth[0]
    points, codes = drive.landmarks(picture)[:count], animator.expression(prepared)[:count]
    limit = animator.once((("codec", picture, count), path), lambda: coded(animator, truth))
    videos = {
        "ours": np.stack(list(animator.sample(prepared, scale=scale))),
        "codec_limit": limit,
        "repeated_portrait": np.broadcast_to(portrait, truth.shape).copy(),
        "truth": truth,
        "normals": np.stack([enlarge(one, scale) for one in animator.normals(prepared, range(count))]),
        "portrait": portrait,
    }
    intrinsics = scale_intrinsics(prepared.view.intrinsics[0], scale)
    inside = inside_file(drive.cut(picture), first.shape[:2], picture)
    asked = Asked(truth, portrait, points, np.asarray(codes, np.float64), intrinsics, inside)
    clip = score_clip(name, identity, videos, asked, scorers, OWN_CLIPS)
    clip.slices = {
        "expression": slice_of("expression", expression_strength(asked.codes)),
        "skin": slice_of("skin", skin_degrees(truth[0], points[0])),
        "turn": slice_of("turn", turn_degrees(drive.track.rotations[:count])),
    }
    return clip


def coded(animator: Animator, truth: np.ndarray) -> np.ndarray:
    """What the codec alone makes of a video `T H W 3` uint8."""
    import torch

    from fportrait.diffusion.inputs import as_latents

    vae, count = animator.pipeline.vae, len(truth)
    padded = truth[np.minimum(np.arange(-(-(count - 1) // 4) * 4 + 1), count - 1)]
    with torch.no_grad():
        return decode(vae, as_latents(vae, padded, "truth", torch.device(animator.device))[0])[:count]


def from_first_frame(animator: Animator, path: Path, seed: int, max_frames: int) -> tuple[Prepared, np.ndarray]:
    """The clip driven from its own first frame, seen by its own camera in its own crop; and that frame `H W 3`,
    upright."""
    first = next(iter(iter_video(path, 0, 1)))
    with tempfile.TemporaryDirectory() as folder:
        still = Path(folder) / "portrait.png"
        write_image(still, first)
        try:
            prepared = animator.prepare(Request(still, path, seed=seed, max_frames=max_frames, as_filmed=True))
        except UserError as error:  # the still is nothing that the user has
            found = error.found.replace(str(still), still.name).replace(still.name, f"the first frame of {path.name}")
            raise UserError(found, error.expected, error.fix) from None
    drive = prepared.drive
    first = np.ascontiguousarray(np.rot90(first, drive.quarter_turns))
    if np.array_equal(prepared.image, first):  # else it is rolled otherwise than most frames, and has places of its own
        prepared.person = replace(prepared.person, crop=drive.crop)
    count = len(prepared)
    intrinsics = drive.lens(animator.picture)
    camera = drive.reference_camera
    prepared.view = Viewpoint(np.repeat(camera[None], count, 0), np.repeat(intrinsics[None], count, 0))
    return prepared, first
