"""The registry: versions of the model, and the two aliases that only the gate, or a rollback, moves.

`models:/fportrait@champion` is what `fportrait animate` and the web page use, `@previous` what a rollback returns to.

Two promotions at once cannot both win. A candidate registers its version together with the champion it was compared
with; numbers are given out by the database, so of all candidates with the same base the lowest number wins and the
others are told. This needs no lock, works on every MLflow store, and a promoter that died is out of the race after
`CLAIM_SECONDS`.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fportrait.bundle import SHIPPED_BASE, bundle_hashes
from fportrait.errors import UserError
from fportrait.ops import gate, lineage, runs
from fportrait.ops.store import open_store, store_errors

MODEL = "fportrait"
CHAMPION, PREVIOUS = "champion", "previous"
BASE_TAG, STATE_TAG, REASON_TAG = "gate.base", "gate.state", "gate.reason"
CLAIMED, WON, LOST, FAILED, ROLLED_BACK = "claimed", "won", "lost", "failed", "rolled back"
CLAIM_SECONDS = 1800
PACKAGE = Path(__file__).resolve().parents[1]
REQUIREMENTS = (
    *("torch", "diffusers", "safetensors", "numpy", "scipy", "numba", "pandas", "pyarrow", "av", "opencv-python"),
    *("ai-edge-litert", "click", "mlflow", "pydantic"),
)


def promote(
    bundle: Path,
    metrics: Mapping[str, float],
    settings: gate.GateSettings,
    stages: Sequence[str],
    *,
    scores: Mapping[str, Any] | None = None,
    slices: Mapping[str, Any] | None = None,
    rescore: Callable[[Path], Mapping[str, Any]] | None = None,
    smoke: Callable[[Any], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Register `bundle` as the next version and, when every check passes, move `champion` to it.

    The version that was champion becomes `previous`. If the smoke animation fails afterwards, both aliases go back.

    Args:
        metrics: flat names to values, of the evaluation. scores: its holdout digest and per-clip scores.
        rescore: gives a bundle's scores on the present holdout, for a champion that was scored on another.
        smoke: animates with the loaded champion, checks the video, returns `seconds` and so on.

    Returns:
        `version`, `previous`, `run_id`, the bundle's hashes and every check.

    Raises:
        UserError: the gate refuses (the message states every reason, nothing is registered), another promotion won
            meanwhile, the smoke animation failed, or the store does not answer.
    """
    with store_errors():
        server, run_id = runs.client(), runs.current_run_id()
        if run_id is None:
            raise RuntimeError("promote runs inside a stage, which owns the MLflow run that the model belongs to")
        base = champion_version(server)
        checks = decide(
            metrics, settings, stages, scores, slices, champion_scores(server, base, scores, settings, rescore)
        )
        gate.refuse(checks)
        story = lineage.collect(stages)
        uri = log_model(bundle, run_id, metrics, scores, story)
        tags = {f"record.{stage}": (lineage.read_record(stage) or {})["run_id"] for stage in stages}
        result = register(server, uri, run_id, tags, base)
        if smoke is not None and settings.smoke:
            checks += _smoke(server, result, settings, smoke)
    return {**result, "hashes": bundle_hashes(bundle), "checks": [check.as_dict() for check in checks]}


def decide(
    metrics: Mapping[str, float],
    settings: gate.GateSettings,
    stages: Sequence[str],
    scores: Mapping[str, Any] | None = None,
    slices: Mapping[str, Any] | None = None,
    champion: Mapping[str, Any] | None = None,
) -> list[gate.Check]:
    """Every check that can be made before anything is registered."""
    checks = gate.lineage_checks(stages, settings.clean_tree)
    checks += gate.floor_checks(metrics, settings.floors)
    checks += gate.slice_checks(slices or {}, settings.slice_floors, settings.min_slice_clips)
    record = (lineage.read_record("evaluate") or {}) if "evaluate" in stages else {}
    costs = {f"evaluate.{name}": record[name] for name in ("seconds", "peak_memory_mib") if name in record}
    early = {name: limit for name, limit in settings.limits.items() if not name.startswith("smoke.")}
    checks += gate.limit_checks(costs, early)
    if scores is not None:
        checks += gate.champion_checks(scores, champion, settings.against_champion)
    return checks


