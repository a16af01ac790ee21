"""A small search over a training stage's settings: pruned, resumable, one MLflow run per trial.

The score of a trial is the flow-matching loss on people held out of training, with the same noise and noise levels for
every trial. The study lives in one SQLite file, so a stopped search goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.atomic_io import value_hash, write_text
from fportrait.errors import UserError, refuse_unknown_keys
from fportrait.ops import runs

STORAGE = Path("mlruns/optuna.db")
RANGE_KEYS = ("low", "high", "log", "choices")


@dataclass(frozen=True)
class Search:
    """`trials` of `iterations` steps each, scored every `report_every` steps on `held_out` samples.

    `space`: setting to `{low, high, log}` (a number) or `{choices}` (one of a list).
    """

    trials: int
    iterations: int
    report_every: int
    held_out: int
    space: Mapping[str, Mapping[str, Any]]
    seed: int = 0


def suggest(trial: Any, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


def held_out_loss(transformer: Any, batches: Any, stage: Any, count: int) -> float:
    """Mean flow-matching loss of `count` test samples, with noise that depends on the sample's number only."""
    import torch

    from fportrait.training.loop import prepare, sample_losses

    was_training = transformer.training
    transformer.eval()
    losses = []
    with torch.no_grad():
        for start in range(0, count, stage.batch_size):
            part = range(start, min(start + stage.batch_size, count))
            losses.append(sample_losses(transformer, prepare(batches(part), part, stage), stage.precision))
    transformer.train(was_training)
    return float(torch.cat(losses).mean())


def run_study(
    search: Search, base_settings: Mapping[str, Any], shards: Path, start: Path, folder: Path, storage: Path = STORAGE
) -> dict[str, Any]:
    """Search settings of stage 1 and write `best_parameters.yml` to `folder`.

    Args:
        base_settings: the section `train_stage1`; what the space does not name stays as it is there.
        start: folder of the transformer that every trial starts from.

    Returns:
        `trials`, `pruned`, `best_loss`, `default_loss` (the settings as they are, trial 0) and `best`.

    Raises:
        UserError: the space names a setting that a stage does not have, or no trial came to its end.
    """
    import optuna
    import yaml

    from fportrait.dataset.shards import ShardReader
    from fportrait.training.config import StageConfig

    refuse_unknown_keys(search.space, StageConfig.__dataclass_fields__, "the study's space")
    reader = ShardReader(shards)
    name = value_hash([dict(base_settings), search.space, search.iterations, search.report_every, reader.hash])
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"train_stage1-{name}",
        storage=f"sqlite:///{storage}",
        sampler=optuna.samplers.TPESampler(seed=search.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial({key: base_settings[key] for key in search.space})

    def objective(trial: Any) -> float:
        return run_trial(trial, search, base_settings, reader, start)

    over = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    missing = search.trials - len(study.get_trials(deepcopy=False, states=over))
    if missing > 0:
        study.optimize(objective, n_trials=missing)
    finished = study.get_trials(deepcopy=False, states=over[:1])
    if not finished:
        raise UserError("no trial that came to its end", "at least one", "raise study.trials")
    best = {"train_stage1": study.best_params}
    head = (
        f"# Best of {len(study.trials)} trials: held-out loss {study.best_value:.4f}. Copy to conf/local to use it.\n"
    )
    write_text(Path(folder) / "best_parameters.yml", head + yaml.safe_dump(best))
    return {
        "trials": len(finished) + len(study.get_trials(deepcopy=False, states=over[1:])),
        "pruned": len(study.get_trials(deepcopy=False, states=over[1:])),
        "best_loss": study.best_value,
        "default_loss": study.trials[0].value,
        "best": study.best_params,
    }


def run_trial(trial: Any, search: Search, base_settings: Mapping[str, Any], reader: Any, start: Path) -> float:
    """Train `search.iterations` steps with drawn settings; the held-out loss at the end, or pruned on the way."""
    import tempfile

    import optuna
    from mlflow.entities import Metric, Param

    from fportrait.dataset.batches import Batches
    from fportrait.diffusion.transformer import FactorPortraitTransformer
    from fportrait.training.config import StageConfig
    from fportrait.training.loop import train

    drawn = suggest(trial, search.space)
    settings = {**base_settings, **drawn, "iterations": search.iterations, "log_every": search.report_every}
    stage = StageConfig.from_dict({"name": f"trial{trial.number}", **settings})
    transformer = FactorPortraitTransformer.from_pretrained(start)
    scoring = StageConfig.from_dict({**settings, "name": "scoring", "dropout": 0.0, "seed": 0})
    sizes = reader.sizes("test")
    shares = {dataset: share for dataset, share in stage.mixture.items() if sizes.get(dataset)}
    held_out = Batches(reader, shares, stage.frames, 0, split="test", ray_channels=transformer.config["ray_channels"])

    server, parent = runs.client(), runs.current_run_id()
    tags = {runs.PARENT_TAG: parent} if parent else {}
    experiment = runs.experiment_id(server)
    run_id = server.create_run(experiment, run_name=stage.name, tags={**tags, "stage": "trial"}).info.run_id
    server.log_batch(run_id, params=[Param(key, str(value)) for key, value in drawn.items()])
    last = float("nan")

    def log(metrics: dict[str, float], step: int) -> None:
        nonlocal last
        if step == 0:
            return
        last = held_out_loss(transformer, held_out, scoring, search.held_out)
        now = {"held_out_loss": last, "loss": metrics["loss"]}
        server.log_batch(run_id, metrics=[Metric(key, value, 0, step) for key, value in now.items()])
        trial.report(last, step)
        if step < search.iterations and trial.should_prune():
            raise optuna.TrialPruned

    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(stage, transformer, reader, folder, log, resume=False)
        status = "FINISHED"
    except optuna.TrialPruned:
        status = "KILLED"
        raise
    finally:
        server.set_terminated(run_id, status)
    return last
