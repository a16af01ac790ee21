"""Attacks on the gate, on a small fabricated project: what is edited, exchanged or replayed is named and refused."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from fportrait.atomic_io import write_json, write_text
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.ops import code, evidence, registry, store
from fportrait.ops.project import read_parameters
from helpers import fabricated
from helpers.fabricated import BASE, EVALUATION, GOOD, REPORT, SHARDS, TRAINED, git, read


@pytest.fixture(scope="module")
def built(tmp_path_factory, empty_database) -> Path:
    """The whole project, made once; each test attacks a copy."""
    project = tmp_path_factory.mktemp("gate") / "project"
    (project / "mlruns").mkdir(parents=True)
    shutil.copy(empty_database, project / "mlruns/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(code, "PACKAGE", fabricated.write_code(project))
        mlflow.set_tracking_uri(f"sqlite:///{project}/mlruns/mlflow.db")
        mlflow.MlflowClient().create_experiment("fportrait", artifact_location=(project / "mlruns/artifacts").as_uri())
        fabricated.build(project)
        mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return project


@pytest.fixture
def project(built, tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "project"
    shutil.copytree(built, copy, symlinks=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv(evidence.KEY_VARIABLE, raising=False)
    monkeypatch.setattr(code, "PACKAGE", copy / "src/fportrait")
    store.open_store()
    return copy


def checks() -> dict[str, dict]:
    result = CliRunner().invoke(main, ["promote", "--dry-run", "--json"])
    assert result.exit_code in (0, 2), result.output
    return {check["name"]: check for check in json.loads(result.stdout)}


def refused(name: str = "evidence") -> str:
    check = checks()[name]
    assert not check["passed"], check
    return check["detail"]


def promoted(project: Path, smoke: bool = False) -> dict:
    """The stage `promote` with the paths that Kedro gives it, inside a run of its own."""
    from fportrait.ops import runs
    from fportrait.pipelines.promote.nodes import promote

    run = runs.StageRun("promote")
    values = read_parameters()["promote"] | {"smoke": smoke}
    folders = {"base": BASE, "trained": TRAINED, "evaluation": EVALUATION, "shards": SHARDS}
    absolute = {name: project / path for name, path in folders.items()}
    try:
        return promote(
            scores=read(REPORT), model=project / "data/06_models/final", protocol={}, probes={}, **absolute, **values
        )
    finally:
        run.fail(RuntimeError("the test is over"))


def strict() -> None:
    write_text(Path("conf/local/parameters_promote.yml"), "promote: {clean_tree: true}\n")


def edit(path: Path, **changes) -> None:
    write_json(path, {**read(path), **changes})


def test_what_was_evaluated_is_passed_and_the_holdouts_power_is_said(project):
    strict()
    found = checks()
    assert all(check["passed"] for check in found.values()), [c for c in found.values() if not c["passed"]]
    assert "not signed" in found["evidence"]["detail"] and "clean" in found["code"]["detail"]
    assert "12 clips of 4 people would see a loss of" in found["power ours/psnr"]["detail"]
    assert "no champion" in found["champion"]["detail"]


def test_the_promoted_version_carries_its_evidence_and_the_recorded_code(project):
    strict()
    recorded = read(EVALUATION / evidence.NAME)
    Path("src/fportrait/ops/gate.py").write_text("FLOOR = 2\n")
    git("commit", "-q", "-a", "-m", "another gate")  # a clean tree, of other code than was evaluated
    first = promoted(project)
    assert (first["version"], first["no_change"]) == (1, False)
    server = mlflow.MlflowClient()
    tags = server.get_model_version("fportrait", "1").tags
    assert tags[evidence.TAG] == recorded["digest"]
    assert tags["adapter.base"] == "b" * 64 and len(tags["adapter.hash"]) == 16
    assert f"adapter {tags['adapter.hash']} of base bbbb" in CliRunner().invoke(main, ["lineage"]).output
    assert registry.read_json(server, "1", evidence.NAME) == recorded
    kept = registry.bundle_of("1").parents[1] / "code/fportrait"
    assert (kept / "ops/gate.py").read_text() == "FLOOR = 1\n" and (kept / "pipelines/promote.py").is_file()
    assert registry.alias_version(server, registry.ANCHOR) == "1"
    again = promoted(project)
    assert (again["version"], again["no_change"]) == (1, True) and again["checks"][-1]["name"] == "no change"
    assert len(registry.versions(server)) == 1


def test_uncommitted_code_that_changed_since_the_evaluation_cannot_be_packaged(project):
    gate = Path("src/fportrait/ops/gate.py")
    gate.write_text("FLOOR = 0\n")
    fabricated.evaluate(fabricated.scores_of(GOOD))
    gate.write_text("FLOOR = 3\n")
    with pytest.raises(
        UserError, match=r"src/fportrait/ops/gate\.py changed since the evaluation, and no commit holds"
    ):
        promoted(project)


def test_small_losses_against_the_champion_add_up_to_one_against_the_anchor(project):
    versions = []
    for psnr in (24.0, 23.6, 23.2):  # each no worse than the one before, by the tolerance of 0.5 dB
        write_text(TRAINED / "transformer/weights.safetensors", f"transformer {psnr}")
        fabricated.run_stage("train_stage4", {}, {"stage4": TRAINED})
        fabricated.evaluate(fabricated.scores_of({**GOOD, "psnr": psnr}))
        try:
            versions.append(promoted(project)["version"])
        except UserError as error:
            assert "ours/psnr against the anchor (version 1)" in str(error) and "champion (" not in error.found
    assert versions == [1, 2]


def report_with_a_better_number() -> str:
    report = read(REPORT)
    report["PhoneCapture"]["ours_minus_portrait"]["mean"] = 9.99
    write_json(REPORT, report)
    return "evaluate.json is not the report"


def weights_exchanged() -> str:
    write_text(TRAINED / "transformer/weights.safetensors", "transformer other")
    return "transformer/weights.safetensors changed after it was evaluated"


def a_file_added_to_the_weights() -> str:
    write_text(TRAINED / "transformer/adapter.safetensors", "more")
    return "adapter.safetensors changed"


def another_codec() -> str:
    write_text(BASE / "vae/weights.safetensors", "another")
    return "vae/weights.safetensors changed"


def other_settings_in_the_bundle() -> str:
    write_json(BASE / "bundle.json", {"size": 128})
    return "bundle.json changed"


def other_shards() -> str:
    write_text(SHARDS / "index.json", '{"only": "easy clips"}')
    return "shards is not what was evaluated on"


def scores_edited() -> str:
    scores = read(EVALUATION / "scores.json")
    next(iter(scores["clips"].values()))["ours/psnr"] = 99.0
    write_json(EVALUATION / "scores.json", scores)
    return "scores.json is not what the evaluation wrote"


def evidence_edited() -> str:
    edit(EVALUATION / evidence.NAME, report="0" * 64)
    return "evidence.json, which was changed"


def evidence_removed() -> str:
    (EVALUATION / evidence.NAME).unlink()
    return "no data/07_model_output/evaluation/evidence.json"


def evidence_remade_by_hand() -> str:
    """Report, evidence and its digest all fit each other; only the run remembers."""
    report_with_a_better_number()
    record = read(EVALUATION / evidence.NAME)
    record["report"] = evidence.canonical_hash(read(REPORT))
    body = {key: value for key, value in record.items() if key not in ("digest", "signature")}
    write_json(EVALUATION / evidence.NAME, {**record, "digest": evidence.canonical_hash(body)})
    return "keeps another evidence"


def lineage_of_the_evaluation_edited() -> str:
    edit(Path("data/08_reporting/lineage/evaluate.json"), seconds=0.001)
    return "lineage/evaluate.json is neither"


def a_record_made_clean() -> str:
    edit(Path("data/08_reporting/lineage/train_stage2.json"), git_commit="f" * 40)
    return "lineage/train_stage2.json is neither"


def a_record_of_a_run_that_nobody_knows() -> str:
    edit(Path("data/08_reporting/lineage/track.json"), run_id="0" * 32, parameters={"frames": 1})
    return "lineage/track.json is neither"


def a_number_in_mlflows_database() -> str:
    connection = sqlite3.connect("mlruns/mlflow.db")
    with connection:
        for table in ("metrics", "latest_metrics"):
            connection.execute(f"UPDATE {table} SET value = 9.99 WHERE key = 'PhoneCapture/psnr'")
    connection.close()
    return "has 9.99 as PhoneCapture/psnr"


def the_run_removed_from_the_store() -> str:
    connection = sqlite3.connect("mlruns/mlflow.db")
    with connection:
        run = read(EVALUATION / evidence.NAME)["run_id"]
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
    connection.close()
    return "does not know the evaluation's run"


def weights_behind_a_link() -> str:
    elsewhere = Path("elsewhere")
    shutil.copytree(TRAINED / "transformer", elsewhere)
    write_text(elsewhere / "weights.safetensors", "transformer other")
    shutil.rmtree(TRAINED / "transformer")
    (TRAINED / "transformer").symlink_to(elsewhere.resolve())
    return "weights.safetensors changed"


def dvc_lock_says_that_all_is_fresh() -> str:
    write_text(Path("dvc.lock"), "schema: '2.0'\nstages: {evaluate: {cmd: kedro run, outs: []}}\n")
    return weights_exchanged()


ATTACKS = [
    *(report_with_a_better_number, weights_exchanged, a_file_added_to_the_weights, another_codec),
    *(other_settings_in_the_bundle, other_shards, scores_edited, evidence_edited, evidence_removed),
    *(evidence_remade_by_hand, lineage_of_the_evaluation_edited, a_record_made_clean),
    *(a_record_of_a_run_that_nobody_knows, a_number_in_mlflows_database, the_run_removed_from_the_store),
    *(weights_behind_a_link, dvc_lock_says_that_all_is_fresh),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_refused_by_the_name_of_what_differs(project, attack: Callable[[], str]):
    words = attack()
    assert words in refused()


def kept(folder: Path) -> None:
    """Put the evaluation, its report and its record aside."""
    for path in (EVALUATION, REPORT, Path("data/08_reporting/lineage/evaluate.json")):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)


def put_back(folder: Path) -> None:
    shutil.rmtree(EVALUATION)
    shutil.copytree(folder, Path(), dirs_exist_ok=True)


def test_the_report_of_another_model_and_an_old_one_of_the_same_are_refused(project, tmp_path):
    kept(tmp_path / "first")
    write_text(TRAINED / "transformer/weights.safetensors", "transformer two")
    fabricated.run_stage("train_stage4", {}, {"stage4": TRAINED})
    fabricated.evaluate(fabricated.scores_of({**GOOD, "psnr": 21.0}))
    assert checks()["evidence"]["passed"]
    put_back(tmp_path / "first")  # the better model's evaluation, whole, beside the worse weights
    assert "weights.safetensors changed after it was evaluated" in refused()


def test_uncommitted_code_is_refused_however_it_hides(project):
    strict()
    gate, extra = Path("src/fportrait/ops/gate.py"), Path("src/fportrait/sitecustom.py")
    gate.write_text("FLOOR = 0\n")
    assert "src/fportrait/ops/gate.py differs" in refused("code")
    git("update-index", "--assume-unchanged", gate.as_posix())  # Git now says that the tree is clean
    assert "src/fportrait/ops/gate.py differs" in refused("code")
    gate.write_text("FLOOR = 1\n")
    assert checks()["code"]["passed"]
    write_text(Path(".git/info/exclude"), "sitecustom.py\n")
    extra.write_text("")
    assert "sitecustom.py differs" in refused("code")
    extra.unlink()
    Path("pipelines/promote.py").write_text("VERB = 2\n")
    assert "pipelines/promote.py differs" in refused("code")
    fabricated.evaluate(fabricated.scores_of(GOOD))  # honest about it: evaluated as it is
    assert "uncommitted" in refused("code") and "evaluate" in refused("clean tree")


def test_code_that_is_imported_from_elsewhere_is_not_the_commits(project, tmp_path, monkeypatch):
    strict()
    elsewhere = tmp_path / "elsewhere/fportrait"
    shutil.copytree("src/fportrait", elsewhere)
    monkeypatch.setattr(code, "PACKAGE", elsewhere)
    assert checks()["code"]["passed"]  # the same bytes
    (elsewhere / "evaluation/metrics.py").write_text("METRIC = 2\n")
    assert "src/fportrait/evaluation/metrics.py differs" in refused("code")


def easier(words: str) -> None:
    """The user's own parameters, which Git does not see."""
    write_text(Path("conf/local/parameters_promote.yml"), f"promote: {{clean_tree: true, {words}}}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("floors: {PhoneCapture: {ours: {lip_error: {mean: 0.5}}}}", "the floor of PhoneCapture.ours.lip_error.mean"),
        ("slice_floors: {ours/psnr: 1.0}", "the floor of ours/psnr is 1, in the commit 15"),
        ("against_champion: {ours/psnr: 9.0}", "the tolerated loss of ours/psnr is 9"),
        ("limits: {evaluate: {seconds: 99999999}}", "the limit of evaluate.seconds"),
        ("min_slice_clips: 99", "slices below 99 clips are not judged"),
    ],
)
def test_thresholds_that_were_lowered_out_of_gits_sight_are_refused(project, words, told):
    easier(words)
    assert told in refused("thresholds") and checks()["code"]["passed"]
    assert "commit what you ask for" in refused("thresholds")


