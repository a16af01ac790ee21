"""Pictures of the person that an adapter carries beside its weights, out of the clips that it learned from.

The portrait's own pixels are kept wherever it shows what is asked for, so what weights of a few dozen steps have
learned of a person is hardly seen there. What a portrait does not show, the other side of a head, the inside of a
mouth, a frame of the person's own clips shows better than weights can remember it: an adapter brings up to four a
person, and `animate --adapter` paints from them as from further portraits (`--portrait`, given again).
Beside them lie films of a few frames, from which the whole face is painted as it is asked for (`film`).

They are used for that person alone: for a portrait that dlib's network says is of the same person as the adapter's
picture from the front, or, where that network is not installed, that was filmed in the same scene (`together`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.animate.clip_check import CROP, sharpness
from fportrait.animate.film import PREFIX, Frame, films
from fportrait.animate.likeness import SAME, alike
from fportrait.animate.together import in_one_scene
from fportrait.animate.tracked import Tracked
from fportrait.atomic_io import atomic_folder
from fportrait.capture.clock import picked
from fportrait.capture.video_io import iter_video, write_image
from fportrait.tracking.crops import face_crop

if TYPE_CHECKING:
    import pandas as pd

    from fportrait.animate.animator import Animator

FOLDER = "portraits"  # beside an adapter's weights: a folder per person
FRONT, LEFT, RIGHT, MOUTH = "front", "left", "right", "mouth"
ASIDE = 12.0  # degrees from the front from which a side is worth a picture
OPEN = 0.06  # distance of the lips by that of the eyes' outer corners that a mouth opens further than in front
LIKELY, FINEST = 0.5, 5  # confidence of a frame that is looked at; of the most telling frames, the sharpest of so many
LIPS, EYES = (13, 14), (33, 263)  # landmarks
Picked = tuple[Tracked, np.ndarray]


def choose(frames: pd.DataFrame) -> dict[str, list[int]]:
    """What to carry of one person: for each of front, left, right, mouth that the frames show, the rows to choose from.

    Args:
        frames: rows of a tracks' table (`tables.frames`), of clips of one person. Left is the person's own.
    """
    sound = np.flatnonzero(np.asarray(frames["confidence"], float) >= LIKELY)
    if not len(sound):
        return {}
    rows = frames.iloc[sound]
    turns = [
        np.reshape(body, (3, 3)) @ np.reshape(head, (3, 3))
        for body, head in zip(rows["body_rotation"], rows["head_rotation"], strict=True)
    ]
    forward = np.stack(turns)[:, :, 2]
    yaw = np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))
    pitch = np.degrees(np.arcsin(np.clip(forward[:, 1], -1, 1)))
    points = np.stack([np.reshape(one, (-1, 2)) for one in rows["landmarks"]]).astype(float)
    lips, eyes = (np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in (LIPS, EYES))
    opening = lips / np.maximum(eyes / np.maximum(np.cos(np.radians(yaw)), 0.5), 1e-6)
    order = np.argsort(np.hypot(yaw, pitch) + 100 * opening, kind="stable")
    found, front = {FRONT: order[:FINEST]}, order[0]
    for name, measure, least in ((LEFT, yaw, ASIDE), (RIGHT, -yaw, ASIDE), (MOUTH, opening, OPEN)):
        most = np.argsort(-measure, kind="stable")[:FINEST]
        most = most[measure[most] - measure[front] >= least]
        if len(most):
            found[name] = most
    return {name: sound[some].tolist() for name, some in found.items()}


def carry(tracks: Path, out: Path, readout: Any = None) -> list[dict[str, Any]]:
    """Write the pictures and films of everyone in the tracks' tables to `out/portraits/PERSON/`, replaced as a whole.

    Args:
        readout: actions of a code (`tracking.actions`); None, and no films are made.

    Returns:
        Of each: `person` (as the tables call them), `shows`, `clip` and `frame` that it was.
    """
    import pandas as pd

    columns = ["identity", "clip", "path", "frame", "confidence", "body_rotation", "head_rotation", "landmarks"]
    columns += ["expression_code"] * (readout is not None)
    table = pd.read_parquet(tracks / "frames.parquet", columns=columns)
    told = []
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    with atomic_folder(out / FOLDER) as folder:
        for person, frames in table.groupby("identity", sort=True):
            for shows, rows in choose(frames).items():
                row, picture = sharpest(frames.iloc[rows])
                write_image(folder / str(person) / f"{shows}.png", picture)
                told.append({"person": str(person), "shows": shows, "clip": row["clip"], "frame": int(row["frame"])})
        if readout is not None:
            told += films(table, readout, folder)
    return told


def sharpest(frames: pd.DataFrame) -> tuple[Mapping[str, Any], np.ndarray]:
    """The row whose face is sharpest, and its picture `H W 3`."""
    best: tuple[float, Mapping[str, Any], np.ndarray] | None = None
    for path, rows in frames.groupby("path", sort=False):
        rows = rows.sort_values("frame")
        numbers = rows["frame"].tolist()
        for row, picture in zip(
            rows.to_dict("records"), picked(iter_video(path, 0, numbers[-1] + 1), numbers), strict=True
        ):
            score = sharpness(face_crop(picture, np.reshape(row["landmarks"], (-1, 2)), CROP))
            if best is None or score > best[0]:
                best = score, row, picture
    assert best is not None
    return best[1], best[2]


def carried_by(adapter: Path) -> dict[str, dict[str, Path]]:
    """The pictures of an adapter by person and what they show; none of an adapter without."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted((adapter / FOLDER).glob("*/*.png")):
        if path.stem in (FRONT, LEFT, RIGHT, MOUTH) and path.is_file():
            found.setdefault(path.parent.name, {})[path.stem] = path
    return {person: some for person, some in found.items() if FRONT in some}


def portraits_for(
    animator: Animator, person: Tracked, image: np.ndarray, force: bool = False
) -> tuple[list[Picked], list[Frame], list[str]]:
    """The adapter's pictures and films of a portrait's person, tracked, and a sentence on them; nothing without an
    adapter.

    Args:
        person, image: the portrait's track and upright picture `H W 3`.
    """
    people = carried_by(animator.adapter) if animator.adapter is not None and animator.reads_painted else {}
    if not people:
        return [], [], []
    scores = {name: same_person(animator, person, image, some[FRONT], force) for name, some in people.items()}
    name = max(scores, key=lambda one: scores[one])
    if scores[name] <= 0:
        return [], [], [f"the adapter's own pictures are not used: {person.path.name} does not look like their person"]
    wanted = [people[name][shows] for shows in (LEFT, RIGHT, MOUTH, FRONT) if shows in people[name]]
    pictures = [animator.tracked_portrait(path, None, force, True) for path in wanted]
    told = [f"what {person.path.name} does not show is painted from the adapter's own pictures of the person"]
    paths = sorted(people[name][FRONT].parent.glob(f"{PREFIX}*.mp4"))
    film, more = animator.filmed(person, image, paths)
    return pictures, film, told + more


def same_person(animator: Animator, person: Tracked, image: np.ndarray, front: Path, force: bool) -> float:
    """How surely the portrait shows the person of an adapter's picture from the front: above 0 for surely enough."""
    other, picture = animator.tracked_portrait(front, None, force, True)
    cosine = alike(image, picture)
    if cosine is not None:
        return cosine - SAME
    joined = in_one_scene(person, image, other, animator.body, animator.landmarks, animator.config)
    return -1.0 if joined is None else 1.0
