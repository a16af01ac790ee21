"""Videos, normal maps and codes to latent shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def encode(
    validated: Path, sweeps: Path, base: Path, shards: Path, units: Path, *, encoding: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Cut every clip into windows and write one shard per identity."""
    from fportrait.dataset.encode import encode_tables

    return encode_tables([validated, sweeps], base / "vae", shards, units / "shards", encoding, workers)