def test_thresholds_that_are_edited_between_evaluation_and_promotion_are_refused_even_when_committed(project):
    strict()
    path = Path("conf/base/parameters_promote.yml")
    path.write_text(path.read_text().replace("lip_error: {mean: 0.055}", "lip_error: {mean: 0.9}"))
    assert "parameters_promote.yml differs" in refused("code")
    git("commit", "-q", "-a", "-m", "an easier gate")
    assert checks()["code"]["passed"]
    assert "lip_error.mean is 0.9, in the commit 0.055" in refused("thresholds")
    fabricated.evaluate(fabricated.scores_of(GOOD))  # asked before its numbers are known
    assert checks()["thresholds"]["passed"]
    easier("floors: {PhoneCapture: {ours: {lip_error: {mean: 0.01}}}}")  # asking for more is nobody's business
    assert checks()["thresholds"]["passed"]


def test_on_a_laptop_lowered_thresholds_are_told_and_pass(project):
    write_text(Path("conf/local/parameters_promote.yml"), "promote: {slice_floors: {ours/psnr: 1.0}}\n")
    found = checks()["thresholds"]
    assert found["passed"] and "in the commit 15 (allowed here)" in found["detail"]


def test_an_evaluation_of_fewer_clips_than_the_commit_asks_is_refused(project):
    strict()
    own = read_parameters()["evaluate"]
    fabricated.evaluate(fabricated.scores_of(GOOD), {**own, "protocol": {**own["protocol"], "records": 1}})
    assert "evaluate.protocol was not what the commit says" in refused("thresholds")
    fabricated.evaluate(fabricated.scores_of(GOOD), own)
    assert checks()["thresholds"]["passed"]


