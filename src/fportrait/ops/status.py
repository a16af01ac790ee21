"""The project on one screen: stages, champion, quarantine, last study."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fportrait.errors import UserError
from fportrait.ops import lineage, stopped
from fportrait.ops.chain import stages_above

FRESH, CHANGED, NEVER, STOPPED, UNKNOWN, ELSEWHERE = "fresh", "changed", "never run", "stopped", "?", "elsewhere"
WAITS = "waits"  # nothing of its own has changed, but a stage above it must run first


def stages(names: list[str], ask_dvc: bool = True, environment: str = "base") -> list[dict[str, Any]]:
    """Per stage: `state`, `why` it is so (or cannot be told), when and how long it ran, and its MLflow run.

    `waits_for` are the stages above it that must run first: each can be run now. DVC, which looks at every stage alone,
    calls a stage that `WAITS` unchanged, and it may stay so: it is run only if what it reads comes out different.
    """
    records = lineage.FOLDER
    if environment != "base":
        from fportrait.training.plan import read_folder

        records = Path(read_folder("reports", environment)) / "lineage"
    changed, unknown = None, "not asked (--fast)"
    if ask_dvc:
        try:
            changed = changed_stages(environment)
        except UserError as error:
            unknown = str(error)
    rows: list[dict[str, Any]] = []
    for name in names:
        record = lineage.read_record(name, records)
        path = records / f"{name}.json"
        reason = stopped.read(name, records)
        if record is None:
            rows.append({"stage": name, "state": NEVER})
            if reason is not None:
                rows[-1] |= {"state": STOPPED, "why": reason}
            continue
        state, why = UNKNOWN, unknown
        if changed is not None:
            why = "; ".join(changed.get(name, []))
            state = CHANGED if name in changed else FRESH
        if state == CHANGED and reason is not None:
            state, why = STOPPED, reason
        rows.append(
            {
                "stage": name,
                "state": state,
                "why": why,
                "seconds": record.get("seconds"),
                "peak_memory_mib": record.get("peak_memory_mib"),
                "run_id": record.get("run_id"),
                "environment": record.get("environment"),
                "finished": path.stat().st_mtime,
            }
        )
    tell_what_waits(rows, above(environment))
    return rows


def above(environment: str = "base") -> dict[str, set[str]]:
    """Every stage to those above it, by the environment's chain, else by the base's; empty without either."""
    path = next(filter(Path.is_file, (Path(f"conf/{environment}/dvc.yaml"), Path("dvc.yaml"))), None)
    return stages_above(chain_of(path)) if path else {}


def chain_of(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.yaml, in its order; none where there is no such file.

    Raises:
        UserError: it is broken.
    """
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        found = None
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in stages.values()):
        raise UserError(f"a broken {path}", "stages by name, as DVC reads them", f"`git checkout {path}`, or mend it")
    return stages


def tell_what_waits(rows: list[dict[str, Any]], above: Mapping[str, set[str]]) -> None:
    """Give every row `waits_for`, and the state `WAITS` to those that a look at them alone calls fresh (or cannot)."""
    to_run = {row["stage"] for row in rows if row["state"] in (CHANGED, NEVER, STOPPED)}
    for row in rows:
        before = above.get(row["stage"], set()) & to_run
        first = [one["stage"] for one in rows if one["stage"] in before and not above[one["stage"]] & to_run]
        row["waits_for"] = first
        if first and row["state"] in (FRESH, UNKNOWN):
            row |= {"state": WAITS, "why": f"for {', '.join(first)}"}


