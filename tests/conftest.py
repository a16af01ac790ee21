"""One numerical thread for every test: a matrix product's last bits depend on the number of threads, and several tests
compare bits between this process and one they start."""

from __future__ import annotations

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
