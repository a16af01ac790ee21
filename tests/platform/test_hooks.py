"""The hooks, on a dry chain of two real stages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import pytest

from fportrait.errors import UserError
from fportrait.ops.lineage import read_record
from fportrait.ops.parameters import check_kinds


def client_of(project: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")


def runs_of(project: Path) -> list:
    client = client_of(project)
    experiment = client.get_experiment_by_name("fportrait")
    return client.search_runs([experiment.experiment_id])


def test_every_stage_is_a_run_under_one_parent_with_its_keys(dry_project, kedro_run):
    result = kedro_run()
    assert result.exit_code == 0, result.output
    runs = {run.data.tags.get("stage", "chain"): run for run in runs_of(dry_project)}
    assert set(runs) == {"chain", "count", "add"}
    parent = runs["chain"].info.run_id
    assert runs["chain"].info.run_name == "count … add (2 stages)"
    (used,) = runs["add"].inputs.dataset_inputs
    assert (used.dataset.name, json.loads(used.dataset.source)) == ("numbers", {"uri": "data/numbers"})
    assert used.dataset.digest == read_record("count")["outputs"]["data/numbers"]["hash"]
    for name in ("count", "add"):
        run = runs[name]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
        costs = {"system/seconds", "system/peak_memory_mib", "system/bytes_in", "system/bytes_out"}
        assert costs <= set(run.data.metrics)
        assert run.data.tags["mlflow.source.name"] == f"kedro run --pipelines={name}"
    assert runs["add"].data.params == {"scale": "2.0", "shares.first": "1"}
    assert runs["add"].data.tags["input.numbers"] == read_record("count")["outputs"]["data/numbers"]["hash"]
    curve = client_of(dry_project).get_metric_history(runs["add"].info.run_id, "partial")
    assert [(point.step, point.value) for point in curve] == [(i, 2.0 * i) for i in range(5)]


def test_the_record_beside_a_result_holds_the_resolved_parameters_and_what_went_in_and_out(dry_project, kedro_run):
    assert kedro_run("--params", "add.scale=3").exit_code == 0
    record = json.loads((dry_project / "data/08_reporting/lineage/add.json").read_text())
    assert record["parameters"] == {"scale": 3, "shares": {"first": 1}}
    assert record["bytes_in"] == len("0\n1\n2\n3\n4")
    assert set(record["outputs"]) == {"data/sums", "data/08_reporting/add.json"}


def test_a_stage_without_its_input_names_the_command_to_run_and_exits_2(dry_project, kedro_run):
    for option in ("--pipelines=add", "--pipeline=add"):
        result = kedro_run(option)
        assert result.exit_code == 2
        assert "kedro run --pipelines=count" in result.output
        assert "Traceback" not in result.output
    assert not (dry_project / "data/sums").exists()


def test_an_unknown_parameter_is_refused_with_the_nearest_name_before_anything_runs(dry_project, kedro_run):
    result = kedro_run("--params", "add.scael=3")
    assert result.exit_code == 2
    assert "'scael'" in result.output and "rename it to 'scale'" in result.output
    assert not (dry_project / "data").exists()


def test_an_unknown_parameter_in_a_file_is_refused_with_the_nearest_name(dry_project, kedro_run):
    (dry_project / "conf/local/parameters.yml").write_text("cuont:\n  upto: 3\n")
    result = kedro_run()
    assert result.exit_code == 2
    assert "rename it to 'count'" in result.output


def test_a_local_file_changes_one_key_and_keeps_the_rest_of_the_section(dry_project, kedro_run):
    (dry_project / "conf/local/parameters.yml").write_text("folders:\n  sums: data/other\n")
    result = kedro_run("--pipelines=count")
    assert result.exit_code == 0, result.output
    assert read_record("count")["outputs"].keys() == {"data/numbers", "data/08_reporting/count.json"}


def test_a_mistake_inside_a_stage_is_one_line_and_marks_the_run_failed(dry_project, kedro_run):
    result = kedro_run("--params", "add.scale=-1")
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1].startswith("fportrait: Found scale -1.")
    assert "Traceback" not in result.output
    failed = [run for run in runs_of(dry_project) if run.info.status == "FAILED"]
    assert {run.data.tags.get("stage", "chain") for run in failed} == {"add", "chain"}


def test_an_unknown_key_inside_a_nested_value_is_refused_too(dry_project, kedro_run):
    result = kedro_run("--params", "folders.sumz=data/x")
    assert result.exit_code == 2 and "rename it to 'sums'" in result.output
    result = kedro_run("--params", "add.shares.frist=1")
    assert result.exit_code == 2 and "rename it to 'first'" in result.output


def test_an_environment_with_folders_of_its_own_leaves_the_bases_alone(dry_project, kedro_run):
    import yaml

    base, other = dry_project / "conf/base", dry_project / "conf/other"
    other.mkdir()
    catalog, values = (yaml.safe_load((base / name).read_text()) for name in ("catalog.yml", "parameters.yml"))
    for environment, root in ((base, "data"), (other, "data/other")):
        folders = {name: f"{root}/{name}" for name in values["folders"]}
        (environment / "globals.yml").write_text(yaml.safe_dump({"folders": folders}))
    for name in values["folders"]:
        catalog[name]["filepath"] = f"${{globals:folders.{name}}}"
    reports = {"{stage}_report": {**catalog["{stage}_report"], "filepath": "data/other/08_reporting/{stage}.json"}}
    (base / "catalog.yml").write_text(yaml.safe_dump(catalog))
    (base / "parameters.yml").write_text(yaml.safe_dump({**values, "folders": "${globals:folders}"}))
    (other / "catalog.yml").write_text(yaml.safe_dump(reports))
    result = kedro_run("--env", "other")
    assert result.exit_code == 0, result.output
    made = {path.relative_to(dry_project / "data").parts[0] for path in (dry_project / "data").rglob("*.txt")}
    assert made == {"other"}
    assert (dry_project / "data/other/08_reporting/lineage/add.json").is_file()
    assert not (dry_project / "data/08_reporting").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env=bas"], "the environment 'bas'.*write 'base'"),
        (["--tags=cuont"], "no node with the tag 'cuont'.*write 'count'"),
        (["--nodes=ad"], "the node 'ad'.*write 'add'"),
        (["--from-nodes=ad"], "the node 'ad'.*write 'add'"),
        (["--to-nodes=nothing"], "the node 'nothing'.*count"),
        (["--to-outputs=sum"], "the data set 'sum'.*write 'sums'"),
        (["--from-inputs=number"], "the data set 'number'.*write 'numbers'"),
        (["--namespaces=x"], "the namespace x"),
        (["--pipelines=ad"], "Failed to find the pipeline named 'ad'"),
        (["--params=add.scale=much"], "'much' for 'add.scale'.*a number"),
        (["--params=add.shares=3"], "3 for 'add.shares'.*keys with values"),
        (["--params=add.shares.first=0.5"], "0.5 for 'add.shares.first'.*a whole number"),
    ],
)
def test_what_the_command_line_asks_for_wrongly_is_a_sentence_before_anything_runs(
    dry_project, kedro_run, options, message
):
    result = kedro_run(*options)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert re.search(message, " ".join(result.output.split())), result.output
    assert not (dry_project / "data/sums").exists()


def test_a_tab_in_a_parameters_file_is_named_with_its_line_and_a_byte_order_mark_is_read(dry_project, kedro_run):
    (dry_project / "conf/local").mkdir(exist_ok=True)
    path = dry_project / "conf/local/parameters_mine.yml"
    path.write_text("add:\n\tscale: 3\n")
    result = kedro_run()
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert re.search(r"parameters_mine\.yml, line 2, with a tab", " ".join(result.output.split())), result.output
    path.write_bytes(b"\xef\xbb\xbfadd:\n  scale: 3\n")
    assert kedro_run().exit_code == 0
    record = json.loads((dry_project / "data/08_reporting/lineage/add.json").read_text())
    assert record["parameters"]["scale"] == 3


def test_counts_are_not_negative_at_any_depth():
    base = {"track": {"workers": 2, "tracking": {"steps": 5, "offset": 1}}}
    check_kinds({"track": {"workers": 0, "tracking": {"steps": 1, "offset": -3}}}, base)
    for wrong in ({"workers": -2}, {"tracking": {"steps": -1}}):
        with pytest.raises(UserError, match="0 or more"):
            check_kinds({"track": wrong}, base)


def test_the_runs_page_is_mlflows_own_process_of_this_store(dry_project, monkeypatch):
    from click.testing import CliRunner

    from fportrait.ops.kedro_cli import cli

    became = []
    monkeypatch.setattr("os.execv", lambda path, words: became.append(words[1:]))
    result = CliRunner().invoke(cli, ["mlflow", "ui", "--port", "5055"])
    assert result.exit_code == 0, result.output
    store = f"sqlite:///{dry_project}/mlruns/mlflow.db"
    assert became == [["-m", "mlflow", "ui", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", "5055"]]
    assert {"init", "modelify"} <= set(cli.commands["mlflow"].list_commands(None))
