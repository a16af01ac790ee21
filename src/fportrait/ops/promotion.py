"""Promotion: a model goes through the gate into the registry, and the alias champion moves to it.

Two promotions at once cannot both win. A candidate registers its version together with the champion it was compared
with; numbers are given out by the database, so of all candidates with the same base the lowest number wins and the
others are told. This needs no lock, works on every MLflow store, and a promoter that died is out of the race after
`CLAIM_SECONDS`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.errors import UserError
from fportrait.ops import asked, code, evidence, gate, headline, lineage, model_card, runs
from fportrait.ops.registry import (
    ANCHOR,
    BASE_TAG,
    CHAMPION,
    CLAIMED,
    FAILED,
    LOST,
    MODEL,
    STATE_TAG,
    WON,
    alias_version,
    anchor_version,
    astray,
    bundle_files,
    bundle_of,
    champion_version,
    former,
    known,
    mark,
    metadata_of,
    move,
    read_file,
    read_json,
    remember,
    versions,
)
from fportrait.ops.smoke import write_inputs
from fportrait.ops.store import store_errors

CLAIM_SECONDS = 1800
EXAMPLE = "example"  # the folder that `served_model` looks into
REQUIREMENTS = (
    *("torch", "diffusers", "safetensors", "numpy", "scipy", "numba", "pandas", "pyarrow", "av", "opencv-python"),
    *("ai-edge-litert", "click", "mlflow", "pydantic"),
)
Rescore = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Proof:
    """What a candidate's evidence is checked against: its inputs, the evaluation's folder and report, the records."""

    inputs: evidence.Inputs
    evaluation: Path
    report: Path
    records: Path = lineage.FOLDER


@dataclass(frozen=True)
class Candidate:
    """A model at the gate: its report as in evaluate.json, its per-clip scores, the chain it came from, its proof.

    Without a proof nothing ties the numbers to the model; the stage `promote` always has one.
    """

    report: Mapping[str, Any]
    scores: Mapping[str, Any] | None
    stages: Sequence[str]
    proof: Proof | None

    @property
    def records(self) -> Path:
        return self.proof.records if self.proof else lineage.FOLDER


def promote(
    bundle: Path,
    candidate: Candidate,
    settings: gate.GateSettings,
    *,
    rescore: Rescore | None = None,
    smoke: Callable[[Any], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Register `bundle` as the next version and, when every check passes, move `champion` to it.

    The version that was champion becomes `previous`. If the smoke animation fails afterwards, both aliases go back. A
    bundle that is the champion's, with the same code, is no change: nothing is registered.

    Args:
        rescore: gives a bundle's scores as the candidate was scored, for a version that was scored otherwise.
        smoke: animates with the loaded champion, checks the video, returns `seconds` and so on.

    Returns:
        `version`, `previous`, `run_id`, `no_change`, the bundle's hashes and every check.

    Raises:
        UserError: the gate refuses (the message states every reason, nothing is registered), another promotion won
            meanwhile, the smoke animation failed, or the store does not answer.
    """
    with store_errors():
        server, run_id = runs.client(), runs.current_run_id()
        if run_id is None:
            raise RuntimeError("promote runs inside a stage, which owns the MLflow run that the model belongs to")
        base = champion_version(server)
        checks = examine(server, candidate, settings, rescore)
        gate.refuse(checks)
        files, recorded = bundle_files(bundle), _recorded(candidate, bundle)
        packaged = code.listing_hash(recorded["code"]["files"]) if recorded else None
        if base is not None and _is_version(base, files, packaged):
            checks.append(gate.Check("no change", True, f"these are the weights and the code of version {base}"))
            result = {"model": MODEL, "version": int(base), "previous": _number(former(server, base)), "run_id": run_id}
        else:
            result = _enter(server, bundle, candidate, recorded, base, run_id)
            if smoke is not None and settings.smoke:
                checks += _smoke(server, result, settings, smoke)
            _describe(server, bundle, candidate, result)
            if alias_version(server, ANCHOR) is None:
                first = anchor_version(server) or str(result["version"])
                server.set_registered_model_alias(MODEL, ANCHOR, first)
                remember(server, ANCHOR, first)
    changed = base is None or result["version"] != int(base)
    return {**result, "no_change": not changed, "hashes": files, "checks": [check.as_dict() for check in checks]}


