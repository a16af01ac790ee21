"""Nothing is ever half-written, and what is told of a failure names what the user asked for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fportrait import atomic_io
from fportrait.atomic_io import atomic_folder, atomic_path, sweep, write_json, write_safetensors
from fportrait.errors import UserError


def test_a_full_disk_inside_a_folder_is_told_of_the_folder_that_was_asked_for(tmp_path):
    with (
        pytest.raises(UserError, match=r"while writing \S*results\.") as told,
        atomic_folder(tmp_path / "results") as folder,
        atomic_path(folder / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ".tmp-" not in str(told.value) and list(tmp_path.iterdir()) == []


def test_what_was_there_stays_when_writing_it_anew_fails(tmp_path):
    kept = write_json(tmp_path / "folder" / "a.json", {"kept": True}).read_bytes()
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "folder" / "a.json") as path:
        path.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as folder:
        write_json(folder / "b.json", {})
        raise RuntimeError
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "a.json"]
    assert (tmp_path / "folder" / "a.json").read_bytes() == kept


WRITER = """
import sys, time
from fportrait.atomic_io import atomic_folder, atomic_path
with atomic_folder(sys.argv[1] + "/folder") as folder, atomic_path(sys.argv[1] + "/file.bin") as path:
    (folder / "half").write_text("half")
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"writing\n"
    try:
        mine = tmp_path / ".tmp-notes.txt"  # of somebody else: another kind of name
        mine.write_text("kept")
        (tmp_path / ".tmp-abcd1234").symlink_to(tmp_path)
        left = {path for path in tmp_path.glob(".tmp-*") if path != mine and not path.is_symlink()}
        assert len(left) == 4
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert sweep(tmp_path) == []  # too young to be told from one that is being made
        monkeypatch.setattr(atomic_io, "STALE_SECONDS", -1.0)
        atomic_io._swept.clear()
        write_json(tmp_path / "next.json", {})  # whoever writes next sweeps
        assert len(left & set(tmp_path.iterdir())) == 2 and mine.exists()
        writers[1].send_signal(signal.SIGKILL)
        writers[1].wait()
        assert len(sweep(tmp_path)) == 2
        assert not left & set(tmp_path.iterdir()) and (tmp_path / ".tmp-abcd1234").is_symlink()
    finally:
        for writer in writers:
            writer.kill()


def test_a_folder_is_swept_once_by_a_process_and_a_lost_race_is_no_error(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(atomic_io, "sweep", lambda folder: seen.append(Path(folder)))
    for name in ("a", "b"):
        write_json(tmp_path / f"{name}.json", {})
    assert seen == [tmp_path]
    monkeypatch.undo()
    assert sweep(tmp_path / "nowhere") == []


def test_the_same_tensors_and_metadata_give_the_same_bytes(tmp_path):
    metadata = {"dataset": "PhoneCapture", "identity": 'Zoë "Z" \\ /', "split": "train", "more": "\n"}
    tensors = {"b": torch.arange(5.0), "a": torch.zeros(2, 3, dtype=torch.float16)}
    file, written = tmp_path / "shard.safetensors", set()
    for _ in range(12):  # the library's own order of four keys is one of 24, anew for every file
        written.add(write_safetensors(file, tensors, metadata).read_bytes())
    assert len(written) == 1
    with safe_open(file, "pt") as found:
        assert found.metadata() == metadata
        assert found.get_tensor("b").tolist() == [0, 1, 2, 3, 4] and found.get_tensor("a").shape == (2, 3)