def test_without_git_or_in_another_repository_nobody_can_tell_which_code_this_is(project, tmp_path):
    strict()
    shutil.move(".git", tmp_path / "git")
    assert "there is no Git repository here" in refused("code")
    assert "no commit" in refused("thresholds")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "everything is committed")
    assert "is not in this repository" in refused("code")


def test_aliases_that_were_moved_by_hand_are_named_and_put_right_by_naming_a_version(project):
    server = mlflow.MlflowClient()
    for psnr in (24.0, 24.1, 24.2):
        write_text(TRAINED / "transformer/weights.safetensors", f"transformer {psnr}")
        fabricated.run_stage("train_stage4", {}, {"stage4": TRAINED})
        fabricated.evaluate(fabricated.scores_of({**GOOD, "psnr": psnr}))
        promoted(project)
    assert "registry" not in checks()
    server.set_registered_model_alias("fportrait", "champion", "1")
    assert "the alias champion names 1, the gate put it on 3" in refused("registry")
    server.delete_registered_model_alias("fportrait", "champion")  # so that the floors alone would decide
    assert "the alias champion names no version, the gate put it on 3" in refused("registry")
    server.delete_registered_model_tag("fportrait", "gate.champion")  # a registry from before it was noted
    assert "champion is gone, though version 3 won" in refused("registry")
    assert CliRunner().invoke(main, ["rollback", "--to", "3"]).exit_code == 0
    assert "registry" not in checks() and registry.champion_version(server) == "3"
    server.set_registered_model_alias("fportrait", "anchor", "3")
    assert "the alias anchor names 3, the gate put it on 1" in refused("registry")
    registry.set_anchor("3", "after the new captures")
    assert "registry" not in checks()
    assert CliRunner().invoke(main, ["rollback"]).exit_code == 0  # an honest one is no tampering
    assert "registry" not in checks() and registry.champion_version(server) == "2"


