"""The manifest: one row per usable video, and one row per calibrated camera; written here, and checked on reading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from fportrait.atomic_io import atomic_folder, write_json, write_parquet
from fportrait.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

PHONE, STUDIO = "PhoneCapture", "StudioCapture"
TEXTS = ("dataset", "identity", "segment", "camera", "clip", "path", "sha256", "split")
MANIFEST_COLUMNS = [
    *("dataset", "identity", "segment", "camera", "clip", "path", "frames", "fps", "width", "height"),
    *("sha256", "horizontal_fov_degrees", "split", "notes"),
]
OWN_PEOPLE = "own_people.json"
CAMERA_COLUMNS = ["dataset", "identity", "camera", "width", "height", "intrinsics", "world_to_camera"]


def write_manifest(
    target: str | Path,
    rows: list[dict[str, Any]],
    cameras: list[dict[str, Any]],
    quarantine: list[dict[str, str]],
    own: Sequence[str] = (),
) -> Path:
    """Write `manifest.parquet`, `cameras.parquet` and `quarantine.json`, sorted, as one folder.

    Args:
        own: phone people of whom a clip is to be held out; listed in `own_people.json` if there are any.
    """
    import pandas as pd

    manifest = pd.DataFrame(rows, columns=MANIFEST_COLUMNS).sort_values(["dataset", "clip"], ignore_index=True)
    manifest = manifest.astype({"frames": "int32", "width": "int32", "height": "int32", "fps": "float64"})
    manifest["notes"] = manifest["notes"].fillna("").astype("str")
    table = pd.DataFrame(cameras, columns=CAMERA_COLUMNS).astype({"width": "int32", "height": "int32"})
    with atomic_folder(target) as folder:
        write_parquet(folder / "manifest.parquet", manifest)
        write_parquet(folder / "cameras.parquet", table)
        write_json(folder / "quarantine.json", sorted(quarantine, key=lambda entry: (entry["dataset"], entry["path"])))
        if own:
            write_json(folder / OWN_PEOPLE, sorted(own))
    return Path(target)


def read_manifest(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`manifest.parquet` and `cameras.parquet` of an ingested folder, checked.

    Raises:
        UserError: missing or not Parquet, columns missing or of another kind, impossible values, a clip listed twice,
            a path that leaves the project, a person on both sides of the split, or a studio clip without its camera.
    """
    folder = Path(folder)
    manifest = _read(folder / "manifest.parquet", MANIFEST_COLUMNS[:-1])  # older ones have no notes
    cameras = _read(folder / "cameras.parquet", CAMERA_COLUMNS)
    where = f"{folder.name}/manifest.parquet"
    _refuse(manifest.empty, f"no rows in {where}")
    for table, columns, name in (
        (manifest, TEXTS, where),
        (cameras, ("dataset", "identity", "camera"), f"{folder.name}/cameras.parquet"),
    ):
        for column in columns:
            sound = table[column].map(lambda value: isinstance(value, str) and value != "")
            _refuse(not sound.all(), f"an empty '{column}', or one that is no text, in {name}")
    for column in ("frames", "width", "height"):
        _refuse(manifest[column].dtype.kind not in "iu", f"'{column}' of type {manifest[column].dtype} in {where}")
        _refuse(bool((manifest[column] < 1).any()), f"'{column}' below 1 in {where}")
    for column in ("fps", "horizontal_fov_degrees"):
        _refuse(manifest[column].dtype.kind != "f", f"'{column}' of type {manifest[column].dtype} in {where}")
    fps = manifest["fps"]
    _refuse(not bool((np.isfinite(fps) & (fps > 0)).all()), f"a frame rate that is not positive in {where}")
    _refuse(not manifest["split"].isin(("train", "test")).all(), f"a split other than train and test in {where}")
    _refuse(manifest.duplicated(["dataset", "clip"]).any(), f"a clip listed twice in {where}")
    for path in manifest["path"]:
        parts = PurePosixPath(path).parts
        _refuse(".." in parts or "\0" in path, f"the path {path!r} in {where}, which leaves its folder")
    sides = manifest.groupby(["dataset", "identity"])["split"].nunique()
    _refuse(bool((sides > 1).any()), f"an identity in both splits of {where}")
    for column, length in (("intrinsics", 9), ("world_to_camera", 16)):
        sound = cameras[column].map(
            lambda value, n=length: isinstance(value, np.ndarray) and value.shape == (n,) and value.dtype.kind == "f"
        )
        _refuse(not sound.all(), f"'{column}' that is not {length} numbers in {folder.name}/cameras.parquet")
    known = set(cameras[["dataset", "identity", "camera"]].itertuples(index=False, name=None))
    studio = manifest[manifest["dataset"] == STUDIO]
    wanted = set(studio[["dataset", "identity", "camera"]].itertuples(index=False, name=None))
    _refuse(not wanted <= known, f"a studio clip in {where} without its camera in cameras.parquet")
    return manifest, cameras


def own_people(folder: str | Path) -> list[str]:
    """Phone people of an ingested folder of whom a clip is to be held out.

    Raises:
        UserError: the list is broken.
    """
    path = Path(folder) / OWN_PEOPLE
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    sound = isinstance(found, list) and all(isinstance(name, str) for name in found)
    _refuse(not sound, f"no list of names in {path.parent.name}/{OWN_PEOPLE}")
    return list(found)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"no readable table {path.name} in {path.parent} ({reason})",
            "what ingest writes",
            "run `kedro run --pipelines=ingest`",
        ) from None
    missing = [column for column in columns if column not in table]
    _refuse(bool(missing), f"no column '{missing[0] if missing else ''}' in {path.parent.name}/{path.name}")
    return table


def _refuse(bad: bool, found: str) -> None:
    if bad:
        raise UserError(found, "what ingest writes", "run `kedro run --pipelines=ingest` again")