def examine(
    server: Any, candidate: Candidate, settings: gate.GateSettings, rescore: Rescore | None = None
) -> list[gate.Check]:
    """Every check that can be made before anything is registered; writes nothing."""
    checks: list[gate.Check] = []
    if candidate.proof is not None:
        proof = candidate.proof
        checks += evidence.check(
            *(proof.inputs, proof.evaluation, proof.report, candidate.stages, server),
            clean_tree=settings.clean_tree,
            records=proof.records,
        )
        checks += _asked(candidate, settings)
    checks += _alias_checks(server)
    checks += gate.lineage_checks(candidate.stages, settings.clean_tree, candidate.records)
    checks += gate.floor_checks(headline.numbers(candidate.report), settings.floors)
    checks += gate.slice_checks(candidate.report.get("slices") or {}, settings.slice_floors, settings.min_slice_clips)
    own = lineage.read_record("evaluate", candidate.records) or {} if "evaluate" in candidate.stages else {}
    costs = {f"evaluate.{name}": own[name] for name in ("seconds", "peak_memory_mib") if name in own}
    early = {name: limit for name, limit in settings.limits.items() if not name.startswith("smoke.")}
    checks += gate.limit_checks(costs, early)
    if all(check.passed for check in checks):  # scoring a champion again is not worth it for a model that is refused
        checks += _comparisons(server, candidate, settings, rescore)
    return checks


def _asked(candidate: Candidate, settings: gate.GateSettings) -> list[gate.Check]:
    """Whether the gate asks what the evaluation's commit asks; nothing where there is no evidence to begin with."""
    assert candidate.proof is not None
    try:
        commit = evidence.read(candidate.proof.evaluation)["code"]["commit"]
    except UserError:
        return []  # refused as evidence
    own = lineage.read_record("evaluate", candidate.records) or {}
    evaluated, environment = own.get("parameters") or {}, str(own.get("environment") or "base")
    return asked.asked_checks(settings, commit.removesuffix("+"), evaluated, environment)


def _alias_checks(server: Any) -> list[gate.Check]:
    """Refuses a registry in which somebody moved an alias by hand; nothing where all are in their places."""
    reasons = astray(server) if server is not None else []
    if not reasons:
        return []
    fix = "name it with `fportrait rollback --to VERSION --reason TEXT` (or `fportrait registry anchor VERSION`)"
    words = f"{'; '.join(reasons)}: moved by hand, or a promotion was killed; {fix}"
    return [gate.Check("registry", False, words)]


def _comparisons(
    server: Any, candidate: Candidate, settings: gate.GateSettings, rescore: Rescore | None
) -> list[gate.Check]:
    """Against the champion and, where it is another version, the anchor; the power of the holdout without them."""
    if candidate.scores is None or not settings.against_champion:
        return []
    champion, anchor = (champion_version(server), anchor_version(server)) if server is not None else (None, None)
    if champion is None:
        words = "no champion to compare with: the floors alone decide"
        return [
            gate.Check("champion", True, words),
            *gate.power_checks(candidate.scores, settings.against_champion),
        ]
    checks = []
    for who, version in (("champion", champion), ("anchor", anchor)):
        if version is not None and (who == "champion" or version != champion):
            other = scores_of(server, version, candidate, rescore)
            name = f"{who} (version {version})"
            checks += gate.comparison_checks(candidate.scores, other, settings.against_champion, name)
    return checks


def scores_of(server: Any, version: str, candidate: Candidate, rescore: Rescore | None) -> Mapping[str, Any]:
    """A version's scores, as the candidate was scored: those it was registered with, or new ones.

    They are taken again when the holdout, the networks, the settings or the evaluation's code differ, and when what was
    registered is not what its evidence names.
    """
    content = read_file(server, version, "scores.json")
    stored = json.loads(content) if content else {"holdout": "unknown", "clips": {}}
    assert candidate.scores is not None
    comparable = stored["holdout"] == candidate.scores["holdout"]
    if candidate.proof is not None:
        kept, own = read_json(server, version, evidence.NAME), evidence.read(candidate.proof.evaluation)
        comparable = (
            comparable
            and kept is not None
            and evidence.whole(kept) == known(server, version).tags.get(evidence.TAG)
            and kept["measured_by"] == own["measured_by"]
            and hashlib.sha256(content or b"").hexdigest() == kept["files"]["scores.json"]
        )
    if comparable or rescore is None:
        return stored
    return rescore(bundle_of(version))


def _recorded(candidate: Candidate, bundle: Path) -> dict[str, Any] | None:
    """The candidate's evidence, after comparing it with the bundle that was assembled: what is copied is what is kept.

    Raises:
        UserError: a file changed while the bundle was assembled.
    """
    if candidate.proof is None:
        return None
    record = evidence.read(candidate.proof.evaluation)
    weights = {name: digest for name, digest in record["base"].items() if name != "bundle.json"}
    wrong = evidence.changed_files(
        record["model"], evidence.file_hashes(bundle / "transformer"), bundle / "transformer"
    )
    wrong += evidence.changed_files(weights, evidence.file_hashes(bundle, evidence.BASE_PARTS[:2]), bundle)
    if wrong:
        raise UserError(wrong[0], "the files that were evaluated", "leave them alone while a model is promoted")
    return record


