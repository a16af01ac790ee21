"""A stream from 640×480 on this machine: frames a second, latency, memory, and whether colour or identity drift.

    python benchmarks/live.py [--model STUDENT] [--input VIDEO] [--minutes 10] [--sizes 64] [--cores 1 2]

Real time first: the file is played as a camera, frames are dropped where the machine is slow. Then as fast as it is
read, for as many frames: a camera of 25 frames a second hides what the machine could do beyond. Then the same file
again and again like that, for as many frames as `--minutes` of 25 a second have: memory at the end against that after
the first minute's frames; and the same driver's frames at the beginning against the end, in identity (by a network,
`pip install 'fportrait[identity]'`), colour and grey levels, beside what differs between two repeats at the beginning.
Rates by the clock say nothing on a machine that others use; processor time a frame, and the
rate that follows from it, does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _result import RESULTS, write_result

from fportrait.animate.animator import Animator
from fportrait.animate.driving import Steering
from fportrait.animate.live import BIN, Live
from fportrait.animate.sources import FileSource
from fportrait.animate.stream import CARRIES, PortraitStream
from fportrait.body.model import load_body
from fportrait.capture.people import sample_person
from fportrait.capture.video_io import probe, write_image, write_video
from fportrait.capture.world import sample_training_clip
from fportrait.evaluation.faces import shared_finder
from fportrait.evaluation.metrics.csim import default_identity
from fportrait.ops.registry import chosen_student

PERSON, DRIVER = 150_700_001, 150_700_002
RATE = 25.0
SETTLED = 400  # frames after which the driver's face at rest is known
COMPARED = 16  # frames of every repeat


def made_files(folder: Path, frames: int = 100) -> tuple[Path, Path]:
    """A portrait, and a driver filmed with 640×480, both of the embedded world."""
    body = load_body()
    person = sample_training_clip(np.random.default_rng(1), body, "phone", 1, 480, person=sample_person(PERSON, body))
    write_image(folder / "portrait.png", person["video"][0])
    clip = sample_training_clip(
        np.random.default_rng(2), body, "phone", frames, 480, person=sample_person(DRIVER, body)
    )
    wide = np.pad(clip["video"], ((0, 0), (0, 0), (80, 80), (0, 0)))
    write_video(folder / "driver.mp4", wide, RATE)
    return folder / "portrait.png", folder / "driver.mp4"


def on_cores(count: int) -> None:
    """Let this process run on so many cores."""
    import torch

    every = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, every[-count:])
    torch.set_num_threads(1)


def costs(seconds: float, frames: int) -> dict[str, float]:
    """Processor time a frame, and the frames a second that one core and two reach by it if nothing else needs them."""
    each = 1000 * seconds / max(1, frames)
    return {
        "cpu_ms_per_frame": round(each, 1),
        "one_core_frames_per_second": round(1000 / each, 1),
        "two_cores_at_most": round(2000 / each, 1),
    }


def histogram(rows: list[dict[str, Any]], path: Path) -> None:
    """The delay from a camera's frame to its picture, one line for each row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for row in rows:
        bars = {float(bar): count for bar, count in row["latency_histogram"].items()}
        edges = np.arange(0, max(bars, default=0.0) + 2 * BIN, BIN)
        counts = [bars.get(round(edge, 2), 0) / max(1, row["frames"]) for edge in edges[:-1]]
        load = row["load_average"]
        axis.stairs(counts, edges, label=f"{row['size']} pixels, {row['cores']} cores, load average {load}")
    axis.set_xlabel("seconds from the camera's frame to its picture")
    axis.set_ylabel("share of the frames")
    axis.legend()
    figure.savefig(path, dpi=110)


