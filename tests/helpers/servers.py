"""What the fixtures, the tests and Ray's workers share."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
PASSWORD = "not-a-secret-in-a-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Any, what: str, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


def read_environment(name: str) -> dict[str, str]:
    """The variables of a file in conf/outgrow."""
    lines = (ROOT / "conf/outgrow" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def node_of(unit: int, folder: Path) -> dict[str, str]:
    """A unit of work that takes a moment and tells which Ray node did it."""
    import ray

    time.sleep(0.5)
    return {"node": ray.get_runtime_context().get_node_id(), "process": str(os.getpid())}
