"""Videos, normal maps and codes to latent shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def encode(
    validated: Path, sweeps: Path, base: Path, shards: Path, units: Path, *, encoding: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Cut every clip into windows and write one shard per identity.

    Clips held out of people of one's own (`fportrait.dataset.held_clips`) become shards in a folder of their own.
    """
    import logging
    import shutil

    from fportrait.atomic_io import atomic_folder
    from fportrait.dataset.encode import encode_tables
    from fportrait.dataset.held_clips import ANGLES, FOLDER
    from fportrait.errors import UserError

    with atomic_folder(shards) as folder:
        found = encode_tables([validated, sweeps], base / "vae", folder, units / "shards", encoding, workers)
        held = validated / FOLDER
        if held.is_dir():
            try:
                more = encode_tables([held], base / "vae", folder / FOLDER, units / "shards", encoding, workers)
            except UserError as error:  # nothing to judge by is no reason not to train
                logging.getLogger(__name__).warning("no clip held out could be encoded: %s", error)
                shutil.rmtree(folder / FOLDER, ignore_errors=True)
                return found | {"held_out": {"records": {}, "failures": {"all": str(error)}}}
            shutil.copyfile(held / ANGLES, folder / FOLDER / ANGLES)
            found["held_out"] = {"records": more["records"], "failures": more["failures"]}
        return found
