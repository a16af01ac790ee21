"""The pipelines' names, in the order in which data flows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

CHAIN = (
    "ingest",
    "pretrain",
    "track",
    "validate",
    "fit_avatars",
    "render_sweeps",
    "encode",
    "train_stage1",
    "train_stage2",
    "train_stage3",
    "train_stage4",
    "evaluate",
    "promote",
)
BESIDE = ("distill", "study", "ablate")


def stages_above(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Every stage of a dvc.yaml to all those above it: whose outs it reads, and theirs in turn.

    >>> sorted(stages_above({"a": {"outs": ["x"]}, "b": {"deps": ["x/y"], "outs": ["z"]}, "c": {"deps": ["z"]}})["c"])
    ['a', 'b']
    """
    kinds = ("outs", "metrics", "plots")
    makers = {_place(out): name for name, stage in stages.items() for kind in kinds for out in stage.get(kind) or []}
    direct = {
        name: {
            maker for dep in map(_place, stage.get("deps") or []) for out, maker in makers.items() if _meet(dep, out)
        }
        for name, stage in stages.items()
    }
    above: dict[str, set[str]] = {}

    def climb(name: str) -> set[str]:
        if name not in above:
            above[name] = set()  # of a circle, which DVC refuses
            above[name] = set().union(direct[name], *(climb(one) for one in sorted(direct[name])))
        return above[name]

    return {name: climb(name) for name in stages}


def _place(entry: Any) -> PurePosixPath:
    """A dep or out of dvc.yaml: a path, or one with options."""
    return PurePosixPath(next(iter(entry)) if isinstance(entry, dict) else entry)


def _meet(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one == other or one in other.parents or other in one.parents
