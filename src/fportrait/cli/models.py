"""`fportrait promote`, `fportrait rollback`, `fportrait lineage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import json_option, print_json


@click.command()
@click.option("--dry-run", is_flag=True, help="Show every check of the gate; register nothing.")
@json_option
def promote(dry_run: bool, as_json: bool) -> None:
    """Let the gate decide whether the trained model becomes champion (the stage `promote`).

    \b
    Examples:
      fportrait promote --dry-run
      fportrait promote
    """
    from fportrait.ops.project import enter_project, run_pipeline

    enter_project()
    if dry_run:
        checks = _checks()
        if as_json:
            print_json([check.as_dict() for check in checks])
        else:
            for check in checks:
                click.echo(f"{'pass' if check.passed else 'FAIL'}  {check.detail}")
        if not all(check.passed for check in checks):
            raise SystemExit(2)
        return
    run_pipeline("promote")
    _tell(as_json)


def _checks() -> list[Any]:
    """The gate's checks on the evaluation that lies here, against the champion that is there; writes nothing."""
    import json

    from fportrait.errors import UserError
    from fportrait.ops import runs, store
    from fportrait.ops.chain import CHAIN
    from fportrait.ops.evidence import Inputs
    from fportrait.ops.gate import GateSettings
    from fportrait.ops.project import read_parameters
    from fportrait.ops.promotion import Candidate, Proof, examine
    from fportrait.ops.rescoring import rescorer

    need_store()
    values = read_parameters()
    folders = {name: Path(path) for name, path in values["folders"].items()}
    reports = folders["curves"].parent
    scores, report = folders["evaluation"] / "scores.json", reports / "evaluate.json"
    for path in (scores, report, folders["stage4"], folders["base"], folders["shards"]):
        if not path.exists():
            raise UserError(f"no {path}", "the results of the chain", "run `dvc repro evaluate` or `kedro run`")
    settings = GateSettings.from_dict({key: value for key, value in values["promote"].items() if key != "frames"})
    own = json.loads(report.read_text(encoding="utf-8"))
    proof = Proof(
        Inputs(folders["stage4"], folders["base"], folders["shards"]),
        folders["evaluation"],
        report,
        reports / "lineage",
    )
    stages = CHAIN[: CHAIN.index("promote")]
    candidate = Candidate(own, json.loads(scores.read_text(encoding="utf-8")), stages, proof)
    again = rescorer(folders["shards"], values["evaluate"]["protocol"], values["evaluate"]["probes"], own)
    with store.store_errors():
        return examine(runs.client(), candidate, settings, again)


def _tell(as_json: bool) -> None:
    import json

    result = json.loads(Path("data/08_reporting/promote.json").read_text())
    if as_json:
        print_json(result)
        return
    for check in result.get("checks", []):
        click.echo(f"pass  {check['detail']}")
    still = " still" if result.get("no_change") else ""
    click.echo(f"version {result['version']} is champion{still}; previous: {result['previous'] or 'none'}")


@click.command()
@click.option("--to", "version", metavar="VERSION", help="Go back to this version. Default: the previous champion.")
@click.option("--reason", default="", help="Kept with the version that is taken back.")
@json_option
def rollback(version: str | None, reason: str, as_json: bool) -> None:
    """Give the alias champion back to the previous model, after checking that its files are there.

    \b
    Examples:
      fportrait rollback --reason "mouths stay shut"
      fportrait rollback --to 3
    """
    from fportrait.ops import registry

    need_store(write=True)
    result = registry.rollback(reason, version)
    if as_json:
        print_json(result)
    else:
        taken = f"version {result['rolled_back']} was taken back" if result["rolled_back"] else "its alias is noted"
        click.echo(f"version {result['version']} is champion again; {taken}")


@click.command()
@click.argument("model", default="champion", metavar="[MODEL]")
@json_option
def lineage(model: str, as_json: bool) -> None:
    """Everything that a model was made from: stages, code, parameters, parents, metrics, back to the captures.

    MODEL: champion (default), previous, anchor, or a version number.

    \b
    Examples:
      fportrait lineage
      fportrait lineage 2 --json
    """
    from fportrait.errors import UserError
    from fportrait.ops import registry, runs, store
    from fportrait.ops.evidence import TAG as EVIDENCE
    from fportrait.ops.lineage import registered_metrics, story_lines
    from fportrait.tables.schema import DATASETS

    need_store()
    with store.store_errors():
        server = runs.client()
        version = registry.anchor_version(server) if model == registry.ANCHOR else registry.alias_version(server, model)
        version = model if model.isdigit() else version
        known = {str(one.version): one for one in registry.versions(server)}
        if version is None or version not in known:
            raise UserError(
                f"no model '{model}'",
                f"champion, previous, anchor or a version ({', '.join(sorted(known, key=int)) or 'none yet'})",
                "promote one with `fportrait promote`",
            )
        entry = known[version]
        story = registry.read_json(server, version, "lineage.json") or {"stages": {}, "captures": {}}
        metrics = registered_metrics(server, entry)
    base = entry.tags.get(registry.BASE_TAG, "none")
    if as_json:
        print_json(
            {"version": int(version), "tags": dict(entry.tags), "parent_version": base, "metrics": metrics, **story}
        )
        return
    click.echo(
        f"{registry.MODEL} version {version}  {entry.tags.get(registry.STATE_TAG, '')}  champion before it: {base}"
    )
    if entry.tags.get(EVIDENCE):
        click.echo(f"    evidence {entry.tags[EVIDENCE][:16]}")
    if entry.tags.get("adapter.hash"):
        click.echo(f"    adapter {entry.tags['adapter.hash']} of base {entry.tags['adapter.base'][:16]}")
    if entry.tags.get(registry.REASON_TAG):
        click.echo(f"    {entry.tags[registry.REASON_TAG]}")
    shown = {
        name: value
        for name, value in sorted(metrics.items())
        if name.split(".")[0] in DATASETS and name.endswith(("ours.psnr.mean", "ours_minus_portrait.mean"))
    }
    for name, value in shown.items():
        click.echo(f"    {name} = {value:.4g}")
    for line in story_lines(story):
        click.echo(line)


def need_store(write: bool = False) -> None:
    """Open the registry.

    Raises:
        UserError: there is none here, it is of another schema, or read-only and `write`.
    """
    from fportrait.errors import UserError
    from fportrait.ops import store

    if not store.open_store(write):
        raise UserError(
            f"no {store.DATABASE} in {store.home()}",
            "a registry of models",
            "bring one with `fportrait registry import FILE`, make one with `kedro run`, or set MLFLOW_TRACKING_URI",
        )
