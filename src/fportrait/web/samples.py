"""Sample inputs, made once from the embedded world: nobody's picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fportrait.atomic_io import atomic_folder

PORTRAITS, VIDEOS = ("portrait1.png", "portrait2.png"), ("talk.mp4", "turn.mp4")


def sample_files(folder: Path) -> dict[str, Path]:
    """Paths by name; rendered into `folder` the first time (a few seconds)."""
    if not folder.is_dir():
        _render(folder)
    return {name: folder / name for name in (*PORTRAITS, *VIDEOS)}


def thumbnail_style(folder: Path, buttons: Mapping[str, str]) -> str:
    """CSS that shows on each button (`{element id: sample's name}`) what it stands for."""
    import cv2

    from fportrait.capture.video_io import read_image, read_video

    rules, pictures = [], {}
    for button, name in buttons.items():
        if name not in pictures:
            path = sample_files(folder)[name]
            image = read_video(path, 8, 9)[0] if path.suffix == ".mp4" else read_image(path)
            small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
            _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
            pictures[name] = base64.b64encode(jpeg.tobytes()).decode()
        rules.append(f"#{button} {{background-image: url(data:image/jpeg;base64,{pictures[name]})}}")
    return "\n".join(rules)


def _render(target: Path) -> None:
    from fportrait.body.model import load_body
    from fportrait.capture.people import sample_person
    from fportrait.capture.video_io import write_image, write_video
    from fportrait.capture.world import sample_training_clip

    body = load_body()
    with atomic_folder(target) as folder:
        for seed, name in zip((12, 31), PORTRAITS, strict=True):
            person = sample_person(seed, body)
            clip = sample_training_clip(np.random.default_rng(seed), body, "phone", 1, 256, person=person)
            write_image(folder / name, clip["video"][0])
        for seed, name in zip((4, 45), VIDEOS, strict=True):
            person = sample_person(seed, body)
            clip = sample_training_clip(np.random.default_rng(seed), body, "phone", 17, 192, person=person)
            write_video(folder / name, clip["video"])
