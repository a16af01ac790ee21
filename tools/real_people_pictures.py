"""Draws docs/images/real-*.webp: photographs and paintings that are free to show, animated by a filmed driver.

    python benchmarks/real_people_set.py --fetch
    python tools/real_people_pictures.py [--before BUNDLE] [--set data/real_people]

`real-before-after.webp`: each portrait, and one frame of its result at every size, with another bundle's beside it
where `--before` names one. `real-NAME-CAMERA.webp`: portrait, driver and result, moving.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from real_people_set import FOLDER, Entry, entries

from fportrait.animate import Animator, Request
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.video_io import iter_video, write_video
from fportrait.errors import UserError

DRIVER = "statement"
MOVING = (("astronaut", "front"), ("hopper", "spin"), ("gioconda", "front"))
START, FRAMES = 40, 49  # of the driver: before, he moves so fast that four frames of one latent smear
CELL = 256


def cell(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_CUBIC)


def animated(
    animator: Animator, portrait: Path, driver: Path, camera: str, frames: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The portrait, the driver's frames and the result's, as large as they are shown."""
    prepared = animator.prepare(Request(portrait, driver, camera, max_frames=frames))
    scale = max(1, CELL // animator.settings.size)
    driving = prepared.drive.crops(list(range(len(prepared))), CELL)
    return animator.portrait(prepared, scale), driving, list(animator.sample(prepared, scale=scale))


def before_and_after(people: list[Entry], driver: Path, animators: dict[str, Animator]) -> np.ndarray:
    """A row for each portrait: portrait, driver, and each animator's result, two thirds into the clip."""
    rows = []
    for entry in people:
        try:
            results = [animated(animator, entry.path, driver, "front", 17) for animator in animators.values()]
        except UserError as error:
            print(f"{entry.name}: {error}")
            continue
        own, driving, _ = results[-1]
        number = 2 * len(driving) // 3
        rows.append(np.hstack([cell(own), cell(driving[number]), *(cell(result[number]) for *_, result in results)]))
    head = np.full((26, rows[0].shape[1], 3), 255, np.uint8)
    for column, name in enumerate(["portrait", "driver", *animators]):
        cv2.putText(head, name, (column * CELL + 6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([head, *rows])


def save(path: Path, pictures: list[np.ndarray], fps: float = 25.0) -> None:
    images = [Image.fromarray(picture) for picture in pictures]
    options = {"save_all": True, "append_images": images[1:], "duration": round(1000 / fps), "loop": 0}
    images[0].save(path, quality=62, method=6, **(options if len(images) > 1 else {}))  # type: ignore[arg-type]
    print(path, path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=FOLDER, dest="folder")
    parser.add_argument("--bundle", type=Path, default=SHIPPED_BASE)
    parser.add_argument("--before", type=Path, help="an earlier bundle")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[64], help="pixels; the last is that of moving pictures"
    )
    parser.add_argument("--only", nargs="*", default=["sheet", "moving"])
    arguments = parser.parse_args()
    files = {entry.name: entry for entry in entries(arguments.folder) if entry.shown and entry.path.is_file()}
    driver = files[DRIVER].path
    arguments.output.mkdir(parents=True, exist_ok=True)
    drawn = {f"{size} pixels": Animator(arguments.bundle, remember=40, size=size) for size in arguments.sizes}
    scratch = tempfile.TemporaryDirectory()
    later = Path(scratch.name) / f"{DRIVER}.mp4"
    write_video(later, itertools.islice(iter_video(driver, START), FRAMES), 25.0)
    if "sheet" in arguments.only:
        people = [e for e in files.values() if e.kind == "photographs" and e.person != files[DRIVER].person]
        animators = {"before, 64": Animator(arguments.before, remember=40)} if arguments.before else {}
        save(arguments.output / "real-before-after.webp", [before_and_after(people, later, animators | drawn)])
    for name, camera in MOVING if "moving" in arguments.only else ():
        own, driving, result = animated(list(drawn.values())[-1], files[name].path, later, camera, FRAMES)
        pictures = [
            np.hstack([cell(part) for part in (own, theirs, ours)])
            for theirs, ours in zip(driving, result, strict=False)
        ]
        save(arguments.output / f"real-{name}-{camera}.webp", pictures)


if __name__ == "__main__":
    main()
