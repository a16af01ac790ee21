"""Seamless Interaction (Meta): one video per person of a conversation, with features of every frame beside it.

What is read, anywhere below SOURCE: `Vv_Ss_Ii_Pp.mp4` and, if there, `Vv_Ss_Ii_Pp.npz` with the keys
`movement:expression` `N 128`, `movement:alignment_head_rotation` `N 3`, `movement:alignment_translation` `N 2 3` and
`movement:is_valid` `N 1`. The person is `Pp`, the clip `Vv_Ss_Ii`. Values are taken as they are: the files name neither
units nor axes. Frames that are marked as not valid hold zeros. Collections other than V00 have no movement keys.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np

from fportrait.capture.features import ClipFeatures, check_features
from fportrait.capture.importers.plan import ClipPlan, Options, Plan, refusal
from fportrait.errors import UserError

NAME = re.compile(r"(?P<clip>V\d+_S\d+_I\d+)_(?P<person>P\d+[A-Z]?)", re.ASCII)
KEYS = {
    "expression_code": "movement:expression",
    "head_rotation": "movement:alignment_head_rotation",
    "head_translation": "movement:alignment_translation",
    "valid": "movement:is_valid",
}
MAX_FRAMES_APART = 2  # between video and features; the rest of either is cut or marked as not valid
MAX_ARRAY_BYTES = 2**30


def is_seamless(source: Path) -> bool:
    return any(NAME.fullmatch(path.stem) for path in source.rglob("*.mp4"))


def plan_seamless(source: Path, options: Options) -> Plan:
    """All `Vv_Ss_Ii_Pp.mp4` below SOURCE."""
    for path in sorted(source.rglob("*.mp4")):
        match = NAME.fullmatch(path.stem)
        if match is None:
            yield refusal(
                "", path, f"the name {path.name}", "V00_S0809_I00000582_P0947.mp4", "keep the names of the data set"
            )
            continue
        features = path.with_suffix(".npz")
        there = features.exists() or features.is_symlink()
        yield ClipPlan(match["person"], match["clip"], path, features=features if there else None)


def read_movement(path: Path, frames: int) -> ClipFeatures | None:
    """The movement features of a clip of `frames` frames; None when the collection has none.

    Raises:
        UserError: not an .npz of plain numbers, some keys without the others, wrong shapes, NaN on valid frames, or
            more than two frames longer or shorter than the video.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            huge = [entry.filename for entry in archive.infolist() if entry.file_size > MAX_ARRAY_BYTES]
        if huge:
            raise UserError(f"{huge[0]} above 1 GiB in {path.name}", "features of one clip", "download it again")
        with np.load(path, allow_pickle=False) as arrays:
            present = [key for key in KEYS.values() if key in arrays]
            if not present:
                return None
            found = {name: arrays[key] for name, key in KEYS.items() if key in arrays}
    except UserError:
        raise
    except Exception as error:  # NumPy reads headers with Python's tokenizer, which raises errors of many kinds
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path.name}, which is no .npz of numbers ({reason})", "features of a clip", "download it again"
        ) from None
    missing = [key for name, key in KEYS.items() if name not in found]
    if missing:
        raise UserError(f"no {missing[0]} in {path.name}", "all four movement keys", "download it again")
    if any(array.dtype.kind not in "fiub" or array.ndim == 0 for array in found.values()):
        raise UserError(f"arrays without numbers or frames in {path.name}", "one row per frame", "download it again")
    valid = found["valid"].reshape(len(found["valid"]), -1)
    if valid.shape[1] != 1:
        raise UserError(f"movement:is_valid of shape {found['valid'].shape} in {path.name}", "N x 1", "download again")
    count = len(valid)
    whole = check_features(
        ClipFeatures(found["expression_code"], found["head_rotation"], found["head_translation"], valid[:, 0] > 0.5),
        count,
        path.name,
    )
    if abs(count - frames) > MAX_FRAMES_APART:
        raise UserError(
            f"features of {count} frames in {path.name} and a video of {frames}",
            "the same number of frames",
            "download both files again",
        )
    return ClipFeatures(*(_fit(getattr(whole, name), frames) for name in KEYS))


def _fit(rows: np.ndarray, frames: int) -> np.ndarray:
    """Cut to `frames` rows, or fill up with zeros (False for `valid`)."""
    fill = np.zeros((max(0, frames - len(rows)), *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows[:frames], fill])
