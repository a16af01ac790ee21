"""The smoke animation: one embedded person drives another, through the registered model, as a user would ask."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.errors import UserError

FRAMES, SIZE = 9, 256
PORTRAIT_SEED, DRIVER_SEED = 160_000_001, 160_000_002
MIN_SPREAD = 8.0  # grey levels: standard deviation of a picture below which nothing is on it


def smoke_animation(model: Any) -> dict[str, float]:
    """Let `model` (a loaded pyfunc) make a short video, look at it, and measure: `seconds`, `seconds_per_frame`,
    `cpu_seconds` (of this process; a busy machine does not change it).

    Raises:
        UserError: no video, another number of frames, or pictures with nothing on them.
    """
    from fportrait.capture.video_io import read_video

    with tempfile.TemporaryDirectory() as folder:
        portrait, driving, output = write_inputs(Path(folder))
        job = {"portrait": str(portrait), "driving": str(driving), "camera": "front", "output": str(output)}
        started, worked = time.perf_counter(), time.process_time()
        made = model.predict([job])
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
        video = read_video(Path(str(made[0]["video"])))
    if len(video) != FRAMES:
        raise UserError(f"a smoke video of {len(video)} frames", f"{FRAMES}, as driven", "look at the model's sampling")
    spread = float(video.astype(np.float64).std((1, 2)).mean())
    if not spread >= MIN_SPREAD:
        raise UserError(
            f"a smoke video with a spread of {spread:.1f} grey levels",
            f"at least {MIN_SPREAD:.0f}",
            "look at the model's samples: it draws nothing",
        )
    per_frame = round(seconds / FRAMES, 3)
    return {"seconds": round(seconds, 2), "seconds_per_frame": per_frame, "cpu_seconds": round(cpu_seconds, 2)}


def write_inputs(folder: Path) -> tuple[Path, Path, Path]:
    """A portrait, a driving video of another person who opens the mouth and turns, and where to write the result."""
    portrait, driving = folder / "portrait.png", folder / "driving.mp4"
    for path, content in zip((portrait, driving), _inputs(), strict=True):
        path.write_bytes(content)
    return portrait, driving, folder / "smoke.mp4"


@functools.cache
def _inputs() -> tuple[bytes, bytes]:
    """The picture's and the video's file; rendered once in a process."""
    from fportrait.body.model import Pose, load_body
    from fportrait.camera.cameras import intrinsics_from_fov
    from fportrait.capture.motion import rotation_from_degrees
    from fportrait.capture.people import render, sample_person
    from fportrait.capture.video_io import write_image, write_video
    from fportrait.capture.world import HEAD_TARGET, orbit_camera
    from fportrait.evaluation.embedded import action_vector

    body = load_body()
    camera, intrinsics = orbit_camera(0, 0, 0.55, HEAD_TARGET), intrinsics_from_fov(40, SIZE, SIZE)
    person, driver = sample_person(PORTRAIT_SEED, body), sample_person(DRIVER_SEED, body)
    frames = []
    for t in range(FRAMES):
        share = t / (FRAMES - 1)
        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(12 * share, 0, 0))
        actions = action_vector({"jawOpen": share}, body)
        frames.append(render(driver, actions, pose, camera, intrinsics, SIZE, 1, body))
    with tempfile.TemporaryDirectory() as name:
        portrait, driving = Path(name) / "portrait.png", Path(name) / "driving.mp4"
        write_image(portrait, render(person, None, Pose.rest(), camera, intrinsics, SIZE, 1, body))
        write_video(driving, np.stack(frames), 25.0)
        return portrait.read_bytes(), driving.read_bytes()
