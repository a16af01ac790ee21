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
        from fportrait.evaluation.run import evaluate

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
