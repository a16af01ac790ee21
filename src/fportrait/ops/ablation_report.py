"""The ablation as a page: tables in the shape of the paper's Tables 1 to 4, what was asked beside what came out.

`write_results` is the one way from `results.json` to `docs/results`: numbers, figures and words of the generated page
all come from there, so that none can be stale. Numbers over seeds are their mean, with half their spread after ±.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fportrait.atomic_io import write_json, write_text
from fportrait.evaluation.probes import PROBES, TURNS
from fportrait.ops.ablation import TITLES, Plan
from fportrait.tables.schema import DATASETS

# metric → (head, digits); arrows say what is better
COLUMNS: dict[str, tuple[str, int]] = {
    "psnr": ("PSNR ↑", 2),
    "ssim": ("SSIM ↑", 1),
    "lpips": ("LPIPS ↓", 3),
    "csim": ("CSIM ↑", 1),
    "aed": ("AED ↓", 3),
    "iqa": ("IQA ↑", 1),
    "fid_vid": ("FID-VID ↓", 2),
    "sharpness": ("sharpness → 1", 2),
    "head_pose_error": ("head ° ↓", 2),
    "reprojection_error": ("landmarks % ↓", 2),
    "expression_error": ("codes ↓", 3),
    "expression_gain": ("expr. gain → 1", 2),
}
BASELINE_TITLES = {
    "repeated_portrait": "repeated portrait",
    "mean_frame": "mean training frame",
    "warped_portrait": "portrait on the tracked mesh",
}
MIN_GAIN = {"pose": 0.8, "view": 0.8, "jaw": 0.5, "smile": 0.5, "blink": 0.5, "pucker": 0.5}
Values = Sequence[float]


def cell(entry: Mapping[str, Any], metric: str, method: str = "ours") -> float | None:
    """A dataset's number of one metric and method: its mean over clips, or the Fréchet distance over all of them."""
    if metric in entry.get("frechet", {}).get(method, {}):
        return float(entry["frechet"][method][metric]["value"])
    found = entry.get(method, {}).get(metric)
    return None if found is None else float(found["mean"])


def spread(values: Iterable[float | None], digits: int) -> str:
    """`mean ± half the spread`; a dash where nothing was measured.

    >>> spread([20.0, 21.0], 1)
    '20.5 ± 0.5'
    """
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{mean(known):.{digits}f}"
    return text if len(known) == 1 else f"{text} ± {(max(known) - min(known)) / 2:.{digits}f}"


def mean(values: Values) -> float:
    return sum(values) / len(values) if values else float("nan")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are text."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * left + " ---: |" * (len(heads) - left)]
    return "\n".join([*lines, *("| " + " | ".join(str(value) for value in row) + " |" for row in rows)]) + "\n"


class Results:
    """`results.json` with the questions that the tables ask of it."""

    def __init__(self, found: Mapping[str, Any]):
        self.found = found
        self.variants = list(dict.fromkeys(run["variant"] for run in found["runs"]))

    def runs(self, variant: str) -> list[Mapping[str, Any]]:
        return [run for run in self.found["runs"] if run["variant"] == variant]

    def scores(self, variant: str) -> list[Mapping[str, Any]]:
        """Of every seed; `base` is what all variants but C2 and C3 start from."""
        if variant == "base":
            return [self.found["points"]["base"]] if "base" in self.found["points"] else []
        return [run["scores"] for run in self.runs(variant)]

    def over_seeds(self, variant: str, dataset: str, metric: str, method: str = "ours") -> list[float]:
        found = [cell(scores.get(dataset, {}), metric, method) for scores in self.scores(variant)]
        return [value for value in found if value is not None]

    def gains(self, variant: str, factor: str, kind: str = "gain", method: str = "ours") -> list[float]:
        """Of one probed factor, every seed; empty where it was not probed."""
        probed = [
            scores["control"]["methods"][method]["gains"] for scores in self.scores(variant) if "control" in scores
        ]
        return [float(gains[factor][kind]["mean"]) for gains in probed if factor in gains]

    def turn_gains(self, variant: str, factor: str, kind: str = "gain", method: str = "ours") -> list[float]:
        """Of a factor that turns the head, in degrees by the tracker, every seed that has it."""
        seen = [
            scores["control"]["tracker"]["turns"][method]
            for scores in self.scores(variant)
            if "tracker" in scores.get("control", {})
        ]
        return [float(turns[factor][kind]) for turns in seen if turns.get(factor)]

    def leakage(self, variant: str, method: str = "ours") -> tuple[list[str], list[list[float]]]:
        """Factors, and the matrix over them, mean over seeds."""
        matrices = [
            scores["control"]["methods"][method]["leakage"] for scores in self.scores(variant) if "control" in scores
        ]
        if not matrices:
            return [], []
        names = [name for name in PROBES if name in matrices[0]]  # JSON forgets the order of the probes' pictures
        return names, [[mean([matrix[row][column] for matrix in matrices]) for column in names] for row in names]


