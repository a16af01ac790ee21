"""The project's files agree: pipelines, parameters of both environments, the catalog, DVC's stages, MLflow's list."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader

from fportrait.errors import UserError
from fportrait.ops.chain import BESIDE, CHAIN
from fportrait.ops.parameters import check_kinds, check_nested_keys, check_parameters, known_parameters
from fportrait.pipeline_registry import register_pipelines

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from environment_stages import environment_stages  # noqa: E402


def parameters(environment: str) -> dict[str, Any]:
    loader = OmegaConfigLoader(
        str(ROOT / "conf"), base_env="base", default_run_env=environment, merge_strategy={"parameters": "soft"}
    )
    return loader["parameters"]


def own_files(environment: str) -> dict[str, Any]:
    """The parameters of one environment's files alone, by stage."""
    paths = sorted((ROOT / "conf" / environment).glob("parameters_*.yml"))
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= yaml.safe_load(path.read_text())
    return {name: merged[name] for name in merged if name != "folders"}


@pytest.fixture(scope="module")
def dvc_stages() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("environment", ["base", "paper", "mini", "gpu"])
def test_every_parameter_is_read_by_a_node_and_every_node_finds_its_parameters(environment):
    check_parameters(parameters(environment), known_parameters(register_pipelines().values()))


def test_laptop_and_paper_have_the_same_keys_at_every_depth():
    base, paper = own_files("base"), own_files("paper")
    check_nested_keys(paper, base)
    check_nested_keys(base, paper)


@pytest.mark.parametrize("environment", ["mini", "paper", "gpu"])
def test_an_environment_changes_known_keys_and_writes_into_folders_of_its_own(environment):
    check_nested_keys(own_files(environment), own_files("base"))
    check_kinds(parameters(environment), parameters("base"))  # as before every run
    base, own = (
        {"reports": found["reports"], **found["folders"]}
        for name in ("base", environment)
        for found in [yaml.safe_load((ROOT / "conf" / name / "globals.yml").read_text())]
    )
    assert base.keys() == own.keys()
    assert all(own[name] == path.replace("data/", f"data/{environment}/", 1) for name, path in base.items())
    loader = OmegaConfigLoader(
        str(ROOT / "conf"), base_env="base", default_run_env=environment, merge_strategy={"parameters": "soft"}
    )
    written = str(loader["parameters"]) + str(loader["catalog"])
    shared = [path for path in base.values() if f"'{path}" in written]
    assert not shared, "a path of the base's that no environment can move"


def test_dvc_serves_an_environment_in_folders_and_a_lock_of_its_own(dvc_stages):
    made = environment_stages("paper", ROOT)
    stages = made["stages"]
    assert tuple(stages) == CHAIN
    assert "../../data/paper/08_reporting/curves/gains.json" in str(made["plots"])
    assert "../../data/0" not in str(made["plots"])
    demo = {folder for stage in dvc_stages.values() for folder in [*stage["deps"], *map(out_path, stage["outs"])]}
    for name, stage in stages.items():
        assert "kedro run --env=paper --pipelines=" in stage["cmd"] and stage["wdir"] == "../.."
        assert {f"conf/paper/parameters_{name}.yml": [name]} in stage["params"]
        places = [*stage["deps"], *map(out_path, [*stage["outs"], *stage["metrics"], *stage.get("plots", [])])]
        moved = [path for path in places if path.startswith("data/")]
        assert moved and all(path.startswith(("data/paper/", "data/wan2.1")) for path in moved)
        assert not demo & set(moved)
        assert len(stage["deps"]) == len(dvc_stages[name]["deps"]) + 1
    assert "data/wan2.1" in stages["pretrain"]["deps"]  # what `fportrait weights import-wan` made is watched
    with pytest.raises(UserError, match="docs/results/dvc"):
        environment_stages("mini", ROOT)  # its data are made for the published tables already
    with pytest.raises(UserError, match=r"globals\.yml"):
        environment_stages("outgrow", ROOT)


def out_path(out):
    return next(iter(out)) if isinstance(out, dict) else out