def _describe(server: Any, bundle: Path, candidate: Candidate, result: Mapping[str, Any]) -> None:
    """The model card with a picture of a person held out, and the version's numbers: for readers, not for the gate."""
    run_id, sample = result["run_id"], {}
    if candidate.proof is not None:
        sample = model_card.sample_of(candidate.proof.evaluation)
    with tempfile.TemporaryDirectory() as folder:
        for name, file in sample.items():
            shutil.copyfile(file, Path(folder) / name)
        server.log_artifacts(run_id, folder, model_card.FOLDER)
    story = lineage.collect(candidate.stages, candidate.records)
    version, picture = str(result["version"]), model_card.PICTURE in sample
    model_card.describe_version(server, MODEL, version, candidate.report, story, bundle, run_id, picture)


def _is_version(version: str, files: Mapping[str, str], packaged: str | None) -> bool:
    try:
        kept = metadata_of(version)
    except UserError:
        return False  # its files are gone: then this is a change
    return kept.get("bundle") == dict(files) and kept.get("code") == packaged


def _number(version: str | None) -> int | None:
    return int(version) if version else None


def _enter(
    server: Any, bundle: Path, candidate: Candidate, recorded: Mapping[str, Any] | None, base: str | None, run_id: str
) -> dict[str, Any]:
    """Log the model with its record and make it a version."""
    story = lineage.collect(candidate.stages, candidate.records)
    tags = {f"record.{stage}": record["run_id"] for stage, record in story["stages"].items()}
    with tempfile.TemporaryDirectory() as folder:
        package = code.PACKAGE
        if recorded is not None:
            package = code.copy_recorded(recorded["code"]["files"], recorded["code"]["commit"], Path(folder))
            tags[evidence.TAG] = recorded["digest"]
        if candidate.proof is not None:
            tags |= adapter_tags(candidate.proof.inputs.trained)
        uri = log_model(bundle, run_id, candidate, story, package, recorded)
    return register(server, uri, run_id, tags, base)


def adapter_tags(trained: Path) -> dict[str, str]:
    """`adapter.hash` and `adapter.base` of a model that LoRA trained: with what, and the weights that it adapts.

    A folder that holds no adapter, or one whose weights were all trained, has none.
    """
    if not (trained / "adapter").is_dir():
        return {}
    from fportrait.diffusion.lora import adapter_name

    return {f"adapter.{name}": value for name, value in adapter_name(trained).items()}


def log_model(
    bundle: Path,
    run_id: str,
    candidate: Candidate | None = None,
    story: Mapping[str, Any] | None = None,
    package: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> str:
    """Log the bundle as a models-from-code Python model with its requirements; returns its URI.

    Beside it, in the run's folder `gate`: `lineage.json` (what it was made from), `scores.json` (per clip, for the next
    gate) and `evidence.json`, as the evaluation wrote them.
    """
    import mlflow

    report = candidate.report if candidate else {}
    metadata: dict[str, Any] = {"metrics": headline.numbers(report), "bundle": bundle_files(bundle)}
    if recorded is not None:
        metadata |= {"evidence": recorded["digest"], "code": code.listing_hash(recorded["code"]["files"])}
    with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as folder:
        portrait, driving, _ = write_inputs(Path(folder))
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"bundle": str(bundle), EXAMPLE: folder},
            input_example=[
                {
                    "portrait": f"{EXAMPLE}/{portrait.name}",
                    "driving": f"{EXAMPLE}/{driving.name}",
                    "camera": "front",
                }
            ],
            code_paths=[str(package or code.PACKAGE)],  # the version keeps animating with the code it was made with
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
            metadata=metadata,
        )
        if scores := headline.named_scores(report):
            mlflow.log_metrics(scores, model_id=info.model_id)
        if story is not None:
            mlflow.log_dict(dict(story), "gate/lineage.json")
        if candidate is not None and candidate.proof is not None:
            for name in ("scores.json", evidence.NAME):
                mlflow.log_artifact(str(candidate.proof.evaluation / name), "gate")
        elif candidate is not None and candidate.scores is not None:
            mlflow.log_dict(dict(candidate.scores), "gate/scores.json")
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


def _smoke(
    server: Any, result: Mapping[str, Any], settings: gate.GateSettings, smoke: Callable[[Any], Mapping[str, float]]
) -> list[gate.Check]:
    """Animate through the alias as a user would; on failure the aliases go back."""
    import mlflow

    version = str(result["version"])
    earlier = str(result["previous"]) if result["previous"] else None
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
        before = former(server, earlier) if earlier else None
        move(server, earlier, before)
        mark(server, version, FAILED, f"smoke animation: {str(error)[:500]}")
        raise UserError(
            f"version {version}, whose smoke animation failed ({error})",
            "a video through models:/fportrait@champion",
            f"mend the model; champion is {'version ' + earlier if earlier else 'nobody'} again",
        ) from error
