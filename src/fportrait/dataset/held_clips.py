"""Clips of people who are trained on that are themselves never trained on: how a model does on *your* people.

People of the test split say how a model does on strangers. Whoever trains on a handful of people of their own wants to
know the other thing, too. So of everyone of them one phone clip is taken out of the validated tables before avatars,
sweeps and shards are made of these: the middle one by how far the head turns (of two the lesser), because what is shown
once alone must be learned, and the stillest would judge little. Of an only clip the last part is taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fportrait.atomic_io import atomic_path, write_json, write_parquet
from fportrait.body.model import Pose, load_body
from fportrait.camera.cameras import angles_towards, camera_centre
from fportrait.capture.manifest import PHONE
from fportrait.capture.video_io import iter_video, probe, write_video
from fportrait.tables.annotations import MARK, VERSION, has_checks, join_frames, write_frames

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "held_out"  # below the validated tables, and below the shards
ANGLES = "angles.json"
END = "-end"  # what the name of an only clip's last part ends in
HELD_SHARE = 0.3  # of an only clip, at its end
EDGES = (0.02, 0.98)  # quantiles: a single turned frame is no angle that was shown


class Cut(NamedTuple):
    """What is held out of a person: frames `start` and on of a clip."""

    clip: str
    start: int

    @property
    def name(self) -> str:
        return f"{self.clip}{END}" if self.start else self.clip


def hold_out(tables: Path, people: Sequence[str], window: int) -> dict[str, Any]:
    """Move a clip of each of `people` from `frames.parquet` in `tables` to tables of their own in `tables/held_out`.

    There the person belongs to the test split, with the clip's first frame as portrait. `angles.json` beside them holds
    per clip and frame from where the head is seen, and between which angles the clips that are left show it.

    Args:
        people: identities of PhoneCapture. window: frames of the shortest clip that can be trained on or scored.

    Returns:
        `held_out`: person to clip; `not_held_out`: person to why not.
    """
    import pandas as pd

    shutil.rmtree(tables / FOLDER, ignore_errors=True)
    identities = pd.read_parquet(tables / "identities.parquet")
    persons = {row["identity"]: row for row in identities[identities.dataset == PHONE].to_dict("records")}
    cuts: dict[str, Cut] = {}
    why_not: dict[str, str] = {}
    seen: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(set(people) & persons.keys()):
        where = [("dataset", "==", PHONE), ("identity", "==", name)]
        rows = pd.read_parquet(tables / "frames.parquet", columns=POSES, filters=where).sort_values(["clip", "frame"])
        seen[name] = {str(clip): angles_of(part, persons[name]) for clip, part in rows.groupby("clip", sort=True)}
        cut = choose(seen[name], window)
        if cut is None:
            longest = max(map(len, seen[name].values()))
            why_not[name] = f"no clip to spare: one of {longest} frames; {2 * window}, or two of {window}, are needed"
        else:
            cuts[name] = cut
    if cuts:
        told = {name: split_angles(seen[name], cut) for name, cut in cuts.items()}
        write_held(tables, cuts, persons)
        write_json(tables / FOLDER / ANGLES, {cuts[name].name: entry for name, entry in told.items()})
        keep_rest(tables, cuts, identities, seen)
    return {"held_out": {name: cut.name for name, cut in cuts.items()}, "not_held_out": why_not}


POSES = ["clip", "frame", "world_to_camera", "body_rotation", "head_rotation", "body_translation"]


def angles_of(rows: pd.DataFrame, person: Mapping[str, Any]) -> np.ndarray:
    """Yaw and pitch, degrees, from which each frame of a clip shows the head, `T 2`: to its left, and from above."""
    body, shape = load_body(person["body_model"]), np.asarray(person["shape"], np.float64)
    found = []
    for row in rows.itertuples():
        turned, nodded = (np.reshape(getattr(row, key), (3, 3)) for key in ("body_rotation", "head_rotation"))
        pose = Pose(turned, np.asarray(row.body_translation, np.float64), nodded)
        towards = camera_centre(np.reshape(row.world_to_camera, (4, 4))) - body.head_centre(shape, pose)
        found.append(angles_towards(turned @ nodded, towards))
    return np.array(found)


def choose(clips: Mapping[str, np.ndarray], window: int) -> Cut | None:
    """What to hold out of clips with their angles `T 2`; None where learning or judging would be left with too little.

    Clips shorter than `window` train nothing and judge nothing, and count as none.
    """
    usable = {name: angles for name, angles in clips.items() if len(angles) >= window}

    def turn(name: str) -> tuple[float, str]:
        low, high = np.quantile(usable[name], EDGES, axis=0)
        return float((high - low).sum()), name  # the name gives equal ones an order

    if len(usable) > 1:
        return Cut(sorted(usable, key=turn)[(len(usable) - 1) // 2], 0)
    for name, angles in usable.items():
        start = min(int(len(angles) * (1 - HELD_SHARE)), len(angles) - window)
        return Cut(name, start) if start >= window else None
    return None


def split_angles(clips: Mapping[str, np.ndarray], cut: Cut) -> dict[str, Any]:
    """`yaw` and `pitch` by frame of what is held out, and `trained`, the lowest and highest of what is left."""
    rest = np.concatenate([clips[name][: cut.start] if name == cut.clip else clips[name] for name in clips])
    held = clips[cut.clip][cut.start :].round(1)
    low, high = np.quantile(rest, EDGES, axis=0).round(1)
    trained = {name: [float(low[axis]), float(high[axis])] for axis, name in enumerate(("yaw", "pitch"))}
    return {"yaw": held[:, 0].tolist(), "pitch": held[:, 1].tolist(), "trained": trained}


def write_held(tables: Path, cuts: Mapping[str, Cut], persons: Mapping[str, Mapping[str, Any]]) -> None:
    """The tables of what is held out, and the videos of last parts, which have no file of their own."""
    import pandas as pd

    target = tables / FOLDER
    parts: list[Path] = []
    people: list[dict[str, Any]] = []
    for name, cut in cuts.items():
        where = [("dataset", "==", PHONE), ("clip", "==", cut.clip), ("frame", ">=", cut.start)]
        rows = pd.read_parquet(tables / "frames.parquet", filters=where).sort_values("frame", ignore_index=True)
        if cut.start:
            source = rows["path"].iloc[0]
            video = target / "clips" / name / f"{Path(source).stem}{END}.mp4"
            write_video(video, iter_video(source, cut.start, cut.start + len(rows)), probe(source).fps, crf=6.0)
            rows["path"], rows["frame"] = video.as_posix(), (rows["frame"] - cut.start).astype("int32")
        rows["clip"], rows["split"] = cut.name, "test"
        parts.append(target / "parts" / f"{len(parts)}.parquet")
        write_frames(parts[-1], rows)
        people.append({**persons[name], "split": "test", "reference_clip": cut.name, "reference_frame": 0})
    join_frames(target / "frames.parquet", parts)
    shutil.rmtree(target / "parts")
    write_parquet(target / "identities.parquet", pd.DataFrame(people).astype({"reference_frame": "int32"}))


def keep_rest(
    tables: Path, cuts: Mapping[str, Cut], identities: pd.DataFrame, seen: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Write both tables anew without what is held out; whose portrait went with it gets the most frontal frame left.

    Whole clips and ends of clips go, so the rows that stay keep their checks, which count from a clip's first frame.
    """
    from fportrait.tables.rollup import connect

    frames, mark = tables / "frames.parquet", ""
    if has_checks(frames):
        mark = f", KV_METADATA {{'{MARK.decode()}': '{VERSION.decode()}'}}"
    database = connect(frames, tables / "identities.parquet")
    database.execute("CREATE TABLE held (held_clip VARCHAR, start INTEGER)")
    database.executemany("INSERT INTO held VALUES (?, ?)", [[cut.clip, cut.start] for cut in cuts.values()])
    with atomic_path(frames) as path:
        quoted = str(path).replace("'", "''")
        database.execute(
            "COPY (SELECT * EXCLUDE (file_row_number, held_clip, start) FROM frames LEFT JOIN held "
            f"ON dataset = '{PHONE}' AND clip = held_clip WHERE start IS NULL OR frame < start "
            f"ORDER BY file_row_number) TO '{quoted}' (FORMAT parquet{mark})"
        )
    for index, row in identities[identities.dataset == PHONE].iterrows():
        cut = cuts.get(row["identity"])
        if cut is None or row["reference_clip"] != cut.clip or row["reference_frame"] < cut.start:
            continue
        left = {name: angles for name, angles in seen[row["identity"]].items() if name != cut.clip}
        if cut.start:
            left[cut.clip] = seen[row["identity"]][cut.clip][: cut.start]
        aside = {name: np.abs(angles).sum(1) for name, angles in left.items()}
        best = min(aside, key=lambda name: float(aside[name].min()))
        identities.loc[index, ["reference_clip", "reference_frame"]] = best, int(aside[best].argmin())
    write_parquet(tables / "identities.parquet", identities.astype({"reference_frame": "int32"}))
