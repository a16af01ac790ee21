"""DeepSpeed's ZeRO on two processes (gloo): the samples, losses and checkpoints of every other way to train."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fportrait.errors import UserError
from fportrait.training.loop import train
from fportrait.training.parallel import make_parallel
from fportrait.training.zero import engine_settings
from helpers.forks import Forks, journal
from helpers.small import Journal, shards, stage, transformer

SETTINGS = {"iterations": 6, "checkpoint_every": 2, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    if find_spec("deepspeed") is None:  # not imported here: the server does, once for all runs
        pytest.skip("needs DeepSpeed")
    server = Forks(tmp_path_factory.mktemp("forks"), "deepspeed.runtime.engine", "torch._inductor.compile_fx")
    yield server
    server.close()


@pytest.fixture(scope="module")
def straight(forks, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert forks.run(out, settings=SETTINGS) == [0]
    return out


def last_checkpoint(out: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights, average and moments."""
    folder = next(out.glob(f"checkpoints/*/step-{step:08d}"))
    return {
        f"{path.name}/{name}": value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()
    }


@pytest.mark.parametrize(("sharding", "accumulation"), [("zero2", 2), ("zero3", 1)])
def test_two_processes_and_then_one_lose_alike_and_keep_the_same_state(
    forks, straight, tmp_path, sharding, accumulation
):
    settings = {**SETTINGS, "sharding": sharding, "accumulation": accumulation}
    assert forks.run(tmp_path, ranks=2, settings={**settings, "iterations": 2}) == [0, 0], forks.error()
    assert forks.run(tmp_path, ranks=2, settings={**settings, "iterations": 4}) == [0, 0], forks.error()
    assert forks.run(tmp_path, settings=settings) == [0], forks.error()
    found, expected = journal(tmp_path), journal(straight)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    for step, entry in expected.items():
        assert found[step]["ids"] == entry["ids"]
        assert found[step]["loss"] == pytest.approx(entry["loss"], rel=1e-5)
    mine, theirs = last_checkpoint(tmp_path, 4), last_checkpoint(straight, 4)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        file, _, parameter = name.partition("/")
        if file == "optimizer.safetensors":
            torch.testing.assert_close(mine[name], value, atol=1e-6, rtol=1e-3, msg=name)
            continue
        # Where a gradient is rounding noise (what an attention does not depend on), Adam makes a whole step of it.
        moment = theirs.get(f"optimizer.safetensors/{parameter}/exp_avg")
        learned = slice(None) if moment is None else moment.abs() > 1e-5
        torch.testing.assert_close(mine[name][learned], value[learned], atol=1e-5, rtol=1e-3, msg=name)


def test_eight_bit_moments_are_refused_and_so_is_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="ZeRO already divides"):
        make_parallel(stage(sharding="zero2", optimizer="adamw8bit"))
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    parallel = make_parallel(stage(sharding="zero3"))
    parallel.processes = 2
    with pytest.raises(UserError, match=r"fportrait\[deepspeed\]"):
        parallel.prepare(transformer())


def test_one_process_has_nothing_to_spread(tmp_path):
    reader, journals = shards(tmp_path / "shards"), [Journal(), Journal()]
    for sharding, seen in zip(("none", "zero3"), journals, strict=True):
        train(stage(sharding=sharding, iterations=2), transformer(), reader, tmp_path / sharding, seen)
    assert journals[0].losses == journals[1].losses


def test_the_engine_is_told_what_the_stage_says():
    told = engine_settings(stage(sharding="zero2", batch_size=16, accumulation=2, gradient_clip=0.5), 4)
    assert told["train_micro_batch_size_per_gpu"] == 2 and told["gradient_accumulation_steps"] == 2
    assert told["zero_optimization"]["stage"] == 2 and told["gradient_clipping"] == 0.5
    assert not told["torch_autocast"]["enabled"]
