"""How long does a step wait for its data, and does memory grow with the data?

A GPU computes a step while the next batch is read; here a pause of a known length stands for it, so that reading is all
that the processor does. Shards are of the paper's size (512², 81 frames: 64×64 latents), 10 times the data once more.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _result import write_result
from loop import make_shards, settings

from fportrait.dataset.batches import Batches
from fportrait.dataset.shards import ShardReader
from fportrait.training.losses import prepare

STEP_SECONDS, STEPS = 1.0, 20  # a sample of 49 frames and 1.3B parameters takes an H100 about 0.6 s, of 81 about 1.3 s


def wait_fraction(reader: ShardReader) -> float:
    """Share of a step of one device (one sample of 17 frames at 512²) that it waits for its batch."""
    stage = settings(batch_size=1)
    batches = Batches(reader, stage.mixture, stage.frames, 0, focus_gain=8.0)
    waited = 0.0
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(lambda: prepare(batches([0]), range(1), stage))
        started = time.perf_counter()
        for step in range(STEPS):
            before = time.perf_counter()
            following.result()
            if step:
                waited += time.perf_counter() - before
            part = range(step + 1, step + 2)
            following = ahead.submit(lambda part=part: prepare(batches(part), part, stage))
            time.sleep(STEP_SECONDS)
    return waited / (time.perf_counter() - started)


def own_memory(folder: str) -> None:
    """Print this process's own memory in MiB (mapped files left out) after reading 400 samples."""
    reader = ShardReader(folder)
    stage = settings()
    batches = Batches(reader, stage.mixture, stage.frames, 0, focus_gain=8.0)
    for index in range(400):
        prepare(batches([index]), range(1), stage)
    gc.collect()
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(int(fields["RssAnon"].split()[0]) / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    if "--memory" in sys.argv:
        own_memory(sys.argv[2])
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"1x": (10, 8), "10x": (100, 8), "512²": (6, 64)}
        readers = {label: make_shards(folder / label, count, side=side) for label, (count, side) in sizes.items()}
        waits = [wait_fraction(readers["512²"]) for _ in range(3)]
        memory = {}
        for label in ("1x", "10x"):
            command = [sys.executable, __file__, "--memory", str(folder / label)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            memory[label] = float(done.stdout.split()[0])
    growth = memory["10x"] / memory["1x"]
    result = write_result(
        name="data_wait",
        what="share of a one-second step that waits for its data, 512² latents from shards",
        ours=round(float(np.median(waits)), 5),
        unit="of the step",
        bound=0.01,
        n=3 * STEPS,
        own_memory_mib={label: round(value, 1) for label, value in memory.items()},
        memory_growth_with_10x_data=round(growth, 4),
    )
    print(
        f"waits {result['ours']:.2%} of the step; memory {memory['1x']:.0f} MiB, {memory['10x']:.0f} MiB with 10x data"
    )


if __name__ == "__main__":
    main()
