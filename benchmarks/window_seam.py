"""Can one see where the windows of a long video join?

65 frames in windows of 17 by the shipped base: the picture's change from frame to frame at the joins, against its
change at all other borders of latent frames, where the codec alone makes the same step. The control are windows sampled
each by itself and cut hard, which have a seam: the measure must see it. `docs/images/seams.png` shows one line of
pixels, through the eyes, over time: the truth, joined windows, hard cuts. A seam is a step across it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from _result import write_result

from fportrait.bundle import SHIPPED_BASE, read_settings
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import write_image
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.pipeline import FactorPortraitPipeline
from fportrait.diffusion.windows import plan_windows
from fportrait.evaluation.embedded import Scene, Shot, Studio
from fportrait.tracking.expression import ExpressionEncoder

OVERLAPS = (4, 8)  # frames; the first is the default for windows of 17
FRAMES, PEOPLE, EYES = 65, 4, [33, 263]  # landmarks of the outer corners
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "seams.png"


def shots(phase: float) -> list[Shot]:
    """Head, camera and mouth move smoothly and none of them in time with the windows."""
    shots = []
    for t in range(FRAMES):
        smile, jaw = (0.5 - 0.5 * np.cos(2 * np.pi * t / period + phase) for period in (37, 29))
        actions = (("mouthSmileLeft", smile), ("mouthSmileRight", smile), ("jawOpen", jaw))
        head = (18 * np.sin(2 * np.pi * t / 61 + phase), 5 * np.sin(2 * np.pi * t / 47), 0.0)
        shots.append(Shot(actions, head, (20 * np.sin(2 * np.pi * t / 97 + 2 * phase), 6.0)))
    return shots


def joins(overlap: int, window_frames: int) -> set[int]:
    """Frames after which a window's share begins or ends (latent j ends with frame 4j)."""
    windows = plan_windows(FRAMES, window_frames, overlap)
    return {4 * window.start for window in windows[1:]} | {4 * (window.stop - 1) for window in windows[:-1]}


def sample(
    pipeline: FactorPortraitPipeline, scene: Scene, steps: int, part: slice, seed: int, overlap: int | None = None
) -> np.ndarray:
    """Frames `t S S 3` of a part of the scene."""
    return pipeline(
        scene.reference,
        Cameras(scene.cameras[part], scene.intrinsics, scene.reference_camera),
        scene.normals[part],
        torch.from_numpy(scene.codes[part])[None],
        num_inference_steps=steps,
        guidance={},
        generator=torch.Generator().manual_seed(seed),
        overlap_frames=overlap,
    ).frames[0]


def steps_between(video: np.ndarray) -> np.ndarray:
    """Mean absolute change from each frame to the next, `T-1`, in grey levels."""
    return np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))


def main() -> None:
    torch.set_num_threads(1)
    settings = read_settings(SHIPPED_BASE)
    pipeline = FactorPortraitPipeline.from_bundle(SHIPPED_BASE)
    pipeline.set_progress_bar_config(disable=True)
    studio = Studio(ExpressionEncoder.from_pretrained(SHIPPED_BASE / "expression_encoder"), settings.size)
    cuts = range(settings.frames - 1, FRAMES - 1, settings.frames - 1)
    edges = {overlap: joins(overlap, settings.frames) for overlap in OVERLAPS}
    borders = np.arange(0, FRAMES - 1, 4)
    names = [f"overlap of {overlap}" for overlap in OVERLAPS]
    ratios: dict[str, list[float]] = {name: [] for name in ("truth", *names, "hard cuts")}
    excess: dict[str, list[float]] = {name: [] for name in ratios}
    for number in range(PEOPLE):
        scene = studio.scene(sample_person(100 + number), shots(number))
        joined = [sample(pipeline, scene, settings.steps, slice(0, FRAMES), number, overlap) for overlap in OVERLAPS]
        pieces = [
            sample(pipeline, scene, settings.steps, slice(start, start + settings.frames), seed=1000 * start + number)
            for start in range(0, FRAMES - 1, settings.frames - 1)
        ]
        cut = np.concatenate([pieces[0], *[piece[1:] for piece in pieces[1:]]])
        videos = {"truth": (scene.video, edges[OVERLAPS[0]]), "hard cuts": (cut, set(cuts))}
        videos |= {name: (video, edges[overlap]) for name, video, overlap in zip(names, joined, OVERLAPS, strict=True)}
        for name, (video, places) in videos.items():
            change = steps_between(video)[borders]
            at = np.isin(borders, list(places))
            ratios[name].append(float(change[at].mean() / change[~at].mean()))
            excess[name].append(float(change[at].mean() - change[~at].mean()))
        if number == 0:
            line = int(scene.landmarks[0, EYES, 1].mean())
            slices = [
                cv2.resize(video[:, line], (3 * settings.size, 6 * FRAMES), interpolation=cv2.INTER_NEAREST)
                for video in (scene.video, joined[0], cut)
            ]
            gap = np.full((6 * FRAMES, 8, 3), 255, np.uint8)
            write_image(PICTURE, np.hstack([slices[0], gap, slices[1], gap, slices[2]]))
    rng = np.random.default_rng(0)
    table = {}
    for name, values in ratios.items():
        means = np.array(values)[rng.integers(0, PEOPLE, (2000, PEOPLE))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        table[name] = {
            "ratio": float(np.mean(values)),
            "low": float(low),
            "high": float(high),
            "excess_grey_levels": float(np.mean(excess[name])),
        }
        print(
            f"{name}: change at joins {np.mean(values):.2f} times that elsewhere ({low:.2f} to {high:.2f}), "
            f"{np.mean(excess[name]):+.2f} grey levels"
        )
    write_result(
        name="window_seam",
        what="how much more the picture changes where windows join than at other borders; one grey level is 1/255",
        ours=round(table[names[0]]["excess_grey_levels"], 4),
        unit="grey levels",
        bound=1.0,
        n=PEOPLE,
        table=table,
    )


if __name__ == "__main__":
    main()