def title(variant: str) -> str:
    return "the base, untrained here" if variant == "base" else TITLES[variant]


def data_table(shards: str | Path) -> str:
    """The shape of Table 4: what was trained on and what was held out."""
    from fportrait.dataset.shards import ShardReader

    reader, rows = ShardReader(shards), []
    for dataset in DATASETS:
        train, test = (reader.records(split).get(dataset, []) for split in ("train", "test"))
        people = [len({record.identity for record in records}) for records in (train, test)]
        rows.append([dataset, *people, len(train), len(test), max((record.frames for record in train), default=0)])
    heads = ["dataset", "people", "unseen people", "training windows", "test windows", "frames of a window"]
    return table(heads, rows)


def stage_table(results: Results) -> str:
    """The shape of Table 1, with what each stage of the full model took."""
    rows = []
    for stages in zip(*(run["stages"] for run in results.runs("full")), strict=True):
        one = stages[0]
        mixture = " / ".join(str(one["mixture"].get(dataset, 0)) for dataset in DATASETS)
        held = [[point["held_out_loss"] for point in stage["curve"] if "held_out_loss" in point] for stage in stages]
        rows.append(
            [
                one["name"],
                mixture,
                one["frames"],
                one["iterations"],
                f"{one['learning_rate']:g}",
                spread([stage["seconds"] for stage in stages], 0),
                f"{one['flops'] / 1e12:.1f}",
                spread([curve[-1] for curve in held if curve], 4),
            ]
        )
    heads = [
        "stage",
        "% Phone / Studio / View / Dynamic",
        "frames",
        "iterations",
        "rate",
        "seconds on one core",
        "TFLOP",
        "held-out loss at its end",
    ]
    return table(heads, rows, left=2)


def ablation_table(results: Results, dataset: str, columns: Mapping[str, tuple[str, int]]) -> str:
    """The shape of Table 2 on one dataset: variants down, metrics across."""
    order = ["base", *(name for name in results.variants if name != "full"), "full"]
    rows = [
        [title(name), *(spread(results.over_seeds(name, dataset, key), digits) for key, (_, digits) in columns.items())]
        for name in order
    ]
    limit = [
        spread(results.over_seeds("full", dataset, key, "codec_limit")[:1], digits)
        for key, (_, digits) in columns.items()
    ]
    return table(["", *(head for head, _ in columns.values())], [*rows, ["*codec's limit*", *limit]])


def comparison_table(results: Results, columns: Mapping[str, tuple[str, int]]) -> str:
    """The shape of Table 3: ours, the codec's limit and the baselines on every dataset."""
    rows: list[list[str]] = []
    for dataset in DATASETS:
        measured: dict[str, Callable[[str], list[float]]] = {
            "**fportrait**": lambda key: results.over_seeds("full", dataset, key),  # noqa: B023  # used at once
            "codec's limit": lambda key: results.over_seeds("full", dataset, key, "codec_limit")[:1],  # noqa: B023
        }
        lines = {
            name: [spread(values(key), digits) for key, (_, digits) in columns.items()]
            for name, values in measured.items()
        }
        for name, words in BASELINE_TITLES.items():
            entry = results.found["baselines"].get(name, {}).get(dataset, {})
            lines[words] = [spread([cell(entry, key)], digits) for key, (_, digits) in columns.items()]
        rows += [[dataset if number == 0 else "", name, *values] for number, (name, values) in enumerate(lines.items())]
    return table(["dataset", "method", *(head for head, _ in columns.values())], rows, left=2)


def control_table(results: Results, kind: str) -> str:
    """Gain or correlation of every probed factor, variants down."""
    factors = results.leakage("full")[0]
    order = ["base", *(name for name in results.variants if name != "full"), "full"]
    rows = [[title(name), *(spread(results.gains(name, factor, kind), 2) for factor in factors)] for name in order]
    limit = [spread(results.gains("full", factor, kind, "codec_limit")[:1], 2) for factor in factors]
    return table([kind, *factors], [*rows, ["*codec's limit*", *limit]])


