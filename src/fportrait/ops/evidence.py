"""Evidence: the record that ties an evaluation to the bytes it was made from, and the checks that it still does.

`evaluate` writes `evidence.json` beside its report: SHA-256 of the weights, the base, the shards, the code, the report
and the scores, and of every lineage record before it; its MLflow run keeps the record's digest. `promote` trusts none
of these: it hashes what it is about to promote and compares. Editing a file, exchanging weights or reports of two
models, replaying an old report, or editing a number in MLflow's database is refused by the name of what differs.

Whoever can write every file *and* the tracking store can forge all of them together. Against that there are two means:
a tracking server with its own permissions (docs/outgrow.md), and a key: with `FPORTRAIT_EVIDENCE_KEY` naming a file
that only the evaluating machine has, records are signed (HMAC-SHA256), and a promotion that has the key demands it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash, write_json
from fportrait.errors import UserError
from fportrait.ops import code, headline, lineage, runs
from fportrait.ops.gate import Check

NAME, FORMAT = "evidence.json", 1
TAG = "evidence"  # of the evaluation's run and of the registered version: the record's digest
KEY_VARIABLE, LEAST_KEY = "FPORTRAIT_EVIDENCE_KEY", 32
BASE_PARTS = ("vae", "expression_encoder", "bundle.json")  # what a bundle takes from the base
AGAIN = "run `kedro run --pipelines=evaluate` again"


@dataclass(frozen=True)
class Inputs:
    """What is evaluated and promoted: folders of the trained model (with `transformer/`), base and shards."""

    trained: Path
    base: Path
    shards: Path


def file_hashes(root: Path, parts: Iterable[str] = (".",)) -> dict[str, str]:
    """SHA-256 by relative path of the files at or below `root`'s parts; links are followed."""
    return {
        file.relative_to(root).as_posix(): file_hash(file)
        for part in parts
        if (root / part).exists()
        for file in lineage.files_of(root / part)
    }


def canonical_hash(value: Any) -> str:
    """SHA-256 of a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def take(inputs: Inputs) -> dict[str, Any]:
    """The hashes of what is about to be evaluated."""
    return {
        "model": file_hashes(inputs.trained / "transformer"),
        "base": file_hashes(inputs.base, BASE_PARTS),
        "shards": lineage.describe(inputs.shards)["hash"],
    }


def seal(
    taken: Mapping[str, Any], inputs: Inputs, folder: Path, report: Mapping[str, Any], stages: Sequence[str]
) -> Path:
    """Write `evidence.json` into the evaluation's folder, after `scores.json` and `metrics.json`; tag the stage's run.

    Args:
        taken: what `take` gave before the evaluation. stages: those before it, whose records are hashed, too.

    Raises:
        UserError: the inputs changed while they were evaluated.
    """
    now = take(inputs)
    for part, where in (("model", inputs.trained), ("base", inputs.base), ("shards", inputs.shards)):
        if now[part] != taken[part]:
            raise UserError(f"{where} changed while it was evaluated", "the same files throughout", AGAIN)
    listed = code.listing()
    records = {stage: runs.current_records() / f"{stage}.json" for stage in stages}
    record = {
        "format": FORMAT,
        **taken,
        "code": {"commit": lineage.git_commit(), "files": listed},
        "measured_by": measured_by(report, listed),
        "report": canonical_hash(report),
        "files": {name: file_hash(folder / name) for name in ("scores.json", "metrics.json")},
        "records": {stage: file_hash(path) for stage, path in records.items() if path.is_file()},
        "run_id": runs.current_run_id(),
    }
    digest = canonical_hash(record)
    key = signing_key()
    write_json(folder / NAME, {**record, "digest": digest, "signature": sign(digest, key) if key else None})
    runs.tag(TAG, digest)
    return folder / NAME


def measured_by(report: Mapping[str, Any], listed: Mapping[str, str]) -> str:
    """Names how a report was measured: equal for two reports whose scores may be compared clip by clip."""
    control = (report.get("control") or {}).get("settings")
    how = {key: report.get(key) for key in ("holdout", "backbones")} | {"probes": control}
    how["settings"] = {key: (report.get("settings") or {}).get(key) for key in ("same", "seed", "network_every")}
    return canonical_hash([how, code.listing_hash(listed, f"{code.NAME}/evaluation/")])


def signing_key() -> bytes | None:
    """The key in the file that `FPORTRAIT_EVIDENCE_KEY` names; None without one.

    Raises:
        UserError: no such file, or fewer than 32 bytes in it.
    """
    named = os.environ.get(KEY_VARIABLE)
    if not named:
        return None
    fix = f"make one with `head -c {LEAST_KEY} /dev/urandom > FILE`, or unset {KEY_VARIABLE}"
    try:
        key = Path(named).read_bytes()
    except OSError as error:
        raise UserError(f"{KEY_VARIABLE}={named}: {error.strerror}", "a file with the key", fix) from None
    if len(key) < LEAST_KEY:
        raise UserError(f"a key of {len(key)} bytes in {named}", f"at least {LEAST_KEY}", fix)
    return key


def sign(digest: str, key: bytes) -> str:
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """The record in an evaluation's folder.

    Raises:
        UserError: none, one that does not match its own digest, or a signature that is missing or wrong where
            `FPORTRAIT_EVIDENCE_KEY` demands one.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given, signature = record.pop("digest"), record.pop("signature")
        whole = record["format"] == FORMAT and given == canonical_hash(record)
    except FileNotFoundError:
        raise UserError(f"no {path}", "the evidence that a present `evaluate` writes", AGAIN) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}, which was changed or is damaged", "the record as `evaluate` wrote it", AGAIN)
    key = signing_key()
    if key and not (isinstance(signature, str) and hmac.compare_digest(signature, sign(given, key))):
        found = "a signature of another key" if signature else "no signature"
        raise UserError(f"{found} in {path}", f"one by the key in {os.environ[KEY_VARIABLE]}", AGAIN)
    return {**record, "digest": given, "signature": signature}


