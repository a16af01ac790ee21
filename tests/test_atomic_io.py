"""Nothing is ever half-written, and what is told of a failure names what the user asked for."""

from __future__ import annotations

import errno

import pytest

from fportrait.atomic_io import atomic_folder, atomic_path, write_json
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