def turn_table(results: Results) -> str:
    """Gain and correlation in degrees of what turns the head to the camera, variants down."""
    order = ["base", *(name for name in results.variants if name != "full"), "full"]
    lines = [(title(name), name, "ours") for name in order] + [("*codec's limit*", "full", "codec_limit")]
    columns = [(factor, kind) for factor in TURNS for kind in ("gain", "correlation")]
    rows = [
        [
            words,
            *(
                spread(results.turn_gains(name, factor, kind, method)[: None if method == "ours" else 1], 2)
                for factor, kind in columns
            ),
        ]
        for words, name, method in lines
    ]
    return table(["in degrees", *(f"{factor}, {kind}" for factor, kind in columns)], rows)


def leakage_table(results: Results, variant: str, method: str = "ours") -> str:
    names, matrix = results.leakage(variant, method)
    return table(
        ["moved ↓ came out →", *names],
        [[name, *(f"{value:.2f}" for value in row)] for name, row in zip(names, matrix, strict=True)],
    )


def control_section(results: Results) -> list[str]:
    return [
        "## Control\n",
        control_table(results, "gain"),
        control_table(results, "correlation"),
        "The head's turn to the camera as a tracker sees it, against the turn that it sees in the truth:\n",
        turn_table(results),
        "Leakage, the full model and the codec's limit:\n",
        leakage_table(results, "full"),
        leakage_table(results, "full", "codec_limit"),
        "![leakage](leakage.png)\n",
        "One factor moved at a time, an unseen person, last frame of each probe:\n\n![probes](probes.jpg)\n",
    ]


def checks(results: Results) -> list[tuple[str, str, bool]]:
    """(what was asked, what came out, whether it holds) of every bar that the numbers can judge."""
    rows = [row for dataset in DATASETS for row in against_baselines(results, dataset)]
    names, matrix = results.leakage("full")
    for factor, minimum in MIN_GAIN.items():
        found = results.gains("full", factor)
        if found:
            r, limit = (
                results.gains("full", factor, "correlation"),
                results.gains("full", factor, "gain", "codec_limit"),
            )
            text = f"{mean(found):.2f} (correlation {mean(r):.2f}; the codec's limit {mean(limit):.2f})"
            turned = results.turn_gains("full", factor)
            unit = ", in pixels" if turned else ""
            rows.append((f"gain of {factor} at least {minimum}{unit}", text, mean(found) >= minimum))
            if turned:
                r, limit = (
                    results.turn_gains("full", factor, "correlation"),
                    results.turn_gains("full", factor, "gain", "codec_limit"),
                )
                text = f"{mean(turned):.2f} (correlation {mean(r):.2f}; the codec's limit {mean(limit):.2f})"
                rows.append((f"gain of {factor} at least {minimum}, in degrees", text, mean(turned) >= minimum))
    if names:
        worst = max(
            ((abs(matrix[i][j]), names[i], names[j]) for i in range(len(names)) for j in range(len(names)) if i != j),
            default=(0.0, "", ""),
        )
        rows.append(
            (
                "every other factor moves at most a third as much",
                f"{worst[0]:.2f}: {worst[1]} moves {worst[2]}",
                worst[0] <= 1 / 3,
            )
        )
    return rows + table_two(results)


def against_baselines(results: Results, dataset: str) -> list[tuple[str, str, bool]]:
    """The full model beside the best baseline: in pixels, and in the expression that can be read back."""
    rows: list[tuple[str, str, bool]] = []
    bars = (
        ("psnr", "PSNR above every baseline", " dB", 1),
        ("expression_error", "codes read back nearer than every baseline's", "", -1),
    )
    for metric, words, unit, sign in bars:
        ours = results.over_seeds("full", dataset, metric)
        theirs = {
            title: cell(results.found["baselines"].get(name, {}).get(dataset, {}), metric)
            for name, title in BASELINE_TITLES.items()
        }
        known = {title: sign * value for title, value in theirs.items() if value is not None}
        if ours and known:
            best = max(known, key=lambda title: known[title])
            margin = sign * mean(ours) - known[best]
            rows.append((f"{dataset}: {words}", f"{sign * margin:+.2f}{unit} to the {best}", margin > 0))
    return rows


def table_two(results: Results) -> list[tuple[str, str, bool]]:
    """Whether each component earns its place, on DynamicSweep as in the paper's Table 2."""
    rows: list[tuple[str, str, bool]] = []

    def compare(variant: str, metric: str, what: str, factor: float, higher_is_worse: bool) -> None:
        full, other = (
            results.over_seeds("full", "DynamicSweep", metric),
            results.over_seeds(variant, "DynamicSweep", metric),
        )
        if full and other:
            a, b = mean(full), mean(other)
            apart = (
                min(other) > max(full) if higher_is_worse else max(other) < min(full)
            )  # no seed of one among the other's
            rows.append((what, f"{b:.4g} against {a:.4g}", apart and (not higher_is_worse or b >= factor * a)))

    compare("c2", "head_pose_error", "C2: head error without normals at least twice the full model's", 2.0, True)
    compare("c1", "psnr", "C1: joint motion is worse without DynamicSweep (PSNR)", 1.0, False)
    compare("c1", "lpips", "C1: joint motion is worse without DynamicSweep (LPIPS)", 1.0, True)
    compare("c3", "expression_error", "C3: expression error is larger with landmarks (codes read back)", 1.0, True)
    compare("c3", "aed", "C3: expression error is larger with landmarks (AED)", 1.0, True)
    compare("one_mixture", "psnr", "four stages beat the last one's clips at equal compute (PSNR)", 1.0, False)
    return rows


