"""What tracking costs beside the landmark network alone, frame for frame, and time and memory at ten times the clips.

    python benchmarks/tracking.py

The landmark network follows the face through the frames of one clip (its own fastest use); tracking does all of it:
search, landmarks, crops, shape, poses, codes, rows. Both in turns, in one process, on one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _result import write_result

from fportrait.body.model import load_body
from fportrait.bundle import SHIPPED_BASE
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.video_io import iter_video, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.tracking.annotate import annotate, frame_table
from fportrait.tracking.clips import Clip, read_landmarks
from fportrait.tracking.config import TrackConfig
from fportrait.tracking.expression import ExpressionEncoder
from fportrait.tracking.fit import LandmarkModel
from fportrait.tracking.landmarks import shared_landmarker
from fportrait.tracking.segments import segment_codes, track_segments

FRAMES, SIZE = 40, 256


def landmarks_alone(video: Path) -> float:
    landmarker, previous = shared_landmarker(), None
    frames = list(iter_video(video))
    started = time.process_time()
    for frame in frames:
        faces = landmarker.detect(frame, previous=previous)
        previous = faces[0] if faces else None
    return time.process_time() - started


def tracking(video: Path, clips: int) -> float:
    """CPU seconds for `clips` copies of a clip, one person each, decoding included."""
    encoder = ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder")
    body, config = load_body(), TrackConfig()
    model = LandmarkModel(body)
    intrinsics = intrinsics_from_fov(30.0, SIZE, SIZE)
    started = time.process_time()
    for _ in range(clips):
        seen = read_landmarks(iter_video(video), video.name, encoder.crop_size, config)
        clip = Clip("p/a/phone", video.name, "a", "phone", SIZE, SIZE, intrinsics, None)
        shape, (track,) = track_segments([[(clip, seen)]], model, config)
        common = {"dataset": "PhoneCapture", "identity": "p", "split": "train"}
        frame_table(annotate(track, shape, body, segment_codes(track, encoder), common, config))
    return time.process_time() - started


def peak(video: Path, clips: int) -> tuple[float, float]:
    """CPU seconds and peak MiB of `clips` clips in a process of their own."""
    code = (
        "import json, resource, sys; sys.path.insert(0, sys.argv[1]); import tracking, pathlib; "
        "s = tracking.tracking(pathlib.Path(sys.argv[2]), int(sys.argv[3])); "
        "print(json.dumps([s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(video), str(clips)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(run.stdout.splitlines()[-1])
    return seconds, memory


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = sample_training_clip(np.random.default_rng(3), load_body(), "phone", FRAMES, SIZE)
        video = Path(folder) / "clip.mp4"
        write_video(video, clip["video"], 25.0)
        tracking(video, 1), landmarks_alone(video)  # warm
        alone, whole = [], []
        for _ in range(5):
            alone.append(landmarks_alone(video))
            whole.append(tracking(video, 1))
        one, ten = peak(video, 1), peak(video, 10)
    ours, theirs = (1000 * float(np.median(times)) / FRAMES for times in (whole, alone))
    print(f"tracking {ours:.1f} ms a frame, landmark network alone {theirs:.1f} ms: {ours / theirs:.2f} times")
    print(f"1 clip {one[0]:.2f} s {one[1]:.0f} MiB, 10 clips {ten[0]:.2f} s {ten[1]:.0f} MiB")
    write_result(
        name="tracking",
        what="CPU time per frame of tracking over that of the landmark network alone, one process, in turns",
        ours=ours / theirs,
        unit="times",
        bound=3.0,
        n=5,
        tracking_ms_per_frame=ours,
        landmarks_ms_per_frame=theirs,
        clips={"1": {"seconds": one[0], "peak_mib": one[1]}, "10": {"seconds": ten[0], "peak_mib": ten[1]}},
    )


if __name__ == "__main__":
    main()
