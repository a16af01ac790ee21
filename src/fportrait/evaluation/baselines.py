"""What a model must beat to have learned anything: three videos that need no model, scored by the model's own scorer.

- `repeated_portrait`: the portrait, standing still.
- `mean_frame`: the mean of all training frames of the dataset.
- `warped_portrait`: the portrait painted on the tracked mesh and drawn in every frame's pose and camera; what the mesh
  does not cover keeps the portrait's pixels. It knows head and camera exactly as the model does, and no expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.body.warping import warp_portrait
from fportrait.camera.cameras import in_camera
from fportrait.dataset.sampling import decode, held_out
from fportrait.dataset.shards import Record, ShardReader
from fportrait.diffusion.codec import load_vae
from fportrait.errors import UserError
from fportrait.evaluation.clips import frechet_of, score_clip, summarise
from fportrait.evaluation.cross import Annotations
from fportrait.evaluation.types import Protocol, Request, Scorers, load_encoder
from fportrait.tables.schema import DATASETS

if TYPE_CHECKING:
    from fportrait.body.model import BodyModel

BASELINES = ("repeated_portrait", "mean_frame", "warped_portrait")


def mean_frame(reader: ShardReader, dataset: str, vae: Any, max_records: int = 64) -> np.ndarray:
    """Mean frame `H W 3` uint8 of a dataset's training records, at most `most` of them, evenly spaced in the index.

    Shards keep no training pixels, so the latents are decoded.

    Raises:
        UserError: the dataset has no training records.
    """
    records = reader.records("train").get(dataset, [])
    if not records:
        raise UserError(f"no training records of {dataset}", "at least one", "encode training identities of it")
    picks = np.unique(np.linspace(0, len(records) - 1, min(max_records, len(records))).round().astype(int))
    means = [decode(vae, reader.read(records[pick])["latents"]).mean(0) for pick in picks]
    return np.mean(means, 0).round().astype(np.uint8)


def warped_record(reader: ShardReader, annotations: Annotations, record: Record, frames: int) -> np.ndarray:
    """`warp_portrait` for every frame of a record, from the identity's first portrait: `T S S 3` uint8."""
    from fportrait.body.model import load_body

    window, portraits = reader.read(record, frames), reader.references(record)
    person = annotations.person(record.dataset, record.identity)
    body, shape = load_body(person["body_model"]), np.asarray(person["shape"], np.float64)
    own = annotations.clip(record.dataset, person["reference_clip"], int(person["reference_frame"]), 1)
    driving = annotations.clip(record.dataset, record.clip, record.first_frame, frames)
    (start,) = _camera_space(body, shape, own)
    return np.stack(
        [
            warp_portrait(
                portraits["images"][0].numpy(),
                start,
                portraits["intrinsics"][0].numpy(),
                vertices,
                window["intrinsics"].numpy(),
                body.faces,
            )
            for vertices in _camera_space(body, shape, driving)
        ]
    )


def _camera_space(body: BodyModel, shape: np.ndarray, table: Any) -> list[np.ndarray]:
    """Vertices `V 3` of the expression-neutral person, in camera space, of every row."""
    from fportrait.tracking.files import pose_of

    found = []
    for row in table.to_dict("records"):
        camera = np.asarray(row["world_to_camera"], np.float64).reshape(4, 4)
        found.append(in_camera(body.vertices(shape, None, pose_of(row)), camera))
    return found


def score_baselines(
    reader: ShardReader,
    base: str | Path,
    annotations: Sequence[str | Path],
    protocol: Any,
    frames: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Every baseline on the records that `protocol.evaluate` scores a model on, by the same metrics.

    Args:
        base: bundle with `vae/` and `expression_encoder/`. annotations: folders of the tables that were encoded.
        protocol: an `evaluation.types.Protocol` or its dictionary. frames: of a clip, as for the model.

    Returns:
        Baseline to dataset to the summary that a model gets under `ours`, with `clips` and `frechet`.
    """
    protocol = protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol)
    base, tables = Path(base), Annotations(annotations)
    vae = load_vae(base / "vae")
    scorers = Scorers.of(protocol, load_encoder(base / "expression_encoder") if protocol.control else None)
    results: dict[str, Any] = {name: {} for name in BASELINES}
    for dataset in DATASETS:
        records = held_out(reader, dataset, protocol.records, frames)
        if not records:
            continue
        mean = mean_frame(reader, dataset, vae)
        clips: dict[str, list[Any]] = {name: [] for name in BASELINES}
        for record in records:
            window, portraits = reader.read(record, frames), reader.references(record)
            request = Request.of(window, portraits)
            truth, portrait = request.truth, request.portrait
            videos = {
                "repeated_portrait": np.broadcast_to(portrait, truth.shape).copy(),
                "mean_frame": np.broadcast_to(mean, truth.shape).copy(),
                "warped_portrait": warped_record(reader, tables, record, frames),
            }
            for name, video in videos.items():
                shown = {"ours": video, "truth": truth}
                clips[name].append(score_clip(record.id, record.identity, shown, request, scorers, f"{name} {dataset}"))
        for name, some in clips.items():
            results[name][dataset] = summarise(some, seed) | frechet_of(scorers, f"{name} {dataset}")
    return results
