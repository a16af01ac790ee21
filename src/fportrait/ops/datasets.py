"""Catalog entries: a folder that a stage makes, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from kedro.io import AbstractDataset

from fportrait.atomic_io import write_json
from fportrait.errors import UserError
from fportrait.ops.headline import NAMED, curves, headline

JSONPreview: TypeAlias = str  # the name of the annotation tells Kedro-Viz what it is
METRICS, CURVES = "metrics", "curves"  # folders beside the reports


def _missing(path: Path, made_by: str) -> UserError:
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return UserError(
        f"no {path}", f"the result of '{made_by}'", f"run `kedro run --pipelines={made_by}` (or `dvc repro {made_by}`)"
    )


class Folder(AbstractDataset[Path, Path]):
    """A folder; loading gives its path. What lies inside belongs to the library, not to the catalog."""

    def __init__(self, filepath: str, made_by: str):
        self._path, self._made_by = Path(filepath), made_by

    def load(self) -> Path:
        if not self._exists():
            raise _missing(self._path, self._made_by)
        return self._path

    def save(self, data: Path) -> None:
        if not self._exists():
            raise RuntimeError(f"'{self._made_by}' ended without writing {self._path}")

    def _exists(self) -> bool:
        return self._path.is_dir() and any(self._path.iterdir())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path.as_posix(), "made_by": self._made_by}


class Report(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """The JSON report of a stage: counts and metrics, nothing that differs between two equal runs.

    Beside it lie its few headline numbers (`metrics/STAGE.json`, what DVC compares) and, of an evaluation, the rows
    that DVC plots (`curves/`).
    """

    def __init__(self, filepath: str, made_by: str):
        self._path, self._made_by = Path(filepath), made_by

    def load(self) -> dict[str, Any]:
        if not self._exists():
            raise _missing(self._path, self._made_by)
        return json.loads(self._path.read_text(encoding="utf-8"))

    def save(self, data: dict[str, Any]) -> None:
        write_json(self._path, data)
        write_json(self._path.parent / METRICS / self._path.name, headline(self._made_by, data))
        if self._made_by in NAMED:
            for name, rows in curves(data).items():
                write_json(self._path.parent / CURVES / f"{name}.json", rows)

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._path.as_posix(), "made_by": self._made_by}

    def preview(self) -> JSONPreview:
        """What Kedro-Viz shows: the headline numbers first."""
        report = self.load()
        return json.dumps({"headline": headline(self._made_by, report), **report}, indent=2)
