"""What a cold `fportrait animate` of one window costs, in processor seconds: a busy machine changes them little.

    python benchmarks/cold_start.py [--portrait PICTURE --driving VIDEO] [--repeats 2]
    python benchmarks/cold_start.py --stages

Everything from the start of the process to its end, so that the first frame comes before: imports, loading, tracking,
sampling, decoding and writing. Each command runs in a process of its own on one core, with its files and compiled code
in the system's memory, after one that warms them. The peer is the same command with all of diffusers imported before it
(`fportrait.diffusion.lean`), in turns with ours.

`--stages` measures what every stage pays beside its work, in a copy of the project's last commit: `kedro run` of a
stage whose verb does nothing, and its parts.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _result import write_result
from live import made_files

BOUND = 6.0  # seconds until the first frame
WINDOW = 17  # frames
WHOLE = "import diffusers; from fportrait.cli import main; main(prog_name='fportrait')"


def spent_by(program: list[str]) -> float:
    """Processor seconds of a process, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


NOTHING = """
import sys, fportrait.pipelines.ingest.pipeline as stage
def nothing(captures, manifest, truth, units, *, source, fill, require_consent, world, default_fov_degrees,
            test_identities, hold_out_clips, min_frames, seed, workers):
    for folder in (captures, manifest):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nothing").write_text("")
    return {}
stage.ingest = nothing
sys.argv = ["kedro", "run", "--pipelines=ingest"]
from kedro.framework.cli import main
main()
"""
STORE = "import mlflow.store.tracking.sqlalchemy_store"
PARTS = {
    "kedro run, a stage that does nothing": ["-c", NOTHING],
    "kedro --version": ["-m", "kedro", "--version"],
    "import mlflow and its store": ["-c", STORE],
    "import kedro.framework.cli": ["-c", "import kedro.framework.cli"],
    "import pandas": ["-c", "import pandas"],
}


def stages(repeats: int) -> None:
    """What a stage of the chain pays beside its work."""
    root = Path(__file__).resolve().parents[1]
    os.environ |= {"DVC_STAGE": "ingest", "DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=files, check=True)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = f"{folder}/src"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        spent_by([sys.executable, "-c", NOTHING])
        each: dict[str, list[float]] = {name: [] for name in PARTS}
        for _ in range(repeats):
            for name, arguments in PARTS.items():
                each[name].append(round(spent_by([sys.executable, *arguments]), 2))
                print(f"{name:<40}{each[name][-1]:.2f} CPU s", flush=True)
        os.chdir(root)
    rows = {name: round(statistics.median(values), 2) for name, values in each.items()}
    what = "what a stage pays beside its work: kedro run of a stage that does nothing, one core"
    first = rows["kedro run, a stage that does nothing"]
    write_result("stage_start", what, first, "CPU s", bound=BOUND, n=repeats, rows=rows, each=each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portrait", type=Path)
    parser.add_argument("--driving", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--stages", action="store_true", help="what a stage of the chain pays beside its work")
    asked = parser.parse_args()
    if asked.stages:
        stages(asked.repeats)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    os.environ |= {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        portrait, driving = asked.portrait, asked.driving
        if portrait is None or driving is None:
            made = made_files(Path(folder), WINDOW)
            portrait, driving = portrait or made[0], driving or made[1]
        files = ["--portrait", str(portrait), "--driving", str(driving), "-o", str(Path(folder) / "out.mp4")]
        command = ["animate", *files, "--max-frames", str(WINDOW)]
        programs = {
            "animate": [sys.executable, "-m", "fportrait", *command],
            "animate, diffusers whole": [sys.executable, "-c", WHOLE, *command],
            "import fportrait.animate": [sys.executable, "-c", "import fportrait.animate"],
            "fportrait --help": [sys.executable, "-m", "fportrait", "--help"],
        }
        spent_by(programs["animate"])
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(asked.repeats):
            for name, program in programs.items():
                seconds[name].append(spent_by(program))
                print(f"{name:<28}{seconds[name][-1]:.2f} CPU s", flush=True)
    rows = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    write_result(
        "cold_start",
        f"a cold `fportrait animate` of {WINDOW} frames, start to end, one core",
        rows["animate"],
        "CPU s",
        bound=BOUND,
        n=asked.repeats,
        rows=rows,
        each={name: [round(value, 2) for value in values] for name, values in seconds.items()},
        load_average=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
