"""Does a long video need more memory? Peak memory of a process that samples 161 frames, and of one that samples 1,001.

Normal maps are drawn one by one, cameras become rays per window, and frames are written as they are decoded. The small
base at 64 x 64, and a transformer of patch 2 at 128 x 128, whose pictures are four times as large.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _result import write_result

SHORT, LONG = 161, 1001
STEPS = 2  # the peak is reached in the first
SIDES = (64, 128)


def sample(frames: int, side: int) -> dict[str, Any]:
    """Sample and write a video; peak resident memory in MiB."""
    import torch

    from fportrait.bundle import SHIPPED_BASE
    from fportrait.camera.paths import spin_path
    from fportrait.capture.video_io import probe, write_video
    from fportrait.diffusion.cameras import Cameras
    from fportrait.diffusion.codec import load_vae
    from fportrait.diffusion.pipeline import FactorPortraitPipeline
    from fportrait.diffusion.schedule import make_scheduler
    from fportrait.diffusion.transformer import FactorPortraitTransformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if side == 64:
        transformer = FactorPortraitTransformer.from_pretrained(SHIPPED_BASE / "transformer").eval()
    else:
        transformer = FactorPortraitTransformer(
            num_attention_heads=1, attention_head_dim=32, ffn_dim=32, num_layers=1, text_dim=32, prompt_tokens=2
        ).eval()
    pipeline = FactorPortraitPipeline(transformer, load_vae(SHIPPED_BASE / "vae"), make_scheduler(), window_frames=17)
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    cameras = spin_path(frames, rng, (0.5, 0.6))

    def normals() -> Iterator[np.ndarray]:
        for _ in range(frames):
            yield rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

    intrinsics = np.array([[2.0 * side, 0, side / 2], [0, 2.0 * side, side / 2], [0, 0, 1]])
    result = pipeline(
        rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        Cameras(cameras, intrinsics, cameras[0]),
        normals(),
        torch.randn(1, frames, 128),
        num_inference_steps=STEPS,
        output_type="stream",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, (frame for part in result.frames for frame in part[0]), fps=25)
        assert probe(path).frames == frames
    return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    table = {}
    for side in SIDES:
        peaks = {}
        for frames in (SHORT, LONG):
            output = subprocess.run(
                [sys.executable, __file__, str(frames), str(side)], check=True, capture_output=True, text=True
            ).stdout
            peaks[frames] = json.loads(output.splitlines()[-1])["peak_mib"]
        table[f"{side}x{side}"] = {
            "peak_mib": peaks,
            "ratio": round(peaks[LONG] / peaks[SHORT], 4),
            "mib_per_100_frames": round((peaks[LONG] - peaks[SHORT]) / (LONG - SHORT) * 100, 2),
        }
        print(
            f"{side}²: {peaks[SHORT]:.0f} MiB for {SHORT} frames, {peaks[LONG]:.0f} for {LONG}: "
            f"{peaks[LONG] / peaks[SHORT]:.3f} times"
        )
    write_result(
        name="long_video",
        what=f"peak memory of sampling {LONG} frames against {SHORT}",
        ours=max(row["ratio"] for row in table.values()),
        unit="times",
        bound=1.15,
        n=len(SIDES),
        table=table,
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(sample(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
