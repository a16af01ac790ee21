"""Where runs and the registry are kept, and that they stay this project's wherever the project goes.

MLflow writes the absolute places of artifacts into its database. A copied project would write into the original's
folder, a moved one would lose its champion; so `open_store` gives every place under another project's `mlruns/` this
project's own. Places of any other form (a server's, a bucket's, another disk's) are left alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fportrait.errors import UserError

DATABASE = Path("mlruns/mlflow.db")
ARTIFACTS = Path("mlruns/artifacts")
LIBRARY = "MLflow"
LOCK_SECONDS = 30.0  # to wait for another process's writing
TEMPORARY = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and queued experiments work
PLACES = {  # table: columns with places of artifacts
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
UPGRADE = f"copy {DATABASE} aside, then run `mlflow db upgrade sqlite:///{DATABASE}` in the project"
GONE = ("unable to open", "not a database", "no such table", "connection", "max retries")


def home() -> Path:
    """The folder whose `mlruns/` is used here: the project around the working folder, else that folder itself.

    An experiment of DVC works in a copy that is thrown away; its runs belong to the project that it was started in.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if _is_project(folder)), here)
    parts = root.parts
    for index in range(len(parts) - len(TEMPORARY), 0, -1):
        if parts[index : index + len(TEMPORARY)] == TEMPORARY:
            return Path(*parts[:index])
    return root


def _is_project(folder: Path) -> bool:
    file = folder / "pyproject.toml"
    try:
        return file.is_file() and "[tool.kedro]" in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def database() -> Path:
    return home() / DATABASE


def sqlite_uri(path: Path) -> str:
    """The URI of a database for SQLAlchemy, which decodes `%` and cuts at `?`.

    MLflow makes the folder of the *undecoded* name, so a quoted path would leave a stray folder beside the project; a
    path with such characters is reached through a link instead, which lives as long as this process.
    """
    if any(character in str(path) for character in "%?"):
        path = _plain_link(path.absolute().parent) / path.name
    return f"sqlite:///{path}"


@functools.cache
def _plain_link(folder: Path) -> Path:
    link = _temporary_folder() / "mlruns"
    link.symlink_to(folder, target_is_directory=True)
    return link


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fportrait-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tracking_uri() -> str:
    """The server that `MLFLOW_TRACKING_URI` names, else this project's database, with its places set right.

    Raises:
        UserError: the database is of another schema, or cannot be written.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    path = database()
    prepare(path)
    return sqlite_uri(path)


def prepare(path: Path) -> None:
    """Refuse a database of another schema, or one that cannot be written; set its places right. A new one is fine.

    Raises:
        UserError: as said.
    """
    if not path.is_file():
        return
    check_schema(path)
    if not writable(path):
        raise UserError(f"a store that is read-only ({path})", "a writable mlruns/", "copy the project, or mount it so")
    reroot(path)


def open_store(write: bool = False) -> bool:
    """Point MLflow at this project's store; False when there is none yet.

    A store that cannot be written is read through a copy, whose places are set right as if it could be.

    Args:
        write: something will be written: a read-only store is refused.

    Raises:
        UserError: the store is of another schema, or read-only and `write`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        path = database()
        if not path.is_file():
            return False
        if writable(path) or write:
            prepare(path)
        else:
            check_schema(path)
            path = for_reading(path)
        uri = sqlite_uri(path)
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:  # MLflow exports it for child processes; another project opened later would get this one's
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return True


