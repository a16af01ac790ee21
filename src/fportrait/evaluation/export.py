"""What another method needs to make a clip: portrait, driving video and cameras, at the sources' own resolution.

    fportrait evaluate --export inputs

A clip's pictures are read from the video that the shards were made from and cut to the clip's square, never resized:
the model's own pictures are small, and a method that works at 512² would be judged on enlarged ones. They are checked
against the shards', so that nobody is asked for one clip and scored on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fportrait.atomic_io import value_hash, write_json, write_text
from fportrait.camera.cameras import crop_intrinsics
from fportrait.dataset.crops import crop_picture, whole_pixels
from fportrait.dataset.shards import Record, ShardReader
from fportrait.dataset.upright import TURNS
from fportrait.errors import UserError
from fportrait.evaluation.cross import Annotations

FPS = 25.0  # of every exported video, whatever the camera's: methods that resample to 25 then leave the frames alone
CLIPS = "clips.json"
TOLERANCE = 1.0  # of 255, mean; decoding is exact, resizing on another processor may round otherwise
AGAIN = "run `kedro run --pipelines=encode` again, then export"


@dataclass(frozen=True)
class Source:
    """A clip as it was filmed: `portrait` `P P 3` and `video` `T S S 3` uint8, cameras `T 4 4`, intrinsics `3 3`."""

    portrait: np.ndarray
    video: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray


def clip_path(record: Record) -> Path:
    """Where a clip lies below an export or a method's folder."""
    return Path(record.dataset) / record.identity / record.record


def holdout_of(chosen: Sequence[tuple[Record, int]]) -> str:
    """Names the clips that models are scored on, and their bytes."""
    return value_hash([[record.id, record.checksum, record.references_checksum, n] for record, n in chosen])


def source_of(reader: ShardReader, annotations: Annotations, record: Record, frames: int) -> Source:
    """The source of the first `frames` frames of a record, at its own resolution.

    Raises:
        UserError: its video is gone, or shows something else than the shards.
    """
    person = annotations.person(record.dataset, record.identity)
    driving = annotations.clip(record.dataset, record.clip, record.first_frame, frames)
    own = annotations.clip(record.dataset, person["reference_clip"], int(person["reference_frame"]), 1).iloc[0]
    whole = annotations.clip(record.dataset, record.clip, 0, 1).iloc[0]
    video = _cut(whole, whole["crop"], record.first_frame, frames)
    portrait = _cut(own, _first_crop(annotations, record.dataset, own), int(own["frame"]), 1)[0]
    window, portraits = reader.read(record, frames), reader.references(record)
    for name, theirs, small in (
        ("video", video, window["video"].numpy()),
        ("portrait", portrait[None], portraits["images"][:1].numpy()),
    ):
        size = small.shape[1]
        drawn = np.stack([crop_picture(picture, (0, 0, len(picture)), size) for picture in theirs])
        if np.abs(drawn.astype(np.int16) - small).mean() > TOLERANCE:
            raise UserError(f"another {name} of {record.id} than the shards hold", "the video that was encoded", AGAIN)
    cameras = np.stack([np.asarray(matrix, np.float64).reshape(4, 4) for matrix in driving["world_to_camera"]])
    lens = np.asarray(whole["intrinsics"], np.float64).reshape(3, 3)
    return Source(portrait, video, cameras, crop_intrinsics(lens, whole_pixels(whole["crop"]), video.shape[1]))


def _first_crop(annotations: Annotations, dataset: str, row: Any) -> Sequence[float]:
    """A clip is cut by its first frame's square."""
    return annotations.clip(dataset, row["clip"], 0, 1).iloc[0]["crop"]


def _cut(row: Any, crop: Sequence[float], first: int, frames: int) -> np.ndarray:
    """`T S S 3` uint8: frames of the video of an `upright` row, cut to the square `crop` and not resized; beyond the
    file as its edge is, as in shards."""
    from fportrait.capture.video_io import iter_video

    path, turns = str(row["path"]), int(row[TURNS])
    if not Path(path).is_file():
        raise UserError(
            f"no video {path}", "the videos that were encoded, in their places", "run from the project's root"
        )
    square = whole_pixels(crop)
    shown = (np.rot90(frame, turns) for frame in iter_video(path, first, first + frames))
    pictures = [crop_picture(picture, square, square[2], filled=True) for picture in shown]
    if len(pictures) != frames:
        raise UserError(f"{len(pictures)} frames in {path} from frame {first}", f"{frames}", AGAIN)
    return np.stack(pictures)


