"""Latent shards for `adapt`: the user's own clips, and clips of the embedded world beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fportrait.animate.adapt_parts import AdaptSettings, Part
from fportrait.atomic_io import atomic_folder, file_hash, value_hash
from fportrait.bundle import read_settings
from fportrait.capture.ingest import ingest_captures

if TYPE_CHECKING:
    from fportrait.diffusion.conditions import Reads

EMBEDDED_SEED = 21_000_000  # of clips that no capture and no pretraining has
EMBEDDED_DATASETS = {"studio": "StudioCapture", "view_sweep": "ViewSweep", "dynamic_sweep": "DynamicSweep"}
Tell = Callable[[str, int, int], None]


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
    encoding: dict[str, Any] = {"size": stated.size, "window": settings.frames, "stride": max(settings.frames // 2, 1)}
    encoding["warped"] = reads_of(base).warped_reference
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


def reads_of(base: Path) -> Reads:
    """What the base's transformer reads of the conditions: shards must hold all of it."""
    from fportrait.diffusion.architectures import whole_config
    from fportrait.diffusion.conditions import Reads

    return Reads.of(whole_config(base / "transformer"))


def embedded_shards(folder: Path, base: Path, settings: AdaptSettings, tell: Tell) -> Path:
    """Shards of embedded people with exact conditions, each a person of their own: what every base has learned.

    They depend on the base's codec and encoder, and on what its transformer reads, and serve every adapter.
    """
    import numpy as np
    import torch

    from fportrait.body.model import load_body
    from fportrait.dataset.encode import vae_hash
    from fportrait.dataset.shards import INDEX, ShardWriter, write_shard
    from fportrait.diffusion.codec import encode_video, load_vae
    from fportrait.pixels import to_model_range
    from fportrait.tracking.actions import READOUT
    from fportrait.tracking.expression import ExpressionEncoder
    from fportrait.training.base_clips import ClipRecipe, reader, render_clip

    size, painted = read_settings(base).size, reads_of(base).warped_reference
    kinds = {"studio": 0.3, "view_sweep": 0.3, "dynamic_sweep": 0.4}
    recipe = ClipRecipe(
        **{"clips": settings.embedded_clips, "frames": settings.frames, "size": size, "seed": EMBEDDED_SEED},
        references=2,
        kinds=kinds,
        acting=painted and (base / "expression_encoder" / READOUT).is_file(),
    )
    encoder_files = sorted((base / "expression_encoder").glob("*"))
    name = value_hash([recipe.name, vae_hash(base / "vae"), [file_hash(path) for path in encoder_files], painted])
    target = folder / name
    if (target / INDEX).is_file():
        return target
    vae, encoder, body = (
        load_vae(base / "vae"),
        ExpressionEncoder.from_pretrained(base / "expression_encoder"),
        load_body(),
    )

    read = reader(base / "expression_encoder") if recipe.acting else None

    def latents(pictures: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return encode_video(vae, to_model_range(pictures)).float().cpu()

    with atomic_folder(target) as made:
        writer = ShardWriter(made, vae_hash(base / "vae"), {"recipe": recipe.name})
        for index in range(recipe.clips):
            tell("film embedded clips", index, recipe.clips)
            clip = render_clip(index, recipe, body, read)
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
            if painted:
                tensors["warped"] = latents(clip["warped"][:count]).half()
            references = {
                "latents": latents(clip["references"][:, None]),
                "normals": latents(clip["reference_normals"][:, None]),
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


def shares(settings: AdaptSettings, there: Mapping[str, int]) -> dict[str, int]:
    """Percent by dataset: the embedded share over the kinds of clips that were filmed, the rest is the user's own."""
    embedded = [name for name in EMBEDDED_DATASETS.values() if there.get(name)]
    embedded = embedded[: settings.embedded]  # a percent or two are of fewer kinds, and not of none
    mixture = {name: settings.embedded // len(embedded) for name in embedded}
    mixture["PhoneCapture"] = 100 - sum(mixture.values())
    return mixture
