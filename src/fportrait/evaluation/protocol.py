"""Self-reenactment of held-out people: their own video's pose, camera and expression, from one portrait.

For every dataset, records of the test split are sampled and scored against the true pixels, beside two baselines on
the same clips: the codec's own limit (the true latents decoded) and the portrait repeated. A frame that is the portrait
itself is left out of the picture scores of all three. Control is measured as a
gain (`control.gain`): of the expression codes, read back by the expression encoder, and of the face landmarks, found
anew in the generated frames, which move with head, camera and face.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.dataset.mixing import draw_integer
from fportrait.dataset.schema import DATASETS
from fportrait.dataset.shards import Record, ShardReader
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.evaluation.bootstrap import bootstrap_mean, paired_difference
from fportrait.evaluation.control import changes, gain
from fportrait.evaluation.metrics.psnr import psnr
from fportrait.evaluation.metrics.sharpness import sharpness
from fportrait.evaluation.metrics.ssim import ssim

if TYPE_CHECKING:
    import torch

METHODS = ("ours", "codec_limit", "repeated_portrait")
LEAST_ASKED = 0.1  # root mean square change of the codes below which a clip asks for no expression
DETECTION_SIZE = 256  # pixels; the face detector misses smaller faces


@dataclass(frozen=True)
class Protocol:
    """`records` per dataset, of as many identities as possible. None takes frames, steps and shift from the model."""

    records: int = 4
    frames: int | None = None
    steps: int | None = None
    shift: float | None = None
    batch: int = 4
    guidance: dict[str, float] = field(default_factory=dict)
    control: bool = True  # read expression codes and landmarks back from the generated frames

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        refuse_unknown_keys(values, [f.name for f in fields(cls)], "evaluate.protocol")
        return cls(**values)


@dataclass(frozen=True)
class ClipResult:
    """One record's scores and videos: `T H W 3` uint8 by method, `truth` and `normals`; the `portrait` `H W 3`."""

    record: Record
    videos: dict[str, np.ndarray]
    scores: dict[str, float]


