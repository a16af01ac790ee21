"""How the API pages read the house's docstrings: a row an argument, an entry a class."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def extension():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs/site/docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_argument_gets_a_row_of_its_own():
    lines = ["What.", "", "Args:", "    fps, rate, size: numbers. model: a folder.", "        With parts: many."]
    text = "\n".join([*lines, "", "Returns:", "    x"])
    shown = extension().with_rows(text, ["fps", "rate", "size", "model"])
    rows = [line.strip() for line in shown.split("Args:\n")[1].split("\n\n")[0].splitlines()]
    assert [row.split(":")[0] for row in rows] == ["fps", "rate", "size", "model", "With parts"]
    assert rows[2] == "size: numbers." and shown.endswith("Returns:\n    x")


def test_a_class_whose_docstring_begins_with_its_arguments_has_a_section():
    shown = extension().with_rows(
        "Args:\nmodel: a folder. size: pixels.\n\nRaises:\n    UserError: no.", ["model", "size"]
    )
    assert shown.startswith("\nArgs:\n    model: a folder.\n    size: pixels.\n\nRaises:")


def test_a_class_is_listed_once_under_the_name_that_users_import(tmp_path):
    import griffe

    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text('from pack.one import Thing\n\n__all__ = ["Thing"]\n')
    (tmp_path / "pack/one.py").write_text(
        'class Thing:\n    """A thing."""\n\n\nclass Other(Thing):\n    """Another."""\n'
    )
    extensions = griffe.load_extensions(ROOT / "docs/site/docstrings.py")
    pack = griffe.load("pack", search_paths=[str(tmp_path)], extensions=extensions, allow_inspection=False)
    assert pack["Thing"].path == "pack.Thing" and not pack["Thing"].is_alias
    listed = {name: member.is_alias for name, member in pack["one"].members.items()}
    assert listed == {"Thing": True, "Other": False}
    assert not pack["one"].members["Thing"].is_public and pack["one"].members["Other"].is_public
