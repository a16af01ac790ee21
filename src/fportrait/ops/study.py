"""A search over a training stage's settings: pruned, resumable, one MLflow run per trial; then quality against time.

The score of a trial is the flow-matching loss on people held out of training, with the same noise and noise levels for
every trial. The study lives in a relational database: one SQLite file for one worker, PostgreSQL for many that run the
same command. A worker that dies stops its heartbeat; whoever goes on marks its trial as failed and runs it again.
The best settings then enter a second study of two objectives, held-out loss and seconds per step.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash, value_hash, write_text
from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.ops import runs
from fportrait.ops.store import study_errors

STORAGE = "sqlite:///mlruns/optuna.db"
RANGE_KEYS = ("low", "high", "log", "choices")
RETRIES = 3
# A trial is one short run in this process, whatever the stage's own run would be.
SHORT_RUN = {"processes": 1, "nodes": 1, "sharding": "none", "held_out": 0, "sample_every": 0, "keep_checkpoints": 1}
Space = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FollowUp:
    """The second study: `trials` over `space`, each from one of the best `survivors` of the first; 0 trials skip it."""

    trials: int = 0
    survivors: int = 2
    space: Space = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """`trials` of `iterations` steps each of a `stage`, scored every `report_every` steps on `held_out` samples.

    Attributes:
        space: setting to `{low, high, log}` (a number) or `{choices}` (one of a list).
        storage: URL of the database (`postgresql://…` for several workers).
        heartbeat: seconds between a worker's signs of life; three missed ones and its trial has failed.
    """

    trials: int
    iterations: int
    report_every: int
    held_out: int
    space: Space
    seed: int = 0
    stage: int = 1
    storage: str = STORAGE
    heartbeat: int = 60
    follow_up: FollowUp = field(default_factory=FollowUp)


@dataclass(frozen=True)
class Material:
    """What every trial starts from: the stage's settings, the shards, and the folder of the transformer."""

    settings: Mapping[str, Any]
    reader: ShardReader
    start: Path


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Draw every setting of `space`.

    Raises:
        UserError: a range has an unknown key, or neither bounds nor choices.
    """
    drawn = {}
    for name, values in space.items():
        refuse_unknown_keys(values, RANGE_KEYS, f"the range of '{name}' in the study's space")
        if "choices" in values:
            drawn[name] = trial.suggest_categorical(name, list(values["choices"]))
        elif {"low", "high"} <= set(values):
            whole = isinstance(values["low"], int) and isinstance(values["high"], int)
            draw = trial.suggest_int if whole else trial.suggest_float
            drawn[name] = draw(name, values["low"], values["high"], log=bool(values.get("log")))
        else:
            raise UserError(f"a range of '{name}' without bounds", "low and high, or choices", "write them out")
    return drawn


def open_storage(search: Search) -> Any:
    """The study's database, with heartbeats; a trial that lost its worker is closed in MLflow and queued again.

    Raises:
        UserError: the database cannot be reached, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats, since 2020
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)

    def lost(study: Any, trial: Any) -> None:
        run_id = trial.user_attrs.get("mlflow_run")
        if run_id:
            runs.client().set_terminated(run_id, "FAILED")
        retry(study, trial)

    if search.storage.startswith("sqlite:///"):
        Path(search.storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        with study_errors(search.storage.rpartition("@")[2].removeprefix("sqlite:///")):
            return optuna.storages.RDBStorage(
                search.storage,
                heartbeat_interval=search.heartbeat,
                grace_period=3 * search.heartbeat,
                failed_trial_callback=lost,
            )
    except (SQLAlchemyError, ImportError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"no database at {search.storage.rpartition('@')[2]} ({first_line})",
            "a database that answers",
            "check study.storage; for postgresql:// pip install 'fportrait[outgrow]'",
        ) from None


def run_study(
    search: Search, base_settings: Mapping[str, Any], shards: str | Path, start: Path, folder: Path
) -> dict[str, Any]:
    """Search a stage's settings and write `best_parameters.yml` to `folder`.

    Args:
        base_settings: the section `train_stageN`; what the space does not name stays as it is there.
        start: folder of the transformer that every trial starts from.

    Returns:
        `trials`, `pruned`, `best_loss`, `default_loss` (the settings as they are, trial 0) and `best`; with a follow-up
        also `pareto`: settings, held-out loss and seconds per step of the trials that no other beats in both.

    Raises:
        UserError: the space names a setting that a stage does not have, or no trial came to its end.
    """
    import optuna
    import yaml

    from fportrait.training.config import StageConfig

    for space in (search.space, search.follow_up.space):
        refuse_unknown_keys(space, StageConfig.__dataclass_fields__, "the study's space")
    material = Material(base_settings, ShardReader(shards), start)
    storage, section = open_storage(search), f"train_stage{search.stage}"
    name = f"{section}-" + study_key(search, material)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=search.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial({key: base_settings[key] for key in search.space})
    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    ended = run_until(study, search.trials, lambda trial: pruned_trial(trial, search, material), (complete, pruned))
    finished = sorted((trial for trial in ended if trial.state == complete), key=lambda trial: trial.value)
    if not finished:
        raise UserError("no trial that came to its end", "at least one", "raise study.trials")
    best = finished[0]
    head = f"# Best of {len(ended)} trials: held-out loss {best.value:.4f}. Copy to conf/base to use it.\n"
    write_text(Path(folder) / "best_parameters.yml", head + yaml.safe_dump({section: best.params}))
    defaults = {key: base_settings[key] for key in search.space}
    report = {
        "trials": len(ended),
        "pruned": len(ended) - len(finished),
        "best_loss": best.value,
        "default_loss": next((trial.value for trial in finished if trial.params == defaults), None),
        "best": best.params,
    }
    if search.follow_up.trials:
        survivors = [trial.params for trial in finished[: search.follow_up.survivors]]
        followed = f"{name}-pareto-" + value_hash([search.follow_up.space, survivors])
        report["pareto"] = run_follow_up(followed, search, material, storage, survivors)
        write_text(Path(folder) / "pareto.yml", yaml.safe_dump(report["pareto"], sort_keys=False))
    return report


def study_key(search: Search, material: Material) -> str:
    """Names all that a trial's score depends on, and not how many trials there are."""
    from fportrait.training.loop import LOOP_VERSION

    start = {path.name: file_hash(path) for path in sorted(material.start.iterdir())}
    each = [search.space, search.iterations, search.report_every, search.held_out, search.seed]
    return value_hash([LOOP_VERSION, dict(material.settings), each, material.reader.hash, start])


def run_until(study: Any, trials: int, objective: Callable[[Any], Any], states: tuple[Any, ...]) -> list[Any]:
    """Run until `trials` have ended, those of other workers and of an earlier, stopped run among them.

    Returns:
        The first `trials` of them: a search that was longer before answers as one of this length would.
    """
    import optuna

    enough = optuna.study.MaxTrialsCallback(trials, states=states)
    if len(study.get_trials(deepcopy=False, states=states)) < trials:
        study.optimize(objective, callbacks=[enough])
    return sorted(study.get_trials(deepcopy=False, states=states), key=lambda trial: trial.number)[:trials]


def run_follow_up(
    name: str, search: Search, material: Material, storage: Any, survivors: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Two objectives, loss and time, over the follow-up's space from the survivors' settings; the Pareto front.

    Every trial sees as many samples as the first study's trials, so a larger batch takes fewer steps. Studies of two
    objectives cannot prune.
    """
    import optuna

    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=search.seed),
        load_if_exists=True,
    )
    space = {**search.follow_up.space, "survivor": {"choices": list(range(len(survivors)))}}
    if not study.trials:
        defaults = {key: material.settings[key] for key in search.follow_up.space}
        for number in range(len(survivors)):
            study.enqueue_trial({**defaults, "survivor": number})

    def objective(trial: Any) -> tuple[float, float]:
        drawn = suggest(trial, space)
        settings = {**survivors[drawn.pop("survivor")], **drawn}
        batch = settings.get("batch_size", material.settings["batch_size"])
        steps = max(1, round(search.iterations * material.settings["batch_size"] / batch))
        trial.set_user_attr("settings", settings)
        return run_trial(trial, search, material, settings, steps, report=None)

    ended = run_until(study, search.follow_up.trials, objective, (optuna.trial.TrialState.COMPLETE,))
    return [
        {
            "settings": trial.user_attrs["settings"],
            "held_out_loss": trial.values[0],
            "seconds_per_step": trial.values[1],
        }
        for trial in sorted(unbeaten(ended), key=lambda trial: trial.values)
    ]


def unbeaten(trials: list[Any]) -> list[Any]:
    """Trials that no other beats in one objective without losing in another."""

    def beats(one: Any, other: Any) -> bool:
        return one.values != other.values and all(a <= b for a, b in zip(one.values, other.values, strict=True))

    return [trial for trial in trials if not any(beats(other, trial) for other in trials)]


def pruned_trial(trial: Any, search: Search, material: Material) -> float:
    """One trial of the first study; pruned when it is worse, at a report, than the median of those before."""
    import optuna

    def report(loss: float, step: int) -> None:
        trial.report(loss, step)
        if step < search.iterations and trial.should_prune():
            raise optuna.TrialPruned

    return run_trial(trial, search, material, suggest(trial, search.space), search.iterations, report)[0]


def run_trial(
    trial: Any,
    search: Search,
    material: Material,
    drawn: Mapping[str, Any],
    iterations: int,
    report: Callable[[float, int], None] | None,
) -> tuple[float, float]:
    """Train `iterations` steps with drawn settings; the held-out loss at the end, and the median seconds per step."""
    import statistics

    import optuna
    from mlflow.entities import Metric, Param

    from fportrait.diffusion.architectures import variant_of
    from fportrait.training.config import StageConfig
    from fportrait.training.loop import train
    from fportrait.training.losses import HeldOut
    from fportrait.training.stages import batches_of

    every = min(search.report_every, iterations)
    length = {"iterations": iterations, "log_every": every, "checkpoint_every": iterations}
    settings = {**material.settings, **drawn, **SHORT_RUN, **length}
    stage = StageConfig.from_dict({**settings, "name": f"trial{trial.number}"})
    transformer = variant_of(material.start, stage.variant, stage.seed)
    # Scored alike whatever was drawn: with the stage's own noise levels, not the trial's.
    scoring = StageConfig.from_dict({**material.settings, **SHORT_RUN, "name": "scoring"})
    held_out = HeldOut(batches_of(scoring, transformer, material.reader), scoring, search.held_out)

    server, parent = runs.client(), runs.current_run_id()
    tags = {"stage": "trial", "study": trial.study.study_name, **({runs.PARENT_TAG: parent} if parent else {})}
    run_id = server.create_run(runs.experiment_id(server), run_name=stage.name, tags=tags).info.run_id
    trial.set_user_attr("mlflow_run", run_id)
    server.log_batch(run_id, params=[Param(key, str(value)) for key, value in drawn.items()])
    last, seconds = float("nan"), []

    def log(metrics: dict[str, float], step: int) -> None:
        nonlocal last
        if "loss" not in metrics:
            return
        last = float(held_out.losses(transformer).mean())
        seconds.append(metrics["seconds_per_step"])
        now = {"held_out_loss": last, "loss": metrics["loss"], "seconds_per_step": seconds[-1]}
        server.log_batch(run_id, metrics=[Metric(key, value, 0, step) for key, value in now.items()])
        if report is not None:
            report(last, step)

    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(stage, transformer, material.reader, folder, log, resume=False)
        status = "FINISHED"
    except optuna.TrialPruned:
        status = "KILLED"
        raise
    finally:
        server.set_terminated(run_id, status)
    return last, statistics.median(seconds)
