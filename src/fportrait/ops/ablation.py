"""The ablation: every variant trained through the same stages, from the same seeds and in the same data order.

A *run* is one variant and one seed. Its stages are folders named by what they learn from (settings, shards, starting
weights), so a run that was stopped goes on where it stopped, and two runs that begin alike (C1 differs from the full
model in stages 3 and 4 only) share those stages. Scores are units of their own, taken anew without training.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fportrait.atomic_io import atomic_folder, code_hash, file_hash, value_hash, write_json
from fportrait.diffusion.variants import VARIANTS, stage_as_variant
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.scale.units import read_result
from fportrait.training.config import StageConfig

STAGES = (1, 2, 3, 4)
# An ablation's stage is trained by one process on the folder's shards, whatever the chain's own stage would do.
ONE_PROCESS = {"processes": 1, "nodes": 1, "sharding": "none", "sample_every": 0, "shards_url": None}


# Beside the variants of the model: stages that all draw the last one's clips and mixture.
TITLES = {
    **{name: variant.title for name, variant in VARIANTS.items()},
    "one_mixture": "without curriculum",
}


@dataclass(frozen=True)
class Run:
    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What all runs share. Folders as strings, so that a plan travels to other processes.

    Attributes:
        settings: of the four stages, as in their parameter files. scoring: `protocol`, `probes`, `modes`, `seed`.
        work: where the stages of all runs are kept.
    """

    base: str
    shards: str
    annotations: tuple[str, ...]
    settings: dict[int, dict[str, Any]]
    scoring: dict[str, Any]
    work: str
    lengths: dict[int, int] = field(default_factory=dict)  # iterations of each stage without the curriculum