def changed_stages(environment: str = "base") -> dict[str, list[str]]:
    """What `dvc status` says: changed things by stage.

    Raises:
        UserError: DVC cannot tell: no repository, or it is busy.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    if environment != "base":
        chain = Path("conf") / environment / "dvc.yaml"  # of tools/environment_stages.py
        if not chain.is_file():
            fix = f"python tools/environment_stages.py {environment}"
            raise UserError(f"no {chain.as_posix()}", "the environment's chain, by which DVC knows its stages", fix)
        command.append(str(chain))
    run = subprocess.run(command, capture_output=True, text=True)
    try:
        entries = json.loads(run.stdout) if run.returncode == 0 else None
    except ValueError:
        entries = None
    if entries is None:
        raise _cannot_tell(run.stderr)
    return {
        name.rpartition(":")[2]: [reason for part in parts for reason in _reasons(part)]
        for name, parts in entries.items()
    }


def _cannot_tell(said: str) -> UserError:
    """Why `dvc status` did not answer, of what it said on its error stream, and what to do."""
    expected = "a project under DVC, which knows what has changed"
    if not Path(".dvc").is_dir():
        fix = "clone the repository, or copy its .dvc and .git along; here, `git init` and `dvc init` make new ones"
        return UserError("no folder .dvc here", expected, fix)
    if "not a git repository" in said:
        fix = "copy .git along, or `git init`; without Git, `dvc config core.no_scm true`"
        return UserError("no Git repository here, in which DVC keeps what it knows", expected, fix)
    if "is busy" in said or "acquire lock" in said:
        return UserError("another DVC at work here", "one at a time", "wait until it is done")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    fix = "look at what `dvc status` says"
    return UserError(f"`dvc status` without an answer ({told.removeprefix('ERROR: ')})", expected, fix)


def _reasons(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    reasons = []
    for kind, paths in part.items():
        for path, state in paths.items():
            what = ", ".join(state) if isinstance(state, dict) else state
            reasons.append(f"{kind.replace('changed ', '')} {path} ({what})")
    return reasons


def quarantine(environment: str = "base") -> list[dict[str, Any]]:
    """Everything set aside, by stage: who and why. The gate's are in its `quarantine.json`, like everybody's."""
    rows = []
    data = Path("data") if environment == "base" else Path("data") / environment
    for path in sorted(data.glob("0*/*/quarantine.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            entries = [{"reason": f"{path} is damaged"}]
        for entry in entries if isinstance(entries, list) else []:
            keys = ("dataset", "clip") if "clip" in entry else ("dataset", "identity", "path", "unit")
            who = "/".join(str(entry[key]) for key in keys if entry.get(key))  # a clip's name begins with the identity
            rows.append({"where": path.parent.as_posix(), "who": who, "reason": entry.get("reason", "")})
    return rows


def models() -> dict[str, Any] | None:
    """Versions behind the aliases, with when they were made; None without a registry."""
    from fportrait.ops import registry, runs, store

    if not store.open_store():
        return None
    with store.store_errors():
        server = runs.client()
        found: dict[str, Any] = {}
        for alias in (registry.CHAMPION, registry.PREVIOUS):
            version = registry.alias_version(server, alias)
            if version is not None:
                made = server.get_model_version(registry.MODEL, version)
                found[alias] = {
                    "version": int(version),
                    "run_id": made.run_id,
                    "created": made.creation_timestamp / 1000,
                }
        found["versions"] = len(registry.versions(server)) if found else 0
    return found


def last_study(storage: Path = Path("mlruns/optuna.db")) -> dict[str, Any] | None:
    """The study that was touched last: trials by state, best value and settings; None without one.

    Raises:
        UserError: a storage of another Optuna, or no database.
    """
    from fportrait.ops import store

    storage = store.home() / storage
    if not storage.is_file():
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = store.sqlite_uri(store.for_reading(storage))
    with store.study_errors(storage.relative_to(store.home()).as_posix()):
        studies = optuna.get_all_study_summaries(where)
    if not studies:
        return None
    newest = max(studies, key=lambda study: study.datetime_start.timestamp() if study.datetime_start else 0.0)
    study = optuna.load_study(study_name=newest.study_name, storage=where)
    states: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    best = study.best_trials[0] if study.best_trials else None
    return {
        "study": newest.study_name,
        "trials": states,
        "started": newest.datetime_start,
        "best_value": best.values[0] if best else None,
        "best": dict(best.params) if best else {},
    }


def collect(names: list[str], ask_dvc: bool = True, environment: str = "base") -> dict[str, Any]:
    """Everything; a part that does not answer holds its reason under `error`.

    Stages and quarantine are an environment's own; registry and studies are the project's.

    Raises:
        UserError: no such environment.
    """
    report: dict[str, Any] = {
        "stages": stages(names, ask_dvc, environment),
        "quarantine": quarantine(environment),
    }
    for key, ask in (("models", models), ("study", last_study)):
        try:
            report[key] = ask()
        except UserError as error:
            report[key] = {"error": str(error)}
    tell_where_promoted(report)
    return report


def tell_where_promoted(report: dict[str, Any]) -> None:
    """A record of `promote` whose version this project's registry does not have is no fresh stage.

    DVC sees files, not the registry: in a clone without `mlruns/` nothing has changed, and nothing is champion. A stage
    that has changed is run again, and promotes anew.
    """
    row = next((row for row in report["stages"] if row["stage"] == "promote"), None)
    found = report["models"]
    if (
        row is None
        or row["state"] in (NEVER, STOPPED, CHANGED)
        or (found or {}).get("error")
        or (found or {}).get("champion")
    ):
        return
    row["state"] = ELSEWHERE
    row["why"] = "its registry is not here: fportrait registry import FILE"


def ago(then: float) -> str:
    """A time in words.

    >>> ago(time.time() - 7300)
    '2 h ago'
    """
    seconds = max(0.0, time.time() - then)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
