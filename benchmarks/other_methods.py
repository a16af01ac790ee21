"""An exported folder, as a stranger would use it: four methods that need no model make their videos, and are scored.

    python benchmarks/other_methods.py OUT --model data/06_models/stage4 --records 2 --every 4

Run in the root of a project with shards. `OUT/inputs` is the export, `OUT/NAME` a method's videos, `OUT/report` the
result. Repeated and warped portraits are made from the exported portraits, at their own resolution.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import write_json
from fportrait.body.model import load_body
from fportrait.body.warping import warp_portrait
from fportrait.capture.video_io import read_image, write_video
from fportrait.dataset.sampling import decode
from fportrait.dataset.shards import Record, ShardReader
from fportrait.diffusion.codec import load_vae
from fportrait.evaluation.baselines import mean_frame
from fportrait.evaluation.cross import Annotations
from fportrait.evaluation.export import FPS, clip_path, export_inputs, holdout_of, source_of
from fportrait.evaluation.run import chosen_records, evaluate
from fportrait.evaluation.tables import table_of, to_markdown
from fportrait.evaluation.types import Protocol, sampling_settings
from fportrait.tracking.files import pose_of

SHARDS, TABLES = Path("data/05_model_input/shards"), (Path("data/03_primary/validated"), Path("data/03_primary/sweeps"))
HOW = {
    "repeated portrait, as filmed": "the exported portrait, standing still",
    "warped portrait, as filmed": "the exported portrait on the tracked mesh, drawn in every frame's pose and camera",
    "mean frame": "of the training clips, 64 pixels",
    "codec alone": "the true latents decoded, 64 pixels",
}


def warped(reader: ShardReader, tables: Annotations, record: Record, frames: int, portrait: np.ndarray) -> np.ndarray:
    """The portrait on the mesh in every frame's pose and camera, `T S S 3`, as large as it was filmed."""
    person = tables.person(record.dataset, record.identity)
    body, shape = load_body(person["body_model"]), np.asarray(person["shape"], np.float64)
    source = source_of(reader, tables, record, frames)
    start = tables.clip(record.dataset, person["reference_clip"], int(person["reference_frame"]), 1).iloc[0]
    lens = reader.references(record)["intrinsics"][0].numpy().copy()
    lens[:2] *= portrait.shape[0] / reader.references(record)["images"].shape[1]

    def seen(row: Any) -> np.ndarray:
        camera = np.asarray(row["world_to_camera"], np.float64).reshape(4, 4)
        return body.vertices(shape, None, pose_of(row)) @ camera[:3, :3].T + camera[:3, 3]

    rows = tables.clip(record.dataset, record.clip, record.first_frame, frames).to_dict("records")
    scale = portrait.shape[0] / source.video.shape[1]  # the portrait's clip may be cut larger than this one
    target = source.intrinsics.copy()
    target[:2] *= scale
    return np.stack([warp_portrait(portrait, seen(start), lens, seen(row), target, body.faces) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=Path("data/06_models/stage4"))
    parser.add_argument("--base", type=Path, default=Path("data/06_models/base"))
    parser.add_argument("--records", type=int, default=2, help="per dataset")
    parser.add_argument("--every", type=int, default=1, help="networks look at every so many frames")
    given = parser.parse_args()
    reader, tables = ShardReader(SHARDS), Annotations(TABLES)
    frames = sampling_settings(Protocol(), given.model / "transformer", given.base).frames
    chosen = chosen_records(reader, given.records, frames)
    print(export_inputs(reader, TABLES, chosen, given.out / "inputs", progress=True), "clips exported")
    vae, means = load_vae(given.base / "vae"), {}
    for record, length in chosen:
        place = given.out / "inputs" / clip_path(record)
        portrait = read_image(place / "portrait.png")
        if record.dataset not in means:
            means[record.dataset] = mean_frame(reader, record.dataset, vae)
        videos = {
            "repeated portrait, as filmed": np.broadcast_to(portrait, (length, *portrait.shape)),
            "warped portrait, as filmed": warped(reader, tables, record, length, portrait),
            "mean frame": np.broadcast_to(means[record.dataset], (length, *means[record.dataset].shape)),
            "codec alone": decode(vae, reader.read(record, length)["latents"]),
        }
        for name, video in videos.items():
            write_video(given.out / name / clip_path(record).with_suffix(".mp4"), video, FPS, 10)
    for name, how in HOW.items():
        write_json(
            given.out / name / "method.json",
            {"name": name, "alignment": how, "fps": FPS, "holdout": holdout_of(chosen)},
        )
    protocol = {"records": given.records, "control": False, "network_every": given.every}
    protocol["metrics"] = dict.fromkeys(("psnr", "ssim", "lpips", "csim", "aed", "iqa"), "auto")
    found = evaluate(
        given.model / "transformer",
        given.base,
        SHARDS,
        given.out / "report",
        protocol,
        external={name: given.out / name for name in HOW},
    )
    print(to_markdown(table_of(found)))


if __name__ == "__main__":
    main()
