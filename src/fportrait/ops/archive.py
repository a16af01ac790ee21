"""Registry and runs as one file: made in one project, unpacked in another.

A plain tar: `manifest.json` (SHA-256 and size of everything else), `mlflow.db`, `artifacts/…`. What is unpacked is not
trusted: only regular files under plain names that the manifest lists, of the size and hash that it states, and only a
database whose places all lie in the new project.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fportrait.atomic_io import atomic_path, file_hash
from fportrait.errors import UserError
from fportrait.ops import lineage, store

FORMAT, MANIFEST = 1, "manifest.json"
MOST_MANIFEST = 64 * 2**20  # bytes
NEUTRAL = Path("/exported-project")  # the root of all places inside an archive
CHUNK = 2**20


def export(target: Path) -> dict[str, Any]:
    """Write this project's registry and runs into the tar `target`.

    Returns `file`, `bytes`, `runs`, `versions` and `champion`.

    Raises:
        UserError: there is no store here, it is a server's, or its artifacts lie elsewhere.
    """
    database = _own_database()
    root = database.parent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / database.name
        with (
            contextlib.closing(sqlite3.connect(store.for_reading(database))) as source,
            contextlib.closing(sqlite3.connect(copy)) as written,
        ):
            source.backup(written)
        store.reroot(copy, root.parent)  # of a store that has moved and cannot be written
        outside = [place for place in _places(copy) if not _inside(place, root)]
        if outside:
            raise UserError(
                f"artifacts outside {root}: {outside[0]}",
                "runs whose artifacts lie in mlruns/",
                "copy those yourself; they stay reachable where they are",
            )
        about = _contents(copy)
        _set_root(copy, root.parent, NEUTRAL)
        files = {database.name: copy}
        artifacts = store.home() / store.ARTIFACTS
        if artifacts.is_dir():
            files |= {file.relative_to(root).as_posix(): file for file in lineage.files_of(artifacts)}
        listed: dict[str, Any] = {
            name: {"sha256": file_hash(path), "size": path.stat().st_size} for name, path in files.items()
        }
        manifest = json.dumps({"format": FORMAT, **about, "files": listed}, sort_keys=True).encode()
        with atomic_path(target) as temporary, tarfile.open(temporary, "w") as tar:
            information = tarfile.TarInfo(MANIFEST)
            information.size = len(manifest)
            with tempfile.SpooledTemporaryFile() as text:
                text.write(manifest)
                text.seek(0)
                tar.addfile(information, text)
            for name, path in sorted(files.items()):
                information = tarfile.TarInfo(name)
                information.size, information.mode = listed[name]["size"], 0o644
                with path.open("rb") as content:
                    tar.addfile(information, content)
    return {"file": str(target), "bytes": target.stat().st_size, **about}


def unpack(source: Path, replace: bool = False) -> dict[str, Any]:
    """Make the archive `source` this project's registry and runs.

    Args:
        replace: a registry that is here already is moved aside, to `mlruns.before-DATE`, instead of being refused.

    Returns:
        `runs`, `versions`, `champion` and, of a registry that was moved aside, `before`.

    Raises:
        UserError: no archive of this kind, a damaged or dangerous one, or a registry that is here already.
    """
    home = store.home()
    root = home / "mlruns"
    database = home / store.DATABASE
    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("MLFLOW_TRACKING_URI, which names a store", "this project's own", "unset it")
    here = _contents(database) if database.is_file() and database.stat().st_size else {"runs": 0, "versions": 0}
    if (here["runs"] or here["versions"]) and not replace:
        raise UserError(
            f"a registry here already: {here['runs']} runs, {here['versions']} versions",
            "a project without runs",
            "pass --replace to move it aside, or import into a fresh clone",
        )
    home.mkdir(exist_ok=True)
    with _temporary_in(home) as folder:
        about = _extract(source, folder)
        _check_database(folder / database.name, home)
        before = None
        if here["runs"] or here["versions"]:
            before = home / f"mlruns.before-{time.strftime('%Y-%m-%d-%H%M%S')}"
            root.rename(before)
        root.mkdir(exist_ok=True)
        for entry in sorted(folder.iterdir(), key=lambda path: path.name == database.name):  # the database last
            target = root / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    return {**about, "before": str(before) if before else None}


@contextlib.contextmanager
def _temporary_in(home: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".tmp-import-", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own_database() -> Path:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("MLFLOW_TRACKING_URI, which names a store", "this project's own", "unset it, or use the server")
    database = store.database()
    if not database.is_file():
        raise UserError(f"no {store.DATABASE} in {store.home()}", "a registry", "run this in the project that has one")
    store.check_schema(database)
    return database


def _extract(source: Path, folder: Path) -> dict[str, Any]:
    """Unpack into `folder`, trusting nothing; returns what the manifest says about the contents."""
    fix = "export it again with `fportrait registry export FILE`"
    try:
        with tarfile.open(source, "r:") as tar:
            manifest = _manifest(tar, source, fix)
            files = manifest["files"]
            needed = sum(entry["size"] for entry in files.values())
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UserError(
                    f"{needed / 2**20:.0f} MiB in {source}", f"at most {free / 2**20:.0f}", "free some space"
                )
            missing = dict(files)
            while (member := tar.next()) is not None:  # iterating would begin with the manifest again
                entry = missing.pop(member.name, None)
                if not member.isreg() or entry is None or not _plain(member.name) or member.size != entry["size"]:
                    raise UserError(
                        f"'{member.name[:80]}' in {source}, which its manifest does not list so", "whole files", fix
                    )
                _write(tar, member, folder / member.name, entry["sha256"], source, fix)
            if missing:
                raise UserError(f"{source} without {min(missing)}", "every file that its manifest lists", fix)
    except FileNotFoundError:
        raise UserError(f"no {source}", "a file made by `fportrait registry export`", "check the path") from None
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source}, which is no exported registry ({error})", "a whole one", fix) from None
    return {key: manifest.get(key) for key in ("runs", "versions", "champion")}


def _manifest(tar: tarfile.TarFile, source: Path, fix: str) -> dict[str, Any]:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MOST_MANIFEST:
        raise UserError(f"{source}, which is no exported registry", f"a tar that begins with {MANIFEST}", fix)
    manifest = json.loads(tar.extractfile(first).read())  # type: ignore[union-attr]
    if manifest["format"] != FORMAT:
        raise UserError(
            f"format {manifest['format']} of {source}", f"format {FORMAT}", "use the fportrait that made it"
        )
    if store.DATABASE.name not in manifest["files"]:
        raise UserError(f"{source} without {store.DATABASE.name}", "a registry", fix)
    return manifest


def _plain(name: str) -> bool:
    """Whether a name stays inside the folder it is unpacked into, on every system."""
    path = PurePosixPath(name)
    parts = name.split("/")
    if path.is_absolute() or "\\" in name or ":" in parts[0] or not name.isprintable():
        return False
    inside = name == store.DATABASE.name or parts[0] == store.ARTIFACTS.name
    return inside and all(part not in ("", ".", "..") for part in parts)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, sha256: str, source: Path, fix: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    content = tar.extractfile(member)
    assert content is not None
    with target.open("xb") as written:
        while block := content.read(CHUNK):
            digest.update(block)
            written.write(block)
    if digest.hexdigest() != sha256:
        raise UserError(f"{member.name} in {source}, which is damaged", "the bytes that were exported", fix)


def _check_database(path: Path, home: Path) -> None:
    """A registry's database and nothing else, whose places all lie in the project `home`."""
    fix = "export it again with `fportrait registry export FILE`"
    store.check_schema(path)
    _set_root(path, NEUTRAL, home)
    outside = [place for place in _places(path) if not _inside(place, home / "mlruns")]
    if outside:
        raise UserError(f"a registry with files elsewhere ({outside[0]})", "places in mlruns/", fix)


