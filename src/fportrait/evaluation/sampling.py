"""Held-out records in, the model's videos out: what every protocol begins with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fportrait.dataset.mixing import draw_integer
from fportrait.dataset.shards import Record, ShardReader
from fportrait.errors import UserError

if TYPE_CHECKING:
    import torch

    from fportrait.evaluation.protocol import Protocol


class SamplingSettings(NamedTuple):
    """How clips are sampled; `frames` None takes each dataset's own. See `fportrait.bundle.BundleSettings`."""

    frames: int | None
    steps: int
    shift: float
    guidance: dict[str, float]
    guidance_below: float
    scheduler: str = "euler"


def sampling_settings(protocol: Protocol, transformer_folder: Path, base: Path) -> SamplingSettings:
    """As asked, else as the stage was trained, else as the base says."""
    trained: dict[str, Any] = {}
    for folder in (transformer_folder, transformer_folder.parent):
        if (folder / "training.json").is_file():
            trained = json.loads((folder / "training.json").read_text())["stage"]
    stated = json.loads((base / "bundle.json").read_text()) if (base / "bundle.json").is_file() else {}
    frames = protocol.frames or trained.get("frames") or stated.get("frames")
    steps = protocol.steps or stated.get("steps", 30)
    shift = protocol.shift or trained.get("shift") or stated.get("shift", 5.0)
    guidance = stated.get("guidance", {}) if protocol.guidance is None else protocol.guidance
    below = stated.get("guidance_below", 1.0) if protocol.guidance_below is None else protocol.guidance_below
    scheduler = protocol.scheduler or stated.get("scheduler", "euler")
    return SamplingSettings(frames, steps, shift, guidance, below, scheduler)


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
                f"{frames} frames asked of {record.id}, which has {record.frames}",
                "at most the window of the shards",
                "lower evaluate's frames, or raise encode's window and encode again",
            )
    return turns[:count]


def make_pipeline(
    transformer: torch.nn.Module, vae: Any, shift: float, guidance_below: float = 1.0, scheduler: str = "euler"
) -> Any:
    """A `FactorPortraitPipeline` without progress bar; see `fportrait.diffusion.schedule`."""
    from fportrait.diffusion.pipeline import FactorPortraitPipeline
    from fportrait.diffusion.schedule import make_scheduler

    steps_by = make_scheduler(scheduler, shift)
    pipeline = FactorPortraitPipeline(transformer, vae, steps_by, guidance_below=guidance_below)  # type: ignore[arg-type]
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
    from fportrait.diffusion.landmarks import expression_of

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
        parts["codes"].append(expression_of(window, pipeline.transformer.config))
        own = {"latents": window["latents"], "intrinsics": portraits["intrinsics"][0], "world_to_camera": camera[None]}
        own_rays.append(folded_rays(own, camera, channels))
        generators.append(torch.Generator().manual_seed(draw_integer(seed, 0, record.id, 2**63)))
    inputs = {name: torch.stack(values) for name, values in parts.items()}
    if pipeline.transformer.config.reference_rays == "identity":
        inputs["reference_rays"] = torch.stack(own_rays)
    output = pipeline(**inputs, num_inference_steps=steps, guidance=guidance, generator=generators)
    return list(output.frames)


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