def test_a_report_behind_a_link_is_judged_by_what_it_says(project, tmp_path):
    other = tmp_path / "better.json"
    write_json(other, {**read(REPORT), "StudioCapture": {}})
    REPORT.unlink()
    REPORT.symlink_to(other)
    assert "evaluate.json is not the report that the evaluation wrote" in refused()
    shutil.move(EVALUATION, tmp_path / "evaluation")
    (EVALUATION).symlink_to(tmp_path / "evaluation")
    edit(EVALUATION / "scores.json", holdout="other")
    assert "scores.json is not what the evaluation wrote" in refused()


def test_a_key_demands_its_own_signature(project, tmp_path, monkeypatch):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    monkeypatch.setenv(evidence.KEY_VARIABLE, str(key))
    assert "no signature" in refused()
    fabricated.evaluate(fabricated.scores_of(GOOD))
    assert checks()["evidence"]["passed"] and "(signed)" in checks()["evidence"]["detail"]
    key.write_bytes(bytes(range(1, 33)))
    assert "another key" in refused()
    key.write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes"):
        evidence.signing_key()


def test_inputs_that_change_while_they_are_evaluated_are_refused(project):
    taken = evidence.take(fabricated.INPUTS)
    write_text(TRAINED / "transformer/weights.safetensors", "transformer other")
    with pytest.raises(UserError, match="changed while it was evaluated"):
        evidence.seal(taken, fabricated.INPUTS, EVALUATION, {}, [])


def test_a_project_without_a_store_is_one_sentence_and_stays_without_one(project):
    shutil.rmtree("mlruns")
    for arguments in (["promote", "--dry-run"], ["lineage"], ["rollback"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and "no mlruns/mlflow.db" in result.output and "registry import" in result.output
    assert not Path("mlruns").exists()
    assert registry.chosen_model().words.startswith("the shipped base: no registry here")
