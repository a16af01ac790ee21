"""The registry: versions of the model, and the aliases that only the gate, a rollback, or a person moves.

`models:/fportrait@champion` is what `fportrait animate` and the web page use, `@previous` what a rollback returns to,
`@anchor` a fixed model that every candidate is compared with beside the champion, so that small losses cannot add up.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fportrait.atomic_io import file_hash
from fportrait.bundle import SHIPPED_BASE, bundle_hashes
from fportrait.errors import UserError
from fportrait.ops import runs
from fportrait.ops.store import DATABASE, home, open_store, store_errors

MODEL = "fportrait"
CHAMPION, PREVIOUS, ANCHOR = "champion", "previous", "anchor"
STUDENT = "student"  # the student that may stand in for the champion where time counts; `ops.student_gate` moves it
BASE_TAG, STATE_TAG, REASON_TAG = "gate.base", "gate.state", "gate.reason"
NOBODY = "nobody"
CLAIMED, WON, LOST, FAILED, ROLLED_BACK = "claimed", "won", "lost", "failed", "rolled back"


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
    remember(server, CHAMPION, champion)


def remember(server: Any, alias: str, version: str | None) -> None:
    """Note where the gate, a rollback or a command put an alias: MLflow lets anybody move it without a trace."""
    server.set_registered_model_tag(MODEL, f"gate.{alias}", version or NOBODY)


def astray(server: Any) -> list[str]:
    """Aliases that are not where the gate put them, in words: a candidate would else be compared with a weaker
    champion, or with none.

    A registry from before this was noted is judged by its versions' states alone.
    """
    from mlflow.exceptions import MlflowException

    try:
        tags = server.get_registered_model(MODEL).tags
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []  # nothing was ever promoted
        raise
    states = {str(one.version): one.tags.get(STATE_TAG) for one in versions(server)}
    won = sorted((version for version, state in states.items() if state == WON), key=int)
    reasons = []
    for alias in (CHAMPION, ANCHOR):
        there, noted = alias_version(server, alias), tags.get(f"gate.{alias}")
        if noted is not None and (there or NOBODY) != noted:
            reasons.append(f"the alias {alias} names {there or 'no version'}, the gate put it on {noted}")
        elif alias == CHAMPION and there is None and won:
            reasons.append(f"the alias champion is gone, though version {won[-1]} won")
        elif alias == CHAMPION and there is not None and states.get(there) in (LOST, FAILED, CLAIMED):
            reasons.append(f"the alias champion names version {there}, which {states[there]}")
    return reasons


def former(server: Any, version: str) -> str | None:
    """The champion before `version`, by its own record."""
    base = server.get_model_version(MODEL, version).tags.get(BASE_TAG, "none")
    return None if base == "none" else base


def rollback(reason: str = "", to: str | None = None) -> dict[str, Any]:
    """Give `champion` back to `previous` (or to version `to`); the files of that version are checked first.

    Returns `version` (the champion now), `rolled_back` (None when an alias that was moved by hand was put right) and
    `previous`.

    Raises:
        UserError: no champion, nothing to go back to, or files that are not there any more.
    """
    with store_errors():
        server = runs.client()
        now, target = champion_version(server), to or alias_version(server, PREVIOUS)
        wrong = bool(astray(server))  # an alias that was moved by hand is put right by naming a version
        if now is None and not (wrong and to):
            raise UserError("no champion", "a promoted model", "promote one with `fportrait promote`")
        if target is None or (str(target) == str(now) and not wrong):
            raise UserError(
                f"nothing to go back to from version {now}", "an earlier champion", "name one with --to VERSION"
            )
        known(server, str(target))
        bundle_of(str(target))
        before = former(server, str(target))
        move(server, str(target), before)
        mark(server, str(target), WON, reason if wrong else "")
        if now is not None and str(now) != str(target):
            mark(server, str(now), ROLLED_BACK, reason or "rolled back by hand")
        gone = int(now) if now is not None and str(now) != str(target) else None
        return {"version": int(target), "rolled_back": gone, "previous": int(before) if before else None}


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


def anchor_version(server: Any) -> str | None:
    """The fixed model beside the champion: the one that was named, else the first that won."""
    won = [int(one.version) for one in versions(server) if one.tags.get(STATE_TAG) == WON]
    return alias_version(server, ANCHOR) or (str(min(won)) if won else None)


def set_anchor(version: str, reason: str = "") -> dict[str, Any]:
    """Make a version the anchor; its files are checked first. Returns `anchor` and the one `before`.

    Raises:
        UserError: no such version, or files that are not there any more.
    """
    with store_errors():
        server = runs.client()
        known(server, version)
        bundle_of(version)
        before = anchor_version(server)
        server.set_registered_model_alias(MODEL, ANCHOR, version)
        remember(server, ANCHOR, version)
        if reason:
            server.set_model_version_tag(MODEL, version, f"{ANCHOR}.reason", reason)
        return {"anchor": int(version), "before": int(before) if before else None}


def known(server: Any, version: str) -> Any:
    """The registered version.

    Raises:
        UserError: there is none by that number.
    """
    found = {str(one.version): one for one in versions(server)}
    if version not in found:
        words = ", ".join(sorted(found, key=int)) or "none yet"
        raise UserError(f"no version {version}", f"a registered version ({words})", "look at `fportrait lineage`")
    return found[version]


def read_file(server: Any, version: str, name: str) -> bytes | None:
    """A file that was logged beside a version, or None."""
    from mlflow.exceptions import MlflowException

    run_id = server.get_model_version(MODEL, version).run_id
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(server.download_artifacts(run_id, f"gate/{name}", folder)).read_bytes()
        except (MlflowException, OSError):
            return None


def read_json(server: Any, version: str, name: str) -> dict[str, Any] | None:
    """A JSON file that was logged beside a version, or None."""
    content = read_file(server, version, name)
    return None if content is None else json.loads(content)


def bundle_files(bundle: Path) -> dict[str, str]:
    """SHA-256 by relative path of everything in a bundle, `bundle.json` included."""
    return {**bundle_hashes(bundle), "bundle.json": file_hash(bundle / "bundle.json")}


def metadata_of(version: str) -> dict[str, Any]:
    """What a version was registered with: `metrics`, `bundle` (hashes) and, of newer ones, `evidence` and `code`.

    Raises:
        UserError: its files are not there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.models.get_model_info(f"models:/{MODEL}/{version}").metadata or {}
    except (MlflowException, OSError) as error:
        raise _without_files(version, error) from None