def in_real_time(stream: PortraitStream, driver: Path, seconds: float) -> dict[str, Any]:
    begun = time.process_time()
    live = Live(stream, FileSource(driver, loop=True), lambda *_: None, Steering(), seconds=seconds).start()
    live.wait()
    meter = live.meter
    return {
        "frames": meter.shown,
        "dropped": live.status.dropped,
        "frames_per_second": round(meter.mean_rate, 2),
        "latency_median": round(meter.latency(0.5), 3),
        "latency_95": round(meter.latency(0.95), 3),
        "latency_histogram": {f"{bar * BIN:.2f}": count for bar, count in sorted(meter.latencies.items())},
        **costs(time.process_time() - begun, meter.shown),
        "cpu_ms_by_stage": {name: round(1000 * s / max(1, meter.shown), 2) for name, s in meter.seconds.items()},
    }


def as_fast_as_it_goes(stream: PortraitStream, driver: Path, seconds: float) -> dict[str, Any]:
    """The rate that the machine could reach: a camera gives no more than its own. Nothing is dropped."""
    source = FileSource(driver, paced=False, loop=True)
    live = Live(stream, source, lambda *_: None, Steering(), drops=False, seconds=seconds).start()
    live.wait()
    return {"frames_per_second_unpaced": round(live.meter.mean_rate, 2)}


def at_rest(stream: PortraitStream) -> np.ndarray:
    """One window of the portrait at rest, going on from what the stream shows."""
    return stream.make([stream.rest(stream.person.reference_camera)] * stream.frames).astype(np.float64)


