"""The few numbers of a stage's report that are worth a name: for MLflow's charts, DVC's tables and the model card.

The whole report stays beside them (`data/08_reporting/STAGE.json`, and as one table in the run).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

DATASETS = ("PhoneCapture", "StudioCapture", "ViewSweep", "DynamicSweep")
SCORES = ("psnr", "ssim", "expression_gain", "lip_error", "gaze_error", "head_pose_error", "reprojection_error")
NAMED = ("evaluate",)  # stages whose reports are too long to log number by number
WORDS = {  # of the numbers of an evaluation that DVC compares
    "psnr": "PSNR, dB",
    "gain": "gain of the expression (1 is right)",
    "pose": "error of the head's pose, degrees",
    "leak": "largest change that was not asked for (0 is right)",
}
# Over all data sets, for DVC; short, because a column of its tables is as wide as its name.
SUMMARY = {"psnr": "psnr", "expression_gain": "gain", "head_pose_error": "pose"}
STATISTICS = ("mean", "low", "high", "clips", "frames_without_face")
TABLE = ("of", "method", "measure", "value", *STATISTICS[1:])
LONGEST = 8  # numbers of a stage that DVC compares
COUNTS = {
    "pretrain": {"size": "base_pixels", "frames": "base_frames"},
    "ingest": {"videos": "videos", "quarantined": "clips_quarantined"},
    "track": {"frames": "frames", "reprojection_error_percent_of_eye_distance": "track"},
    "validate": {"identities": "people_validated", "rules": "rules"},
    "fit_avatars": {"avatars": "avatars"},
    "render_sweeps": {"failures": "sweep_failures"},
    "promote": {"version": "version"},
}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report by flat name."""
    return {k: v for k, v in flatten(report).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def named_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """The dozens of an evaluation by name, `DATA SET/measure`, `gain/FACTOR`, `control/worst_leak`.

    >>> named_scores({"ViewSweep": {"ours": {"psnr": {"mean": 27.5}}}})
    {'ViewSweep/psnr': 27.5}
    """
    found = {
        f"{dataset}/{score}": _mean(report.get(dataset, {}).get("ours", {}).get(score))
        for dataset in DATASETS
        for score in SCORES
    }
    found |= {
        f"{name}/better_than_portrait": _mean(report.get(name, {}).get("ours_minus_portrait")) for name in DATASETS
    }
    ours = report.get("control", {}).get("methods", {}).get("ours", {})
    found |= {f"gain/{factor}": _mean(entry.get("gain")) for factor, entry in ours.get("gains", {}).items()}
    found["control/worst_leak"] = ours.get("worst_leak")
    return {name: float(value) for name, value in found.items() if value is not None}


def logged(stage: str, report: Mapping[str, Any]) -> dict[str, float]:
    """What an MLflow run carries by name: every number of a short report, the named ones of a long one."""
    return named_scores(report) if stage in NAMED else numbers(report)


def table(report: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Every number of a report as one table: what was measured, of what, and its mean, interval and number of clips.

    MLflow's columns are narrow, and a name in one piece would be cut where names begin to differ.

    Examples:
        >>> rows = table({"ViewSweep": {"clips": 4, "ours": {"psnr": {"mean": 27.5, "clips": 4}}}})
        >>> [rows[column] for column in ("of", "method", "measure", "value", "clips")]
        [['', 'ViewSweep'], ['ViewSweep', 'ours'], ['clips', 'psnr'], [4, 27.5], [None, 4]]
    """
    rows: dict[str, dict[str, Any]] = {}
    found = numbers(report)
    for name, value in found.items():
        whole, _, last = name.rpartition(".")
        statistic = last if last in STATISTICS and f"{whole}.mean" in found else ""
        row = rows.setdefault(whole if statistic else name, dict.fromkeys(TABLE))
        row["value" if statistic in ("", "mean") else statistic] = value
    for name, row in rows.items():
        *of, method, measure = ["", "", *name.split(".")][-max(3, name.count(".") + 1) :]
        row |= {"of": ".".join(of), "method": method, "measure": measure}
    return {column: [row[column] for row in rows.values()] for column in TABLE}


def headline(stage: str, report: Mapping[str, Any]) -> dict[str, float]:
    """At most eight numbers, under names that no other stage uses: what DVC compares between experiments."""
    if stage == "evaluate":
        return _overall(report)
    if stage.startswith("train_stage"):
        return (
            {f"loss{stage.removeprefix('train_stage')}": round(report["final_loss"], 4)}
            if "final_loss" in report
            else {}
        )
    if stage == "encode":
        return {"records": sum(numbers(report.get("records", {})).values())}
    if stage not in COUNTS:
        plain = {key: value for key, value in numbers(report).items() if "." not in key}
        return {f"{stage}_{key}": plain[key] for key in list(plain)[:LONGEST]}
    found = {name: report[key] for key, name in COUNTS[stage].items() if key in report}
    if stage == "fit_avatars":
        # Few cameras, or a phone's one, leave none to be held out: what then judges are held-out frames, or nothing.
        judged = [_first(one, "psnr_both", "psnr_frames") for one in report.get("scores", {}).values()]
        known = [value for value in judged if value is not None]
        found |= {"avatar": round(fmean(known), 2)} if known else {}
    return found


def _first(scores: Mapping[str, Any], *names: str) -> float | None:
    """The first score that was measured."""
    return next((float(scores[name]) for name in names if scores.get(name) is not None), None)


def _overall(report: Mapping[str, Any]) -> dict[str, float]:
    named = named_scores(report)
    found = {}
    for score, name in SUMMARY.items():
        values = [named[f"{dataset}/{score}"] for dataset in DATASETS if f"{dataset}/{score}" in named]
        if values:
            found[name] = round(fmean(values), 4)
    if "control/worst_leak" in named:
        found["leak"] = named["control/worst_leak"]
    return found


def curves(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows that DVC plots of an evaluation: `psnr` of each data set and `gains` of each factor."""
    named = named_scores(report)
    gains = {name.removeprefix("gain/"): value for name, value in named.items() if name.startswith("gain/")}
    return {
        "psnr": [{"dataset": n, "psnr": named[f"{n}/psnr"]} for n in DATASETS if f"{n}/psnr" in named],
        "gains": [{"factor": factor, "gain": value} for factor, value in gains.items()],
    }


def _mean(entry: Any) -> float | None:
    return entry.get("mean") if isinstance(entry, Mapping) else None