def _without_files(version: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(
        f"version {version} without its files ({reason})", "the files it was registered with", _fix(version)
    )


def _fix(version: str) -> str:
    return (
        f"restore mlruns/ (`fportrait registry import FILE` brings an exported one), "
        f"or go back with `fportrait rollback` if version {version} is the champion"
    )


def bundle_of(version: str) -> Path:
    """The bundle folder of a version, with its files checked against the hashes it was registered with.

    Raises:
        UserError: files that vanished or changed.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    stated = metadata_of(version).get("bundle", {})
    try:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version}"))
    except (MlflowException, OSError) as error:
        raise _without_files(version, error) from None
    bundles = sorted(path.parent for path in folder.glob("artifacts/*/bundle.json"))
    if not bundles:
        raise UserError(f"no bundle in {folder}", "the files it was registered with", _fix(version))
    found = bundle_files(bundles[0])
    wrong = [name for name, digest in stated.items() if found.get(name) != digest]
    if wrong:
        raise UserError(
            f"{', '.join(wrong[:3])} of version {version} missing or changed",
            "the files it was registered with",
            _fix(version),
        )
    return bundles[0]


@dataclass(frozen=True)
class Chosen:
    """A bundle's folder, and in words which model it is and why."""

    bundle: Path
    words: str


def chosen_model() -> Chosen:
    """The champion of this project's registry, or the shipped base when none was promoted yet, and why.

    Raises:
        UserError: the champion's files vanished or changed, or the store does not answer.
    """
    if not open_store():
        return Chosen(SHIPPED_BASE, f"the shipped base: no registry here (no {DATABASE} in {home()})")
    with store_errors():
        server = runs.client()
        version = champion_version(server)
        if version is None:
            return Chosen(SHIPPED_BASE, "the shipped base: this project's registry has no champion yet")
        return Chosen(bundle_of(version), f"version {version}, the champion of this project's registry ({home()})")


def chosen_student() -> Chosen:
    """The promoted student, else the shipped one, else the model that `chosen_model` gives: what a stream takes.

    Raises:
        UserError: the student's files vanished or changed, or the store does not answer.
    """
    if open_store():
        with store_errors():
            version = alias_version(runs.client(), STUDENT)
            if version is not None:
                return Chosen(
                    bundle_of(version), f"version {version}, the student of this project's registry ({home()})"
                )
    shipped = SHIPPED_BASE.with_name("student")
    if (shipped / "bundle.json").is_file():
        return Chosen(shipped, "the shipped student: no student was promoted here")
    return chosen_model()


def default_model() -> Path:
    """The bundle of the champion in this project's registry, or the shipped base when none was promoted yet."""
    return chosen_model().bundle
