"""Hooks of the documentation site: missing pages leave the list, pages that nobody listed come under "More"."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def listed(entries: list[Any]) -> set[str]:
    """Every page that a navigation names."""
    pages: set[str] = set()
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages |= listed(value) if isinstance(value, list) else {value}
    return pages


def present(entries: list[Any], folder: Path) -> list[Any]:
    """The navigation without pages that do not exist."""
    kept: list[Any] = []
    for entry in entries:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            value = present(value, folder)
            if value:
                kept.append({title: value})
        elif (folder / value).is_file():
            kept.append({title: value} if title else value)
    return kept


def on_config(config: Any) -> Any:
    folder = Path(config["docs_dir"])
    nav = present(config["nav"], folder)
    more = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    more = [page for page in more if page not in listed(nav)]
    config["nav"] = [*nav, {"More": more}] if more else nav
    return config
