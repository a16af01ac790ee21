"""A stream in threads: reading, tracking, drawing, sampling and decoding overlap; nothing is queued but the newest.

```
source → [newest frame] → track → [one moment] → draw → [one window] → sample → [one window] → decode → show
```
Every queue holds one entry. A stage that is too slow makes the one before it wait, up to the newest frame's place,
where a waiting frame is replaced by the next: frames are dropped there, and nowhere is a backlog that would grow the
delay.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fportrait.animate.driving import Driving, Steering
from fportrait.animate.sources import Taken
from fportrait.animate.stream import PortraitStream
from fportrait.errors import UserError
from fportrait.tracking.lens import intrinsics_across
from fportrait.tracking.live import LiveTracker

Sink = Callable[[np.ndarray, float], None]  # a frame `S S 3` uint8, and the second at which its driver's frame came
SLOW = 0.8  # of the source's rate: below it, the stream says that the machine is too slow
JUDGED_AFTER = 5.0  # seconds
PACE, HURRY = 0.95, 0.5  # of the time between a driver's frames: between pictures shown, and when others wait
BIN = 0.02  # seconds of a bar of the latency histogram


def one_blas_thread() -> None:
    """Let NumPy's and SciPy's linear algebra use one thread, in this process and from now on: what a stream computes is
    small, and of two cores half of the time went to threads of OpenBLAS that spin while they wait for each other."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


class Ended(Exception):
    """The other side of a slot is closed."""


class Slot:
    """Room for one entry between two threads. `replaces`: a new one takes a waiting one's place, else it waits."""

    def __init__(self, replaces: bool = False):
        self.replaces, self.dropped = replaces, 0
        self._entry: list[Any] = []
        self._ended = self._broken = False
        self._changed = threading.Condition()

    def put(self, entry: Any) -> None:
        with self._changed:
            while self._entry and not self.replaces and not self._broken:
                self._changed.wait()
            if self._broken:
                raise Ended
            self.dropped += len(self._entry)
            self._entry = [entry]
            self._changed.notify_all()

    def get(self) -> Any:
        """The next entry; `Ended` when there will be none."""
        with self._changed:
            while not self._entry and not self._ended and not self._broken:
                self._changed.wait()
            if self._broken or not self._entry:
                raise Ended
            self._changed.notify_all()
            return self._entry.pop()

    @property
    def waiting(self) -> bool:
        """Whether an entry waits to be taken."""
        return bool(self._entry)

    def end(self) -> None:
        """Nothing more is put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits goes home."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()


@dataclass
class Meter:
    """Counts of a stream. `seconds`: processor time by stage; `latencies`: frames by bar of `BIN` seconds."""

    read: int = 0
    shown: int = 0
    lost: int = 0  # frames read without a face
    started: float = field(default_factory=time.monotonic)
    first_shown: float | None = None
    last_shown: float | None = None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    latencies: Counter[int] = field(default_factory=Counter)
    recent: list[tuple[float, float]] = field(default_factory=list)  # when shown, latency: of the last second or two

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        begun = time.thread_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.thread_time() - begun

    def show(self, latency: float) -> None:
        now = time.monotonic()
        self.first_shown = self.first_shown or now
        self.last_shown = now
        self.shown += 1
        self.latencies[int(latency / BIN)] += 1
        self.recent = [*self.recent[-59:], (now, latency)]

    @property
    def rate(self) -> float:
        """Frames a second, lately."""
        if len(self.recent) < 2 or time.monotonic() - self.recent[-1][0] > 2:
            return 0.0
        return (len(self.recent) - 1) / max(1e-6, self.recent[-1][0] - self.recent[0][0])

    @property
    def mean_rate(self) -> float:
        """Frames a second from the first one shown to the last; 0 where they are a second apart or less: a window's
        frames come together, and tell nothing of the rate."""
        if self.first_shown is None or self.last_shown is None or self.last_shown <= self.first_shown + 1:
            return 0.0
        return (self.shown - 1) / (self.last_shown - self.first_shown)

    def latency(self, quantile: float = 0.5) -> float:
        """Seconds below which this share of all frames was shown, to a bar's upper end."""
        total, below = sum(self.latencies.values()), 0
        for bar in sorted(self.latencies):
            below += self.latencies[bar]
            if below >= quantile * total:
                return (bar + 1) * BIN
        return 0.0


@dataclass(frozen=True)
class Status:
    """What a viewer is told: frames a second, seconds from a driver's frame to its picture, frames dropped, the state
    of the driver's face, and what is wrong, if anything."""

    rate: float
    latency: float
    dropped: int
    shown: int
    state: str
    note: str
    running: bool


