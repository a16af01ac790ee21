"""Registry and runs as one file: there and back, and archives that nobody should unpack."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from fportrait.atomic_io import write_json, write_text
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.ops import archive, code, gate, promotion, registry, runs, status, store


def make_bundle(folder: Path, weight: str) -> Path:
    for part in ("transformer", "vae", "expression_encoder"):
        write_text(folder / part / "config.json", "{}")
        write_text(folder / part / "weights.safetensors", f"{part} {weight}")
    write_json(folder / "bundle.json", {"size": 64})
    return folder


def new_project(folder: Path) -> Path:
    (folder / "mlruns").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.kedro]\n")
    return folder


def call(*arguments: str):
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, empty_database) -> Path:
    """The archive of a project with a champion."""
    folder = tmp_path_factory.mktemp("archive")
    project = new_project(folder / "first 50% done")
    shutil.copy(empty_database, project / "mlruns/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(project)
        patch.setattr(code, "PACKAGE", make_bundle(folder / "code", "no code"))
        store.open_store(write=True)
        place = (project / "mlruns/artifacts").as_uri()
        mlflow.MlflowClient().create_experiment("fportrait", artifact_location=place)
        run = runs.StageRun("promote")
        candidate = promotion.Candidate({"psnr": 20.0}, None, [], None)
        promotion.promote(make_bundle(folder / "one", "one"), candidate, gate.GateSettings())
        run.fail(RuntimeError("the test has what it needs"))
        archive.export(folder / "runs.tar")
        mlflow.set_tracking_uri(None)
    return folder / "runs.tar"


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    project = new_project(tmp_path / "clone?")
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return project


def test_a_clone_gets_the_champion_and_its_runs_and_says_so(exported, clone):
    assert "no registry here" in registry.chosen_model().words
    result = call("registry", "import", str(exported))
    assert result.exit_code == 0 and "1 versions, champion version 1" in result.output, result.output
    chosen = registry.chosen_model()
    assert chosen.words.startswith("version 1, the champion") and chosen.bundle.is_relative_to(clone)
    assert (chosen.bundle / "vae/weights.safetensors").read_text() == "vae one"
    assert store.reroot(store.database()) == 0 and not list(clone.glob(".tmp-*"))
    again = call("registry", "import", str(exported))
    assert again.exit_code == 2 and "a registry here already" in again.output
    assert call("registry", "import", str(exported), "--replace").exit_code == 0
    assert len(list(clone.glob("mlruns.before-*"))) == 1
    assert json.loads(call("registry", "anchor", "1", "--json").stdout) == {"anchor": 1, "before": 1}
    assert "all places are this project's" in call("registry", "relocate").output


def test_a_clone_without_the_registry_does_not_call_promote_fresh(exported, clone):
    report = {"stages": [{"stage": "promote", "state": status.FRESH, "why": ""}], "models": None}
    status.tell_where_promoted(report)
    assert report["stages"][0]["state"] == status.ELSEWHERE and "registry import" in report["stages"][0]["why"]
    archive.unpack(exported)
    report = {"stages": [{"stage": "promote", "state": status.FRESH, "why": ""}], "models": status.models()}
    status.tell_where_promoted(report)
    assert report["stages"][0]["state"] == status.FRESH


def test_the_story_of_a_model_whose_files_are_gone_is_one_sentence(exported, clone):
    archive.unpack(exported)
    shutil.rmtree(clone / "mlruns/artifacts")
    for arguments in (["lineage"], ["registry", "anchor", "1"]):
        result = call(*arguments)
        assert result.exit_code == 2 and "version 1 without its files" in result.output, result.output
        assert "registry import" in result.output and "Traceback" not in result.output


def repacked(exported: Path, target: Path, change: Callable[[dict[str, bytes], dict], None], **member) -> Path:
    """The archive with its files and manifest changed; `member` sets attributes of the last file."""
    with tarfile.open(exported) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    manifest = json.loads(files.pop(archive.MANIFEST))
    change(files, manifest)
    with tarfile.open(target, "w") as tar:
        for name, content in {archive.MANIFEST: json.dumps(manifest).encode(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if name == list(files)[-1]:
                for key, value in member.items():
                    setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return target


def listed(manifest: dict, name: str, content: bytes) -> None:
    import hashlib

    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def add(name: str) -> Callable[[dict, dict], None]:
    def change(files: dict, manifest: dict) -> None:
        files[name] = b"evil"
        listed(manifest, name, b"evil")

    return change


def edit_database(statement: str) -> Callable[[dict, dict], None]:
    def change(files: dict, manifest: dict) -> None:
        import tempfile

        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(files["mlflow.db"])
            connection = sqlite3.connect(file.name)
            connection.execute(statement)
            connection.commit()
            connection.close()
            files["mlflow.db"] = Path(file.name).read_bytes()
        listed(manifest, "mlflow.db", files["mlflow.db"])

    return change


def damage(files: dict, manifest: dict) -> None:
    name = max(files)
    files[name] = bytes(len(files[name]))


def forget(files: dict, manifest: dict) -> None:
    del files[max(files)]


def unlisted(files: dict, manifest: dict) -> None:
    files["artifacts/extra"] = b"more"


DANGERS = {
    "a path that climbs out": (add("artifacts/../../evil"), {}, "does not list so"),
    "an absolute path": (add("/tmp/evil"), {}, "does not list so"),
    "a file beside the artifacts": (add("pyproject.toml"), {}, "does not list so"),
    "a link": (add("artifacts/link"), {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "does not list so"),
    "a device": (add("artifacts/device"), {"type": tarfile.CHRTYPE}, "does not list so"),
    "a damaged file": (damage, {}, "damaged"),
    "a file that is missing": (forget, {}, "without"),
    "a file that nobody listed": (unlisted, {}, "does not list so"),
    "a place outside": (edit_database("UPDATE runs SET artifact_uri = 'file:///etc'"), {}, "files elsewhere"),
    "a place that climbs out": (
        edit_database("UPDATE runs SET artifact_uri = 'file:///exported-project/mlruns/../../etc'"),
        *({}, "files elsewhere"),
    ),
    "a place on a server": (edit_database("UPDATE runs SET artifact_uri = 'http://x/y'"), {}, "files elsewhere"),
    "another schema": (edit_database("UPDATE alembic_version SET version_num = 'f00'"), {}, "newer MLflow"),
}


@pytest.mark.parametrize("name", DANGERS)
def test_an_archive_that_nobody_should_unpack_leaves_nothing_behind(exported, clone, tmp_path, name):
    change, member, words = DANGERS[name]
    evil = repacked(exported, tmp_path / "evil.tar", change, **member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=words):
        archive.unpack(evil)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/evil").exists()


def test_what_is_no_archive_is_said(clone, tmp_path):
    write_text(tmp_path / "text.tar", "no tar at all " * 100)
    (tmp_path / "empty.tar").touch()
    for name, words in (
        ("text.tar", "no exported registry"),
        ("empty.tar", "no exported registry"),
        ("gone.tar", "no "),
    ):
        with pytest.raises(UserError, match=words):
            archive.unpack(tmp_path / name)
    with pytest.raises(UserError, match=r"no mlruns/mlflow\.db"):
        archive.export(tmp_path / "out.tar")