def champion_scores(
    server: Any,
    version: str | None,
    scores: Mapping[str, Any] | None,
    settings: gate.GateSettings,
    rescore: Callable[[Path], Mapping[str, Any]] | None,
) -> Mapping[str, Any] | None:
    """The champion's scores on the holdout of `scores`; scored again when it was on another. None without champion."""
    if version is None or scores is None or not settings.against_champion:
        return None
    stored = read_json(server, version, "scores.json")
    if stored is not None and stored["holdout"] == scores["holdout"]:
        return stored
    if rescore is None:
        return stored or {"holdout": "unknown", "clips": {}}
    return rescore(bundle_of(version))


def log_model(
    bundle: Path,
    run_id: str,
    metrics: Mapping[str, float],
    scores: Mapping[str, Any] | None = None,
    story: Mapping[str, Any] | None = None,
) -> str:
    """Log the bundle as a models-from-code Python model with its requirements; returns its URI.

    Beside it, in the run: `lineage.json` (what it was made from) and `scores.json` (per clip, for the next gate).
    """
    import mlflow

    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(PACKAGE)],  # the version keeps animating with the code it was made with
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
            metadata={"metrics": dict(metrics), "bundle": bundle_hashes(bundle)},
        )
        for name, value in (("lineage.json", story), ("scores.json", scores)):
            if value is not None:
                mlflow.log_dict(dict(value), f"gate/{name}")
    return info.model_uri


def register(server: Any, uri: str, run_id: str, tags: Mapping[str, str], base: str | None) -> dict[str, Any]:
    """Make `uri` the next version; `champion` moves to it unless another candidate of the same `base` came first.

    Raises:
        UserError: another promotion won; this version stays, without an alias.
    """
    import mlflow

    marks = {BASE_TAG: str(base or "none"), STATE_TAG: CLAIMED}
    version = str(mlflow.register_model(uri, MODEL, tags={**tags, **marks}).version)
    rivals = [one for one in versions(server) if _rivals(one, version, base)]
    if rivals or champion_version(server) != base:
        winner = min(int(one.version) for one in rivals) if rivals else champion_version(server)
        mark(server, version, LOST, f"version {winner} came first")
        raise UserError(
            f"version {winner}, which was promoted while this model was at the gate",
            f"the champion to be {base or 'none'} still",
            "run `kedro run --pipelines=promote` again: it compares with the new champion",
        )
    move(server, version, base)
    mark(server, version, WON, "")
    return {"model": MODEL, "version": int(version), "previous": int(base) if base else None, "run_id": run_id}


def _rivals(one: Any, version: str, base: str | None) -> bool:
    """Whether an earlier version of the same base won, or may still win."""
    if int(one.version) >= int(version) or one.tags.get(BASE_TAG) != str(base or "none"):
        return False
    age = time.time() - one.creation_timestamp / 1000
    state = one.tags.get(STATE_TAG)
    return state == CLAIMED and age < CLAIM_SECONDS


def versions(server: Any) -> list[Any]:
    return list(server.search_model_versions(f"name='{MODEL}'"))


def mark(server: Any, version: str, state: str, reason: str) -> None:
    server.set_model_version_tag(MODEL, version, STATE_TAG, state)
    if reason:
        server.set_model_version_tag(MODEL, version, REASON_TAG, reason)


def move(server: Any, champion: str | None, previous: str | None) -> None:
    """Set both aliases, `previous` first: whenever this stops, one of them names the old champion."""
    for alias, version in ((PREVIOUS, previous), (CHAMPION, champion)):
        if version is not None:
            server.set_registered_model_alias(MODEL, alias, version)
        elif alias_version(server, alias) is not None:
            server.delete_registered_model_alias(MODEL, alias)


