"""Where does the time of a sweep go, how fast is one CPU core, and what would the paper's 13.5 million frames cost?

One embedded person's avatar, as the shipped prior predicts it, is swept at the demo's size and at the paper's. Three
shares are timed in one run: rasterizing, encoding, and everything else (planning, posing, decoding, annotating,
hashing).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from _result import write_result

from fportrait.avatar import sweeps
from fportrait.avatar.prior import AvatarPrior
from fportrait.avatar.prior_training import PriorTraining, Studio, film_person, read_person
from fportrait.avatar.sweeps import render_sweeps, sweep_config
from fportrait.body.model import load_body
from fportrait.capture import motion, video_io

PAPER_IDENTITIES, PAPER_FRAMES = 802, 128 * 100 + 32 * 128
DEMO = {"size": 128, "fov_degrees": 30.0, "distance_min": 0.53, "distance_max": 0.62, "spiral_yaw_degrees": 50.0}
PAPER = {"size": 1024, "spin_yaw_degrees": 180.0}


@contextlib.contextmanager
def timed(module: Any, name: str, seconds: dict[str, float], label: str) -> Iterator[None]:
    """Add the CPU seconds spent in `module.name` to `seconds[label]`."""
    original = getattr(module, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[label] = seconds.get(label, 0.0) + time.process_time() - started

    setattr(module, name, wrapper)
    try:
        yield
    finally:
        setattr(module, name, original)


def capture_rows(frames: int) -> pd.DataFrame:
    """Annotation rows of a capture in motion; the sweeps take poses and codes from it."""
    import numpy as np

    rng = np.random.default_rng(0)
    moving = motion.sample_motion("mixed", frames, rng)
    rows = []
    for index, pose in enumerate(moving.poses):
        rows.append(
            {
                "dataset": "StudioCapture",
                "identity": "bench",
                "segment": "s0",
                "split": "train",
                "camera": "cam00",
                "frame": index,
                "world_to_camera": np.eye(4).ravel(),
                "body_rotation": pose.body_rotation.ravel(),
                "head_rotation": pose.head_rotation.ravel(),
                "body_translation": pose.body_translation,
                "expression_code": rng.standard_normal(128).astype(np.float32),
                "confidence": 1.0,
            }
        )
    return pd.DataFrame(rows)


def measure(avatar: Any, frames: pd.DataFrame, folder: Path, clips: tuple[int, int, int, int], **changes: Any) -> dict:
    """Shares and frames per second of one setting; clips: number and frames of view clips, then of dynamic ones."""
    names = ("clips_view", "frames_view", "clips_dynamic", "frames_dynamic")
    config = sweep_config({**dict(zip(names, clips, strict=True)), **changes})
    seconds: dict[str, float] = {}
    started = time.process_time()
    with timed(sweeps, "render", seconds, "rasterizing"), timed(video_io, "write_video", seconds, "encoding"):
        table = render_sweeps(avatar, frames, config, 0, folder)
    total = time.process_time() - started
    rest = total - sum(seconds.values())
    return {
        "frames": len(table),
        "frames_per_cpu_second": round(len(table) / total, 2),
        "rasterizing": round(seconds["rasterizing"] / total, 3),
        "encoding": round(seconds["encoding"] / total, 3),
        "everything_else": round(rest / total, 3),
    }


def main() -> None:
    torch.set_num_threads(1)
    body, prior = load_body(), AvatarPrior.load()
    with tempfile.TemporaryDirectory() as scratch:
        film_person(10_000, Path(scratch), Studio(), PriorTraining(prior.config))
        person = read_person(Path(scratch) / "person.npz", body, PriorTraining(prior.config))
        avatar = person.avatar
        prior.apply_to(avatar, person.evidence[0])
        rows = capture_rows(64)
        render_sweeps(avatar, rows, sweep_config({"clips_view": 1, "clips_dynamic": 0, "frames_view": 2}), 9, scratch)
        table = {
            "demo, 128²": measure(avatar, rows, Path(scratch) / "demo", (2, 33, 2, 33), **DEMO),
            # in the paper's proportions: 78% of the frames come from view clips
            "paper, 1024²": measure(avatar, rows, Path(scratch) / "paper", (1, 50, 1, 14), **PAPER),
        }
    for name, row in table.items():
        print(name, row)
    paper = table["paper, 1024²"]
    frames = PAPER_IDENTITIES * PAPER_FRAMES
    core_hours = frames / paper["frames_per_cpu_second"] / 3600
    print(f"{frames / 1e6:.2f} million frames at 1024²: {core_hours:,.0f} core-hours")
    write_result(
        name="sweeps",
        what=f"share of rasterizing and encoding in a sweep at 1024², {avatar.config.gaussians} Gaussians, one core",
        ours=round(paper["rasterizing"] + paper["encoding"], 3),
        unit="share of CPU time",
        bound=0.9,
        n=paper["frames"],
        lower_is_better=False,
        by_setting=table,
        paper_frames=frames,
        paper_core_hours=round(core_hours),
    )


if __name__ == "__main__":
    main()
