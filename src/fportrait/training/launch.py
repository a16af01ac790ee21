"""Training in child processes: one per device, on one machine or several.

The parent writes the job to a file and starts `torchrun`, or `accelerate launch` where the stage names a file for it;
every child runs this module on the job. The children's main process writes metrics to a file that the parent reads
while they train, so MLflow and Kedro stay with the parent. On several machines the first one's parent starts its own
children, and the others join by the command that it prints.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fportrait.atomic_io import write_json
from fportrait.devices import device_errors, pick_device
from fportrait.errors import UserError
from fportrait.training.config import StageConfig
from fportrait.training.run import Job, run_stage

POLL_SECONDS = 0.5
logger = logging.getLogger(__name__)


def launch_command(stage: StageConfig, job_file: Path, node: int = 0) -> list[str]:
    """The command that starts one machine's processes: torchrun, or `accelerate launch` with the file `stage.launch`.

    Raises:
        UserError: that file is none of accelerate's, or shards in another way than the stage.
    """
    host, _, port = stage.rendezvous.partition(":")
    child = ["-m", "fportrait.training.launch", str(job_file)]
    if stage.launch is not None:
        check_launch_file(stage)
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            stage.launch,
            f"--num_processes={stage.processes * stage.nodes}",
            f"--num_machines={stage.nodes}",
            f"--machine_rank={node}",
        ]
        if stage.nodes == 1:
            return [*command, "--main_process_port=0", *child]  # any free one
        return [*command, f"--main_process_ip={host}", f"--main_process_port={port}", *child]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={stage.processes}"]
    if stage.nodes == 1:
        command += ["--standalone"]
    else:
        command += [f"--nnodes={stage.nodes}", f"--node-rank={node}", f"--master-addr={host}", f"--master-port={port}"]
    return [*command, *child]


def check_launch_file(stage: StageConfig) -> None:
    """Refuse a file that accelerate does not read, or that spreads the model in another way than `stage.sharding`."""
    from accelerate.commands.config.config_args import ClusterConfig

    path = Path(str(stage.launch))
    if not path.is_file():
        raise UserError(
            f"no {path}, with which {stage.name} is to be launched",
            "an accelerate configuration",
            "name one of conf/launch, or remove `launch`",
        )
    try:
        file = ClusterConfig.from_yaml_file(path)
        kind = str(getattr(file.distributed_type, "value", file.distributed_type))
    except Exception as error:
        raise UserError(f"a broken {path} ({error})", "an accelerate configuration", "see conf/launch") from None
    spreads = {"FSDP": "fsdp2", "DEEPSPEED": f"zero{file.deepspeed_config.get('zero_stage')}"}.get(kind, "none")
    if spreads != stage.sharding:
        raise UserError(
            f"{path}, which stands for sharding {spreads}, in {stage.name} with sharding {stage.sharding}",
            "one way to spread the model",
            f"set sharding to {spreads}, or launch to conf/launch/{stage.sharding}.yaml",
        )


def launch(job: Job, folder: Path, log: Callable[[dict[str, float], int], None]) -> dict[str, Any]:
    """Run a stage in child processes; returns its summary.

    Args:
        folder: for the job file, metrics and errors; on several machines all of them must see it, and `job.out`.

    Raises:
        UserError: what a child raised, or a child that ended without a word (killed, out of memory).
        SystemExit: (143) SIGTERM arrived; it was passed on, and a checkpoint was written.
    """
    from fportrait.training.loop import terminate_flag

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json*"):
        old.unlink()
    stage, job_file, metrics = job.stage, folder / "job.json", folder / "metrics.jsonl"
    metrics.touch()
    folders: dict[str, Any] = {
        name: str(Path(getattr(job, name)).resolve()) for name in ("start", "base", "shards", "out", "checkpoints")
    }
    job = replace(job, metrics=str(metrics.resolve()), **folders)  # whole paths, for children on other machines
    job.save(job_file)
    if stage.nodes > 1:
        logger.warning(
            "on each other machine, N = 1 to %d, run: %s -m fportrait.training.launch %s --join N",
            stage.nodes - 1,
            sys.executable,
            job_file.resolve(),
        )
    paths = os.pathsep.join(path for path in sys.path if path)  # Kedro finds the package without an installation
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(launch_command(stage, job_file.resolve()), env=environment)
    try:
        with terminate_flag() as terminated, metrics.open() as lines:
            told = False
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                pass_on(lines, log)
                if terminated() and not told:
                    told = True
                    for child in psutil.Process(process.pid).children():
                        child.send_signal(signal.SIGTERM)  # torchrun itself would give them 30 seconds
            pass_on(lines, log)
            if terminated():
                raise SystemExit(143)
    finally:
        if process.poll() is None:  # the parent fails: its children must not train on
            process.terminate()
            process.wait()
    return outcome(folder, stage, process.returncode)


def outcome(folder: Path, stage: StageConfig, code: int) -> dict[str, Any]:
    """The summary that the children left, or what one of them raised."""
    result = folder / "result.json"
    if code == 0 and result.is_file():
        return json.loads(result.read_text())
    for error in sorted(folder.glob("error-*.json")):
        raise UserError(**json.loads(error.read_text()))
    raise UserError(
        f"a training process of {stage.name} that ended without a message (exit code {code})",
        f"{stage.processes * stage.nodes} processes that train to the end",
        "look above for the one that failed (killed? out of memory?); run again: it goes on from its last checkpoint",
    )


def pass_on(lines: Any, log: Callable[[dict[str, float], int], None]) -> None:
    """Log what the children have written since the last call."""
    while True:
        place = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(place)  # half a line: the rest comes later
            return
        entry = json.loads(line)
        log(entry["metrics"], entry["step"])


def work(job_file: Path) -> None:
    """What a child process does."""
    import torch

    job, rank = Job.load(job_file), int(os.environ.get("RANK", "0"))
    assert job.metrics is not None
    with open(job.metrics, "a") as lines:

        def log(metrics: dict[str, float], step: int) -> None:
            lines.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
            lines.flush()

        try:
            with device_errors():
                if pick_device().type == "cpu":
                    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
                summary = run_stage(job, log, main=rank == 0)
        except UserError as error:
            reason = {"found": error.found, "expected": error.expected, "fix": error.fix}
            write_json(job_file.parent / f"error-{rank}.json", reason)
            raise
    if rank == 0:
        write_json(job_file.parent / "result.json", summary)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take part in the training that JOB describes.")
    parser.add_argument("job", type=Path)
    parser.add_argument("--join", type=int, metavar="N", help="start the processes of machine N")
    arguments = parser.parse_args()
    if arguments.join is None:
        work(arguments.job)
        return
    while not arguments.job.is_file():
        time.sleep(POLL_SECONDS)
    raise SystemExit(subprocess.call(launch_command(Job.load(arguments.job).stage, arguments.job, arguments.join)))


if __name__ == "__main__":
    main()