def _set_root(path: Path, old: Path, new: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table, column, place in _columns(connection):
            moved = store.moved_from(place, old, new)
            if moved != place:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (moved, place))
        connection.commit()


def _places(path: Path) -> list[str]:
    """All places of artifacts; a model's own name (`models:/m-…`) is none."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return sorted({place for _, _, place in _columns(connection) if not place.startswith("models:/")})


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    found = []
    for table, columns in store.PLACES.items():
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for column in (name for name in columns if name in present):
            rows = connection.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
            found += [(table, column, place) for (place,) in rows if place]
    return found


def _inside(place: str, root: Path) -> bool:
    path = store.local_path(place)
    if path is None or urlsplit(place).netloc:
        return False
    return Path(os.path.normpath(path)).is_relative_to(root)


def _contents(path: Path) -> dict[str, Any]:
    """How many runs and versions a database has, and which version is champion."""
    from fportrait.ops.registry import CHAMPION, MODEL

    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"runs", "model_versions", "registered_model_aliases"} <= tables:
            return {"runs": 0, "versions": 0, "champion": None}
        (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        (versions,) = connection.execute("SELECT count(*) FROM model_versions WHERE name = ?", (MODEL,)).fetchone()
        found = connection.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", (MODEL, CHAMPION)
        ).fetchone()
    return {"runs": runs, "versions": versions, "champion": int(found[0]) if found else None}
