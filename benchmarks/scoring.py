"""What does scoring cost beyond the networks themselves? One clip, all frame metrics, against their forward passes.

The peer is the networks alone on tensors that are ready: no decoding, conversion, chunks or bookkeeping. Both run in
turns. Prints the degradation ladder too, which is what docs/metrics.md shows.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import torch
from _result import write_result

from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import intrinsics_from_fov
from fportrait.capture.motion import rotation_from_degrees
from fportrait.capture.people import render, sample_person
from fportrait.capture.world import HEAD_TARGET, orbit_camera
from fportrait.evaluation.degradations import blurred, compressed, frozen, late, noisy
from fportrait.evaluation.embedded import action_vector
from fportrait.evaluation.faces import shared_finder
from fportrait.evaluation.metrics import METRICS, available
from fportrait.evaluation.scoring import ClipScorer

FRAMES, SIZE = 8, 192
NETWORKS = ("lpips", "csim", "aed")


def talking(seed: int) -> np.ndarray:
    body = load_body()
    person = sample_person(seed, body)
    camera, intrinsics = orbit_camera(0, 0, 0.55, HEAD_TARGET), intrinsics_from_fov(30, SIZE, SIZE)
    video = []
    for t in range(FRAMES):
        share = t / (FRAMES - 1)
        actions = action_vector({"jawOpen": share, "mouthSmileLeft": 1 - share, "mouthSmileRight": 1 - share}, body)
        pose = Pose(np.eye(3), np.zeros(3), rotation_from_degrees(16 * share - 8, 0, 0))
        video.append(render(person, actions, pose, camera, intrinsics, SIZE, 1, body))
    return np.stack(video)


def bare_forward(metrics: dict, produced: np.ndarray, truth: np.ndarray, near: np.ndarray) -> None:
    """The networks on both videos, and nothing else."""
    finder = shared_finder()
    if "lpips" in metrics:
        with torch.no_grad():
            for first in range(0, FRAMES, 8):
                for video in (produced, truth):
                    metrics["lpips"].model.maps(tensors[id(video)][first : first + 8])
    faces = {}
    for key, video in (("produced", produced), ("truth", truth)):
        finder._known.clear()
        faces[key] = [finder(frame, points) for frame, points in zip(video, near, strict=True)]
    if "csim" in metrics:
        for key, video in (("produced", produced), ("truth", truth)):
            for frame, face in zip(video, faces[key], strict=True):
                metrics["csim"].network.embed(frame, face.landmarks)


tensors: dict[int, torch.Tensor] = {}


def ladder(clip: np.ndarray, stranger: np.ndarray, metrics: dict) -> dict[str, dict[str, float]]:
    """Means of every frame metric on every rung."""
    rungs = {
        "the truth": clip,
        **{f"blur σ {s}": blurred(clip, s) for s in (1, 3)},
        **{f"noise σ {s}": noisy(clip, s) for s in (8, 32)},
        **{f"JPEG quality {q}": compressed(clip, q) for q in (40, 8)},
        **{f"{n} frames late": late(clip, n) for n in (1, 4)},
        "frozen face": frozen(clip),
        "another person": stranger,
    }
    scorer = ClipScorer(metrics, every=2)
    return {name: scorer.score(video, clip).means for name, video in rungs.items()}


def main() -> None:
    torch.set_num_threads(1)
    clip, stranger = talking(170_000_001), talking(170_000_002)
    metrics, lacking = available(dict.fromkeys((name for name, e in METRICS.items() if not e.frechet), "auto"))
    print("not measured here:", lacking or "nothing")
    table = ladder(clip, stranger, metrics)
    for rung, means in table.items():
        print(f"{rung:<18}" + "".join(f"{name} {value:9.3f}  " for name, value in means.items()))

    produced = noisy(clip, 6)
    near = np.stack([shared_finder()(frame).landmarks for frame in clip])
    for video in (produced, clip):
        tensors[id(video)] = torch.from_numpy(video.astype(np.float32) / 255).permute(0, 3, 1, 2)
    timed = {name: metrics[name] for name in NETWORKS if name in metrics}
    if "lpips" in timed and timed["lpips"].learned:
        timed.pop("lpips")
    ours, bare = [], []
    for _ in range(3):
        shared_finder()._known.clear()
        if "csim" in timed:
            timed["csim"]._last = None
        started = time.process_time()
        ClipScorer(timed).score(produced, clip, near=near)
        ours.append(time.process_time() - started)
        started = time.process_time()
        bare_forward(timed, produced, clip, near)
        bare.append(time.process_time() - started)
    ratio = float(np.median(np.array(ours) / np.array(bare)))

    def peak(frames: int) -> int:
        tracemalloc.start()
        ClipScorer({"psnr": metrics["psnr"], "ssim": metrics["ssim"]}).score(
            (clip[t % FRAMES] for t in range(frames)), (produced[t % FRAMES] for t in range(frames))
        )
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    memory = peak(96) / peak(16)
    result = write_result(
        name="scoring",
        what=f"scoring one clip of {FRAMES} frames at {SIZE}² over its networks' own forward time, one core",
        ours=round(ratio, 3),
        unit="times",
        bound=1.2,
        n=len(ours),
        networks=[timed[name].backbone.name for name in timed],
        clip_seconds=round(float(np.median(ours)), 3),
        memory_of_96_frames_over_16=round(memory, 3),
        ladder={
            rung: {name: round(value, 4) for name, value in means.items() if np.isfinite(value)}
            for rung, means in table.items()
        },
    )
    print(
        f"scoring costs {ratio:.2f} times the networks' own time; bound 1.2: {'holds' if result['holds'] else 'MISSED'}"
    )
    print(f"memory of 96 frames over 16: {memory:.2f}")


if __name__ == "__main__":
    main()
