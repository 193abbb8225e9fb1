"""The tests' own modules by name, and one thread: tiny tensors gain nothing from more."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started, too
    held = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(held)
