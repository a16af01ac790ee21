"""The index of tools names every tool, and every command in it can be run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_tool_is_in_the_index_and_every_entry_is_there():
    text = (ROOT / "tools/README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+\.py)`", text, re.M))
    assert listed == {path.name for path in (ROOT / "tools").glob("*.py")}
    for module in re.findall(r"python -m (fportrait[\w.]+)", text):
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin and "__main__" in Path(spec.origin).read_text(encoding="utf-8"), module
