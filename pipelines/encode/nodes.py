"""Videos, normal maps and codes to latent shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def encode(
    validated: Path, sweeps: Path, base: Path, shards: Path, units: Path, *, encoding: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Cut every clip into windows and write one shard per identity."""
    from fportrait.atomic_io import atomic_folder
    from fportrait.dataset.encode import encode_tables

    with atomic_folder(shards) as folder:
        return encode_tables([validated, sweeps], base / "vae", folder, units / "shards", encoding, workers)