def writable(path: Path) -> bool:
    """SQLite writes a journal beside the database, so the folder counts too."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


@functools.cache
def _copied(path: Path, changed: int) -> Path:
    copy = _temporary_folder() / path.name
    with contextlib.closing(_connect(path, "ro")) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    reroot(copy, path.parents[1])
    return copy


def for_reading(path: Path) -> Path:
    """The database itself, or a copy of one that cannot be written: MLflow and Optuna write when they open one."""
    return path if writable(path) else _copied(path, path.stat().st_mtime_ns)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """`mode` ro or rw; a database on a read-only disk cannot even make the lock of a read, so `immutable` is tried:
    never of one that somebody writes into, where it would read half of what is written."""
    for more in ("", "&immutable=1") if mode == "ro" else ("",):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}{more}", uri=True, timeout=LOCK_SECONDS)
        try:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1")
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            last = error
            if "locked" in str(error).lower():
                break
    raise last


@contextlib.contextmanager
def sqlite(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection of its own, with what SQLite says as a `UserError`."""
    try:
        with contextlib.closing(_connect(path, mode)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        words = str(error).lower()
        if "locked" in words:
            fix = "wait until the other process has finished, and run again"
        else:
            fix = "restore mlruns/, or set MLFLOW_TRACKING_URI"
        raise UserError(f"an MLflow store that does not answer: {error} ({path})", "a whole database", fix) from None


def check_schema(path: Path) -> None:
    """Raises `UserError` for a database that another version of MLflow made."""
    with sqlite(path, "ro") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            if not tables:
                return  # MLflow makes its tables in an empty file
            raise UserError(
                f"{path}, a database of something else than MLflow",
                "MLflow's database",
                "move it away, or set MLFLOW_TRACKING_URI",
            )
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    known, newest = schemas()
    if found is None or found[0] == newest:
        return
    if found[0] in known:
        raise schema_error(f"an MLflow store of an older MLflow (schema {found[0]}, {path})", newest, UPGRADE)
    fix = "install the MLflow that wrote it, or a newer one: pip install --upgrade mlflow"
    raise schema_error(f"an MLflow store of a newer MLflow (schema {found[0]}, {path})", newest, fix)


def schema_error(found: str, newest: str, fix: str) -> UserError:
    return UserError(found, f"schema {newest}, of the MLflow installed here", fix)


@functools.cache
def schemas() -> tuple[frozenset[str], str]:
    """All schemas that the installed MLflow knows, and the newest; read from its migrations, without importing it."""
    import importlib.util

    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise UserError("no mlflow", "the package mlflow", "pip install mlflow")
    made: set[str] = set()
    replaced: set[str] = set()
    for file in (Path(spec.origin).parent / "store/db_migrations/versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for name, kept in (("revision", made), ("down_revision", replaced)):
            match = re.search(rf"^{name}\b[^=\n]*=\s*[\"'](\w+)[\"']", text, re.MULTILINE)
            if match:
                kept.add(match.group(1))
    (newest,) = made - replaced
    return frozenset(made), newest


def reroot(path: Path, here: Path | None = None) -> int:
    """Give the places of another project in the database `path` this project's (`here`); how many there were.

    Idempotent, and one transaction: two processes that start at once do it once.
    """
    here = here or path.absolute().parents[1]
    with sqlite(path, "rw") as connection:
        found = list(_foreign(connection, here))
        if not found:
            return 0
        connection.execute("BEGIN IMMEDIATE")
        for table, column, old, new in _foreign(connection, here):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
        connection.commit()
    return len(found)


def _foreign(connection: sqlite3.Connection, here: Path) -> list[tuple[str, str, str, str]]:
    rows = []
    for table, columns in PLACES.items():
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for column in columns:
            if column not in present:
                continue
            for (old,) in connection.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE '%mlruns%'"):
                new = moved(old, here)
                if new != old:
                    rows.append((table, column, old, new))
    return rows


def moved(place: str, here: Path) -> str:
    """`place` with this project's root; as it is when it is no project's `mlruns/`, or this one's already.

    >>> moved("file:///old%20home/mlruns/artifacts/1", Path("/new"))
    'file:///new/mlruns/artifacts/1'
    >>> moved("s3://bucket/mlruns/artifacts", Path("/new"))
    's3://bucket/mlruns/artifacts'
    """
    path = local_path(place)
    if path is None or "mlruns" not in path.parts:
        return place
    cut = len(path.parts) - 1 - path.parts[::-1].index("mlruns")
    root, rest = Path(*path.parts[:cut]), path.parts[cut:]
    if root == here or not root.is_absolute():
        return place
    if root.is_dir() and (os.path.realpath(root) == os.path.realpath(here) or not _is_project(root)):
        return place  # the same folder by another name, or a disk of its own that somebody chose
    return _like(place, here.joinpath(*rest))


def moved_from(place: str, old: Path, new: Path) -> str:
    """`place` with the root `new` where it lies in `old`; any other as it is."""
    path = local_path(place)
    return _like(place, new / path.relative_to(old)) if path is not None and path.is_relative_to(old) else place


def _like(place: str, path: Path) -> str:
    """A path, written as `place` is."""
    return path.as_uri() if place.startswith("file:") else str(path)


def local_path(place: str) -> Path | None:
    """The path of a local artifact place, `file:` URI or plain; None for a server's or a bucket's."""
    if place.startswith("file:"):
        return Path(unquote(urlsplit(place).path))
    return None if re.match(r"[a-z][a-z0-9+.-]*:", place) else Path(place)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """What MLflow's store says when it is locked, gone, unreachable or of another schema, as a `UserError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except UserError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        known = store_error(error)
        if known is None:
            raise
        raise known from None


def store_error(error: BaseException) -> UserError | None:
    """The `UserError` for what MLflow or SQLAlchemy raised about its store; None for anything else."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    words = str(error).lower()
    if "out-of-date database schema" in words or "can't locate revision" in words:
        return UserError(f"an MLflow store of another MLflow: {reason}", "one of the version installed here", UPGRADE)
    if "maintenance mode" in words:
        return UserError(
            "MLflow's old store of files",
            "a database",
            f"check that conf/ has the --env you named; if so, unset MLFLOW_TRACKING_URI or set sqlite:///{DATABASE}",
        )
    if "locked" in words:
        fix = "wait until the other process has finished, and run again"
    elif "readonly" in words or "read-only" in words:
        return UserError(f"an MLflow store that is read-only: {reason}", "a writable mlruns/", "change its permissions")
    elif any(word in words for word in GONE):
        fix = "check MLFLOW_TRACKING_URI, or restore mlruns/ (`kedro run` makes a new one)"
    elif isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        fix = "check the disk and the permissions of mlruns/"
    else:
        return None
    return UserError(f"an MLflow store that does not answer: {reason}", "a reachable, writable store", fix)


@contextlib.contextmanager
def study_errors(where: str) -> Iterator[None]:
    """What Optuna says about a storage of another version, or a broken one, as a `UserError`; `where` names it."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (RuntimeError, SQLAlchemyError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        if isinstance(error, RuntimeError) and "optuna storage upgrade" in str(error):
            fix = f"copy it aside, then run `optuna storage upgrade --storage sqlite:///{where}` in the project"
            raise UserError(f"studies of an older Optuna in {where}", "those of the one installed here", fix) from None
        if isinstance(error, RuntimeError) and "version" in str(error):
            fix = "pip install --upgrade optuna"
            raise UserError(f"studies of a newer Optuna in {where}", "those of the one installed here", fix) from None
        words = str(error).lower()
        if "readonly" in words or "not a database" in words:
            fix = "change its permissions, or move it away: `kedro run --pipelines=study` makes a new one"
            raise UserError(f"studies that do not answer: {reason}", f"a whole, writable {where}", fix) from None
        raise
