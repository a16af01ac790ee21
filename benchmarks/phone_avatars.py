"""How good is an avatar of phone clips, beside one of the same person fitted to a studio's cameras?

    python benchmarks/phone_avatars.py [--people 2] [--cameras 5] [--steps 300] [--work FOLDER]

Embedded people are filmed in four segments by a few cameras, and tracked. The front camera alone stands for the phone.
The segment in which the head turns most is left out of both fits, and judges: PSNR inside the mask (mesh, or what
differs from the background), seen by the front camera, and by all cameras, apart for those inside and outside the
angles that the phone clips cover.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _result import RESULTS, machine

from fportrait.atomic_io import write_json
from fportrait.avatar.captures import Capture, read_capture
from fportrait.avatar.coverage import Coverage, angles_about
from fportrait.avatar.evidence import foreground_mask, head_mask
from fportrait.avatar.fitting import fit_capture, fit_config, mean_psnr
from fportrait.avatar.prior import SHIPPED, AvatarPrior
from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.ingest import ingest_captures
from fportrait.capture.video_io import write_image
from fportrait.capture.world import WorldConfig, write_embedded_world
from fportrait.tracking.captures import track_captures

SEED, FRONT = 5_432, "cam00"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--cameras", type=int, default=5)
    parser.add_argument("--frames", type=int, default=25, help="of every segment")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--work", type=Path, help="films, tracks and sheets; kept")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    rows = [
        measure(f"studio{index:04d}", tables(arguments, work), work, arguments) for index in range(arguments.people)
    ]
    for row in rows:
        print(row)
    result = {"name": "phone_avatars", "people": rows, "machine": machine(), "settings": vars(arguments)}
    result["settings"] = {key: str(value) for key, value in vars(arguments).items() if key != "work"}
    write_json(RESULTS / "phone_avatars.json", result)


def tables(arguments: argparse.Namespace, work: Path) -> Path:
    """Film, ingest and track once; the folder of tables."""
    if not (work / "tracks/frames.parquet").is_file():
        world = WorldConfig(
            phone_identities=0,
            studio_identities=arguments.people,
            studio_cameras=arguments.cameras,
            studio_segments=4,
            studio_frames=arguments.frames,
            studio_yaw_degrees=45.0,
            size=192,
            supersample=1,
        )
        write_embedded_world(work / "raw", work / "truth", world, SEED)
        ingest_captures(work / "raw", work / "manifest", work, {})
        track_captures(work / "manifest", SHIPPED_BASE, work / "tracks", work / "units", {}, root=work)
    return work / "tracks"


def measure(name: str, folder: Path, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One person: the fits of one camera and of all, judged on the segment that was left out."""
    frames, people = pd.read_parquet(folder / "frames.parquet"), pd.read_parquet(folder / "identities.parquet")
    frames = frames[frames.identity == name]
    shape = people[people.identity == name].iloc[0]["shape"]
    front = frames[frames.camera == FRONT]
    turns = {segment: yaw_range(part) for segment, part in front.groupby("segment")}
    left_out = max(turns, key=turns.__getitem__)
    known = frames[frames.segment != left_out]
    phone = known[known.camera == FRONT].assign(dataset="PhoneCapture", camera="phone")
    prior, body = AvatarPrior.load(SHIPPED, load_body()), load_body()
    judged = read(frames[frames.segment == left_out], shape, prior, work, arguments)
    row: dict[str, Any] = {"person": name, "left_out": left_out, "turns": {k: round(v, 1) for k, v in turns.items()}}
    for label, table in (("phone", phone), ("studio", known)):
        began = time.process_time()
        capture = read(table, shape, prior, work, arguments)
        config = settings(prior, arguments)
        avatar = fit_capture(capture, config, 0, prior)
        row[label] = {"cpu_seconds": round(time.process_time() - began, 1), "fitted": avatar.scores["psnr_fitted"]}
        if label == "phone":
            covered = Coverage.told(avatar.scores)
            assert covered is not None
            row["coverage"] = covered.as_dict()
        judged.avatar = avatar
        row[label] |= judge(judged, covered)
        avatar.save(work / "avatars" / f"{name}-{label}")
    write_image(work / f"{name}.png", pictures(judged, work, name, body))
    return row


def settings(prior: AvatarPrior, arguments: argparse.Namespace) -> Any:
    given = {"avatar": prior.config.avatar, "steps": arguments.steps, "size": arguments.size, "register_torso": False}
    return fit_config({**given, "holdout_every": 0, "holdout_camera": False})


def read(table: pd.DataFrame, shape: Any, prior: AvatarPrior, work: Path, arguments: argparse.Namespace) -> Capture:
    config = settings(prior, arguments)
    return read_capture(
        table, shape, load_body(), config.avatar, config.size, config.max_frames, margin=config.margin, root=work
    )


def yaw_range(part: pd.DataFrame) -> float:
    forward = np.stack(part.head_rotation.to_list()).reshape(-1, 3, 3)[:, :, 2]
    return float(np.ptp(np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))))


def judge(capture: Capture, covered: Coverage) -> dict[str, float | None]:
    """PSNR inside the mask on the left-out segment, by where the camera stands about the head."""
    groups: dict[str, list[Any]] = {"front_camera": [], "inside": [], "outside": []}
    for view in capture.views:
        frame = capture.frames[view.frame]
        yaw, _ = angles_about(frame, view, capture.avatar.body.head_centre(capture.avatar.shape, frame.pose))
        if view.camera == FRONT:
            groups["front_camera"].append(view)
        groups["inside" if covered.yaw[0] <= yaw <= covered.yaw[1] else "outside"].append(view)
    found: dict[str, float | None] = {}
    for label, views in groups.items():
        some = views[:: max(1, len(views) // 20)]
        heads = {id(v): head_mask(capture.avatar, capture.frames[v.frame], v) for v in some}
        masks = {id(v): heads[id(v)] | foreground_mask(capture, v) for v in some}
        found[label], found[f"{label}_head"] = mean_psnr(capture, some, masks), mean_psnr(capture, some, heads)
    return found


def pictures(judged: Capture, work: Path, name: str, body: Any) -> np.ndarray:
    """Truth, phone and studio side by side, for five views of the left-out segment."""
    from fportrait.avatar.fitting import draw_view
    from fportrait.avatar.model import GaussianAvatar

    chosen = [judged.views[i] for i in np.linspace(0, len(judged.views) - 1, 6).astype(int)]
    rows = [np.hstack([view.image for view in chosen])]
    for label in ("phone", "studio"):
        judged.avatar = GaussianAvatar.load(work / "avatars" / f"{name}-{label}")
        rows.append(np.hstack([draw_view(judged, view).detach().clamp(0, 1).numpy() for view in chosen]))
    return (np.vstack(rows) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
