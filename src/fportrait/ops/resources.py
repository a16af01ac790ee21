"""Seconds and peak memory of a stage, child processes included."""

from __future__ import annotations

import resource
import sys
import threading
import time

import psutil

MIB = 1024 * 1024


def _process_peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / MIB if sys.platform == "darwin" else peak / 1024


class Watch:
    """Samples the resident memory of this process and its children until `stop`."""

    def __init__(self, every: float = 0.2):
        self._every, self._done = every, threading.Event()
        self._own_before = _process_peak()
        self._peak = self._now()
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _now(self) -> float:
        total, process = 0, psutil.Process()
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / MIB

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self._peak = max(self._peak, self._now())

    def stop(self) -> tuple[float, float]:
        """Seconds since the start and peak memory in MiB.

        The kernel's own high-water mark catches what falls between two samples; it never sinks, so it counts only
        when this stage raised it.
        """
        self._done.set()
        self._thread.join()
        own = _process_peak()
        peak = max(self._peak, self._now(), own if own > self._own_before else 0.0)
        return time.perf_counter() - self._started, peak
