"""Children of a run: they train together, only the first publishes, and what stops one is told to the parent."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fportrait.dataset.encode import vae_hash
from fportrait.diffusion.codec import BlockCodec
from fportrait.errors import UserError
from fportrait.training.launch import launch, launch_command, outcome, pass_on, work
from fportrait.training.run import Job
from helpers.small import Journal, shards, stage, transformer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")
    BlockCodec(refiner_blocks=0).save_pretrained(root / "base/vae")
    transformer().save_pretrained(root / "base/transformer")
    shards(root / "shards", vae_hash=vae_hash(root / "base/vae"))
    return root


def job(house: Path, out: Path, **settings) -> Job:
    values = {
        "name": "stage3",
        "frames": 5,
        "iterations": 4,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "precision": "fp32",
        "mixture": {"PhoneCapture": 50, "ViewSweep": 50},
        "log_every": 1,
        "processes": 2,
        "warmup": 2,
    }
    folders = {
        "start": house / "base",
        "base": house / "base",
        "shards": house / "shards",
        "out": out,
        "checkpoints": out / "checkpoints",
    }
    return Job({**values, **settings}, **{name: str(folder) for name, folder in folders.items()})


def test_two_children_train_publish_once_and_tell_the_parent_every_metric(house, tmp_path):
    journal = Journal()
    summary = launch(job(house, tmp_path / "out"), tmp_path / "launch", journal)
    assert summary["steps"] == 4
    assert list(journal.losses) == [1, 2, 3, 4]
    assert json.loads((tmp_path / "out/training.json").read_text())["steps"] == 4
    trained = transformer().from_pretrained(tmp_path / "out/transformer")
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


def test_a_childs_complaint_reaches_the_user_and_so_does_its_silence(house, tmp_path):
    short = replace(job(house, tmp_path / "out", frames=13), metrics=str(tmp_path / "metrics.jsonl"))
    short.save(tmp_path / "job.json")
    with pytest.raises(UserError, match="set frames of stage3 to 9"):
        work(tmp_path / "job.json")  # what a child does
    with pytest.raises(UserError, match="set frames of stage3 to 9"):
        outcome(tmp_path, short.stage, 1)  # what its parent makes of it
    with pytest.raises(UserError, match=r"exit code 1.*goes on from its last checkpoint"):
        outcome(tmp_path / "elsewhere", short.stage, 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "a card too small"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "a GPU that failed or disappeared"),
    ],
)
def test_what_a_card_said_to_a_child_is_a_sentence_for_the_parent(tmp_path, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("fportrait.training.launch.run_stage", fail)
    folders = dict.fromkeys(("start", "base", "shards", "out", "checkpoints"), str(tmp_path))
    settings = {"name": "stage3", "frames": 5, "iterations": 4, "learning_rate": 1e-3, "mixture": {"ViewSweep": 100}}
    Job(settings, **folders, metrics=str(tmp_path / "metrics.jsonl")).save(tmp_path / "job.json")
    with pytest.raises(UserError, match=words):
        work(tmp_path / "job.json")
    with pytest.raises(UserError, match=words):
        outcome(tmp_path, stage(), 1)


def test_every_machine_starts_its_own_processes(house, tmp_path):
    settings = stage(nodes=2, processes=2, rendezvous="node0:1234")
    command = " ".join(launch_command(settings, tmp_path / "job.json", node=1))
    assert "--nnodes=2 --node-rank=1 --master-addr=node0 --master-port=1234" in command
    assert "--nproc-per-node=2" in command


def test_a_job_survives_its_file_and_half_a_line_waits_for_the_rest(house, tmp_path):
    one = job(house, tmp_path)
    one.save(tmp_path / "job.json")
    assert Job.load(tmp_path / "job.json") == one
    journal, path = Journal(), tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "metrics": {"loss": 2.0}}\n{"step": 2, "met')
    with path.open() as lines:
        pass_on(lines, journal)
        assert journal.losses == {1: 2.0}
        with path.open("a") as more:
            more.write('rics": {"loss": 1.0}}\n')
        pass_on(lines, journal)
    assert journal.losses == {1: 2.0, 2: 1.0}


@pytest.mark.parametrize(
    ("name", "sharding"), [("ddp", "none"), ("fsdp2", "fsdp2"), ("zero2", "zero2"), ("zero3", "zero3")]
)
def test_accelerate_reads_our_files_and_the_stage_says_how_many_and_where(tmp_path, name, sharding):
    from accelerate.commands import launch as accelerate_launch

    file = ROOT / f"conf/launch/{name}.yaml"
    settings = stage(nodes=2, processes=2, rendezvous="node0:1234", sharding=sharding, launch=str(file))
    command = launch_command(settings, tmp_path / "job.json", node=1)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    parsed, _, _ = accelerate_launch._validate_launch_command(
        accelerate_launch.launch_command_parser().parse_args(command[3:])
    )
    assert (parsed.num_processes, parsed.num_machines, parsed.machine_rank) == (4, 2, 1)
    assert (parsed.main_process_ip, parsed.main_process_port) == ("node0", 1234)
    assert (parsed.training_script, parsed.mixed_precision) == ("fportrait.training.launch", "no")
    assert parsed.use_fsdp == (name == "fsdp2") and parsed.use_deepspeed == name.startswith("zero")
    if name == "fsdp2":
        assert int(parsed.fsdp_version) == 2
    if parsed.use_deepspeed:
        if find_spec("deepspeed") is None:
            pytest.skip("needs DeepSpeed")
        from accelerate.utils import DeepSpeedPlugin

        assert DeepSpeedPlugin(zero_stage=int(parsed.zero_stage)).zero_stage == int(name[-1])


def test_a_launch_file_that_is_none_or_says_something_else_is_refused(tmp_path):
    other = stage(processes=2, launch=str(ROOT / "conf/launch/zero2.yaml"), sharding="fsdp2")
    with pytest.raises(UserError, match="set sharding to zero2"):
        launch_command(other, tmp_path / "job.json")
    with pytest.raises(UserError, match="name one of conf/launch"):
        launch_command(stage(processes=2, launch=str(tmp_path / "none.yaml")), tmp_path / "job.json")
    (tmp_path / "broken.yaml").write_text("distributed_type: NONSENSE\n")
    with pytest.raises(UserError, match="broken"):
        launch_command(stage(processes=2, launch=str(tmp_path / "broken.yaml")), tmp_path / "job.json")


def test_accelerate_launch_trains_two_children_too(house, tmp_path):
    journal = Journal()
    file = str(ROOT / "conf/launch/ddp.yaml")
    summary = launch(job(house, tmp_path / "out", iterations=1, launch=file), tmp_path / "launch", journal)
    assert summary["steps"] == 1 and list(journal.losses) == [1]
    assert json.loads((tmp_path / "out/training.json").read_text())["steps"] == 1
