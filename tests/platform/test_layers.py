"""The order of the packages: imports, those inside functions too, run downward only; orchestrators stay in `ops`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fportrait.ops.imports import ImportGraph

ROOT = Path(__file__).parents[2]
LAYERS = (  # a package imports its own layer's earlier packages and everything below
    ("errors", "atomic_io", "parameters", "pixels", "bundle", "devices", "scale", "tables"),
    ("camera", "body"),
    ("capture", "provenance", "outputs", "tracking"),
    ("avatar",),
    ("diffusion",),
    ("dataset",),
    ("training",),
    ("evaluation",),
    ("animate",),
    ("ops",),
    ("pipelines", "hooks", "settings", "pipeline_registry"),
    ("web", "cli", "__main__"),
)
RANK = {name: (layer, place) for layer, names in enumerate(LAYERS) for place, name in enumerate(names)}
ORCHESTRATORS = {"kedro", "kedro_mlflow", "mlflow", "dvc"}


@pytest.fixture(scope="module")
def graph():
    return ImportGraph(ROOT)


def package(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def upward(graph: ImportGraph) -> set[tuple[str, str]]:
    """Imports that run back up or, from cli, into Kedro's files, without the leading `fportrait.`."""
    found = set()
    for name in graph.modules:
        for target, _, _ in graph.imports(name):
            a, b = package(name), package(target)
            kedro = a in ("web", "cli") and b in ("pipelines", "pipeline_registry", "hooks", "settings")
            if a and b and a != b and (RANK[b] > RANK[a] or kedro):
                found.add((name.removeprefix("fportrait."), target.removeprefix("fportrait.")))
    return found


def test_every_package_has_its_layer(graph):
    assert {package(name) for name in graph.modules} - {""} == set(RANK)


def test_no_import_runs_back_up(graph):
    assert not upward(graph)


def test_orchestrators_are_imported_in_ops_and_in_kedros_own_files_alone(graph):
    allowed = {"ops", "pipelines", "hooks", "settings", "pipeline_registry"}
    found = {
        (name, outside, line)
        for name in graph.modules
        for outside, line in graph.outside(name)
        if outside in ORCHESTRATORS and package(name) not in allowed
    }
    assert not found


def test_an_import_inside_a_function_or_for_type_checkers_alone_is_seen(tmp_path):
    files = {
        "camera/__init__.py": "",
        "camera/lens.py": "def bend():\n    from fportrait.web import page\n",
        "body/__init__.py": "import typing\nif typing.TYPE_CHECKING:\n    from fportrait.web.page import Page\n",
        "web/__init__.py": "",
        "web/page.py": "import fportrait.camera.lens\nclass Page: ...\n",
    }
    for name, text in files.items():
        path = tmp_path / "src/fportrait" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert upward(ImportGraph(tmp_path)) == {("camera.lens", "web.page"), ("body", "web.page")}
