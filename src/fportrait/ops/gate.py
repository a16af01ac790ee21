"""The gate: what a model must show before it may become champion. Pure decisions; `registry` acts on them.

Checks, in this order, and every one that fails is named: lineage unbroken, tree clean, absolute floors, floors of every
slice, speed and memory, and the paired comparison with the present champion on the same held-out clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fportrait.errors import UserError
from fportrait.ops import lineage
from fportrait.parameters import settings_from


@dataclass(frozen=True)
class GateSettings:
    """What is asked of a model; see docs/promotion.md."""

    floors: dict[str, float] = field(default_factory=dict)  # minima, by flat name in evaluate.json
    slice_floors: dict[str, float] = field(default_factory=dict)  # minimum of the mean in every slice, by METHOD/METRIC
    min_slice_clips: int = 2  # smaller slices are shown, not judged
    limits: dict[str, float] = field(default_factory=dict)  # maxima (s, MiB): evaluate.seconds, smoke.seconds, …
    against_champion: dict[str, float] = field(default_factory=dict)  # METHOD/METRIC: loss that is still tolerated
    clean_tree: bool = True
    smoke: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GateSettings:
        return settings_from(cls, values, "the parameters of promote")


@dataclass(frozen=True)
class Check:
    """One question, its answer, and the figures behind it."""

    name: str
    passed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


LOWER_IS_BETTER = ("lpips", "aed", "fid_vid", "fvd", "error", "leak")


def lower_is_better(metric: str) -> bool:
    return any(metric.rsplit("/", 1)[-1].endswith(ending) for ending in LOWER_IS_BETTER)


def lineage_checks(stages: Sequence[str], clean_tree: bool) -> list[Check]:
    """The records of `stages` form one line, and were made from committed code."""
    gaps = lineage.gaps(list(stages))
    checks = [Check("lineage", not gaps, "; ".join(gaps) or f"{len(stages)} stages, unbroken")]
    records = {stage: lineage.read_record(stage) or {} for stage in stages}
    dirty = [stage for stage, record in records.items() if str(record.get("git_commit", "")).endswith("+")]
    unknown = [stage for stage, record in records.items() if record and not record.get("git_commit")]
    if dirty or unknown:
        found = f"uncommitted changes in {', '.join(dirty)}" if dirty else f"no commit known for {', '.join(unknown)}"
        checks.append(Check("clean tree", not clean_tree, found + ("" if clean_tree else " (allowed here)")))
    elif stages:
        checks.append(Check("clean tree", True, "every stage ran committed code"))
    return checks


def floor_checks(metrics: Mapping[str, float], floors: Mapping[str, float]) -> list[Check]:
    """Minima; a metric named here must exist, and NaN never passes."""
    checks = []
    for name, floor in floors.items():
        value = metrics.get(name)
        if value is None:
            checks.append(Check(name, False, f"the evaluation has no '{name}'"))
        else:
            passed = bool(value >= floor)
            relation = "at or above" if passed else "below"
            checks.append(Check(name, passed, f"{name} is {value:.4g}, {relation} its floor {floor:.4g}"))
    return checks


def slice_checks(slices: Mapping[str, Any], floors: Mapping[str, float], min_clips: int) -> list[Check]:
    """`slices`: axis → slice → `{"clips", METHOD: {METRIC: {"mean"}}}`; the worst slice decides."""
    checks = []
    for name, floor in floors.items():
        method, metric = name.split("/")
        means = {
            f"{axis} {label}": entry[method][metric]["mean"]
            for axis, labels in slices.items()
            for label, entry in labels.items()
            if entry["clips"] >= min_clips and metric in entry.get(method, {})
        }
        if not means:
            checks.append(Check(f"slices {name}", True, f"no slice of {min_clips} clips has {name}"))
            continue
        worst = min(means, key=means.__getitem__)
        detail = f"worst slice of {name}: {worst} with {means[worst]:.4g}; floor {floor:.4g}"
        checks.append(Check(f"slices {name}", bool(means[worst] >= floor), detail))
    return checks


def limit_checks(costs: Mapping[str, float], limits: Mapping[str, float]) -> list[Check]:
    """Maxima in seconds and MiB."""
    checks = []
    for name, limit in limits.items():
        cost = costs.get(name)
        if cost is None:
            checks.append(Check(name, False, f"nothing measured '{name}'"))
        else:
            checks.append(Check(name, bool(cost <= limit), f"{name} is {cost:.4g}, limit {limit:.4g}"))
    return checks


def champion_checks(
    ours: Mapping[str, Any], champion: Mapping[str, Any] | None, tolerances: Mapping[str, float], seed: int = 0
) -> list[Check]:
    """Paired bootstrap over the clips that both models were scored on.

    A model is refused when even the favourable end of the 95% interval of its difference is a loss greater than
    tolerated: worse beyond chance. `ours` and `champion`: `{"holdout": digest, "clips": {id: {METHOD/METRIC: value}}}`.
    """
    if champion is None:
        return [Check("champion", True, "no champion to compare with")] if tolerances else []
    if ours["holdout"] != champion["holdout"]:
        return [Check("champion", False, f"scored on holdout {champion['holdout']}, this model on {ours['holdout']}")]
    from fportrait.evaluation.bootstrap import paired_difference

    checks = []
    for name, tolerance in tolerances.items():
        pairs = [
            (scores[name], champion["clips"][clip][name])
            for clip, scores in sorted(ours["clips"].items())
            if name in scores and name in champion["clips"].get(clip, {})
        ]
        if not pairs:
            checks.append(Check(f"champion {name}", False, f"no clip has {name} for both"))
            continue
        sign = -1.0 if lower_is_better(name) else 1.0
        gain = paired_difference([sign * a for a, _ in pairs], [sign * b for _, b in pairs], seed)
        best = gain.high if len(pairs) > 1 else gain.mean
        interval = f" ({gain.low:+.4g} … {gain.high:+.4g})" if len(pairs) > 1 else ""
        detail = f"{name}: {gain.mean:+.4g}{interval} over {len(pairs)} clips; tolerated {-tolerance:+.4g}"
        checks.append(Check(f"champion {name}", bool(best >= -tolerance), detail))
    return checks


def refuse(checks: Sequence[Check]) -> None:
    """Raise `UserError` naming every failed check."""
    reasons = [check.detail for check in checks if not check.passed]
    if reasons:
        raise UserError(
            f"a model that may not be promoted: {'; '.join(reasons)}",
            "an unbroken lineage from committed code, metrics above their floors, and no loss against the champion",
            "train further, run the named stages again, or change the section promote knowingly",
        )
