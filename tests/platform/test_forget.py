"""One person whose consent is withdrawn goes out of a project, whole, and nobody whose name is like theirs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from fportrait.animate.adapt import at_work
from fportrait.animate.adapters import FOLDER, WORK
from fportrait.atomic_io import file_hash, write_json, write_parquet, write_text
from fportrait.capture.video_io import write_video
from fportrait.capture.withdrawn import LIST, withdraw, withdrawn
from fportrait.cli import main
from fportrait.diffusion.lora import LoraSettings
from fportrait.errors import UserError
from fportrait.ops import adapters, registry, runs, store
from fportrait.ops.forget import Project, forget
from fportrait.ops.work_lock import LOCK, alone, share
from fportrait.provenance import TAG

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ("anna", "annabel", "anna-lena", "bo")
RAW = Path("data/01_raw/phone")


def video(path: Path, shade: int, **metadata: str) -> Path:
    return write_video(path, np.full((2, 16, 16, 3), shade, np.uint8), metadata=metadata)


def rows(split: str = "train", **columns: list) -> pd.DataFrame:
    return pd.DataFrame({"identity": PEOPLE, "split": split, **columns})


@pytest.fixture
def project(dry_project) -> Path:
    """Everything that a finished chain, an adapter and two videos leave of four people, in miniature."""
    shutil.copy(ROOT / "conf/base/globals.yml", "conf/base/globals.yml")
    units = Path("data/.units")
    clips = {name: file_hash(video(RAW / name / "walk.mp4", 20 * index)) for index, name in enumerate(PEOPLE)}
    write_text("data/01_raw/phone/anna/consent.txt", "agreed")
    write_json(units / "ingest/facts.json", {f"phone/{name}/walk.mp4": {"facts": {}, "stamp": 0} for name in PEOPLE})
    write_parquet("data/02_intermediate/ingest/manifest.parquet", rows(sha256=list(clips.values())))
    write_json("data/02_intermediate/ingest/own_people.json", sorted(PEOPLE))
    reasons = [{"dataset": "PhoneCapture", "identity": name, "reason": f"{name} is dark"} for name in PEOPLE]
    for table in ("tracks/frames", "tracks/identities", "validated/identities", "validated/held_out/frames"):
        write_parquet(f"data/03_primary/{table}.parquet", rows())
    write_json("data/03_primary/validated/quarantine.json", reasons)
    for name in PEOPLE:
        write_text(f"data/03_primary/validated/held_out/clips/{name}/walk-end.mp4", name)
        write_text(f"data/03_primary/validated/data_docs/{name}.html", f"<p>{name}: 3 frames</p>")
        write_text(f"data/03_primary/sweeps/clips/{name}-view000-0123456789abcdef.mp4", name)
        write_text(f"data/05_model_input/shards/PhoneCapture/{name}.safetensors", name)
        save_file(
            {"weights": torch.full((2,), float(len(name)))}, _new(f"data/06_models/avatars/{name}/avatar.safetensors")
        )
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        write_json(units / "tracks" / key / "identity.json", {"identity": name})
        write_json(
            units / "shards" / key / "result.json", {"value": {"rows": [{"identity": name, "clip": f"{name}/a/b"}]}}
        )
        shutil.copytree(f"data/06_models/avatars/{name}", units / "avatars" / key / "avatar")
        write_text(f"mlruns/artifacts/fit/artifacts/contact_sheets/{name}/contact_sheet.png", name)
    write_parquet("data/05_model_input/shards/index.parquet", rows())
    write_json("data/08_reporting/fit_avatars.json", {"avatars": 4, "scores": {name: {"psnr": 30} for name in PEOPLE}})
    for evaluation, who in (
        ("data/07_model_output/evaluation", PEOPLE),
        ("mlruns/artifacts/e/artifacts/evaluation", PEOPLE),
    ):
        scores = {f"PhoneCapture/{name}/0c01b36b-00000": {"psnr": 20} for name in who}
        write_json(f"{evaluation}/scores.json", {"clips": scores})
        write_json(f"{evaluation}/metrics.json", {"people": list(who)})
        write_text(f"{evaluation}/videos/PhoneCapture/anna-0c01b36b-00000.mp4", "x")
        write_text(f"{evaluation}/mine.txt", "the user's")
    write_text("data/06_models/stage4/transformer/weights.safetensors", "weights")
    write_text(units / "checkpoints/0123456789abcdef-0123456789abcdef/step/weights.safetensors", "weights")
    for name, person in (("first", "anna"), ("second", "annabel")):
        folder = Path(FOLDER, name)
        write_json(folder / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": "0" * 16})
        save_file({name: torch.zeros(2)}, folder / "adapter.safetensors")
        record = {"clips": [{"sha256": clips[person], "person": name}], "scores": {"people": {}}}
        write_json(folder / "adapt.json", record)
        write_text(WORK / "adapters" / name / "shards/one", "x")
        assert adapters.register(name, folder, record)
    for name in PEOPLE:
        tag = {TAG: json.dumps({"synthetic": True, "inputs": {"driving": {"sha256": clips[name]}}})}
        video(Path(f"data/07_model_output/{PEOPLE.index(name)}.mp4"), 0, **tag)
    write_text("data/notes/mine.txt", "anna and bo agreed")
    server = mlflow.MlflowClient()
    run = server.create_run(runs.experiment_id(server))
    captures = {f"PhoneCapture/{name}": {"split": "train"} for name in PEOPLE}
    server.log_dict(run.info.run_id, {"captures": captures}, "gate/lineage.json")
    for name in PEOPLE:
        server.log_metric(run.info.run_id, f"scores.{name}.psnr", 1.0)
    server.create_registered_model(registry.MODEL)
    server.create_model_version(registry.MODEL, f"{run.info.artifact_uri}/model", run.info.run_id)
    registry.move(server, "1", None)
    return dry_project


def _new(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def state(*but: str) -> dict[str, str]:
    """Every file of the project by its hash."""
    files = (path for top in ("data", "mlruns") for path in sorted(Path(top).rglob("*")) if path.is_file())
    return {str(path): file_hash(path) for path in files if path != LOCK and path.name not in but}


def speak_of(name: str) -> set[str]:
    """Files that `grep -rw` finds, or whose tables or names do."""
    found = set()
    for path in (path for top in ("data", "mlruns") for path in Path(top).rglob("*") if path.is_file()):
        if (
            name in path.parts
            or name == path.stem
            or path.name.startswith(f"{name}-0")
            or path.name.startswith(f"{name}-v")
        ):
            found.add(str(path))
        if path.suffix == ".parquet" and name in set(pd.read_parquet(path)["identity"]):
            found.add(str(path))
        text = path.read_bytes().decode("latin-1")
        others = [other for other in PEOPLE if other != name and name in other]
        for other in others:
            text = text.replace(other, "")
        if name in text and path.suffix not in (".mp4",):
            found.add(str(path))
    return found


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["forget", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.output


def test_a_person_goes_everywhere_and_nobody_else_does(project):
    before = {name: speak_of(name) for name in PEOPLE}
    assert len(before["anna"]) > 25
    code, told = call("anna")
    assert code == 3, "captures and models are left"
    for kept in (
        "01_raw/phone/anna ",
        "06_models/stage4",
        "checkpoints/0123",
        "version 1 of fportrait",
        "notes/mine.txt",
    ):
        assert kept in told.partition("left: ")[2], kept
    left = {item["where"] for item in json.loads(call("anna", "--dry-run", "--json")[1])["left"]}
    gate = {path for path in speak_of("anna") if path.endswith("gate/lineage.json")}
    assert speak_of("anna") == {"data/01_raw/phone/anna/walk.mp4", "data/01_raw/phone/anna/consent.txt"} | gate | {
        where for where in left if where.endswith((".json", ".txt"))
    }
    for name in PEOPLE[1:]:
        gone = before[name] - speak_of(name)
        assert all("evaluation/" in path for path in gone), f"{name} lost {gone}"
    assert not Path("data/07_model_output/0.mp4").exists() and Path("data/07_model_output/1.mp4").exists()
    assert not Path(FOLDER, "first").exists() and Path(FOLDER, "second").exists()
    assert not Path(WORK, "adapters/first").exists() and adapters.hashes("first") == []
    assert Path("data/07_model_output/evaluation/mine.txt").is_file()
    assert len(pd.read_parquet("data/03_primary/tracks/frames.parquet")) == 3

    code, told = call("anna")
    assert code == 3 and "nothing more is to be removed" in told and "gone" not in told
    code, told = call("anna", "--captures", "--models")
    assert code == 3 and "left: 2" in told  # the user's notes, and the list, as long as anything is left
    Path("data/notes/mine.txt").unlink()
    for _ in range(2):  # the list goes with what it stood for
        code, told = call("anna")
        assert code == 0 and told.startswith("nothing of anna is left here")
    assert not Path("data/01_raw", LIST).exists() and not speak_of("anna")
    assert registry.champion_version(mlflow.MlflowClient()) is None


def test_a_dry_run_changes_nothing_and_tells_what_a_run_does(project):
    before = state()
    code, told = call("anna", "--dry-run", "--json")
    assert code == 3 and state() == before and not Path("data/01_raw", LIST).exists()
    plan, done = json.loads(told), forget("anna")
    assert [item["where"] for item in plan["gone"]] == [item.where for item in done.gone]
    assert {item["where"] for item in plan["left"]} == {item.where for item in done.left} - {f"data/01_raw/{LIST}"}


@pytest.mark.parametrize("name", ["../anna", "/anna", "anna/..", "", ".", "ann\u200ba", "a\0b", "-anna", "con"])
def test_what_is_no_name_is_refused(project, name):
    before = state()
    with pytest.raises(UserError, match="name"):
        forget(name)
    assert state() == before


def test_a_name_that_begins_as_anothers_or_is_unknown_takes_nothing(project):
    before = state()
    code, told = call("ann")
    assert code == 0 and "nothing of ann is left here (there is anna)" in told and state() == before
    assert call("Anna")[0] == call("änna")[0] == 0 and state() == before


def test_somebody_called_like_a_word_of_the_documents_takes_nothing_of_others(project):
    video(RAW / "train/walk.mp4", 200)
    write_json("data/.units/tracks/0123456789abcdef/identity.json", {"identity": "train"})
    frame = pd.read_parquet("data/03_primary/tracks/frames.parquet")
    write_parquet("data/03_primary/tracks/frames.parquet", pd.concat([frame, frame[:1].assign(identity="train")]))
    before = state(LIST)
    assert {item.where for item in forget("train").gone} == {
        "data/03_primary/tracks/frames.parquet",
        "data/.units/tracks/0123456789abcdef",
    }
    after = state(LIST)
    assert {path for path in before if before[path] != after.get(path)} == {
        "data/03_primary/tracks/frames.parquet",
        "data/.units/tracks/0123456789abcdef/identity.json",
    }


def test_while_a_stage_or_an_adapters_training_is_at_work_nothing_goes(project):
    before = state()
    stage = share()
    with pytest.raises(UserError, match="a stage at work"):
        forget("anna")
    stage.close()
    with at_work(WORK, "third"), pytest.raises(UserError, match="'third' at work"):  # perhaps of anna's clips
        forget("anna")
    write_json(".dvc/tmp/rwlock", {"data/01_raw": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}})
    with pytest.raises(UserError, match="DVC at work"):
        forget("anna")
    write_json(".dvc/tmp/rwlock", {"data/01_raw": {"read": [{"pid": 2**22 + 1, "cmd": "killed"}]}})
    assert state() == before
    with alone(), pytest.raises(UserError, match="`fportrait forget` at work"):
        share()
    assert forget("anna").gone


def test_a_running_stage_says_that_it_is_at_work(kedro_run, monkeypatch):
    seen: list[str] = []

    def look(values, step):
        with pytest.raises(UserError, match="a stage at work"), alone():
            seen.append("free")
        seen.append("at work")

    monkeypatch.setattr(runs, "log_metrics", look)
    assert kedro_run().exit_code == 0 and seen == ["at work"] * 5
    with alone():
        pass
    assert kedro_run("--params", "add.scale=-1").exit_code == 2
    with alone():  # one that failed is over, too
        pass


def test_links_are_not_followed_out_of_the_project(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("disk")
    for place in (RAW / "anna", Path("data/03_primary/tracks"), Path("data/05_model_input")):
        shutil.move(place, outside / place.name)
        place.symlink_to(outside / place.name)
    before = {path: file_hash(path) for path in outside.rglob("*") if path.is_file()}
    done = forget("anna", captures=True)
    assert before == {path: file_hash(path) for path in outside.rglob("*") if path.is_file()}
    assert not (RAW / "anna").is_symlink() and "anna" in withdrawn("data/01_raw")
    why = {item.where: item.why for item in done.left}
    assert "out of the project" in why["data/03_primary/tracks"]
    assert "outside the project" in why["data/05_model_input/shards/PhoneCapture/anna.safetensors"]


def test_a_person_held_out_leaves_no_sample_and_no_word_in_a_versions_record(project):
    captures = {f"PhoneCapture/{name}": {"split": "test" if name == "anna" else "train"} for name in PEOPLE}
    gate = next(Path("mlruns").rglob("gate/lineage.json"))
    write_json(gate, {"captures": captures})
    for table in ("02_intermediate/ingest/manifest", "03_primary/validated/identities", "05_model_input/shards/index"):
        frame = pd.read_parquet(f"data/{table}.parquet")
        write_parquet(f"data/{table}.parquet", frame.assign(split=["test", "train", "train", "train"]))
    write_text("data/06_models/stage4/samples/after-PhoneCapture.mp4", "somebody held out")
    done = forget("anna", captures=True)
    assert not Path("data/06_models/stage4/samples").exists() and "model" not in {item.kind for item in done.left}
    assert sorted(json.loads(gate.read_text())["captures"]) == [f"PhoneCapture/{name}" for name in sorted(PEOPLE[1:])]


def test_a_model_trained_since_is_not_taken_for_one_that_knew_them(project):
    forget("anna")
    later = max(path.stat().st_mtime for path in Path("data/01_raw").glob(LIST)) + 60
    os.utime("data/06_models/stage4/transformer/weights.safetensors", (later, later))
    where = {item.where for item in forget("anna").left if item.kind == "model"}
    assert "data/06_models/stage4" not in where and any("checkpoints" in one for one in where)


def test_names_in_mlflows_database_are_gone_from_its_bytes(project):
    forget("anna", models=True)
    with sqlite3.connect(store.DATABASE) as database:
        keys = {key for (key,) in database.execute("SELECT key FROM metrics")}
    assert keys == set()  # those of the version's own run went with it
    assert b"scores.anna.psnr" not in store.DATABASE.read_bytes()


def test_a_stopped_run_of_it_is_finished_by_the_next(project, monkeypatch):
    from fportrait.ops import forget as module

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "drop_rows", stop)
        forget("anna")
    assert "anna" in withdrawn("data/01_raw"), "the next run of the chain passes over them already"
    forget("anna", captures=True, models=True)
    assert speak_of("anna") == {f"data/01_raw/{LIST}", "data/notes/mine.txt"}


def test_wherever_it_is_stopped_the_next_run_finds_what_the_first_would_have(project, monkeypatch):
    """Tables tell that somebody was held out, and clips what was made of them: both go after what they tell of."""
    for table in ("02_intermediate/ingest/manifest", "03_primary/validated/identities", "05_model_input/shards/index"):
        frame = pd.read_parquet(f"data/{table}.parquet")
        write_parquet(f"data/{table}.parquet", frame.assign(split=["test", "train", "train", "train"]))
    write_text("data/06_models/stage4/samples/after-PhoneCapture.mp4", "somebody held out")
    planned = forget("anna", captures=True, dry_run=True).gone
    for count in range(len(planned)):
        with monkeypatch.context() as patched:
            patched.setattr(Project, "items", _stopping(Project.items, 1))
            with contextlib.suppress(KeyboardInterrupt):
                forget("anna", captures=True)
        if count == len(planned) // 2:
            assert "anna" in withdrawn("data/01_raw")
    forget("anna", captures=True)
    for item in planned:
        gone = not os.path.lexists(item.where)
        assert gone or item.kind in ("entries", "rows", "runs") or item.where.endswith("/scores.json"), item
    assert (
        not speak_of("anna")
        - {f"data/01_raw/{LIST}", "data/notes/mine.txt"}
        - {str(path) for path in Path("mlruns").rglob("gate/lineage.json")}
    )


def _stopping(items, after: int):
    """`Project.items` whose acts stop as by Ctrl+C once so many are done."""

    def stopping(self, *asked):
        done: list[str] = []

        def act(item):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(item.where)
            item.act()

        return [
            replace(item, act=functools.partial(act, item)) if item.act is not None else item
            for item in items(self, *asked)
        ]

    return stopping


def test_captures_on_another_disk_are_kept_out_by_a_list_there(project, tmp_path_factory):
    """It was not written through the link, and the next ingest took them in again."""
    disk = tmp_path_factory.mktemp("disk") / "captures"
    shutil.move("data/01_raw", disk)
    Path("data/01_raw").symlink_to(disk)
    done = forget("anna", captures=True)
    assert (disk / "phone/anna/walk.mp4").is_file() and "anna" in withdrawn(disk)
    assert {"data/01_raw/phone/anna", f"data/01_raw/{LIST}"} <= {item.where for item in done.left}
    shutil.rmtree(disk / "phone/anna")
    Path("data/notes/mine.txt").unlink()
    forget("anna", models=True)
    assert not (disk / LIST).exists()


def test_what_a_killed_stage_left_goes_too_and_not_for_a_stranger(project):
    left = Path("data/.units/tracks/.tmp-abcdefgh")
    write_text(left / "frames.bin", "perhaps of anna")
    forget("nobody")
    assert left.is_dir()
    forget("anna")
    assert not left.exists()


def test_videos_of_somebody_in_an_adapter_alone_are_found_by_its_clips(project):
    folder = Path(FOLDER, "walk")
    write_json(folder / "adapter.json", {**LoraSettings(rank=2, conditions=False).as_dict(), "base": "0" * 16})
    save_file({"carl": torch.zeros(2)}, folder / "adapter.safetensors")
    write_json(folder / "adapt.json", {"clips": [{"sha256": "c" * 64, "person": "carl"}, {"person": "carl"}]})
    tag = {TAG: json.dumps({"synthetic": True, "inputs": {"driving": {"sha256": "c" * 64}}})}
    video(Path("data/07_model_output/carl.mp4"), 0, **tag)
    assert {item.where for item in forget("carl").gone} == {f"{FOLDER}/walk", "data/07_model_output/carl.mp4"}
    assert not forget("carl").gone and not Path("data/01_raw", LIST).exists()


def test_a_document_nested_without_end_is_passed_over(project):
    write_text("data/notes/deep.json", "[" * 100_000)
    assert forget("bo").gone


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"[]",
            b'{"bo": 1}',
            b"\xff\xfe{}",
            b'{"bo": {"time": "now"}}',
            b'{"bo": {"time": NaN}}',
            b"[" * 100_000,
        ),
        *(b'{"": {}}', b'{"../..": {}}', b'{"/tmp": {}}'),  # `ingest` removes folders of these names
    ],
)
def test_a_broken_list_of_who_withdrew_is_said(project, text):
    withdraw("data/01_raw", "bo", trained=False, done=True)
    assert set(withdrawn("data/01_raw")) == {"bo"}
    Path("data/01_raw", LIST).write_bytes(text)
    with pytest.raises(UserError, match=f"{LIST}.*forget everybody again"):
        forget("anna")


@pytest.mark.parametrize("broken", [lambda path: path.mkdir(), lambda path: path.symlink_to("/nowhere")])
def test_a_list_that_cannot_be_read_is_none_that_is_not_there(tmp_path, broken):
    broken(tmp_path / LIST)
    with pytest.raises(UserError, match="a broken"):
        withdrawn(tmp_path)
