"""One numerical thread and MKL's reproducible mode for every test: a matrix product's last bits depend on the number of
threads and on where its operands lie in memory, and several tests compare bits between two runs or two processes."""

from __future__ import annotations

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_CBWR"] = "COMPATIBLE"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
