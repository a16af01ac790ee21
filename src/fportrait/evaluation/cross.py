"""Cross-reenactment: a held-out person does what another held-out clip's annotations say.

There is no truth, so nothing is compared with pixels: identity with the portrait (CSIM), expression with the codes
asked for (gain, read back from the generated faces), head pose with the angle asked for, quality without reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fportrait.body.painting import PortraitPainter, acting_vertices
from fportrait.camera.cameras import in_camera
from fportrait.dataset.batches import expression_of
from fportrait.dataset.sampling import held_out, noise_of
from fportrait.dataset.shards import Record, ShardReader
from fportrait.dataset.upright import upright
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.codec import encode_video
from fportrait.diffusion.conditions import Conditions
from fportrait.errors import UserError
from fportrait.evaluation.clips import summarise
from fportrait.evaluation.control import changes, gain
from fportrait.evaluation.types import ClipResult, Evaluation
from fportrait.pixels import to_model_range
from fportrait.tracking.actions import ActionReadout, told_actions

CROSS_DATASETS = ("PhoneCapture", "DynamicSweep")  # as in the paper's section 5


@dataclass(frozen=True)
class Driven:
    """What one frame sequence asks of a target: `normals` `T S S 3` uint8, `cameras` `T 4 4` around the head's centre,
    `landmarks` `T 478 2` (projected, neutral face), `rotations` `T 3 3` head to camera, `reference` `4 4`; `vertices`
    `T V 3` and `own_vertices` `V 3` (the portrait's) before their cameras, of the `body`, `intrinsics` `3 3`."""

    normals: np.ndarray
    cameras: np.ndarray
    landmarks: np.ndarray
    rotations: np.ndarray
    reference: np.ndarray
    vertices: np.ndarray
    own_vertices: np.ndarray
    body: Any
    intrinsics: np.ndarray

    def painted(self, portrait: np.ndarray, own_intrinsics: np.ndarray) -> np.ndarray:
        """The portrait `S S 3` painted on the body in every pose, `T S S 3`."""
        paint = PortraitPainter(self.body, portrait, self.own_vertices, own_intrinsics)
        return np.stack([paint(one, self.intrinsics) for one in self.vertices])


class Annotations:
    """Frames and identities of annotation folders, looked up by clip."""

    def __init__(self, folders: Sequence[str | Path]):
        import pandas as pd

        missing = [
            f"{folder}/{name}.parquet"
            for folder in folders
            for name in ("frames", "identities")
            if not (Path(folder) / f"{name}.parquet").is_file()
        ]
        if missing or not folders:
            raise UserError(
                f"no annotations {', '.join(missing)}", "the folders that encode read", "run track and render_sweeps"
            )
        self.frames = pd.concat([pd.read_parquet(Path(f) / "frames.parquet") for f in folders], ignore_index=True)
        self.identities = pd.concat(
            [pd.read_parquet(Path(f) / "identities.parquet") for f in folders], ignore_index=True
        )

    def clip(self, dataset: str, clip: str, first: int, count: int) -> Any:
        """Rows of a clip's frames, as shards hold it: `upright`."""
        table = self.frames[(self.frames["dataset"] == dataset) & (self.frames["clip"] == clip)].sort_values("frame")
        table = table.iloc[first : first + count]
        if len(table) != count:
            raise UserError(
                f"{len(table)} annotated frames of {dataset}/{clip} from frame {first}",
                f"{count} frames",
                "run `kedro run --pipelines=encode` again: shards and annotations differ",
            )
        return upright(table)

    def person(self, dataset: str, identity: str) -> Any:
        rows = self.identities[(self.identities["dataset"] == dataset) & (self.identities["identity"] == identity)]
        if not len(rows):
            raise UserError(
                f"no identity {dataset}/{identity} in the annotations", "the identities of the shards", "encode again"
            )
        return rows.iloc[0]


def pairs(reader: ShardReader, dataset: str, count: int, frames: int | None) -> list[tuple[Record, Record]]:
    """(driver, target) records: driver of `dataset`, target any held-out person but the driver."""
    drivers = held_out(reader, dataset, count, frames)
    targets = [record for name in sorted(reader.records("test")) for record in held_out(reader, name, 10**6, None)]
    people = list({(record.dataset, record.identity): record for record in targets}.values())
    chosen = []
    for index, driver in enumerate(drivers):
        others = [one for one in people if one.identity != driver.identity]
        if others:
            chosen.append((driver, others[index % len(others)]))
    return chosen


def driven(
    annotations: Annotations,
    driver: Record,
    target: Record,
    intrinsics: np.ndarray,
    frames: int,
    size: int,
    readout: ActionReadout | None = None,
) -> Driven:
    """The target's body in the driver's poses, seen by the driver's cameras; `readout` of the codes in the tables."""
    from fportrait.body.model import load_body
    from fportrait.body.rasterizer import normal_map
    from fportrait.camera.cameras import project
    from fportrait.tracking.files import pose_of

    person, actor = (
        annotations.person(target.dataset, target.identity),
        annotations.person(driver.dataset, driver.identity),
    )
    body = load_body(person["body_model"])
    shape = np.asarray(person["shape"], np.float64)
    table = annotations.clip(driver.dataset, driver.clip, driver.first_frame, frames)

    rows = table.to_dict("records")
    poses = [pose_of(row) for row in rows]
    cameras = np.stack([np.asarray(row["world_to_camera"], np.float64).reshape(4, 4) for row in rows])
    normals, points, rotations, placed = [], [], [], []
    told = told_actions(readout, np.stack(table["expression_code"].to_list()))
    for pose, camera, actions in zip(poses, cameras, told, strict=True):
        vertices = body.vertices(shape, None, pose)
        normals.append(normal_map(vertices, body.faces, camera, intrinsics, size, size, 2, body.weld))
        points.append(project(body.landmarks(vertices), camera, intrinsics)[0])
        acting = vertices if actions is None else acting_vertices(body, shape, actions, pose)
        placed.append(in_camera(acting, camera))
        rotations.append(camera[:3, :3] @ pose.body_rotation @ pose.head_rotation)
    # Two captures have two worlds; what they share is the head's centre, as in `animate`.
    centre = np.mean([body.head_centre(np.asarray(actor["shape"], np.float64), pose) for pose in poses], 0)
    own = annotations.clip(target.dataset, person["reference_clip"], int(person["reference_frame"]), 1)
    (own_actions,) = told_actions(readout, np.stack(own["expression_code"].to_list()))
    own = own.iloc[0]
    reference = np.asarray(own["world_to_camera"], np.float64).reshape(4, 4)
    own_vertices = acting_vertices(body, shape, own_actions, pose_of(own))
    return Driven(
        np.stack(normals),
        _recentred(cameras, centre),
        np.stack(points),
        np.stack(rotations),
        _recentred(reference[None], body.head_centre(shape, pose_of(own)))[0],
        np.stack(placed),
        in_camera(own_vertices, reference),
        body,
        intrinsics,
    )


def _recentred(cameras: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """World-to-camera matrices of a world whose origin is at `centre`."""
    moved = cameras.copy()
    moved[:, :3, 3] += cameras[:, :3, :3] @ centre
    return moved


def run_cross(
    evaluation: Evaluation,
    folders: Sequence[str | Path],
    frames: int | None,
    count: int,
    readout: ActionReadout | None = None,
) -> dict[str, Any]:
    """Sample and score `count` pairs per dataset; `frames` None takes each driver's own, `readout` is the encoder's."""
    annotations = Annotations(folders)
    table: dict[str, Any] = {}
    for dataset in CROSS_DATASETS:
        clips = []
        for driver, target in pairs(evaluation.reader, dataset, count, frames):
            clip = cross_clip(evaluation, annotations, driver, target, frames or driver.frames, readout)
            evaluation.keep(f"cross: {dataset}", clip)
            clips.append(clip)
        if clips:
            table[dataset] = summarise(clips, evaluation.seed)
    return table


@torch.no_grad()
def cross_clip(
    evaluation: Evaluation,
    annotations: Annotations,
    driver: Record,
    target: Record,
    frames: int,
    readout: ActionReadout | None = None,
) -> ClipResult:
    """One pair's video and scores."""
    sampler, reader = evaluation.sampler, evaluation.reader
    window, portraits = reader.read(driver, frames), reader.references(target)
    portrait, intrinsics = portraits["images"][0].numpy(), window["intrinsics"].double().numpy()
    own_lens = portraits["intrinsics"][0].double().numpy()
    asked = driven(annotations, driver, target, intrinsics, frames, portrait.shape[0], readout)
    painted = asked.painted(portrait, own_lens)
    conditions = Conditions.of_clip(
        sampler.reads,
        portraits["latents"][0],
        Cameras(asked.cameras, intrinsics, asked.reference, own_lens),
        encode_video(sampler.vae, to_model_range(asked.normals[None]))[0],
        expression_of(window, sampler.reads),
        portraits["normals"][0] if "normals" in portraits else None,
        encode_video(sampler.vae, to_model_range(painted[None]))[0],
    )
    name = f"{target.identity} as {driver.id}"
    video = sampler(conditions, [noise_of(sampler.seed, name)], [painted])[0]
    codes = window["codes"].numpy()
    scores = cross_scores(video, portrait, asked, codes, intrinsics, evaluation.scorers)
    videos = {"ours": video, "normals": asked.normals, "driver": window["video"].numpy(), "portrait": portrait}
    return ClipResult(name, target.identity, videos, {f"ours/{key}": value for key, value in scores.items()})


def cross_scores(
    video: np.ndarray, portrait: np.ndarray, asked: Driven, codes: np.ndarray, intrinsics: np.ndarray, scorers: Any
) -> dict[str, float]:
    """Measures without a truth; those without an answer are left out."""
    from fportrait.evaluation.faces import angles_between, head_rotations, shared_finder

    scores: dict[str, float] = {}
    picks = range(0, len(video), scorers.every)
    if "iqa" in scorers.frame:
        some = video[list(picks)]
        scores["iqa"] = float(np.nanmean(scorers.frame["iqa"](some, some)))
    faces = [shared_finder()(frame, points) for frame, points in zip(video, asked.landmarks, strict=True)]
    seen = {t: face for t, face in enumerate(faces) if face is not None}
    scores["faces_found"] = len(seen) / len(faces)
    if "csim" in scorers.frame:
        network, own = scorers.frame["csim"].network, shared_finder()(portrait)
        if own is not None and seen:
            wanted = network.embed(portrait, own.landmarks)
            scores["csim"] = 100 * float(
                np.mean(
                    [network.embed(video[t], face.landmarks) @ wanted for t, face in seen.items() if t in picks]
                    or [np.nan]
                )
            )
    if len(seen) >= 2:
        points = np.stack([face.landmarks for face in seen.values()]).astype(np.float64)
        found = head_rotations(points, intrinsics)
        scores["head_pose_error"] = float(angles_between(found, asked.rotations[list(seen)]).mean())
        wanted_change = changes(codes[list(seen)])
        if scorers.encoder is not None and np.sqrt(np.mean(wanted_change**2)) >= 0.1:
            measured = gain(wanted_change, changes(scorers.encoder(video[list(seen)], points)))
            scores |= {"expression_gain": measured.gain, "expression_correlation": measured.correlation}
    return {name: value for name, value in scores.items() if np.isfinite(value)}