def network_words(results: Results) -> str:
    backbones = results.scores("full")[0].get("backbones", {})
    return "; ".join(f"{name}: {entry['name']}" for name, entry in backbones.items() if entry["name"])


def page(found: Mapping[str, Any], plan: Plan, commit: str) -> str:
    """The generated page, `tables.md`."""
    results = Results(found)
    seconds = [stage["seconds"] for run in found["runs"] for stage in run["stages"]]
    distinct = {stage["folder"]: stage["seconds"] for run in found["runs"] for stage in run["stages"]}
    seeds = sorted({run["seed"] for run in found["runs"]})
    paper = {key: COLUMNS[key] for key in ("psnr", "ssim", "lpips", "csim", "aed", "iqa", "fid_vid", "sharpness")}
    control = {
        key: COLUMNS[key]
        for key in ("psnr", "head_pose_error", "reprojection_error", "expression_error", "expression_gain")
    }
    protocol = plan.scoring["protocol"]
    settings = results.scores("full")[0]["settings"]
    parts = [
        "# Tables and figures\n\nGenerated from `results.json`; do not edit. What they mean: [results](index.md).\n",
        f"Commit `{commit[:12]}`, seeds {', '.join(map(str, seeds))}, {os.cpu_count()} cores "
        f"({platform.machine()}), one run per core, {found['workers']} at a time. Training of all runs: "
        f"{sum(distinct.values()) / 60:.0f} core-minutes in {len(distinct)} stages "
        f"({len(seconds) - len(distinct)} more were shared), the whole command {found['seconds'] / 60:.0f} minutes "
        "(what was already done is not done again).\n",
        f"Scores: {protocol['records']} windows of {protocol['frames']} frames per dataset, all of unseen people, "
        f"{settings['steps']} sampling steps; probes on {plan.scoring['probes']['people']} further people. "
        f"± is half the spread over seeds. Networks: {network_words(results)}.\n",
        "## What was asked, what came out\n",
        table(["asked", "came out", "holds"], [[a, b, "yes" if ok else "**no**"] for a, b, ok in checks(results)], 3),
        "## Data (the shape of Table 4)\n",
        data_table(plan.shards),
        "## Stages (the shape of Table 1)\n",
        stage_table(results),
        "![loss by stage](loss.png)\n",
        "## Ablations (the shape of Table 2)\n",
    ]
    for dataset in DATASETS:
        parts += [f"{dataset}:\n", ablation_table(results, dataset, paper), ablation_table(results, dataset, control)]
    parts += [
        "## Methods (the shape of Table 3)\n",
        comparison_table(results, paper),
        comparison_table(results, control),
        *(control_section(results) if results.leakage("full")[0] else []),
        "## Quality against compute\n",
        "![quality against compute](compute.png)\n",
        "## Samples\n",
    ]
    for dataset in DATASETS:
        parts.append(f"{dataset}, an unseen person (rows as labelled):\n\n![{dataset}](samples-{dataset}.jpg)\n")
    if found["failures"]:
        parts += ["## Failures\n", table(["unit", "reason"], found["failures"].items(), 2)]
    return "\n".join(parts)


def write_results(found: Mapping[str, Any], plan: Plan, folder: Path) -> Path:
    """`tables.md`, `results.json` (numbers without folders and curves' steps) and the figures into `folder`."""
    from fportrait.ops.ablation_figures import draw_all
    from fportrait.ops.lineage import git_commit

    folder.mkdir(parents=True, exist_ok=True)

    def without_slices(scores: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in scores.items() if key not in ("slices", "not_measured")}

    kept = {
        "runs": [
            {"variant": run["variant"], "seed": run["seed"], "scores": without_slices(run["scores"])}
            for run in found["runs"]
        ],
        "points": {name: without_slices(scores) for name, scores in found["points"].items()},
        **{key: found[key] for key in ("baselines", "failures")},
    }
    write_json(folder / "results.json", kept)
    draw_all(Results(found), folder)
    return write_text(folder / "tables.md", page(found, plan, git_commit()))
