"""Benchmarks and tools are run by hand, so nobody notices when what they import has moved: this does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
