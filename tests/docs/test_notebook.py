"""The tour runs, and the page shows the cells that it has."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebook/tour.ipynb"


def tool():
    spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_notebooks_cells_outputs_and_pictures():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    text, pictures = tool().page(notebook)
    assert (ROOT / "docs/notebook.md").read_text(encoding="utf-8") == text, "run `python tools/notebook.py`"
    assert len(pictures) >= 5
    for name, content in pictures.items():
        assert (ROOT / "docs/images/notebook" / name).read_bytes() == content
    assert all(cell["outputs"] for cell in notebook["cells"][3:] if cell["cell_type"] == "code")


def test_every_cell_of_the_tour_runs_with_four_steps_of_training():
    code = (
        "import json, sys; sys.path.insert(0, 'tools'); import notebook as tool\n"
        "cells = json.loads(tool.NOTEBOOK.read_text()); tool.run(cells); print(tool.page(cells)[0])"
    )
    environment = {**os.environ, "TOUR_STEPS": "4", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    for words in ("9 frames at 25 a second", "codes (9, 128)", "video (9, 64, 64, 3) uint8", "4 steps;", "after: PSNR"):
        assert words in run.stdout


def test_a_cell_that_fails_is_named():
    import pytest

    broken = {"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}
    with pytest.raises(RuntimeError, match=r"cell 1 .*division"):
        tool().run(broken)
