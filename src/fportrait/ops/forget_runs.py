"""What MLflow's runs and registry hold of one person: versions by their record of lineage, names in the database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fportrait.ops import adapters, registry, runs, store
from fportrait.ops.person import Person

TABLES = {  # of MLflow: table to the columns that may name a person
    "metrics": ("key",),
    "latest_metrics": ("key",),
    "params": ("key", "value"),
    "tags": ("key", "value"),
}


def versions(home: Path) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """Every registered version of the model, with whom it was made of as `lineage.captures` tells; None unrecorded."""
    if os.environ.get("MLFLOW_TRACKING_URI") or not (home / store.DATABASE).is_file() or not store.open_store():
        return
    with store.store_errors():
        server = runs.client()
        for version in registry.versions(server):
            story = None
            with contextlib.suppress(ValueError):
                story = registry.read_json(server, str(version.version), "lineage.json")
            captures = (story or {}).get("captures")
            yield version, captures if isinstance(captures, dict) and captures else None


def split_of(story: dict[str, Any] | None, name: str) -> set[str]:
    found = (entry for key, entry in (story or {}).items() if key.partition("/")[2] == name)
    return {str(entry.get("split")) for entry in found if isinstance(entry, dict)}


def drop_version(home: Path, version: Any) -> None:
    """A version, its files and its run; an alias that it bears names nobody afterwards."""
    import mlflow

    store.open_store(write=True)
    with store.store_errors():
        server = runs.client()
        for alias in (registry.CHAMPION, registry.PREVIOUS, registry.ANCHOR, registry.STUDENT):
            if registry.alias_version(server, alias) == str(version.version):
                server.delete_registered_model_alias(version.name, alias)
                registry.remember(server, alias, None)
        source = str(version.source)
        adapters.remove_version(server, version)
        if source.startswith("models:/m-"):
            model = source.removeprefix("models:/")
            shutil.rmtree(home / store.ARTIFACTS / "models" / model, ignore_errors=True)
            with contextlib.suppress(mlflow.exceptions.MlflowException):
                server.delete_logged_model(model)
        with contextlib.suppress(mlflow.exceptions.MlflowException):  # a run that is gone already
            adapters.remove_run(server, server.get_run(version.run_id))


def named_in_database(home: Path, person: Person) -> dict[tuple[str, str], list[str]]:
    """Texts of MLflow's database that name the person, by table and column; a metric's name has but plain letters."""
    plain = Person(runs.metric_name(person.name), [*map(runs.metric_name, person.others)])
    found: dict[tuple[str, str], list[str]] = {}
    path = home / store.DATABASE
    with contextlib.closing(sqlite3.connect(store.for_reading(path))) as database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, columns in TABLES.items():
            for column in columns if table in there else ():
                texts = [str(text) for (text,) in database.execute(f"SELECT DISTINCT {column} FROM {table}")]
                ours = plain if column == "key" else person
                found[table, column] = [text for text in texts if ours.mentions(text)]
    return found


def clean(home: Path, person: Person) -> None:
    """Delete those rows, and the bytes that SQLite would leave of them in the file."""
    found = named_in_database(home, person)
    with store.sqlite(home / store.DATABASE, "rw") as database:
        for (table, column), texts in found.items():
            database.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(text,) for text in texts])
        database.commit()
        database.execute("VACUUM")
