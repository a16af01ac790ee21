"""Benchmarks and tools are run by hand, so nobody notices when what they import has moved: this does."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fportrait.capture.video_io import probe, read_video, write_video

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py")])


def module_file(name: str) -> Path | None:
    place = ROOT / "src" / name.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def names_of(file: Path) -> set[str]:
    """What a module defines or imports at its top level, also under `if`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_script_imports_from_the_library_is_there(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("fportrait"):
            continue
        file = module_file(node.module)
        assert file, f"{script.name} imports {node.module}, which is no module"
        for alias in node.names:
            there = alias.name in names_of(file) or module_file(f"{node.module}.{alias.name}")
            assert there, f"{script.name} imports {alias.name} from {node.module}, which has none"


def test_the_real_clips_are_cut_out_without_a_program(tmp_path, monkeypatch):
    """Frames 3 to 7, of a quarter of the picture, at the source's rate."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PATH", str(tmp_path))
    real = import_module("real_people_set")
    rows = np.arange(32, dtype=np.uint8)[:, None, None]
    frames = np.stack([np.broadcast_to(20 * index + 3 * rows, (32, 48, 3)).astype(np.uint8) for index in range(9)])
    content = write_video(tmp_path / "source.mp4", frames, 30.0, crf=1).read_bytes()
    about = {"file": "a/source.mp4", "start": 3, "frames": 4, "crop": [8, 16, 24, 16]}
    real.write_clip(real.Entry("one", "clips", tmp_path / "one.mp4", about), content)
    shown, told = read_video(tmp_path / "one.mp4"), probe(tmp_path / "one.mp4")
    assert shown.shape == (4, 16, 24, 3) and told.fps == pytest.approx(30) and not told.variable_rate
    assert np.abs(shown.astype(int) - frames[3:7, 16:, 8:32].astype(int)).max() < 8
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["one.mp4", "source.mp4"]
