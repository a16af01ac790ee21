"""Runs of the loop in processes that a test can kill: one child imports everything once and forks every run from it.

    python -P -m helpers.forks WORK_FOLDER [MODULE …] < requests

A request is one JSON line; the answer is one JSON line, the exit codes (negative for signals). Each process writes its
losses and sample ids, one JSON object a step, to `OUT/journal-RANK.jsonl`, and a final `OUT/weights.safetensors`.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class Forks:
    """The test's side: `run(out=…, ranks=…, …)` waits for a run and returns its exit codes."""

    def __init__(self, folder: Path, *modules: str):
        """`modules` are imported before the first fork: what all runs need, they import once."""
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "helpers.forks", str(folder), *modules]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, out: Path, **request) -> list[int]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"out": str(out), **request}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def error(self, rank: int = 0) -> str:
        """What ended a process of the last run that failed."""
        return (self.folder / f"error-{rank}.txt").read_text()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(300)


def journal(out: Path) -> dict[int, dict]:
    """Of all processes: step to loss and sample ids of the global batch; a step that ran twice must agree."""
    losses: dict[int, float] = {}
    samples: dict[int, str] = {}
    size = 0
    for entry in entries(out):
        if "loss" in entry:
            before = losses.setdefault(entry["step"], entry["loss"])
            assert before == entry["loss"], f"step {entry['step']} gave {before}, then {entry['loss']}"
            continue
        if "ids" not in entry:
            continue
        size = entry["batch_size"]
        for index, name in enumerate(entry["ids"], entry["first"]):
            assert samples.setdefault(index, name) == name
    return {
        step: {"loss": loss, "ids": [samples[index] for index in range((step - 1) * size, step * size)]}
        for step, loss in sorted(losses.items())
    }


def entries(out: Path) -> list[dict]:
    """What the processes of all runs into `out` have noted."""
    lines = [line for path in sorted(out.glob("journal-*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def one_process(request: dict, rank: int, ranks: int, port: int, shards_folder: str) -> None:
    import torch
    from safetensors.torch import save_file

    from fportrait.dataset.batches import Batches
    from fportrait.training.loop import train
    from helpers.small import ShardReader, stage, transformer

    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    out = Path(request["out"])
    out.mkdir(parents=True, exist_ok=True)
    lines = (out / f"journal-{rank}.jsonl").open("a")  # a killed process closes nothing

    def note(entry: dict) -> None:
        lines.write(json.dumps(entry) + "\n")
        lines.flush()

    settings = stage(**request.get("settings", {}))
    draw = Batches.__call__

    def noted(self, indices):
        batch = draw(self, indices)
        trained_on = self.records is self.reader.records("train")
        if trained_on and len(indices) == settings.micro_batch(ranks):
            note({"first": indices[0], "batch_size": settings.batch_size, "ids": batch["ids"]})
        return batch

    Batches.__call__ = noted
    for entry in request.get("kill", []):
        if entry["rank"] == rank:
            kill_at_event(entry["event"])

    def log(metrics: dict[str, float], step: int) -> None:
        if "loss" in metrics:
            note({"step": step, "loss": metrics["loss"]})
        if "held_out_loss" in metrics:
            note({"step": step, "held_out": metrics["held_out_loss"]})
        for entry in request.get("fill", []):
            if entry["step"] == step and rank == 0:
                Path(entry["path"]).write_bytes(b"\0" * entry["bytes"])
        for entry in request.get("signal", []):
            if entry["step"] == step and entry.get("rank", 0) == rank:
                os.kill(os.getpid(), getattr(signal, entry["name"]))

    model, reader = transformer(**request.get("model", {})), ShardReader(shards_folder)

    def sample(step: int) -> None:  # as a stage does (`training.run`)
        from fportrait.diffusion.codec import BlockCodec
        from fportrait.training.samples import factor_video

        if rank == 0 or settings.sharding != "none":
            torch.manual_seed(0)
            seen = factor_video(settings, model, BlockCodec(refiner_blocks=0), reader, None, steps=2)
            note({"step": step, "sample": seen} if rank == 0 else {})

    train(settings, model, reader, out, log, sample=sample)
    if rank == 0:
        save_file(model.state_dict() if settings.sharding == "none" else {}, str(out / "weights.safetensors"))


def kill_at_event(number: int) -> None:
    """SIGKILL this process just before its `number`-th write, sync, rename, removal or optimiser step."""
    import shutil

    import torch
    from safetensors import torch as safetensors_torch

    count = itertools.count(1)

    def deadly(function):
        def call(*args, **kwargs):
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    shutil.rmtree = deadly(shutil.rmtree)
    safetensors_torch.save_file = deadly(safetensors_torch.save_file)
    torch.optim.AdamW.step = deadly(torch.optim.AdamW.step)


def serve(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    import fportrait.training.loop  # noqa: F401
    from fportrait.training.cost import sample_work
    from helpers.small import SHAPES, bucket_shards, shards, transformer

    folders = {  # checkpoints are scored
        "shards": str(shards(folder / "shards", splits=("train", "train", "test")).folder),
        "buckets": str(bucket_shards(folder / "buckets").folder),
    }
    for shape in set(SHAPES):
        sample_work(transformer().config, 5, *shape)  # cached; the forks need not count again
    for line in sys.stdin:
        request = json.loads(line)
        ranks = request.get("ranks", 1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.dup2(2, 1)  # the answer's channel is the parent's
                    one_process(request, rank, ranks, port, folders[request.get("shards", "shards")])
                    code = 0
                except SystemExit as stopped:
                    code = int(stopped.code or 0)
                except BaseException as error:
                    (folder / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
                finally:
                    os._exit(code)
            children.append(child)
        codes = []
        for child in children:
            codes.append(os.waitstatus_to_exitcode(wait(child, children, request.get("seconds", 120))))
        print(json.dumps(codes), flush=True)


def wait(child: int, children: list[int], seconds: float) -> int:
    """A process that outlives the others by too long is a hang: it is ended with SIGABRT, which no test expects."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGABRT)
    return os.waitpid(child, 0)[1]


def random_events(seed: int, count: int, last: int) -> list[int]:
    return [random.Random(f"{seed}/{number}").randint(1, last) for number in range(count)]


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the answers have standard output for themselves
        for module in sys.argv[2:]:
            importlib.import_module(module)
    serve(Path(sys.argv[1]))
