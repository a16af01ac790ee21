"""The store of runs: on any path, copied, moved, read-only, of another schema, and in DVC's temporary folders."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import mlflow
import pytest

from fportrait.errors import UserError
from fportrait.ops import store

ODD = ["plain", "a space", "50%20 off", "100%", "p?q", "#1 'best' \"ü\"", "?%25"]


def project(folder: Path, database: Path) -> Path:
    (folder / "mlruns").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.kedro]\n")
    shutil.copy(database, folder / "mlruns/mlflow.db")
    return folder


@pytest.fixture
def at(monkeypatch, empty_database):
    """Enter a folder, made a project when it is none yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def enter(folder: Path) -> Path:
        if not folder.is_dir():
            project(folder, empty_database)
        monkeypatch.chdir(folder)
        return folder

    yield enter
    mlflow.set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def log(folder: Path, text: str) -> str:
    """A run with one file; returns the run's id."""
    assert store.open_store(write=True)
    server = mlflow.MlflowClient()
    found = server.get_experiment_by_name("fportrait")
    place = (folder / "mlruns/artifacts").as_uri()
    experiment = found.experiment_id if found else server.create_experiment("fportrait", artifact_location=place)
    run = server.create_run(experiment)
    server.log_text(run.info.run_id, text, "note.txt")
    return run.info.run_id


def read(run_id: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt")


@pytest.mark.parametrize("name", ODD)
def test_a_project_on_any_path_keeps_its_runs_and_leaves_no_stray_folder(at, tmp_path, name):
    folder = at(tmp_path / name)
    run = log(folder, "hello")
    assert read(run) == "hello" and len(list((folder / "mlruns/artifacts").rglob("note.txt"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["copy", "co%20py?"])
def test_a_copy_reads_its_own_files_and_writes_into_its_own_folder(at, tmp_path, name):
    original = at(tmp_path / "original")
    run = log(original, "hello")
    copy = Path(shutil.copytree(original, tmp_path / name))
    at(copy)
    before = sorted(path for path in original.rglob("*") if path.is_file())
    second = log(copy, "from the copy")
    assert read(run) == "hello" and read(second) == "from the copy"
    assert sorted(path for path in original.rglob("*") if path.is_file()) == before
    assert len(list(copy.rglob("note.txt"))) == 2
    at(original)
    assert store.open_store() and read(run) == "hello"


def test_a_moved_project_finds_its_files_again(at, tmp_path):
    run = log(at(tmp_path / "old"), "hello")
    (tmp_path / "old").rename(tmp_path / "new home")
    at(tmp_path / "new home")
    assert store.open_store() and read(run) == "hello"
    assert store.reroot(store.database()) == 0  # once is enough


def test_places_on_a_server_or_on_a_disk_that_somebody_chose_are_left_alone(tmp_path):
    here, disk = tmp_path / "here", tmp_path / "disk"
    (disk / "mlruns/artifacts").mkdir(parents=True)
    for place in (
        "s3://bucket/mlruns/artifacts",
        "mlflow-artifacts:/mlruns/1",
        f"{disk}/mlruns/artifacts",
        "models:/m",
    ):
        assert store.moved(place, here) == place
    assert store.moved(f"{tmp_path}/gone/mlruns/0", here) == f"{here}/mlruns/0"


def test_a_read_only_project_is_read_where_it_lies_and_refuses_to_write(at, tmp_path, monkeypatch):
    run = log(at(tmp_path / "old"), "hello")
    (tmp_path / "old").rename(tmp_path / "disc")
    folder = at(tmp_path / "disc")
    monkeypatch.setattr(store, "writable", lambda path: False)
    before = (folder / "mlruns/mlflow.db").read_bytes()
    assert store.open_store() and read(run) == "hello"
    assert (folder / "mlruns/mlflow.db").read_bytes() == before
    for write in (lambda: store.open_store(write=True), store.tracking_uri):
        with pytest.raises(UserError, match="read-only"):
            write()


def test_a_store_that_somebody_writes_into_is_waited_for_once_and_never_read_past_its_lock(at, tmp_path, monkeypatch):
    database = at(tmp_path / "project") / "mlruns/mlflow.db"
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match=r"database is locked.*wait until"):
        store.check_schema(database)
    writer.execute("ROLLBACK")
    store.check_schema(database)
    writer.close()


@pytest.mark.parametrize(
    ("version", "words"), [("bd07f7e963c5", "older.*mlflow db upgrade"), ("f00", "newer.*pip install")]
)
def test_a_store_of_another_schema_is_named_with_what_to_do(at, tmp_path, version, words):
    folder = at(tmp_path / "project")
    connection = sqlite3.connect(folder / "mlruns/mlflow.db")
    connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.commit()
    connection.close()
    for use in (store.open_store, store.tracking_uri):
        with pytest.raises(UserError, match=words):
            use()
    known, newest = store.schemas()
    assert newest in known and len(known) > 30


def test_a_file_that_is_no_store_is_refused_and_an_empty_one_is_a_new_store(at, tmp_path):
    path = at(tmp_path / "project") / "mlruns/mlflow.db"
    path.write_text("this is no database " * 40)
    with pytest.raises(UserError, match="not a database"):
        store.open_store()
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE other (x)")
    with pytest.raises(UserError, match="something else"):
        store.open_store()
    path.write_bytes(b"")
    assert store.open_store()


def test_an_experiment_in_dvcs_temporary_folder_writes_into_the_project_it_was_started_in(at, tmp_path):
    folder = at(tmp_path / "project")
    copied = folder.joinpath(".dvc", "tmp", "exps", "tmpab12")
    (copied / "mlruns").mkdir(parents=True)
    (copied / "pyproject.toml").write_text("[tool.kedro]\n")
    at(copied)
    assert store.tracking_uri() == f"sqlite:///{folder}/mlruns/mlflow.db"
    from fportrait.ops.config_loader import in_project

    assert in_project("mlruns/artifacts") == str(folder / "mlruns/artifacts")
    (copied / "data").mkdir()
    at(copied / "data")
    assert store.home() == folder


def test_studies_of_another_optuna_are_named_with_the_command(at, tmp_path):
    import optuna

    from fportrait.ops.status import last_study

    folder = at(tmp_path / "project")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(storage=f"sqlite:///{folder}/mlruns/optuna.db")
    connection = sqlite3.connect(folder / "mlruns/optuna.db")
    (newest,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    for version, words in (("v2.4.0.a", "older.*optuna storage upgrade"), ("v99", "newer.*upgrade optuna")):
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.execute("UPDATE version_info SET schema_version = 11")
        connection.commit()
        with pytest.raises(UserError, match=words):
            last_study()
    connection.execute("UPDATE alembic_version SET version_num = ?", (newest,))
    connection.close()
