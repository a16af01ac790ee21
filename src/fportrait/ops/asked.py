"""What a model is asked for, and whether it was asked before its numbers were known.

A floor that is lowered after the evaluation, in `conf/`, in `conf/local/` or on the command line, turns a refusal into
a pass without a trace in the tree. So what the gate asks, and how the model was evaluated, are compared with the
configuration in the commit that the evaluation ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fportrait.evaluation.measures import measure_of
from fportrait.ops import code
from fportrait.ops.gate import Check, GateSettings

SEPARATE = ("workers", "device")  # of a section: who does the work, not what is asked


def committed_section(commit: str, section: str, environment: str = "base") -> dict[str, Any] | None:
    """A section of the parameters as a commit has it, `conf/base` under the environment's; None where it has none."""
    import yaml

    found: dict[str, Any] = {}
    for name in dict.fromkeys(("base", environment)):
        text = code.committed_text(commit, f"conf/{name}/parameters_{section}.yml")
        read = yaml.safe_load(text) if text else None
        if isinstance(read, Mapping):
            found = _merged(found, read.get(section) or {})
    return found or None


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def asked_checks(
    settings: GateSettings, commit: str, evaluated: Mapping[str, Any], environment: str = "base"
) -> list[Check]:
    """Whether the gate asks no less than the evaluation's commit does, and the model was evaluated as that says.

    Passed where `clean_tree` is off, and told.

    Args:
        commit: of the evaluation. evaluated: the parameters of `evaluate` that its record keeps.
    """
    wanted = committed_section(commit, "promote", environment) if commit else None
    if wanted is None:
        words = f"no commit {commit[:12] or '(none)'} with conf/base/parameters_promote.yml to compare the gate with"
        return [_check(settings, [words])]
    committed = GateSettings.from_dict({key: wanted[key] for key in asdict(settings) if key in wanted})
    reasons = weakened(settings, committed)
    section = committed_section(commit, "evaluate", environment) or {}
    for key, value in evaluated.items():
        if key in section and key not in SEPARATE and not _same(value, section[key]):
            reasons.append(f"evaluate.{key} was not what the commit says")
    return [_check(settings, reasons)]


def _check(settings: GateSettings, reasons: list[str]) -> Check:
    if not reasons:
        return Check("thresholds", True, "what is asked is what the evaluation's commit asks")
    words = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
    if settings.clean_tree:
        words += "; commit what you ask for, and run `kedro run --pipelines=evaluate` again"
    else:
        words += " (allowed here)"
    return Check("thresholds", not settings.clean_tree, words)


def _same(value: Any, committed: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(committed, Mapping):
        return value.keys() == committed.keys() and all(_same(value[key], committed[key]) for key in value)
    interpolated = isinstance(committed, str) and "${" in committed
    return interpolated or list(value) == list(committed) if isinstance(value, list | tuple) else value == committed


def weakened(used: GateSettings, committed: GateSettings) -> list[str]:
    """How one gate asks for less than another, in words; asking for more is nobody's business."""
    reasons = []
    for kind in ("floors", "slice_floors"):
        mine, theirs = getattr(used, kind), getattr(committed, kind)
        for name, bound in theirs.items():
            if name not in mine:
                reasons.append(f"no floor for {name}, the commit has {bound:g}")
            elif measure_of(name).benefit(mine[name]) < measure_of(name).benefit(bound):
                reasons.append(f"the floor of {name} is {mine[name]:g}, in the commit {bound:g}")
    for kind, words in (("limits", "limit"), ("against_champion", "tolerated loss")):
        mine, theirs = getattr(used, kind), getattr(committed, kind)
        for name, bound in theirs.items():
            if name not in mine:
                reasons.append(f"no {words} of {name}, the commit has {bound:g}")
            elif mine[name] > bound:
                reasons.append(f"the {words} of {name} is {mine[name]:g}, in the commit {bound:g}")
    if used.min_slice_clips > committed.min_slice_clips:
        reasons.append(
            f"slices below {used.min_slice_clips} clips are not judged, in the commit those below "
            f"{committed.min_slice_clips}"
        )
    for name in ("clean_tree", "smoke"):
        if getattr(committed, name) and not getattr(used, name):
            reasons.append(f"{name} is off, in the commit on")
    return reasons
