"""The gate: what a model must show before it may become champion. Pure decisions; `promotion` acts on them.

Every check that fails is named: evidence (`evidence`), lineage unbroken, tree clean, absolute floors, floors of every
slice, speed and memory, and the comparison with the present champion, and with the fixed anchor, on the same held-out
people. Which way a number is better lives with the measure (`fportrait.evaluation.measures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fportrait.errors import UserError
from fportrait.evaluation.bootstrap import Comparison, compare_people
from fportrait.evaluation.measures import measure_of
from fportrait.ops import lineage
from fportrait.ops.headline import flatten
from fportrait.parameters import settings_from

PROBES = "probes/"  # names of what is compared per probed person; the others are METHOD/METRIC of clips
LACKING = 0.1  # share of the clips that a measure may lack where the other model has it


@dataclass(frozen=True)
class GateSettings:
    """What is asked of a model; see docs/promotion.md."""

    floors: dict[str, float] = field(default_factory=dict)  # the worst value that passes, by flat name in evaluate.json
    slice_floors: dict[str, float] = field(default_factory=dict)  # the same for every slice's mean, by METHOD/METRIC
    min_slice_clips: int = 2  # smaller slices are shown, not judged
    limits: dict[str, float] = field(default_factory=dict)  # most seconds or MiB: evaluate.seconds, smoke.seconds, …
    against_champion: dict[str, float] = field(default_factory=dict)  # METHOD/METRIC: loss that is still tolerated
    clean_tree: bool = True
    smoke: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GateSettings:
        """Settings from a parameters section, nested or flat.

        Raises:
            UserError: an unknown key, or a floor on a number without a direction.
        """
        flat = {key: flatten(values[key]) for key in ("floors", "limits") if key in values}
        return settings_from(cls, {**values, **flat}, "the parameters of promote")

    def __post_init__(self) -> None:
        for name in (*self.floors, *self.slice_floors, *self.against_champion):
            measure_of(name)


@dataclass(frozen=True)
class Check:
    """One question, its answer, and the figures behind it."""

    name: str
    passed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def lineage_checks(stages: Sequence[str], clean_tree: bool, folder: Path = lineage.FOLDER) -> list[Check]:
    """The records of `stages` form one line, and were made from committed code."""
    gaps = lineage.gaps(list(stages), folder)
    checks = [Check("lineage", not gaps, "; ".join(gaps) or f"{len(stages)} stages, unbroken")]
    records = {stage: lineage.read_record(stage, folder) or {} for stage in stages}
    dirty = [stage for stage, record in records.items() if str(record.get("git_commit", "")).endswith("+")]
    unknown = [stage for stage, record in records.items() if record and not record.get("git_commit")]
    if dirty or unknown:
        found = f"uncommitted changes in {', '.join(dirty)}" if dirty else f"no commit known for {', '.join(unknown)}"
        checks.append(Check("clean tree", not clean_tree, found + ("" if clean_tree else " (allowed here)")))
    elif stages:
        checks.append(Check("clean tree", True, "every stage ran committed code"))
    return checks


def floor_checks(metrics: Mapping[str, float], floors: Mapping[str, float]) -> list[Check]:
    """The worst values that pass; a metric named here must exist, and NaN never passes."""
    checks = []
    for name, floor in floors.items():
        value = metrics.get(name)
        if value is None:
            checks.append(Check(name, False, f"the evaluation has no '{name}'"))
            continue
        measure = measure_of(name)
        words = f"{name} is {value:.4g}, asked for is {measure.bound_words(floor)}"
        checks.append(Check(name, measure.reaches(value, floor), words))
    return checks


def slice_checks(slices: Mapping[str, Any], floors: Mapping[str, float], min_clips: int) -> list[Check]:
    """`slices`: axis → slice → `{"clips", METHOD: {METRIC: {"mean"}}}`; the worst slice decides."""
    checks = []
    for name, floor in floors.items():
        method, metric = name.split("/")
        measure = measure_of(name)
        means = {
            f"{axis} {label}": entry[method][metric]["mean"]
            for axis, labels in slices.items()
            for label, entry in labels.items()
            if entry["clips"] >= min_clips and metric in entry.get(method, {})
        }
        if not means:
            words = f"no slice of {min_clips} clips or more has {name}, so none can be judged"
            checks.append(Check(f"slices {name}", False, words))
            continue
        worst = min(means, key=lambda label: _order(measure.benefit(means[label])))
        words = f"worst slice of {name}: {worst} with {means[worst]:.4g}, asked for is {measure.bound_words(floor)}"
        checks.append(Check(f"slices {name}", all(measure.reaches(mean, floor) for mean in means.values()), words))
    return checks


def _order(benefit: float) -> float:
    """NaN is the worst there is."""
    return benefit if benefit == benefit else float("-inf")


def limit_checks(costs: Mapping[str, float], limits: Mapping[str, float]) -> list[Check]:
    """Most seconds and MiB."""
    checks = []
    for name, limit in limits.items():
        cost = costs.get(name)
        if cost is None:
            checks.append(Check(name, False, f"nothing measured '{name}'"))
        else:
            checks.append(Check(name, bool(cost <= limit), f"{name} is {cost:.4g}, limit {limit:.4g}"))
    return checks


def comparison_checks(
    ours: Mapping[str, Any],
    other: Mapping[str, Any],
    tolerances: Mapping[str, float],
    who: str = "champion",
    seed: int = 0,
) -> list[Check]:
    """Non-inferiority, measure by measure: passed when the unfavourable end of the interval is within the tolerance.

    A model whose interval reaches beyond it is refused as *worse* when the favourable end is a loss, too, and as
    *undecided* otherwise: the holdout is too small to tell. Scores that agree in every clip are *no change*.

    Args:
        ours, other: `{"holdout": digest, "clips": {id: {METHOD/METRIC: value}}, "people": {id: identity}, "probes":
            {person: {NAME: value}}}`.
        tolerances: by METHOD/METRIC, or `probes/NAME`; in the measure's unit, of gains the distance from 1.
        who: what the other one is called.
    """
    if ours["holdout"] != other["holdout"]:
        words = f"the {who} was scored on holdout {other['holdout']}, this model on {ours['holdout']}"
        return [Check(who, False, words)]
    return [_comparison(ours, other, name, tolerance, who, seed) for name, tolerance in tolerances.items()]


def _comparison(
    ours: Mapping[str, Any], other: Mapping[str, Any], name: str, tolerance: float, who: str, seed: int
) -> Check:
    label = f"{who} {name}"
    mine, theirs = _scores(ours, name), _scores(other, name)
    measure = measure_of(name)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return Check(label, False, f"{name}: no clip has it for both this model and the {who}")
    lacking = sorted(theirs.keys() - mine.keys())
    if len(lacking) > LACKING * len(theirs):
        words = f"{name}: this model has none in {len(lacking)} of {len(theirs)} clips where the {who} has one"
        return Check(label, False, f"{words} ({lacking[0]})")
    people = {**(other.get("people") or {}), **(ours.get("people") or {})}
    differences: dict[str, list[float]] = {}
    for clip in both:
        gained = measure.benefit(mine[clip]) - measure.benefit(theirs[clip])
        differences.setdefault(people.get(clip, clip), []).append(gained)
    found = compare_people(differences, seed)
    same = not any(value for own in differences.values() for value in own)
    verdict, passed = ("no change", True) if same else _verdict(found, tolerance)
    interval = f" ({found.low:+.3g} … {found.high:+.3g})" if found.people > 1 else ""
    words = f"{name} against the {who}: {found.mean:+.3g}{interval} over {count_words(found)}"
    return Check(label, passed, f"{words}; tolerated {-tolerance:+.3g}: {verdict}")


def _verdict(found: Comparison, tolerance: float) -> tuple[str, bool]:
    if found.people < 2:
        return "undecided, one person does not stand for others: evaluate on more people", False
    if found.low >= -tolerance:
        return "no worse", True
    if found.high < -tolerance or found.high < 0:
        return "worse", False
    seen = f"this holdout sees a loss of {found.detectable:.2g} with 80%"
    return f"undecided, {seen}: evaluate on more people, or raise the tolerance knowingly", False


def _scores(scores: Mapping[str, Any], name: str) -> dict[str, float]:
    """Values by clip, or by probed person."""
    if name.startswith(PROBES):
        key, rows = name.removeprefix(PROBES), scores.get("probes") or {}
    else:
        key, rows = name, scores["clips"]
    return {who: values[key] for who, values in rows.items() if key in values}


def count_words(found: Comparison) -> str:
    """`16 clips of 3 people`."""
    clips = "1 clip" if found.clips == 1 else f"{found.clips} clips"
    return f"{clips} of {'1 person' if found.people == 1 else f'{found.people} people'}"


def power_checks(scores: Mapping[str, Any], tolerances: Mapping[str, float], seed: int = 0) -> list[Check]:
    """What the holdout could tell of a first model, which has nobody to be compared with.

    Stated from the spread of this model against the codec's limit on the same clips: two trained models are usually
    more alike, so a real comparison sees no less.
    """
    checks = []
    for name in tolerances:
        limit = name.replace("ours/", "codec_limit/")
        mine, theirs = _scores(scores, name), _scores(scores, limit)
        both = sorted(mine.keys() & theirs.keys())
        if limit == name or not both:
            continue
        measure, people = measure_of(name), scores.get("people") or {}
        differences: dict[str, list[float]] = {}
        for clip in both:
            gained = measure.benefit(mine[clip]) - measure.benefit(theirs[clip])
            differences.setdefault(people.get(clip, clip), []).append(gained)
        found = compare_people(differences, seed)
        seen = f"would see a loss of {found.detectable:.2g} with 80%" if found.people > 1 else "cannot compare models"
        checks.append(Check(f"power {name}", True, f"{name}: {count_words(found)} {seen} (from ours − codec's limit)"))
    return checks


def refuse(checks: Sequence[Check]) -> None:
    """Raise `UserError` naming every failed check."""
    reasons = [check.detail for check in checks if not check.passed]
    if reasons:
        raise UserError(
            f"a model that may not be promoted: {'; '.join(reasons)}",
            "evidence that belongs to the model, an unbroken lineage from committed code, measures within their floors "
            "and no loss against champion and anchor",
            "train further, run the named stages again, or change the section promote knowingly",
        )
