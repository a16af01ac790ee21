"""Landmarks, body, camera and expression code of every frame, from pixels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def track(
    manifest: Path, base: Path, tracks: Path, units: Path, *, tracking: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Write `frames.parquet`, `identities.parquet` and `quarantine.json`."""
    from fportrait.tracking.captures import track_captures

    return track_captures(manifest, base, tracks, units / "tracks", tracking, workers)
