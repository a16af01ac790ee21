"""The pages of docs/adding are followed to the letter: their files are loaded, their blocks are run."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from fportrait.capture.importers import place
from fportrait.evaluation.metrics import METRICS
from fportrait.tables import schema
from fportrait.training import config

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/adding").glob("*.md"))
BLOCK = re.compile(r'^```python(?: title="src/(?P<file>[\w/]+)\.py")?\n(?P<code>.*?)^```', re.M | re.S)


@pytest.fixture
def restored(monkeypatch):
    """Whatever a page adds is gone after it."""
    monkeypatch.setattr(place, "LAYOUTS", dict(place.LAYOUTS))
    for module in (schema, config):
        monkeypatch.setattr(module, "DATASETS", module.DATASETS)
    kept, modules = dict(METRICS), set(sys.modules)
    yield
    METRICS.clear()
    METRICS.update(kept)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__page__", False):
            parent, _, last = name.rpartition(".")
            delattr(sys.modules[parent], last)
            del sys.modules[name]


def follow(text: str) -> int:
    """Run a page's blocks in one namespace; a block titled with a file becomes that module. How many there were."""
    space: dict[str, object] = {"__name__": "page"}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        code = compile(block["code"], block["file"] or "page", "exec")
        if block["file"] is None:
            exec(code, space)
            continue
        name = block["file"].replace("/", ".")
        module = types.ModuleType(name)
        module.__dict__["__page__"] = True
        sys.modules[name] = module
        exec(code, module.__dict__)
        parent, _, last = name.rpartition(".")
        setattr(importlib.import_module(parent), last, module)
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(page, tmp_path, monkeypatch, restored):
    monkeypatch.chdir(tmp_path)
    assert follow(page.read_text(encoding="utf-8")) >= 2


def test_a_page_that_is_no_longer_true_fails(restored):
    text = (ROOT / "docs/adding/metric.md").read_text(encoding="utf-8")
    with pytest.raises(AssertionError):
        follow(text.replace("[5.0, 5.0]", "[4.0, 5.0]"))


def test_contributing_and_the_site_link_every_page():
    contributing, site = ((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "mkdocs.yml"))
    assert {page.stem for page in PAGES} == {"avatar", "condition", "dataset", "importer", "metric"}
    for page in PAGES:
        assert f"docs/adding/{page.name}" in contributing and f"adding/{page.name}" in site
