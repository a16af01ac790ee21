"""The deps of dvc.yaml are what its stages run and read: the import closure of every verb."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fportrait.ops.imports import ImportGraph
from fportrait.ops.stage_deps import StageDeps, asset_uses, folded, main, with_deps

ROOT = Path(__file__).parents[2]
PIPELINE = """stages:
  track:
    cmd: kedro run
    deps:
      - src/fportrait/forgotten.py
      - data/clips
    outs:
      - data/tracks
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one stage; its verb imports `fit` inside a function, which reads an asset that `net` names."""
    files = {
        "dvc.yaml": PIPELINE,
        "pipelines/__init__.py": "",
        "pipelines/track/__init__.py": '"""Only a docstring."""\n',
        "pipelines/track/nodes.py": "def track():\n    from fportrait.tracking.fit import fit\n    fit()\n",
        "src/fportrait/__init__.py": "",
        "src/fportrait/typed.py": "class Only: ...\n",
        "src/fportrait/tracking/__init__.py": "from fportrait.tracking import early\n",
        "src/fportrait/tracking/early.py": "x = 1\n",
        "src/fportrait/tracking/fit.py": "from typing import TYPE_CHECKING\nfrom fportrait.net import NET\n"
        "if TYPE_CHECKING:\n    from fportrait.typed import Only\ndef fit(): return NET\n",
        "src/fportrait/tracking/late.py": "x = 1\n",
        "src/fportrait/net.py": "NAME = 'other.npz'\nNET = here / 'assets' / 'net.npz'\n"
        "OTHER = here / 'assets' / NAME\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dvc_yaml_lists_what_its_stages_run_and_read():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert with_deps(text, StageDeps(ROOT)) == text, "run: python -m fportrait.ops.stage_deps --write"


def test_imports_inside_functions_packages_on_the_way_and_named_assets_count(project):
    code = StageDeps().code("track")
    assert code == [
        "pipelines/track",
        "src/fportrait/net.py",
        "src/fportrait/tracking",  # three of its four modules
        "src/fportrait/assets/net.npz",
    ]


def test_the_command_names_what_is_missing_or_too_much_and_writes_it(project):
    told = CliRunner().invoke(main)
    assert told.exit_code == 1
    assert "missing: src/fportrait/net.py" in told.output and "not imported: src/fportrait/forgotten.py" in told.output
    assert CliRunner().invoke(main, ["--write"]).exit_code == 0
    assert CliRunner().invoke(main).exit_code == 0
    text = (project / "dvc.yaml").read_text()
    assert text.index("assets/net.npz") < text.index("- data/clips") < text.index("    outs:\n      - data/tracks")
    (project / "src/fportrait/tracking/fit.py").write_text("def fit():\n    import fportrait.typed\n")
    assert "missing: src/fportrait/typed.py" in CliRunner().invoke(main).output


def test_a_folder_stands_for_three_quarters_of_its_files_and_never_for_the_whole_package():
    every = [Path(f"src/fportrait/a/{name}.py") for name in "wxyz"] + [Path("src/fportrait/b.py")]
    assert folded(set(every[:3]), every) == {"src/fportrait/a"}
    assert folded(set(every[:2]), every) == {"src/fportrait/a/w.py", "src/fportrait/a/x.py"}
    assert folded(set(every), every) == {"src/fportrait/a", "src/fportrait/b.py"}


def test_an_asset_that_no_constant_names_is_refused(project):
    (project / "src/fportrait/net.py").write_text("def load(name): return here / 'assets' / name\n")
    with pytest.raises(ValueError, match=r"net\.py:1.*constant"):
        asset_uses(ImportGraph())
