"""Kills, full disks and lost processes: what was saved stands, and the run goes on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fportrait.training.checkpoints import damage, saved_checkpoints
from helpers.forks import Forks, journal, random_events

SETTINGS = {"iterations": 24, "checkpoint_every": 2, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def straight(forks, tmp_path_factory):
    """An uninterrupted run on one process."""
    out = tmp_path_factory.mktemp("straight")
    assert forks.run(out, settings=SETTINGS) == [0]
    assert len(journal(out)) == 24
    return out


def same_run(out: Path, other: Path) -> bool:
    """Every loss, every sample id and every weight, bit for bit."""
    mine, theirs = (load_file(folder / "weights.safetensors") for folder in (out, other))
    return journal(out) == journal(other) and all((mine[name] == theirs[name]).all() for name in theirs)


def test_twenty_kills_at_random_moments_change_no_loss_no_sample_and_no_weight(forks, straight, tmp_path):
    # An event is a write, a sync, a rename, a removal or an optimiser step; two steps and a save are about thirty.
    kills = 0
    for event in random_events(seed=6, count=200, last=45):
        codes = forks.run(tmp_path, settings=SETTINGS, kill=[{"rank": 0, "event": event}])
        if codes == [0]:
            shutil.rmtree(tmp_path / "checkpoints")  # done before 20 kills: begin again
            continue
        assert codes == [-signal.SIGKILL]
        for checkpoint in saved_checkpoints(next((tmp_path / "checkpoints").iterdir())):
            assert damage(checkpoint) is None
        kills += 1
        if kills == 20:
            break
    assert kills == 20
    assert forks.run(tmp_path, settings=SETTINGS) == [0]
    assert same_run(tmp_path, straight)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_one_two_and_one_processes_draw_the_same_samples_and_lose_alike(forks, straight, tmp_path, sharding):
    settings = {**SETTINGS, "sharding": sharding}
    stop = [{"step": 8, "name": "SIGTERM"}]
    assert forks.run(tmp_path, settings=settings, signal=stop) == [143]
    # told to one process alone, and both stop after the same step
    stop = [{"step": 16, "name": "SIGTERM"}]
    assert forks.run(tmp_path, settings=settings, ranks=2, signal=stop) == [143, 143]
    assert forks.run(tmp_path, settings=settings) == [0]
    ours, theirs = journal(tmp_path), journal(straight)
    assert [entry["ids"] for entry in ours.values()] == [entry["ids"] for entry in theirs.values()]
    for step, entry in theirs.items():
        assert ours[step]["loss"] == pytest.approx(entry["loss"], rel=1e-5), step


def test_a_lost_process_stops_the_others_and_the_run_goes_on(forks, straight, tmp_path):
    killed = [{"rank": 1, "event": 10}]
    codes = forks.run(tmp_path, settings=SETTINGS, ranks=2, kill=killed, seconds=60)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == 1  # an error, not a hang
    assert forks.run(tmp_path, settings=SETTINGS, ranks=2) == [0, 0]
    assert journal(tmp_path).keys() == journal(straight).keys()
    for step, entry in journal(straight).items():
        assert journal(tmp_path)[step]["ids"] == entry["ids"]
        assert journal(tmp_path)[step]["loss"] == pytest.approx(entry["loss"], rel=1e-5)


def test_a_disk_that_is_really_full_leaves_the_old_checkpoint(forks, straight, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    saved = saved_checkpoints(next((straight / "checkpoints").iterdir()))[0]
    size = 5 * sum(path.stat().st_size for path in saved.iterdir())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk of its own needs the right to mount one")
    try:
        filler = disk / "filler"  # room for one checkpoint, not for two, as soon as the first step is taken
        fill = [{"step": 1, "path": str(filler), "bytes": int(size * 0.73)}]
        assert forks.run(disk / "out", settings=SETTINGS, fill=fill) == [1]
        assert "full disk while writing" in forks.error()
        kept = saved_checkpoints(next((disk / "out/checkpoints").iterdir()))
        assert [path.name for path in kept] == ["step-00000002"]
        assert damage(kept[0]) is None
        assert not list(disk.rglob(".tmp-*"))
        filler.unlink()
        shutil.copytree(disk / "out", tmp_path / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert forks.run(tmp_path / "out", settings=SETTINGS) == [0]
    assert same_run(tmp_path / "out", straight)
    os.sync()
    assert json.loads((tmp_path / "out/training.json").read_text())["steps"] == 24
