"""What the tracker's error costs: stage 1 on PhoneCapture as tracked, and with the world's own poses and shapes.

    python tools/tracking_cost.py [--env mini] [--output docs/results/tracking.json]

Everything else is equal: videos, portraits, expression codes, steps, seed and the base both start from. Needs the
setting's data up to `validate` (`kedro run --env=mini --pipelines=ingest,pretrain,track,validate`). Reports how far the
tracked neutral face lies beside the true one, and the gains that are left after stage 1, on people neither saw.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.camera.cameras import project
from fportrait.dataset.encode import encode_tables
from fportrait.dataset.sampling import Sampler
from fportrait.dataset.shards import ShardReader
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.transformer import FactorPortraitTransformer
from fportrait.evaluation.embedded import Studio
from fportrait.evaluation.faces import angles_between
from fportrait.evaluation.probes import ProbeSettings, run_probes
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.files import pose_of
from fportrait.training.loop import train
from fportrait.training.plan import read_section, read_stage
from fportrait.training.stages import load_start

DATASET = "PhoneCapture"
TRUE_COLUMNS = ("world_to_camera", "intrinsics", "body_rotation", "head_rotation", "body_translation")


def phone_tables(folder: Path) -> dict[str, pa.Table]:
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("frames", "identities")}
    return {name: table.filter(pa.compute.equal(table["dataset"], DATASET)) for name, table in tables.items()}


@functools.cache
def truth_of(folder: Path, identity: str, clip: str) -> dict[str, np.ndarray]:
    """What the world knows of a clip, whose name ends with the segment's."""
    files = [file for file in sorted((folder / DATASET / identity).glob("*.npz")) if file.stem in clip]
    if len(files) != 1:
        raise SystemExit(f"{len(files)} truths of {identity}/{clip} in {folder}, expected one: run ingest again")
    with np.load(files[0], allow_pickle=False) as found:
        return dict(found)


def with_truth(tables: dict[str, pa.Table], truth: Path) -> dict[str, pa.Table]:
    """The same tables with true cameras, poses and shapes; boxes, codes and portraits stay the tracker's."""
    frames, people = (tables[name].to_pandas() for name in ("frames", "identities"))
    columns: dict[str, list] = {name: [] for name in TRUE_COLUMNS}
    shapes: dict[str, list[float]] = {}
    for row in frames.itertuples():
        known = truth_of(truth, row.identity, row.clip)
        shapes[row.identity] = known["shape"].tolist()
        for name, values in columns.items():
            number = 0 if name in ("world_to_camera", "intrinsics") else row.frame
            values.append(known[name][number].ravel().tolist())
    frames = frames.assign(**columns)
    people = people.assign(shape=[shapes[name] for name in people["identity"]])
    return {
        name: pa.Table.from_pandas(table, schema=tables[name].schema, preserve_index=False)
        for name, table in (("frames", frames), ("identities", people))
    }


def alignment(tracked: dict[str, pa.Table], true: dict[str, pa.Table], size: int) -> dict[str, float]:
    """Pixels of the model's picture between the neutral faces' landmarks, tracked and true, and the degrees between
    their heads as their cameras see them, in every eighth frame."""
    body = load_body()

    def landmarks(row: dict[str, Any], shape: Any) -> np.ndarray:
        vertices = body.vertices(np.asarray(shape, np.float64), None, pose_of(row))
        camera, lens = np.reshape(row["world_to_camera"], (4, 4)), np.reshape(row["intrinsics"], (3, 3))
        return project(body.landmarks(vertices), camera, lens)[0] * size / row["crop"][2]

    def head(row: dict[str, Any]) -> np.ndarray:
        pose = pose_of(row)
        return np.reshape(row["world_to_camera"], (4, 4))[:3, :3] @ pose.body_rotation @ pose.head_rotation

    def by_frame(tables: dict[str, pa.Table]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        people = tables["identities"].to_pandas().set_index("identity")["shape"].to_dict()
        frames = tables["frames"].to_pandas()
        return frames[frames["frame"] % 8 == 0].sort_values(["clip", "frame"]).to_dict("records"), people

    (first, shapes), (second, true_shapes) = by_frame(tracked), by_frame(true)
    pairs = list(zip(first, second, strict=True))
    offsets = np.stack(
        [landmarks(a, shapes[a["identity"]]) - landmarks(b, true_shapes[b["identity"]]) for a, b in pairs]
    )
    face = offsets.mean(1)
    turns = [angles_between(head(a)[None], head(b)[None])[0] for a, b in pairs]
    return {
        "frames": len(offsets),
        "whole_face_across": round(float(np.abs(face[:, 0]).mean()), 3),
        "whole_face_up_or_down": round(float(np.abs(face[:, 1]).mean()), 3),
        "landmark": round(float(np.linalg.norm(offsets, axis=-1).mean()), 3),
        "head_degrees": round(float(np.mean(turns)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="mini", help="the setting whose data and stage 1 are used")
    parser.add_argument("--output", type=Path, default=Path("docs/results/tracking.json"))
    parser.add_argument("--people", type=int, default=4, help="that the probes ask")
    arguments = parser.parse_args()

    data = Path("data") / arguments.env if arguments.env != "base" else Path("data")
    encoding = read_section("encode", arguments.env)["encoding"]
    stage = read_stage(1, arguments.env)
    stage = replace(stage, processes=1, shards_url=None, sample_every=0, checkpoint_every=stage.iterations)
    tracked = phone_tables(data / "03_primary" / "validated")
    true = with_truth(tracked, data / "truth")

    bundle = read_settings(SHIPPED_BASE)
    pipeline = FactorPortraitPipeline.from_bundle(SHIPPED_BASE)
    pipeline.set_progress_bar_config(disable=True)
    studio = Studio(ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder"), bundle.size)
    probes = ProbeSettings(people=arguments.people, frames=9, batch=10, tracker=False, guidance=bundle.guidance)

    def gains() -> dict[str, float]:
        found = run_probes(Sampler(pipeline, bundle.steps), studio, probes)["methods"]["ours"]["gains"]
        return {name: round(values["gain"]["mean"], 2) for name, values in found.items()}

    results: dict[str, Any] = {"base": {"gains": gains()}}
    for name, pair in {"as_tracked": tracked, "with_true_poses_and_shapes": true}.items():
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "tables").mkdir()
            for table, values in pair.items():
                pq.write_table(values, folder / "tables" / f"{table}.parquet")
            shards = folder / "shards"
            encode_tables([folder / "tables"], SHIPPED_BASE / "vae", shards, folder / "units", encoding)
            log: list[dict[str, float]] = []
            (folder / "stage1").mkdir()
            train(
                stage,
                load_start(stage, SHIPPED_BASE),
                ShardReader(shards),
                folder / "stage1",
                lambda values, _, log=log: log.append(values),  # type: ignore[misc]
                checkpoint_folder=folder / "checkpoints",
            )
            trained = FactorPortraitTransformer.from_pretrained(folder / "stage1" / "transformer").eval()
            pipeline.register_modules(transformer=trained)
            results[name] = {
                "gains": gains(),
                "held_out_loss": round(next(v["held_out_loss"] for v in reversed(log) if "held_out_loss" in v), 4),
            }
            print(json.dumps({name: results[name]}), flush=True)
    found = {
        "command": f"python tools/tracking_cost.py --env {arguments.env}",
        "iterations": stage.iterations,
        "beside_the_truth": alignment(tracked, true, encoding["size"]) | {"picture": encoding["size"]},
        "stage1": results,
    }
    write_json(arguments.output, found)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