def export_inputs(
    reader: ShardReader,
    folders: Sequence[str | Path],
    chosen: Sequence[tuple[Record, int]],
    folder: str | Path,
    progress: bool = False,
) -> int:
    """Write `portrait.png`, `driving.mp4`, `cameras.json` and a README of every clip below `folder`; returns how many.

    `driving.mp4` is the clip itself (self-reenactment), as many frames as our model makes. Portraits are lossless;
    videos H.264 at constant quality 10.

    Args:
        folders: annotations that were encoded. chosen: records and their lengths, as `run.chosen_records` gives them.

    Raises:
        UserError: see `source_of`.
    """
    from tqdm import tqdm

    from fportrait.camera.paths import save_camera_path
    from fportrait.capture.video_io import write_image, write_video

    annotations, folder, clips = Annotations(folders), Path(folder), []
    for record, frames in tqdm(chosen, desc="export", unit="clip", disable=not progress):
        source, place = source_of(reader, annotations, record, frames), folder / clip_path(record)
        write_image(place / "portrait.png", source.portrait)
        write_video(place / "driving.mp4", source.video, FPS, 10)
        save_camera_path(place / "cameras.json", source.world_to_camera, source.intrinsics)
        side, portrait_side = source.video.shape[1], source.portrait.shape[0]
        write_text(place / "README.md", clip_readme(record, frames, side, portrait_side))
        clips.append({"id": record.id, "frames": frames, "side": side})
    holdout = holdout_of(chosen)
    write_text(folder / "README.md", readme(clips, holdout))
    write_json(folder / CLIPS, {"holdout": holdout, "fps": FPS, "clips": clips})
    return len(clips)


def clip_readme(record: Record, frames: int, side: int, portrait_side: int) -> str:
    """What lies in one clip's folder, and what is wanted for it."""
    return f"""# {record.id}

- `portrait.png`: who is to be shown, {portrait_side} x {portrait_side} pixels
- `driving.mp4`: what they are to do, {frames} frames of {side} x {side} pixels, {FPS:g} a second. It is the truth too:
  use it to drive, never as an output
- `cameras.json`: the camera of each frame

Wanted: `{clip_path(record).as_posix()}.mp4` in your folder of results, {frames} frames, {FPS:g} a second, square,
framed as `driving.mp4`. The README at the top of the export says how results are scored.
"""


def readme(clips: Sequence[dict[str, Any]], holdout: str) -> str:
    """How a stranger makes results of an export, and has them scored."""

    def span(key: str) -> str:
        values = sorted({clip[key] for clip in clips})
        return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"

    return f"""# Clips to make with another method

{len(clips)} clips of people whom our model was not trained on, holdout `{holdout}`. For each there is a folder
`DATASET/PERSON/CLIP/` with one portrait, one driving video and the cameras; `clips.json` lists them all. Pictures are
squares of {span("side")} pixels, as they were filmed (beyond a file's edge, where nothing is judged, the edge goes on);
clips are {span("frames")} frames long, as our model makes them.

## 1. Make a video of each clip
Show the person of `portrait.png` doing what the person in `driving.mp4` does, seen by the cameras of `cameras.json`
(leave the cameras out if your method has no control of them). They are the same person: this is self-reenactment.

Write it to `RESULTS/DATASET/PERSON/CLIP.mp4`, for example

    RESULTS/{clips[0]["id"]}.mp4

- one frame for every frame of `driving.mp4`, in the same order; {FPS:g} frames a second (a player's rate, whatever the
  camera's was);
- square, framed as `driving.mp4`: the head at the same place and as large, not cropped to the face. Any size will do:
  it is resized by area averaging to the size at which everybody is scored, and the report says so;
- `driving.mp4` is what you are compared with: use it as the driver, and not its pixels as an output.

With our command line, for a method that is called once per clip:

    fportrait evaluate --run NAME --repo METHOD_FOLDER --inputs THIS_FOLDER -o RESULTS \\
      --command "python run.py {{portrait}} {{driving}} {{cameras}} {{output}}"

`cameras.json` holds for each frame `world_to_camera` (4 x 4, OpenCV: x right, y down, z forward; metres) and
`intrinsics` (3 x 3, pixels of `driving.mp4`, the centre of the first pixel at 0.5).

## 2. Say what you did
`RESULTS/method.json`:

    {{"name": "NAME", "alignment": "cropped and pasted back by its own detector", "holdout": "{holdout}"}}

`alignment` stands in the report beside the scores; `holdout` refuses results of another export.

## 3. Have them scored
In the project that made this export:

    fportrait evaluate --external NAME=RESULTS -o report

A clip that is missing or does not fit is listed with its reason and not scored. All methods are averaged over the
clips that all of them have; the table says how many.
"""
