"""An expression encoder for real faces: talking heads cut from tracked captures, as the paper trains its own (section
8.1), without pairs or known actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fportrait.capture.video_io import iter_video
from fportrait.errors import UserError
from fportrait.tracking.crops import LEFT_EYE, RIGHT_EYE, face_crop, upper_body_crop, upper_body_square
from fportrait.tracking.making.talking_head.training import TalkingHeads

MOUTH = (13, 14, 61, 291)
REFERENCES = 4  # other pictures of the person, of other clips where there are any
Report = Callable[[str, int, int], None]


def filmed_talking_heads(
    tables: str | Path,
    split: str = "train",
    frames_per_clip: int = 40,
    crop: int = 96,
    size: int = 64,
    seed: int = 0,
    report: Report = lambda what, done, total: None,
) -> TalkingHeads:
    """Samples from the clips of `tables` (`frames.parquet` of the stages track or validate): evenly through each clip.

    Raises:
        UserError: no tables, no people of the split, or no clip that can be read; clips that cannot be are left out.
    """
    path = Path(tables) / "frames.parquet"
    if not path.is_file():
        raise UserError(
            f"no {path}",
            "tracked captures",
            "run `fportrait import`, then `kedro run --pipelines=ingest,pretrain,track`",
        )
    columns = ["dataset", "identity", "split", "clip", "path", "frame", "landmarks"]
    frames = pd.read_parquet(path, columns=columns, filters=[("split", "==", split)])
    if frames.empty:
        raise UserError(f"no people of the split '{split}' in {path}", "some", "import captures of more people")
    made: list[dict[str, Any]] = []
    clips = list(frames.groupby(["dataset", "identity", "clip"], sort=True))
    unread = []
    for index, (key, table) in enumerate(clips):
        report("cut crops", index, len(clips))
        try:
            made += clip_samples(key, table.sort_values("frame"), frames_per_clip, crop, size)
        except (UserError, OSError) as error:
            unread.append(f"{key[2]} ({error})")
    report("cut crops", len(clips), len(clips))
    if not made:
        raise UserError(
            f"no clip that can be read; {unread[0] if unread else 'none'}", "at least one", "mend its cause"
        )
    return joined(made, seed)


def clip_samples(
    key: tuple[str, str, str], table: pd.DataFrame, count: int, crop: int, size: int
) -> list[dict[str, Any]]:
    """Face and upper-body crops of up to `count` frames of one clip, with eyes and mouth in the latter."""
    rows = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))]
    wanted = dict(zip(rows["frame"].astype(int), rows["landmarks"], strict=True))
    samples = []
    for number, picture in enumerate(iter_video(str(rows["path"].iloc[0]), 0, max(wanted) + 1)):
        if number not in wanted:
            continue
        landmarks = np.asarray(wanted[number], np.float64).reshape(478, 2)
        if not np.isfinite(landmarks).all():
            continue
        centre, side = upper_body_square(landmarks)
        places = np.stack([landmarks[list(group)].mean(0) for group in (LEFT_EYE, RIGHT_EYE, MOUTH)])
        samples.append(
            {
                "person": key[:2],
                "clip": key[2],
                "crop": face_crop(picture, landmarks, crop),
                "picture": upper_body_crop(picture, landmarks, size),
                "focus": (places - centre + side / 2) * size / side,
            }
        )
    return samples


def joined(samples: Sequence[Mapping[str, Any]], seed: int) -> TalkingHeads:
    """All samples, each with pictures of the same person: of other clips where there are any, else other moments."""
    rng = np.random.default_rng(seed)
    people: dict[Any, list[int]] = {}
    for index, sample in enumerate(samples):
        people.setdefault(sample["person"], []).append(index)
    references = []
    for index, sample in enumerate(samples):
        same = people[sample["person"]]
        other = [i for i in same if samples[i]["clip"] != sample["clip"]] or [i for i in same if i != index] or same
        references.append(np.stack([samples[i]["picture"] for i in rng.choice(other, REFERENCES)]))
    return TalkingHeads(
        crops=np.stack([sample["crop"] for sample in samples]),
        pictures=np.stack([sample["picture"] for sample in samples]),
        references=np.stack(references),
        focus=np.stack([sample["focus"] for sample in samples]).astype(np.float32),
    )