def plan_runs(variants: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Every variant with every seed; `full` first, because others share its first stages.

    Raises:
        UserError: an unknown variant, one that is named twice, or no `full`, which the others are compared with.
    """
    refuse_unknown_keys(variants, TITLES, "ablate.variants")
    if "full" not in variants or len(set(variants)) != len(variants) or len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(
            f"the variants {', '.join(variants)} and the seeds {list(seeds)}",
            "'full' among them, and nothing twice",
            "correct ablate.variants and ablate.seeds",
        )
    ordered = [
        "full",
        *(name for name in variants if name not in ("full", "c1")),
        *(["c1"] if "c1" in variants else []),
    ]
    return [Run(name, seed) for name in ordered for seed in seeds]


def equal_compute(settings: Mapping[int, Mapping[str, Any]], config: Mapping[str, Any], side: int) -> dict[int, int]:
    """Iterations of each stage at the last stage's clip length that take as many operations as the stage itself.

    Args:
        config: of the transformer. side: latent pixels.
    """
    from fportrait.training.cost import sample_work

    last = sample_work(config, settings[4]["frames"], side, side).flops * settings[4]["batch_size"]
    return {
        number: max(
            1,
            round(
                stage["iterations"]
                * sample_work(config, stage["frames"], side, side).flops
                * stage["batch_size"]
                / last
            ),
        )
        for number, stage in settings.items()
    }


def stage_of(run: Run, number: int, plan: Plan) -> StageConfig:
    """Settings of one stage of a run: the chain's, with the run's seed and what its variant leaves out."""
    values = dict(plan.settings[number])
    if (
        run.variant == "one_mixture"
    ):  # the last stage's clips and mixture throughout, at each stage's own rate and compute
        last = plan.settings[4]
        values |= {
            "frames": last["frames"],
            "mixture": last["mixture"],
            "batch_size": last["batch_size"],
            "iterations": plan.lengths[number],
        }
    values = stage_as_variant(values, run.variant if run.variant in VARIANTS else "full")
    values |= {"seed": values["seed"] + 1000 * run.seed}
    return StageConfig.from_dict(
        {**values, **ONE_PROCESS, "name": f"stage{number}", "parent": f"stage{number - 1}" if number > 1 else None}
    )


def train_run(run: Run, folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """Train the stages of a run that are not there yet; `name`, `folder`, `seconds`, `curve` … of all of them.

    `folder` is the unit's own and stays empty: stages live under `plan.work`, where runs share them.
    """
    work, start = Path(plan.work), Path(plan.base)
    stages = []
    for number in STAGES:
        stage = stage_of(run, number, plan)
        target = work / "stages" / stage_name(stage, start, Path(plan.shards))
        if not (target / "stage.json").is_file():
            train_one(stage, start, target, plan, work / "checkpoints" / target.name)
        stages.append({**json.loads((target / "stage.json").read_text()), "folder": target.as_posix()})
        start = target
    return stages


def stage_name(stage: StageConfig, start: Path, shards: Path) -> str:
    from fportrait.dataset.shards import ShardReader
    from fportrait.training.loop import LOOP_VERSION

    return value_hash(
        [LOOP_VERSION, stage.learned_from(), ShardReader(shards).hash, weights_hash(start / "transformer")]
    )


def weights_hash(transformer: Path) -> str:
    return value_hash([[path.name, file_hash(path)] for path in sorted(transformer.iterdir())])


def train_one(stage: StageConfig, start: Path, target: Path, plan: Plan, checkpoints: Path) -> None:
    """One stage from `start/transformer` into `target`: `transformer/`, `training.json`, `stage.json`."""
    from fportrait.dataset.shards import ShardReader
    from fportrait.training.loop import train
    from fportrait.training.stages import check_start, load_start

    reader = ShardReader(plan.shards)
    check_start(stage, start, reader, plan.base)
    transformer = load_start(stage, start)
    curve: dict[int, dict[str, float]] = {}
    with atomic_folder(target) as folder:
        summary = train(
            stage,
            transformer,
            reader,
            folder,
            lambda values, step: curve.setdefault(step, {}).update(values),
            checkpoint_folder=checkpoints,
        )
        write_json(
            folder / "stage.json",
            {
                "name": stage.name,
                "frames": stage.frames,
                "iterations": stage.iterations,
                "mixture": stage.mixture,
                "learning_rate": stage.learning_rate,
                "seed": stage.seed,
                "resumed_from": summary["resumed_from"],
                "parameters": summary["parameters"],
                "final_loss": summary["final_loss"],
                "flops": curve.get(0, {}).get("flops_per_step", 0.0) * stage.iterations,
                "seconds": summary["seconds"],
                "cpu_seconds": summary["cpu_seconds"],
                "curve": [
                    {"step": step, **{key: values[key] for key in ("loss", "held_out_loss") if key in values}}
                    for step, values in sorted(curve.items())
                    if "loss" in values
                ],
            },
        )
    shutil.rmtree(checkpoints, ignore_errors=True)


def forget_lost_stages(units: Path) -> None:
    """Remove the results of runs whose stages, which lie elsewhere, are no longer there."""
    for unit in units.glob("*") if units.is_dir() else ():
        result = read_result(unit)
        if result and not all((Path(stage["folder"]) / "stage.json").is_file() for stage in result["value"]):
            shutil.rmtree(unit)


def score_one(unit: tuple[str, str], folder: Path, plan: Plan) -> dict[str, Any]:
    """Scores of one transformer (`unit`: its label, and the folder with `transformer/`), or of the baselines (``)."""
    from fportrait.dataset.shards import ShardReader
    from fportrait.evaluation.baselines import score_baselines
    from fportrait.evaluation.run import evaluate

    _, model = unit
    scoring, busy = plan.scoring, time.process_time()
    if not model:
        reader = ShardReader(plan.shards)
        frames = scoring["protocol"]["frames"]
        return score_baselines(reader, plan.base, plan.annotations, scoring["protocol"], frames, scoring["seed"])
    summary = evaluate(
        Path(model) / "transformer",
        plan.base,
        plan.shards,
        folder / "evaluation",
        scoring["protocol"],
        scoring["seed"],
        probes=scoring["probes"],
        modes=scoring["modes"],
    )
    return {**summary, "cpu_seconds": time.process_time() - busy}


def run_ablation(
    plan: Plan, variants: Sequence[str], seeds: Sequence[int], units: Path, workers: int
) -> dict[str, Any]:
    """Train and score every run, the base that all start from, the full model after each of its stages, the baselines.

    Returns:
        `runs` (`variant`, `seed`, `stages`, `scores`, `evaluation`: the folder of its report), `points` (label to
        scores: the base as `base`, `full` after stage 1 to 3), `baselines`, `failures` (unit to reason).

    Raises:
        UserError: see `plan_runs`; or no run of the full model came to its end.
    """
    from fportrait.dataset.shards import ShardReader
    from fportrait.scale.map_engine import map_units
    from fportrait.training.loop import LOOP_VERSION

    config = json.loads((Path(plan.base) / "transformer" / "config.json").read_text())
    reader = ShardReader(plan.shards)
    side = next(iter(reader.records("test").values()))[0]
    plan = Plan(
        **{
            **{name: getattr(plan, name) for name in ("base", "shards", "annotations", "settings", "scoring", "work")},
            "lengths": equal_compute(plan.settings, config, reader.references(side)["latents"].shape[-1]),
        }
    )
    runs = plan_runs(variants, seeds)
    forget_lost_stages(units / "runs")
    origin = weights_hash(Path(plan.base) / "transformer")
    trained = map_units(
        functools.partial(train_run, plan=plan),
        runs,
        workers=workers,
        cache_folder=units / "runs",
        key=lambda run: [LOOP_VERSION, [stage_of(run, n, plan).learned_from() for n in STAGES], origin, reader.hash],
        progress="training runs",
    )
    stages = {result.unit.name: result.value for result in trained.results}
    first = f"full-{seeds[0]}"
    if first not in stages:
        raise UserError(
            f"no run of the full model ({trained.failures[0].reason})",
            "at least its first seed",
            "mend its cause and run again",
        )
    bundle = Path(plan.base) / "bundle.json"
    sampled_as = file_hash(bundle) if bundle.is_file() else ""
    jobs = [("baselines", ""), ("base", plan.base)]
    jobs += [(name, found[-1]["folder"]) for name, found in stages.items()]
    jobs += [(f"stage{n}", stages[first][n - 1]["folder"]) for n in STAGES[:3]]
    scored = map_units(
        functools.partial(score_one, plan=plan),
        jobs,
        workers=workers,
        cache_folder=units / "scores",
        key=lambda job: [
            job[0],
            weights_hash(Path(job[1]) / "transformer") if job[1] else "",
            plan.scoring,
            sampled_as,
            reader.hash,
            code_hash("diffusion", "evaluation"),
        ],
        progress="scores",
    )
    scores = {result.unit[0]: result for result in scored.results}
    failures = {failure.unit.name: failure.reason for failure in trained.failures}
    failures |= {failure.unit[0]: failure.reason for failure in scored.failures}
    return {
        "runs": [
            {
                "variant": run.variant,
                "seed": run.seed,
                "stages": stages[run.name],
                "scores": scores[run.name].value,
                "evaluation": (scores[run.name].folder / "evaluation").as_posix(),
            }
            for run in runs
            if run.name in stages and run.name in scores
        ],
        "points": {name: scores[name].value for name in ("base", "stage1", "stage2", "stage3") if name in scores},
        "base_evaluation": (scores["base"].folder / "evaluation").as_posix() if "base" in scores else "",
        "baselines": scores["baselines"].value if "baselines" in scores else {},
        "failures": failures,
    }


def log_runs(results: Mapping[str, Any]) -> None:
    """One MLflow run per variant and seed under the stage's own: settings, loss by step over all stages, scores."""
    from mlflow.entities import Metric, Param

    from fportrait.ops import headline, runs

    parent = runs.current_run_id()
    if parent is None:
        return
    server = runs.client()
    for run in results["runs"]:
        tags = {"stage": "ablation", runs.PARENT_TAG: parent, "variant": run["variant"]}
        name = f"{run['variant']} seed {run['seed']}"
        run_id = server.create_run(runs.experiment_id(server), run_name=name, tags=tags).info.run_id
        shown = ("frames", "iterations", "learning_rate", "mixture", "seed")
        settings = {stage["name"]: {key: stage[key] for key in shown} for stage in run["stages"]}
        server.log_batch(run_id, params=[Param(key, str(value)) for key, value in headline.flatten(settings).items()])
        before, points = 0, []
        for stage in run["stages"]:
            for point in stage["curve"]:
                points += [Metric(key, point[key], 0, before + point["step"]) for key in point if key != "step"]
            before += stage["iterations"]
        numbers = {
            key: value
            for key, value in headline.flatten(run["scores"]).items()
            if isinstance(value, int | float) and key.endswith(("mean", "seconds"))
        }
        points += [Metric(runs.metric_name(key), float(value), 0, 0) for key, value in numbers.items()]
        for start in range(0, len(points), 1000):
            server.log_batch(run_id, metrics=points[start : start + 1000])
        server.set_terminated(run_id)
