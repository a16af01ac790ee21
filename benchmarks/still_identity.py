"""How much of a person's identity can a picture keep that moves, if nothing but its pixels' places change?

    python benchmarks/still_identity.py CLIPS [--frames 49] [--scale 4]

CLIPS holds videos, at any depth. Each one is compared with its own first frame: repeated; moved to where the landmarks
of every frame are, exactly (a thin plate over all 478, which a model has to guess); and the other way around, the true
frames moved to the first one's landmarks. The identity network's cosine to the true frames, mean over all but the
first, in percent. A picture that is moved without error and still scores less than one that does not move shows what
painting cannot give: folds, and the light on a surface that turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _result import RESULTS, machine
from scipy.interpolate import RBFInterpolator

from fportrait.animate.animator import Animator
from fportrait.animate.own_clips import from_first_frame
from fportrait.atomic_io import write_json
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.video_io import VIDEO_SUFFIXES
from fportrait.evaluation.faces import shared_finder
from fportrait.evaluation.metrics.csim import default_identity

STEP = 4  # pixels between places at which the plate is asked
BORDER = 8  # points of a side of the picture's edge, which stay
NEIGHBOURS = 24  # landmarks that the plate goes by at a place
SMOOTHING = 1.0  # squared pixels that they may be off by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--scale", type=int, default=4, help="times the model's side")
    arguments = parser.parse_args()
    network = default_identity()
    if network is None:
        raise SystemExit("no identity network: pip install 'fportrait[identity]'")
    animator, found = Animator(SHIPPED_BASE), {}
    for path in sorted(one for one in arguments.clips.rglob("*") if one.suffix.lower() in VIDEO_SUFFIXES):
        prepared, _ = from_first_frame(animator, path, 0, arguments.frames)
        picture, drive = animator.picture.times(arguments.scale), prepared.drive
        truth = [drive.shown(frame, picture, filled=True) for frame in drive.pictures(range(len(drive)))]
        name = path.relative_to(arguments.clips).as_posix()
        found[name] = scores(truth, drive.landmarks(picture), network)
        print(name, found[name], flush=True)
    write_json(
        RESULTS / "still_identity.json", {"clips": found, "network": network.backbone.name, "machine": machine()}
    )


def scores(truth: list[np.ndarray], near: np.ndarray, network: Any) -> dict[str, float]:
    """Means over the frames in which a face is found. `near`: about where the landmarks are, `T 478 2`."""
    finder, rows = shared_finder(), []
    first = finder(truth[0], near[0])
    for frame, place in zip(truth[1:], near[1:], strict=False):
        face = finder(frame, place)
        if face is None or first is None:
            continue
        before, after = (np.asarray(one.landmarks, np.float64)[:, :2] for one in (first, face))
        wanted = network.embed(frame, after)
        rows.append(
            [
                wanted @ network.embed(truth[0], before),
                wanted @ network.embed(moved(truth[0], before, after), after),
                wanted @ network.embed(moved(frame, after, before), before),
            ]
        )
    means = (100 * np.mean(rows, 0)).round(2).tolist()
    return dict(zip(("repeated", "moved_to_the_truth", "truth_moved_to_the_first"), means, strict=True))


def moved(picture: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A picture `H W 3` whose points `N 2` lie elsewhere, pixels; its edge stays."""
    height, width = picture.shape[:2]
    across, down = np.linspace(0, width, BORDER), np.linspace(0, height, BORDER)
    edge = np.array([(x, y) for x in across for y in down if x in (0, width) or y in (0, height)])
    grid = np.stack(np.meshgrid(np.arange(0, width, STEP), np.arange(0, height, STEP)), -1)
    plate = RBFInterpolator(
        np.concatenate([after, edge]),
        np.concatenate([before - after, np.zeros_like(edge)]),
        neighbors=NEIGHBOURS,
        smoothing=SMOOTHING,
    )
    coarse = plate(grid.reshape(-1, 2) + STEP / 2).reshape(grid.shape).astype(np.float32)
    ways = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(picture, x + ways[..., 0], y + ways[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


if __name__ == "__main__":
    main()