def test_the_paper_environment_holds_the_published_numbers():
    values = parameters("paper")
    stages = [values[f"train_stage{n}"] for n in range(1, 5)]
    assert [stage["frames"] for stage in stages] == [13, 25, 49, 81]
    assert [stage["iterations"] for stage in stages] == [20000, 20000, 20000, 30000]
    assert [stage["learning_rate"] for stage in stages] == [1e-4, 1e-4, 5e-5, 2e-5]
    assert [list(stage["mixture"].values()) for stage in stages] == [
        [100, 0, 0, 0],
        [60, 40, 0, 0],
        [20, 20, 30, 30],
        [20, 20, 30, 30],
    ]
    assert {(stage["batch_size"], stage["shift"]) for stage in stages} == {(64, 5.0)}
    sweep = values["render_sweeps"]["sweep"]
    assert (sweep["clips_view"], sweep["frames_view"], sweep["clips_dynamic"], sweep["frames_dynamic"]) == (
        *(128, 100),
        *(32, 128),
    )
    assert (sweep["size"], sweep["fov_degrees"], sweep["distance_min"], sweep["distance_max"]) == (1024, 72, 0.25, 0.4)


@pytest.mark.parametrize("environment", ["base", "paper", "mini", "gpu"])
def test_clips_grow_with_the_stages_and_fit_the_shards_window(environment):
    values = parameters(environment)
    frames = [values[f"train_stage{n}"]["frames"] for n in range(1, 5)]
    assert frames == sorted(frames) and all(count % 4 == 1 for count in frames)
    assert frames[-1] <= values["encode"]["encoding"]["window"]
    assert values["promote"]["frames"] == frames[-1]


def test_dvc_has_one_stage_per_pipeline_with_exactly_its_own_section(dvc_stages):
    assert tuple(dvc_stages) == CHAIN
    for name, stage in dvc_stages.items():
        assert stage["cmd"].endswith(f"kedro run --pipelines={name}")
        section = {f"conf/base/parameters_{name}.yml": [name]}
        assert section in stage["params"]


def test_dvc_reads_and_writes_the_folders_that_the_nodes_do(dvc_stages):
    folders = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())["folders"]
    pipelines = register_pipelines()
    for name in CHAIN:
        (node,) = pipelines[name].nodes
        read = {folders[entry] for entry in node.inputs if entry in folders}
        written = {folders[entry] for entry in node.outputs if entry in folders}
        outs = {next(iter(out)) if isinstance(out, dict) else out for out in dvc_stages[name]["outs"]}
        assert read <= set(dvc_stages[name]["deps"])
        assert written <= outs and f"data/08_reporting/lineage/{name}.json" in outs
        assert f"data/08_reporting/{name}.json" in outs
        assert dvc_stages[name]["metrics"] == [f"data/08_reporting/metrics/{name}.json"]


def test_dvc_watches_code_that_exists(dvc_stages):
    code = {dep for stage in dvc_stages.values() for dep in stage["deps"] if not dep.startswith("data/")}
    assert [dep for dep in sorted(code) if not (ROOT / dep).exists()] == []


def test_kedro_mlflow_opens_no_run_of_its_own_for_any_pipeline():
    config = yaml.safe_load((ROOT / "conf/base/mlflow.yml").read_text())
    listed = config["tracking"]["disable_tracking"]["pipelines"]
    assert set(listed) == {"__default__", *CHAIN, *BESIDE}


def test_the_chain_is_one_connected_graph_in_the_order_of_the_pipelines():
    chain = register_pipelines()["__default__"]
    names = [node.name for node in chain.nodes]
    assert set(names) == set(CHAIN)
    written: set[str] = set()
    for name in CHAIN:
        node = next(node for node in chain.nodes if node.name == name)
        assert {entry for entry in node.inputs if not entry.startswith("params:")} <= written
        written |= set(node.outputs)


def test_registering_the_pipelines_imports_no_heavy_library():
    code = (
        "import sys; from fportrait.pipeline_registry import register_pipelines; register_pipelines();"
        "print(sorted({'torch', 'mlflow', 'diffusers', 'great_expectations', 'optuna'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "[]"


def test_every_node_has_source_that_kedro_viz_can_show():
    for pipeline in register_pipelines().values():
        for node in pipeline.nodes:
            assert "def " in inspect.getsource(inspect.unwrap(node.func))