class Repeats:
    """Pictures of some repeats of a looped driver: two at the beginning, two at the end, each two apart, so that they
    fall alike into windows of one latent and of two."""

    def __init__(self, length: int, frames: int):
        loops = frames // length
        if loops < 5:
            raise SystemExit(f"{frames} frames hold {loops} repeats of {length}; drift needs 5: raise --minutes")
        first = min(-(-SETTLED // length), loops - 5)
        last = loops - 1 - (loops - 1 - first) % 2
        self.length, self.loops = length, {"early": first, "again": first + 2, "later": last - 2, "late": last}
        self.places = set(np.linspace(0, length - 1, min(COMPARED, length)).astype(int).tolist())
        self.kept: dict[int, list[np.ndarray]] = {loop: [] for loop in self.loops.values()}

    def take(self, number: int, frame: np.ndarray) -> None:
        loop, place = divmod(number, self.length)
        if loop in self.kept and place in self.places:
            self.kept[loop].append(frame.copy())

    def drift(self, portrait: np.ndarray) -> dict[str, Any]:
        """Early against late beside early against early again (and late against late): cosines of identity, largest
        difference of a channel's mean and mean difference of pixels, grey levels."""
        network, finder = default_identity(), shared_finder()

        def embedded(picture: np.ndarray) -> np.ndarray | None:
            face = finder(picture, None)
            return None if face is None else network.embed(picture, face.landmarks)

        shown = {name: np.stack(self.kept[loop]).astype(np.float64) for name, loop in self.loops.items()}
        result: dict[str, Any] = {"repeats": self.loops, "frames_of_each": len(self.places)}
        pairs = {"drift": ("early", "late"), "noise_early": ("early", "again"), "noise_late": ("later", "late")}
        for name, (a, b) in pairs.items():
            result[name] = {
                "colour": round(float(np.abs(shown[a].mean((0, 1, 2)) - shown[b].mean((0, 1, 2))).max()), 3),
                "grey_levels": round(float(np.abs(shown[a] - shown[b]).mean()), 3),
            }
        if network is None:
            return result
        result["network"] = network.backbone.name
        faces = {name: [embedded(frame) for frame in self.kept[loop]] for name, loop in self.loops.items()}
        for name, (a, b) in pairs.items():
            cosines = [x @ y for x, y in zip(faces[a], faces[b], strict=True) if x is not None and y is not None]
            result[name]["identity"] = round(float(np.mean(cosines)), 5)
            result[name]["identity_least"] = round(float(np.min(cosines)), 5)
        own = embedded(portrait)
        if own is not None:
            result["identity_of_portrait"] = {
                name: round(float(np.mean([own @ one for one in some if one is not None])), 4)
                for name, some in faces.items()
            }
        return result


def for_long(stream: PortraitStream, driver: Path, frames: int) -> dict[str, Any]:
    """Everything at full speed, nothing dropped."""
    process, memory, joins, before = psutil.Process(), [], [], [None]
    first: list[np.ndarray] = []
    colours: list[np.ndarray] = []
    repeats = Repeats(probe(driver).frames, frames)

    def sink(frame: np.ndarray, at: float) -> None:
        count = len(memory)
        repeats.take(count, frame)
        if before[0] is not None and count % stream.frames == 0:
            joins.append(float(np.abs(frame.astype(float) - before[0]).mean()))
        before[0] = frame.astype(float)
        memory.append(process.memory_info().rss)
        if not first:
            first.append(frame.copy())
        colours.append(frame.mean((0, 1)))

    rest_before = [at_rest(stream) for _ in range(6)]
    begun = time.process_time()
    source = FileSource(driver, paced=False, loop=True)
    live = Live(stream, source, sink, Steering(), drops=False, seconds=frames / RATE).start()
    live.wait()
    spent = time.process_time() - begun
    rest_after = [at_rest(stream) for _ in range(6)]
    tenth = max(1, len(memory) // 10)
    settled = lambda windows: windows[-1][-1]  # noqa: E731
    noise = float(np.abs(rest_before[-1][-1] - rest_before[-2][-1]).mean())
    return {
        "frames": len(memory),
        **costs(spent, len(memory)),
        "cpu_ms_by_stage": {name: round(1000 * s / max(1, len(memory)), 2) for name, s in live.meter.seconds.items()},
        "memory_mib_after_a_tenth": round(memory[tenth] / 2**20, 1),
        "memory_mib_at_the_end": round(memory[-1] / 2**20, 1),
        "memory_growth": round(memory[-1] / memory[tenth] - 1, 4),
        "rest_change_grey_levels": round(float(np.abs(settled(rest_after) - settled(rest_before)).mean()), 3),
        "rest_colour_change": np.round(
            settled(rest_after).mean((0, 1)) - settled(rest_before).mean((0, 1)), 3
        ).tolist(),
        "between_windows_grey_levels": round(noise, 3),
        "colour_of_first_and_last_tenth": [
            np.round(np.mean(part, 0), 2).tolist() for part in (colours[:tenth], colours[-tenth:])
        ],
        "change_at_joins": round(float(np.mean(joins)), 3) if joins else None,
        "drift": repeats.drift(stream.picture),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--portrait", type=Path)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long stream; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=20.0, help="in real time")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--histogram", type=Path, default=RESULTS / "live.png", help="the plot of the latencies")
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--carry", nargs="+", choices=CARRIES, default=["faded"])
    arguments = parser.parse_args()
    model = arguments.model or chosen_student().bundle
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        portrait, driver = (arguments.portrait, arguments.input)
        if portrait is None or driver is None:
            made = made_files(Path(folder))
            portrait, driver = portrait or made[0], driver or made[1]
        for cores in arguments.cores:
            on_cores(cores)
            for size in arguments.sizes or [None]:
                animator = Animator(model, size=size)
                for carry in arguments.carry:
                    stream = PortraitStream(animator, portrait, carry=carry)
                    stream.warm_up()
                    row: dict[str, Any] = {"cores": cores, "size": animator.settings.size, "carry": carry}
                    row |= in_real_time(stream, driver, arguments.seconds)
                    row |= as_fast_as_it_goes(stream, driver, arguments.seconds)
                    if arguments.minutes and cores == max(arguments.cores):
                        row["long"] = for_long(stream, driver, round(60 * RATE * arguments.minutes))
                    row["load_average"] = round(os.getloadavg()[0], 1)
                    rows.append(row)
                    print({key: value for key, value in row.items() if key != "latency_histogram"}, flush=True)
    best = rows[0]
    histogram(rows, arguments.histogram)
    write_result(
        "live",
        f"a stream from 640×480, {best['size']} pixels, {best['cores']} cores, tracking included",
        best["frames_per_second"],
        "frames a second",
        bound=25.0,
        n=best["frames"],
        lower_is_better=False,
        rows=rows,
    )


if __name__ == "__main__":
    main()