def whole(record: Mapping[str, Any]) -> str | None:
    """The digest of a record that matches it; None for one that was changed."""
    body = {key: value for key, value in record.items() if key not in ("digest", "signature")}
    digest = canonical_hash(body)
    return digest if digest == record.get("digest") else None


def check(
    inputs: Inputs,
    evaluation: Path,
    report_path: Path,
    stages: Sequence[str],
    server: Any,
    clean_tree: bool,
    records: Path = lineage.FOLDER,
) -> list[Check]:
    """Whether the evaluation at `evaluation` is of exactly these inputs, this report and this line of records.

    Args:
        stages: the chain up to and with `evaluate`. server: an MLflow client, or None where there is no store.
        records: the folder of lineage records.
    """
    try:
        record = read(evaluation)
        report = json.loads(report_path.read_text(encoding="utf-8"))
    except UserError as error:
        return [Check("evidence", False, f"{error.found}; {error.fix}")]
    except (OSError, ValueError) as error:
        return [Check("evidence", False, f"{report_path} cannot be read ({error}); {AGAIN}")]
    wrong = [
        *changed_inputs(record, inputs),
        *_changed_report(record, evaluation, report_path, report),
        *_changed_line(record, inputs, evaluation, report_path, stages, server, records),
        *(_changed_run(record, report, server)),
    ]
    signed = "signed" if record["signature"] else "not signed"
    words = "; ".join(wrong) or f"weights, base, shards, report and records are those evaluated ({signed})"
    return [Check("evidence", not wrong, words), *_code_checks(record, clean_tree)]


def changed_inputs(record: Mapping[str, Any], inputs: Inputs) -> list[str]:
    """Every file of the model, the base or the shards that is not the one that was evaluated."""
    now = take(inputs)
    wrong = changed_files(record["model"], now["model"], inputs.trained / "transformer")
    wrong += changed_files(record["base"], now["base"], inputs.base)
    if now["shards"] != record["shards"]:
        wrong.append(f"{inputs.shards} is not what was evaluated on; {AGAIN}")
    return wrong


def changed_files(recorded: Mapping[str, str], found: Mapping[str, str], root: Path) -> list[str]:
    names = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{root / names[0]}{more} changed after it was evaluated; {AGAIN}"]


def _changed_report(record: Mapping[str, Any], evaluation: Path, path: Path, report: Any) -> list[str]:
    wrong = []
    if canonical_hash(report) != record["report"]:
        wrong.append(f"{path} is not the report that the evaluation wrote; {AGAIN}")
    for name, digest in record["files"].items():
        file = evaluation / name
        if not file.is_file() or file_hash(file) != digest:
            wrong.append(f"{file} is not what the evaluation wrote; {AGAIN}")
    return wrong