def evaluate(
    transformer_folder: str | Path,
    base_folder: str | Path,
    shards_folder: str | Path,
    out_folder: str | Path,
    protocol: Protocol | Mapping[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """Score a transformer on the held-out records of every dataset; write videos, `metrics.json` and `report.html`.

    Args:
        base_folder: holds `vae/`, and `expression_encoder/` for the control measures.

    Returns:
        Metrics by dataset: means with confidence intervals over clips.

    Raises:
        UserError: the shards are of another VAE, have no held-out records, or hold clips shorter than asked.
    """
    from fportrait.dataset.encode import vae_hash
    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.transformer import FactorPortraitTransformer
    from fportrait.evaluation.report import write_report

    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)
    base, reader = Path(base_folder), ShardReader(shards_folder)
    if vae_hash(base / "vae") != reader.vae_hash:
        raise UserError(f"shards of another VAE than {base / 'vae'}", "shards of the model's VAE",
                        "run `kedro run --pipelines=encode` again")  # fmt: skip
    frames, steps, shift = sampling_settings(protocol, Path(transformer_folder), base)
    transformer = FactorPortraitTransformer.from_pretrained(transformer_folder).eval()
    vae = load_vae(base / "vae")
    pipeline = make_pipeline(transformer, vae, shift)
    encoder = load_encoder(base / "expression_encoder") if protocol.control else None

    results: dict[str, list[ClipResult]] = {}
    for dataset in DATASETS:
        records = held_out(reader, dataset, protocol.records, frames)
        length = min([frames or 10**9, *(record.frames for record in records)])
        for first in range(0, len(records), protocol.batch):
            part = records[first : first + protocol.batch]
            samples = sample_records(pipeline, reader, part, length, steps, seed, protocol.guidance)
            for record, sample in zip(part, samples, strict=True):
                clip = score_record(reader, record, length, sample, vae, encoder, protocol.control)
                results.setdefault(dataset, []).append(clip)
    if not results:
        raise UserError(f"no held-out records in {shards_folder}", "identities of the split 'test'",
                        "raise the share of test identities in ingest, and encode again")  # fmt: skip
    metrics = {dataset: summarise(clips, seed) for dataset, clips in results.items()}
    settings = {"frames": frames, "steps": steps, "shift": shift, "seed": seed, "guidance": protocol.guidance,
                "shards": reader.hash}  # fmt: skip
    write_report(Path(out_folder), results, metrics, settings)
    return metrics


def sampling_settings(protocol: Protocol, transformer_folder: Path, base: Path) -> tuple[int | None, int, float]:
    """Frames, steps and shift: as asked, else as the stage was trained, else as the base says."""
    trained: dict[str, Any] = {}
    for folder in (transformer_folder, transformer_folder.parent):
        if (folder / "training.json").is_file():
            trained = json.loads((folder / "training.json").read_text())["stage"]
    stated = json.loads((base / "bundle.json").read_text()) if (base / "bundle.json").is_file() else {}
    frames = protocol.frames or trained.get("frames") or stated.get("frames")
    steps = protocol.steps or stated.get("steps", 30)
    return frames, steps, protocol.shift or trained.get("shift") or stated.get("shift", 5.0)


def held_out(reader: ShardReader, dataset: str, count: int, frames: int | None) -> list[Record]:
    """Up to `count` test records of a dataset, the first of every identity before the second of any.

    Raises:
        UserError: a record is shorter than `frames`.
    """
    by_identity: dict[str, list[Record]] = {}
    for record in reader.records("test").get(dataset, []):
        by_identity.setdefault(record.identity, []).append(record)
    rounds = max(map(len, by_identity.values()), default=0)
    turns = [records[turn] for turn in range(rounds) for records in by_identity.values() if turn < len(records)]
    for record in turns[:count]:
        if frames and record.frames < frames:
            raise UserError(
                f"{frames} frames asked of {record.id}, which has {record.frames}", "at most the window of the shards",
                "lower evaluate's frames, or raise encode's window and encode again",
            )  # fmt: skip
    return turns[:count]


def make_pipeline(transformer: torch.nn.Module, vae: Any, shift: float) -> Any:
    """A `FactorPortraitPipeline` without progress bar."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from fportrait.diffusion.pipeline import FactorPortraitPipeline

    pipeline = FactorPortraitPipeline(transformer, vae, FlowMatchEulerDiscreteScheduler(shift=shift))  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_records(
    pipeline: Any,
    reader: ShardReader,
    records: Sequence[Record],
    frames: int,
    steps: int,
    seed: int,
    guidance: Mapping[str, float] | None = None,
) -> list[np.ndarray]:
    """`T H W 3` uint8 for each record, from the identity's first portrait; a record's id names its noise."""
    import torch

    from fportrait.dataset.batches import folded_rays

    if not records:
        return []
    channels = pipeline.transformer.config.ray_channels
    parts: dict[str, list[torch.Tensor]] = {"rays": [], "normals": [], "codes": [], "reference": []}
    own_rays, generators = [], []
    for record in records:
        window, portraits = reader.read(record, frames), reader.references(record)
        camera = portraits["world_to_camera"][0]
        parts["reference"].append(portraits["latents"][0])
        parts["rays"].append(folded_rays(window, camera, channels))
        parts["normals"].append(window["normals"])
        parts["codes"].append(window["codes"])
        own = {"latents": window["latents"], "intrinsics": portraits["intrinsics"][0], "world_to_camera": camera[None]}
        own_rays.append(folded_rays(own, camera, channels))
        generators.append(torch.Generator().manual_seed(draw_integer(seed, 0, record.id, 2**63)))
    inputs = {name: torch.stack(values) for name, values in parts.items()}
    if pipeline.transformer.config.reference_rays == "identity":
        inputs["reference_rays"] = torch.stack(own_rays)
    output = pipeline(**inputs, num_inference_steps=steps, guidance=guidance, generator=generators)
    return list(output.frames)


def score_record(
    reader: ShardReader, record: Record, frames: int, sample: np.ndarray, vae: Any, encoder: Any, control: bool
) -> ClipResult:
    """Scores of one sample and of its baselines; control measures where the record and the encoder allow them."""
    window, portraits = reader.read(record, frames), reader.references(record)
    truth, portrait = window["video"].numpy(), portraits["images"][0].numpy()
    videos = {
        "ours": sample,
        "codec_limit": decode(vae, window["latents"]),
        "repeated_portrait": np.broadcast_to(portrait, truth.shape).copy(),
    }
    # A frame that is the portrait itself asks for nothing, and would give the repeated portrait an infinite score.
    asked = [t for t, frame in enumerate(truth) if not np.array_equal(frame, portrait)] or list(range(len(truth)))
    scores: dict[str, float] = {}
    for method, video in videos.items():
        scores[f"{method}/psnr"] = float(psnr(video[asked], truth[asked]).mean())
        scores[f"{method}/ssim"] = float(100 * ssim(video[asked], truth[asked]).mean())
        scores[f"{method}/sharpness"] = float(np.nanmean(sharpness(video[asked], truth[asked])))
    if control:
        scores |= control_scores(videos, truth, window, encoder)
    shown = {**videos, "truth": truth, "normals": decode(vae, window["normals"]), "portrait": portrait}
    return ClipResult(record, shown, scores)


def control_scores(
    videos: Mapping[str, np.ndarray], truth: np.ndarray, window: Mapping[str, torch.Tensor], encoder: Any
) -> dict[str, float]:
    """Expression and landmark gains of the sample and of the codec's limit, which is the most that can come out.

    Face crops are cut at the true landmarks in every video alike, so that a difference is one of pixels.
    """
    scores: dict[str, float] = {}
    landmarks, codes = window["landmarks"].numpy(), window["codes"].numpy()
    asked = changes(codes)
    for method in ("ours", "codec_limit"):
        if encoder is not None and np.sqrt(np.mean(asked**2)) >= LEAST_ASKED:
            read = encoder(videos[method], landmarks)
            measured = gain(asked, changes(read))
            scores[f"{method}/expression_gain"] = measured.gain
            scores[f"{method}/expression_correlation"] = measured.correlation
            scores[f"{method}/expression_error"] = float(np.sqrt(np.mean((read - codes) ** 2)))
        found = [find_landmarks(frame) for frame in videos[method]]
        seen = [t for t, face in enumerate(found) if face is not None]
        scores[f"{method}/faces_found"] = len(seen) / len(found)
        if len(seen) >= 2:
            points = np.stack([face for face in found if face is not None])
            true_points = landmarks[seen]
            scores[f"{method}/landmark_error"] = float(np.linalg.norm(points - true_points, axis=-1).mean())
            if np.abs(changes(true_points)).max() > 1:  # pixels; less is the detector's own noise
                scores[f"{method}/landmark_gain"] = gain(changes(true_points), changes(points)).gain
    return {name: value for name, value in scores.items() if np.isfinite(value)}


def find_landmarks(frame: np.ndarray) -> np.ndarray | None:
    """478 landmarks in pixels of `frame`, or None without a face."""
    import cv2

    from fportrait.tracking.landmarks import shared_landmarker

    scale = max(1, -(-DETECTION_SIZE // frame.shape[0]))
    large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    faces = shared_landmarker().detect(large, max_faces=1)
    return faces[0].landmarks / scale if faces else None


def load_encoder(folder: Path) -> Any:
    """A function from frames `T H W 3` and landmarks `T 478 2` to codes `T 128`; None when there is no encoder."""
    if not (folder / "config.json").is_file():
        return None
    from fportrait.tracking.crops import face_crop
    from fportrait.tracking.expression import ExpressionEncoder

    model = ExpressionEncoder.from_pretrained(folder)

    def encode(frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        crops = [face_crop(frame, points, model.crop_size) for frame, points in zip(frames, landmarks, strict=True)]
        return np.asarray(model.encode(np.stack(crops)), np.float64)

    return encode


def decode(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """Normalised latents `16 l h w` to `T H W 3` uint8."""
    from fportrait.diffusion.codec import decode_latents

    video = decode_latents(vae, latents[None].float())[0]
    return ((video + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()


def summarise(clips: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Means over clips with 95% intervals; `ours_minus_portrait` is the paired difference in PSNR."""
    summary: dict[str, Any] = {"clips": len(clips), "identities": len({clip.record.identity for clip in clips})}
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
        summary.setdefault(method, {})[metric] = entry
    ours, theirs = ([clip.scores[f"{method}/psnr"] for clip in clips] for method in ("ours", "repeated_portrait"))
    if np.isfinite([*ours, *theirs]).all():
        difference = paired_difference(ours, theirs, seed)
        summary["ours_minus_portrait"] = {"mean": round(difference.mean, 4)}
        if difference.clips > 1:
            summary["ours_minus_portrait"] |= {"low": round(difference.low, 4), "high": round(difference.high, 4)}
    return summary
