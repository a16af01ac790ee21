"""Methods beside each other: all averaged over the same clips.

A method that gave no video of a hard clip, or one without a face in it, must not gain by that. So every average of a
table is over the clips that all of its methods have a number for; the table says how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fportrait.evaluation.bootstrap import estimate
from fportrait.evaluation.clips import frechet_of
from fportrait.evaluation.measures import measure_of
from fportrait.evaluation.types import ClipResult, Scorers

COLUMNS = ("psnr", "ssim", "lpips", "csim", "aed", "iqa", "fid_vid", "fvd")
TITLES = {"ours": "fportrait", "codec_limit": "codec's limit", "repeated_portrait": "repeated portrait"}


def compare(
    groups: Mapping[str, Sequence[ClipResult]],
    others: Mapping[str, Sequence[ClipResult]],
    scorers: Scorers,
    seed: int = 0,
) -> dict[str, Any]:
    """The table's content by group (dataset).

    Args:
        groups: our clips by group, with their baselines' scores. others: another method's clips, of any group; those
            of `scorers` were collected under "GROUP/METHOD" and "NAME GROUP/METHOD".

    Returns:
        By group `clips` (that all methods have), `left_out` (ids of the others), and `methods`: by title, by metric,
        `mean`, `low`, `high` and `clips` (`value` and `warning` for Fréchet distances). `beyond_codec` lists metrics
        by which ours is better than the codec's limit, which none of our frames can be.
    """
    table: dict[str, Any] = {}
    for group, ours in groups.items():
        known = {clip.id for clip in ours}
        theirs = {name: {clip.id: clip for clip in clips if clip.id in known} for name, clips in others.items()}
        theirs = {name: clips for name, clips in theirs.items() if clips}
        common = [clip for clip in ours if all(clip.id in clips for clips in theirs.values())]
        methods = {title: {clip.id: _scores(clip, method) for clip in common} for method, title in TITLES.items()}
        for name, clips in theirs.items():
            methods[name] = {clip.id: _scores(clips[clip.id], "ours") for clip in common}
        cells: dict[str, dict[str, Any]] = {title: {} for title in methods}
        for metric in COLUMNS:
            having = {title: scores for title, scores in methods.items() if any(metric in s for s in scores.values())}
            shared = [clip for clip in common if all(metric in scores[clip.id] for scores in having.values())]
            for title, scores in having.items():
                found = estimate(((clip.identity, scores[clip.id][metric]) for clip in shared), seed)
                if found:
                    cells[title][metric] = {**found.cell(), "clips": found.clips}
        ids = {clip.id for clip in common}
        for title, side, method in (
            *((title, group, method) for method, title in TITLES.items()),
            *((name, f"{name} {group}", "ours") for name in theirs),
        ):
            distances = frechet_of(scorers, side, ids if others else None).get("frechet", {})
            cells[title].update(distances.get(method, {}))
        table[group] = {
            "clips": len(common),
            "left_out": [clip.id for clip in ours if clip.id not in ids],
            "methods": {title: found for title, found in cells.items() if found},
            "beyond_codec": _beyond(cells[TITLES["ours"]], cells[TITLES["codec_limit"]]),
        }
    return table


def _scores(clip: ClipResult, method: str) -> dict[str, float]:
    found = {name.split("/")[1]: value for name, value in clip.scores.items() if name.split("/")[0] == method}
    return {name: value for name, value in found.items() if name in COLUMNS and np.isfinite(value)}


def value_of(cell: Mapping[str, Any]) -> float:
    """A cell's number: a mean, or a distance of sets."""
    return float(cell["mean"] if "mean" in cell else cell["value"])


def _beyond(ours: Mapping[str, Any], limit: Mapping[str, Any]) -> list[str]:
    """Metrics by which our frames come out better than the codec alone, whose pictures are as good as ours can be."""
    return [
        metric
        for metric in ours
        if metric in limit
        and measure_of(metric).benefit(value_of(ours[metric])) > measure_of(metric).benefit(value_of(limit[metric]))
    ]
