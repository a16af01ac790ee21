"""The people of annotation folders as units of work, each named by its rows and by its videos' and body's bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fportrait.atomic_io import file_hash
from fportrait.body.model import body_hash
from fportrait.errors import UserError
from fportrait.scale.map_engine import map_units
from fportrait.tables.schema import check_schema

HASH_HERE = 2**30  # bytes of videos; more are hashed by the engine's workers


@dataclass(frozen=True)
class IdentityUnit:
    """One identity of one annotation folder. `rows_hash`, `videos` (path, SHA-256) and `body` (hash of a body model's
    files) name its content."""

    folder: str
    dataset: str
    identity: str
    rows_hash: str
    videos: tuple[tuple[str, str], ...]
    body: str = ""


def identity_units(folder: Path, hashes: Path, workers: int = 0) -> list[IdentityUnit]:
    """The identities of an annotation folder, each with hashes of its rows and of its videos.

    Args:
        hashes: where hashes of videos are kept. A video of the same path, size and time of change is not read again.
    """
    from fportrait.tables.rollup import connect

    for table in ("frames", "identities"):
        check_schema(table, folder / f"{table}.parquet")
    database = connect(folder / "frames.parquet", folder / "identities.parquet")
    rows = database.execute(
        "SELECT f.dataset, f.identity, f.hash, i.hash, i.body, f.paths FROM "
        "(SELECT dataset, identity, bit_xor(hash(frames)) AS hash, list_sort(list(DISTINCT path)) AS paths "
        " FROM frames GROUP BY ALL) f "
        "JOIN (SELECT dataset, identity, bit_xor(hash(identities)) AS hash, any_value(body_model) AS body "
        " FROM identities GROUP BY dataset, identity) i "
        "USING (dataset, identity) ORDER BY ALL"
    ).fetchall()
    stated: list[tuple[str, str, tuple[tuple[str, int, int], ...]]] = []
    for dataset, identity, *_, paths in rows:
        try:
            videos = tuple((path, (at := os.stat(path)).st_size, at.st_mtime_ns) for path in paths)
            stated.append((dataset, identity, videos))
        except OSError as error:
            raise UserError(
                f"no video {error.filename}, which {folder}/frames.parquet names",
                "every video in its place",
                "run from the project's root, or run the stage that made the videos again",
            ) from None
    much = sum(size for *_, videos in stated for _, size, _ in videos) > HASH_HERE
    report = map_units(
        hash_videos,
        stated,
        workers=workers if much else 0,
        cache_folder=hashes,
        key=list,
        progress="hash videos" if much else None,
    )
    if report.failures:
        raise UserError(report.failures[0].reason, "videos that can be read", "run the stage that made them again")
    return [
        IdentityUnit(
            str(folder),
            dataset,
            identity,
            f"{frames_hash}-{identity_hash}",
            tuple((path, digest) for path, digest in zip(paths, result.value, strict=True)),
            body_hash(body),
        )
        for (dataset, identity, frames_hash, identity_hash, body, paths), result in zip(
            rows, report.results, strict=True
        )
    ]


def hash_videos(unit: tuple[str, str, Sequence[tuple[str, int, int]]], folder: Path) -> list[str]:
    """SHA-256 of one person's videos (dataset, identity, and path, size and time of change of each), as a unit of the
    map engine: read where the engine runs, and once."""
    return [file_hash(path) for path, _, _ in unit[2]]


def count_windows(folders: Sequence[Path], window: int, stride: int, test_stride: int) -> tuple[int, int]:
    """Windows that `encode` cuts from annotation folders, and their people."""
    from fportrait.tables.rollup import connect

    windows = people = 0
    for folder in folders:
        database = connect(folder / "frames.parquet", folder / "identities.parquet")
        clips = database.execute(
            "SELECT i.split, c.length, count(*) FROM "
            "(SELECT dataset, identity, clip, count(*) AS length FROM frames GROUP BY ALL) c "
            "JOIN identities i USING (dataset, identity) GROUP BY ALL"
        ).fetchall()
        for split, length, count in clips:
            windows += count * len(window_starts(length, window, stride if split == "train" else test_stride))
        counted = database.execute("SELECT count(*) FROM identities").fetchone()
        people += counted[0] if counted else 0
    return windows, people


def window_starts(frames: int, window: int, stride: int) -> list[int]:
    """First frames of the windows of a clip; the last window ends with the clip. Empty for a clip that is too short."""
    if frames < window:
        return []
    starts = list(range(0, frames - window + 1, stride))
    return starts if starts[-1] == frames - window else [*starts, frames - window]