def _changed_line(
    record: Mapping[str, Any],
    inputs: Inputs,
    evaluation: Path,
    report_path: Path,
    stages: Sequence[str],
    server: Any,
    folder: Path,
) -> list[str]:
    """The lineage record of `evaluate` names these bytes, and no record was edited after the fact."""
    own = lineage.read_record("evaluate", folder)
    if own is None:
        return [f"there is no record of 'evaluate' in {folder}; {AGAIN}"]
    wrong = []
    if own.get("run_id") != record["run_id"]:
        wrong.append(f"{folder / 'evaluate.json'} is of another evaluation than {evaluation / NAME}; {AGAIN}")
    named = {**own.get("inputs", {}), **own.get("outputs", {})}
    for path in (inputs.trained, inputs.base, inputs.shards, evaluation, report_path):
        entry = named.get(_in_project(path))
        if entry is None or entry["hash"] != lineage.describe(path)["hash"]:
            wrong.append(f"{path} is not what the record {folder / 'evaluate.json'} names; {AGAIN}")
    for stage in stages:
        file = folder / f"{stage}.json"
        if not file.is_file():
            continue  # a gap of the lineage, which is told there
        if file_hash(file) != record["records"].get(stage) and not _kept_by_run(server, file, stage):
            wrong.append(f"{file} is neither what the evaluation saw nor what its run kept; run '{stage}' again")
    return wrong


def _in_project(path: Path) -> str:
    """A path as records name it; Kedro hands out absolute ones."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_absolute() else path.as_posix()


def _kept_by_run(server: Any, file: Path, stage: str) -> bool:
    """Whether the MLflow run that a record names keeps the same record."""
    try:
        run_id = json.loads(file.read_text(encoding="utf-8"))["run_id"]
        return server is not None and _kept(server, run_id, file.name) == file.read_bytes()
    except (ValueError, KeyError, TypeError):
        return False


def _kept(server: Any, run_id: str, name: str) -> bytes | None:
    """An artifact of a run; None without."""
    import tempfile

    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(server.download_artifacts(run_id, name, folder)).read_bytes()
        except (MlflowException, OSError):
            return None


def _changed_run(record: Mapping[str, Any], report: Mapping[str, Any], server: Any) -> list[str]:
    """The evaluation's MLflow run exists, came to its end, and says the same."""
    from mlflow.exceptions import MlflowException

    run_id = record["run_id"]
    bring = f"bring it with `fportrait registry import`, or {AGAIN}"
    if server is None or not run_id:
        return [f"no MLflow store knows the run of the evaluation; {bring}"]
    try:
        run = server.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return [f"the MLflow store here does not know the evaluation's run {run_id[:8]}; {bring}"]
    if run.info.status != "FINISHED":
        return [f"the evaluation's run {run_id[:8]} is {run.info.status.lower()}, not finished; {AGAIN}"]
    if run.data.tags.get(TAG) != record["digest"]:
        return [f"the MLflow run {run_id[:8]} keeps another evidence than the one here; {AGAIN}"]
    for name, value in headline.named_scores(report).items():
        kept = run.data.metrics.get(runs.metric_name(name))
        if kept is None or not _same_number(kept, value):
            found = "no" if kept is None else f"{kept:.6g} as"
            return [f"the MLflow run {run_id[:8]} has {found} {name}, the report {value:.6g}; {AGAIN}"]
    return []


def _same_number(kept: float, value: float) -> bool:
    """Equal, or both no number, or both beyond all numbers (MLflow keeps the largest float for infinity)."""
    if math.isinf(value):
        return abs(kept) >= 1.79e308 and (kept > 0) == (value > 0)
    return kept == value or (math.isnan(kept) and math.isnan(value))


def _code_checks(record: Mapping[str, Any], clean_tree: bool) -> list[Check]:
    """The evaluation ran committed code, and the tree is clean now."""
    commit = record["code"]["commit"]
    reasons = []
    if not commit or commit.endswith("+"):
        reasons.append("the evaluation ran uncommitted code" if commit else "the evaluation ran code of no commit")
    elif code.head() and not code.has_commit(commit):
        reasons.append(f"the evaluation's commit {commit[:12]} is not in this repository")
    if not code.head():
        reasons.append("there is no Git repository here, so nobody can tell which code this is")
    changed = code.changed_files() if code.head() else []
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        reasons.append(f"{changed[0]}{more} differs from the commit checked out now")
    words = "; ".join(reasons) + ("" if clean_tree else " (allowed here)") if reasons else "the tree is clean now"
    return [Check("code", not (reasons and clean_tree), words)]