def _smoke(
    server: Any, result: Mapping[str, Any], settings: gate.GateSettings, smoke: Callable[[Any], Mapping[str, float]]
) -> list[gate.Check]:
    """Animate through the alias as a user would; on failure the aliases go back."""
    import mlflow

    version = str(result["version"])
    former = str(result["previous"]) if result["previous"] else None
    try:
        measured = smoke(mlflow.pyfunc.load_model(f"models:/{MODEL}@{CHAMPION}"))
        costs = {f"smoke.{name}": value for name, value in measured.items()}
        limits = {name: limit for name, limit in settings.limits.items() if name.startswith("smoke.")}
        checks = gate.limit_checks(costs, limits)
        reasons = [check.detail for check in checks if not check.passed]
        if reasons:
            raise UserError(
                "; ".join(reasons), "a smoke animation within its limits", "make the model faster or smaller"
            )
        shown = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        return [gate.Check("smoke animation", True, f"made a video through the alias; {shown}"), *checks]
    except Exception as error:
        before = _former(server, former) if former else None
        move(server, former, before)
        mark(server, version, FAILED, f"smoke animation: {str(error)[:500]}")
        raise UserError(
            f"version {version}, whose smoke animation failed ({error})",
            "a video through models:/fportrait@champion",
            f"mend the model; champion is {'version ' + former if former else 'nobody'} again",
        ) from error


def _former(server: Any, version: str) -> str | None:
    """The champion before `version`, by its own record."""
    base = server.get_model_version(MODEL, version).tags.get(BASE_TAG, "none")
    return None if base == "none" else base


def rollback(reason: str = "", to: str | None = None) -> dict[str, Any]:
    """Give `champion` back to `previous` (or to version `to`); the files of that version are checked first.

    Returns `version` (the champion now), `rolled_back` and `previous`.

    Raises:
        UserError: no champion, nothing to go back to, or files that are not there any more.
    """
    with store_errors():
        server = runs.client()
        now, target = champion_version(server), to or alias_version(server, PREVIOUS)
        if now is None:
            raise UserError("no champion", "a promoted model", "promote one with `fportrait promote`")
        if target is None or str(target) == str(now):
            raise UserError(
                f"nothing to go back to from version {now}", "an earlier champion", "name one with --to VERSION"
            )
        if str(target) not in [str(one.version) for one in versions(server)]:
            raise UserError(f"no version {target}", "a registered version", "look at `fportrait lineage`")
        bundle_of(str(target))
        before = _former(server, str(target))
        move(server, str(target), before)
        mark(server, str(now), ROLLED_BACK, reason or "rolled back by hand")
        return {"version": int(target), "rolled_back": int(now), "previous": int(before) if before else None}


def champion_version(server: Any) -> str | None:
    return alias_version(server, CHAMPION)


def alias_version(server: Any, alias: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(server.get_model_version_by_alias(MODEL, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def read_json(server: Any, version: str, name: str) -> dict[str, Any] | None:
    """A file that was logged beside a version, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    run_id = server.get_model_version(MODEL, version).run_id
    try:
        path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/gate/{name}")
    except (MlflowException, OSError):
        return None
    return json.loads(Path(path).read_text(encoding="utf-8"))


def bundle_of(version: str) -> Path:
    """The bundle folder of a version, with its files checked against the hashes it was registered with.

    Raises:
        UserError: files that vanished or changed.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = f"models:/{MODEL}/{version}"
    fix = f"restore mlruns/, or go back with `fportrait rollback` if version {version} is the champion"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        stated = (mlflow.models.get_model_info(uri).metadata or {}).get("bundle", {})
    except (MlflowException, OSError) as error:
        raise UserError(
            f"version {version} without its files ({str(error).splitlines()[0][:200]})",
            "the files it was registered with",
            fix,
        ) from None
    bundles = sorted(path.parent for path in folder.glob("artifacts/*/bundle.json"))
    if not bundles:
        raise UserError(f"no bundle in {folder}", "the files it was registered with", fix)
    found = bundle_hashes(bundles[0])
    wrong = [name for name, digest in stated.items() if found.get(name) != digest]
    if wrong:
        raise UserError(
            f"{', '.join(wrong[:3])} of version {version} missing or changed", "the files it was registered with", fix
        )
    return bundles[0]


def default_model() -> Path:
    """The bundle of the champion in this project's registry, or the shipped base when none was promoted yet."""
    if not open_store():
        return SHIPPED_BASE
    with store_errors():
        version = champion_version(runs.client())
        return SHIPPED_BASE if version is None else bundle_of(version)