class Live:
    """A running stream. `start` it, look at `status`, `wait` for its end or `stop` it.

    Args:
        source: frames with their times (`animate.sources`), with `size` and `fps`. sink: takes the pictures, in a
            thread of the stream's own. drops: frames are dropped when the machine is slow; else the source waits, which
            suits a file that is not played in real time. seconds: of the source, after which it ends.
    """

    def __init__(
        self,
        stream: PortraitStream,
        source: Any,
        sink: Sink,
        steering: Steering | None = None,
        drops: bool = True,
        seconds: float | None = None,
        fov: float = 40.0,
    ):
        self.stream, self.source, self.sink, self.seconds = stream, source, sink, seconds
        self.steering = steering or Steering()
        self.driving = Driving(stream, self.steering)
        animator = stream.animator
        width, height = source.size
        intrinsics = intrinsics_across(fov, width, height)
        crop_size = animator.encoder.crop_size
        self.tracker = LiveTracker(animator.landmarks, animator.config, crop_size, intrinsics, beside=drops)
        self.drops, self.fps = drops, float(source.fps)
        self.meter = Meter()
        self._slots = [Slot(replaces=drops), Slot(), Slot(), Slot(), Slot()]
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"live {work.__name__.strip('_')}", daemon=True)
            for work in (self._read, self._track, self._draw, self._sample, self._decode, self._show)
        ]

    def start(self) -> Live:
        self.meter.started = time.monotonic()
        one_blas_thread()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End at once; returns when all threads have."""
        self._stopping.set()
        for slot in self._slots:
            slot.close()
        self._join()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the source ends; whether it has. What went wrong in a thread is raised here."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if self._error is not None:
            raise self._error
        return not self.running

    def _join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    @property
    def status(self) -> Status:
        meter = self.meter
        latency = float(np.mean([one for _, one in meter.recent[-20:]])) if meter.recent else 0.0
        note = str(self._error) if self._error else self.slowness()
        return Status(meter.rate, latency, self._slots[0].dropped, meter.shown, self.driving.state, note, self.running)

    def slowness(self) -> str:
        """A sentence when the machine reaches less than the source gives, or "" otherwise."""
        meter, settings = self.meter, self.stream.settings
        judged = meter.first_shown is not None and time.monotonic() - meter.first_shown > JUDGED_AFTER
        if not judged or not self.drops or meter.mean_rate >= SLOW * self.fps:
            return ""
        if self.stream.calls > 1:
            fix = f"take a model that samples in one call; this one takes {self.stream.calls} for each window"
        elif settings.sizes and settings.size > min(settings.sizes):
            fix = f"lower --size to {min(settings.sizes)}"
        else:
            fix = "close other programs, or give it a GPU (--device cuda)"
        return f"{meter.mean_rate:.0f} of the {self.fps:.0f} frames a second are reached: {fix}"

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Ended:
            pass
        except BaseException as error:
            self._error = self._error or error
            for slot in self._slots:
                slot.close()

    def _read(self) -> None:
        slot, first = self._slots[0], None
        try:
            frames: Iterable[Taken] = self.source
            for frame, at in frames:
                first = at if first is None else first
                if self._stopping.is_set() or (self.seconds is not None and at - first >= self.seconds):
                    break
                self.meter.read += 1
                slot.put((frame, at, time.monotonic()))
        finally:
            slot.end()

    def _track(self) -> None:
        try:
            while True:
                frame, at, came = self._slots[0].get()
                with self.meter.measured("track"):
                    sight = None if frame is None else self.tracker.look(frame, at)
                    self.meter.lost += sight is None
                    moment = self.driving(sight, at, self.tracker.familiar)
                self._slots[1].put((moment, came))
        finally:
            self._slots[1].end()

    def _draw(self) -> None:
        window: list[Any] = []
        try:
            while True:
                moment, came = self._slots[1].get()
                with self.meter.measured("draw"):
                    window.append((moment, came, self.stream.draw(moment)))
                if len(window) == self.stream.frames:
                    self._slots[2].put((window, len(window)))
                    window = []
        except Ended:
            if window:  # what is left at the end stands still until its window is full
                rest = [window[-1]] * (self.stream.frames - len(window))
                self._slots[2].put((window + rest, len(window)))
        finally:
            self._slots[2].end()

    def _sample(self) -> None:
        try:
            while True:
                window, count = self._slots[2].get()
                moments, _, drawn = zip(*window, strict=True)
                with self.meter.measured("sample"):
                    latents = self.stream.sample(moments, drawn)
                made: Any = latents
                if self.stream.carry == "given":  # the next window begins with what this one shows
                    with self.meter.measured("decode"):
                        made = self.stream.decode(latents)
                self._slots[3].put(([(moment, came) for moment, came, _ in window[:count]], made))
        finally:
            self._slots[3].end()

    def _decode(self) -> None:
        try:
            while True:
                moments, made = self._slots[3].get()
                if not isinstance(made, np.ndarray):
                    with self.meter.measured("decode"):
                        made = self.stream.decode(made)
                self._slots[4].put((moments, made))
        finally:
            self._slots[4].end()

    def _show(self) -> None:
        due = 0.0
        while True:
            moments, made = self._slots[4].get()
            # A window's frames come at once and are shown at the rate at which their driver's came; faster when the
            # next window waits already: at their own rate what is late would stay late, and keep new frames out.
            apart = (moments[-1][1] - moments[0][1]) / max(1, len(moments) - 1) if self.drops else 0.0
            for frame, (moment, came) in zip(made, moments, strict=False):
                spacing = apart * (HURRY if self._slots[4].waiting else PACE)
                if due > time.monotonic():
                    self._stopping.wait(due - time.monotonic())
                due = max(due, time.monotonic() - spacing) + spacing
                with self.meter.measured("write"):
                    self.sink(frame, moment.at)
                self.meter.show(time.monotonic() - came)


def refuse_not_running(live: Live) -> None:
    """Raise what ended a stream early, or `UserError` when nothing was shown."""
    live.wait()
    if live.meter.shown == 0:
        raise UserError(f"no frames from {live.source.name}", "a source that gives pictures", "try another one")
