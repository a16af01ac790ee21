"""What the model makes of held-out people while it trains, as videos.

`sample_videos` shows truth beside sample. `factor_video` moves one factor at a time and holds the others still, so
that a trainer sees whether each control does anything; how much each one moves the picture is returned as numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fportrait.dataset.batches import record_conditions
from fportrait.dataset.sampling import Sampler, held_out, make_pipeline, sample_records
from fportrait.dataset.shards import Record, ShardReader
from fportrait.diffusion.codec import decode_latents, encode_video
from fportrait.diffusion.conditions import Conditions, Reads
from fportrait.pixels import enlarged
from fportrait.provenance import SYNTHETIC
from fportrait.training.config import StageConfig

SHOWN = ("still", "expression", "pose", "view", "everything")
# A factor can be shown alone where the data move it: normal maps of a moving camera also show the camera's motion.
SOURCES = {
    "still": ("PhoneCapture", "StudioCapture", "DynamicSweep", "ViewSweep"),
    "expression": ("PhoneCapture", "StudioCapture", "DynamicSweep"),
    "pose": ("PhoneCapture", "StudioCapture"),
    "view": ("ViewSweep",),
    "everything": ("DynamicSweep",),
}
LABEL_HEIGHT = 16
SHOWN_HEIGHT = 192  # pixels; MLflow's player covers a smaller video with its buttons


def usual_steps(transformer: Any) -> int:
    """Steps of a sample: one of a model whose paths start near the truth, as it is sampled by its users, or else 8."""
    return 1 if transformer.config.bridge_level < 1 else 8


def sample_videos(
    stage: StageConfig,
    transformer: torch.nn.Module,
    vae: Any,
    reader: ShardReader,
    out_folder: str | Path | None,
    label: str,
    steps: int | None = None,
) -> list[Path]:
    """One MP4 per dataset of the mixture: portrait, truth and sample side by side, of the first held-out record.

    The same noise is used at every call, so that `label` `before` and `after` compare. A dataset without held-out
    records is left out. `steps` None takes `usual_steps`. Without `out_folder` nothing is written (processes that only
    help to compute).
    """
    from fportrait.capture.video_io import write_video

    was_training = transformer.training
    transformer.eval()
    sampler = Sampler(make_pipeline(transformer, vae, stage.shift), steps or usual_steps(transformer), stage.seed)
    written = []
    for dataset, share in sorted(stage.mixture.items()):
        records = held_out(reader, dataset, 1, stage.frames) if share else []
        for record, sample in zip(records, sample_records(sampler, reader, records, stage.frames), strict=True):
            truth = reader.read(record, stage.frames)["video"].numpy()
            portrait = np.broadcast_to(reader.references(record)["images"][0].numpy(), truth.shape)
            joined = np.concatenate([portrait, truth, sample], axis=2)
            if out_folder is not None:
                path = Path(out_folder) / f"{label}-{dataset}.mp4"
                written.append(write_video(path, enlarged(joined, SHOWN_HEIGHT), metadata=SYNTHETIC))
    transformer.train(was_training)
    return written


def factor_video(
    stage: StageConfig,
    transformer: torch.nn.Module,
    vae: Any,
    reader: ShardReader,
    target: str | Path | None,
    steps: int | None = None,
) -> dict[str, float]:
    """Write one MP4 of the factors side by side; returns how much each one moves the picture.

    Each column is a held-out person's portrait with one factor following their record: nothing (`still`), expression,
    pose, view, everything. A factor that no held-out record moves is left out. All start from the same noise.

    Returns:
        In grey levels of 255: `sample_motion_FACTOR`, mean absolute change of the picture from its first frame (that of
        `still` is the sampler's own), and `sample_response_FACTOR`, mean absolute difference from the `still` video of
        the same person and noise, which is exactly zero for a control that does nothing.
    """
    from fportrait.capture.video_io import write_video

    chosen = {factor: record for factor in SHOWN if (record := first_record(reader, SOURCES[factor], stage.frames))}
    if not chosen:
        return {}
    was_training = transformer.training
    transformer.eval()
    sampler = Sampler(make_pipeline(transformer, vae, stage.shift), steps or usual_steps(transformer), stage.seed)
    parts = [factor_conditions(stage, transformer, vae, reader, record, factor) for factor, record in chosen.items()]
    videos = sampler(Conditions.cat(parts), [stage.seed] * len(parts))
    transformer.train(was_training)
    if target is not None:
        columns = []
        for (factor, record), video in zip(chosen.items(), videos, strict=True):
            portrait = reader.references(record)["images"][0].numpy()
            both = np.concatenate([np.broadcast_to(portrait, video.shape), video], 1)
            columns.append(labelled(enlarged(both, SHOWN_HEIGHT), factor))
        write_video(target, np.concatenate(columns, axis=2), metadata=SYNTHETIC)
    by_factor = {factor: video.astype(np.float32) for factor, video in zip(chosen, videos, strict=True)}
    measured = {
        f"sample_motion_{name}": float(np.abs(video[1:] - video[:1]).mean()) for name, video in by_factor.items()
    }
    for name, video in by_factor.items():
        if name != "still" and chosen[name] == chosen["still"]:
            measured[f"sample_response_{name}"] = float(np.abs(video - by_factor["still"]).mean())
    return measured


def first_record(reader: ShardReader, datasets: Sequence[str], frames: int) -> Record | None:
    """The first held-out record, in the order of `datasets`, that is long enough."""
    for dataset in datasets:
        for record in reader.records("test").get(dataset, []):
            if record.frames >= frames:
                return record
    return None


def factor_conditions(
    stage: StageConfig, transformer: torch.nn.Module, vae: Any, reader: ShardReader, record: Record, factor: str
) -> Conditions:
    """The conditions of a record (`B` = 1) of which only `factor` moves."""
    window, portraits = reader.read(record, stage.frames), reader.references(record)
    if factor in ("still", "pose", "view"):
        for name in ("codes", "landmark_codes"):
            if name in window:
                window[name] = window[name][:1].expand(stage.frames, -1)
    if factor in ("still", "expression", "pose"):
        window["world_to_camera"] = window["world_to_camera"][:1].expand(stage.frames, -1, -1)
    if factor in ("still", "expression"):
        window["normals"] = still_normals(vae, window["normals"])
    return record_conditions(window, portraits, Reads.of(transformer.config))  # type: ignore[arg-type]


def still_normals(vae: Any, latents: Tensor) -> Tensor:
    """Latents `16 l h w` of a normal-map video that stands still on its first frame.

    A VAE's later latents describe groups of four frames, so a still video's are not the first latent repeated.
    """
    device = next(itertools.chain(vae.parameters(), vae.buffers())).device
    video = decode_latents(vae, latents[None].to(device).float())
    return encode_video(vae, video[:, :, :1].expand_as(video).clamp(-1, 1))[0].float().cpu()


def labelled(video: np.ndarray, text: str) -> np.ndarray:
    """`T H W 3` with a bar on top that says `text`."""
    import cv2

    bar = np.zeros((LABEL_HEIGHT, video.shape[2], 3), np.uint8)
    cv2.putText(bar, text, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(bar, (len(video), *bar.shape)), video], axis=1)
