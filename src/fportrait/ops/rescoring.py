"""Scoring an older version again, as the candidate was scored: on today's holdout, with today's code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def rescorer(
    shards: Path, protocol: Mapping[str, Any], probes: Mapping[str, Any], report: Mapping[str, Any]
) -> Callable[[Path], dict[str, Any]]:
    """A function from a bundle to its `scores.json`.

    Args:
        protocol, probes: the parameters `evaluate.protocol` and `evaluate.probes`. report: the candidate's, whose
            settings (frames, steps, seed) are taken.
    """

    def rescore(bundle: Path) -> dict[str, Any]:
        from fportrait.dataset.encode import vae_hash
        from fportrait.dataset.shards import ShardReader
        from fportrait.errors import UserError
        from fportrait.evaluation.run import evaluate

        reader, own = ShardReader(shards), vae_hash(bundle / "vae")
        if own != reader.vae_hash:
            raise UserError(
                f"a champion of the VAE {own}, and a candidate whose held-out shards are of {reader.vae_hash}",
                "models of one VAE in one registry: only they can be compared clip by clip",
                "give this environment a registry of its own: MLFLOW_TRACKING_URI=sqlite:///mlruns/ENV.db kedro run …",
            )
        settings = report["settings"]
        with tempfile.TemporaryDirectory() as folder:
            evaluate(
                bundle / "transformer",
                bundle,
                shards,
                folder,
                {**protocol, **settings["same"]},
                settings["seed"],
                probes=probes,
            )
            return json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))

    return rescore
