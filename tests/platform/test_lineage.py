"""Records of what went in and out, and the gaps that keep a model from being promoted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fportrait.errors import UserError
from fportrait.ops import lineage
from fportrait.ops.headline import flatten
from fportrait.ops.parameters import check_parameters
from fportrait.ops.resources import Watch
from fportrait.ops.runs import launcher


def record(stage: str, inputs: dict[str, str], outputs: dict[str, str], folder: Path) -> None:
    entry = {"run_id": stage, "inputs": {k: {"hash": v} for k, v in inputs.items()}}
    lineage.write_record(stage, {**entry, "outputs": {k: {"hash": v} for k, v in outputs.items()}}, folder)


def test_a_folders_hash_follows_names_and_bytes_but_not_temporary_files(tmp_path):
    (tmp_path / "a").write_text("1")
    first = lineage.describe(tmp_path)
    (tmp_path / ".tmp-x").write_text("half")
    assert lineage.describe(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = lineage.describe(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first["hash"], renamed["hash"], lineage.describe(tmp_path)["hash"]}) == 3
    assert first["bytes"] == 1 and first["files"] == 1


def test_an_unbroken_line_has_no_gaps_and_a_stale_stage_or_missing_record_is_named(tmp_path):
    record("track", {}, {"tracks": "1"}, tmp_path)
    record("encode", {"tracks": "1"}, {"shards": "2"}, tmp_path)
    assert lineage.gaps(["track", "encode"], tmp_path) == []
    record("track", {}, {"tracks": "9"}, tmp_path)
    (gap,) = lineage.gaps(["track", "encode"], tmp_path)
    assert "'encode' used another tracks" in gap
    assert lineage.gaps(["ingest"], tmp_path) == ["there is no record of 'ingest'"]


def test_unknown_missing_and_flat_parameters_are_refused():
    known = {"track": {"size", "seed"}}
    check_parameters({"track": {"size": 1, "seed": 2}}, known)
    for wrong, word in [
        ({"trak": {}}, "'track'"),
        ({"track": {"size": 1, "seeds": 2}}, "'seed'"),
        ({"track": {"size": 1}}, "track.seed"),
        ({"track": 3}, "nest"),
    ]:
        with pytest.raises(UserError, match=word):
            check_parameters(wrong, known)


def test_peak_memory_counts_an_allocation_and_a_child_process():
    watch = Watch(every=0.02)
    start = watch._peak
    block = bytearray(80 * 2**20)
    child = "import time; b = bytearray(60 * 2**20); time.sleep(1.0)"
    subprocess.run([sys.executable, "-c", child], check=True)
    seconds, peak = watch.stop()
    assert len(block) and peak - start > 130
    assert seconds >= 1.0


def test_stages_started_by_one_dvc_share_a_launcher_and_a_later_dvc_has_its_own():
    code = "from fportrait.ops.runs import launcher; print(launcher())"
    parent = (
        "import os, subprocess, sys\n"
        "for stage in ('a', 'b'):\n"
        f"    subprocess.run([sys.executable, '-c', {code!r}], env=dict(os.environ, DVC_STAGE=stage))"
    )

    def one_dvc() -> list[str]:
        environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "src")
        return subprocess.check_output([sys.executable, "-c", parent], text=True, env=environment).split()

    first, second = one_dvc(), one_dvc()
    assert first[0] == first[1] and second[0] == second[1] and first[0] != second[0]
    assert launcher().startswith(f"{os.getpid()}-")


def test_flatten_joins_nested_keys():
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}
