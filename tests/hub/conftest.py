"""A Hub on loopback, and processes that use it through the real huggingface_hub client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import Hub

START = """
import json, sys
from martlet.errors import MartletError
from martlet.hub import open_snapshot
def answer(value):
    print("ANSWER" + json.dumps(value, default=str))
try:
"""
END = """
except MartletError as error:
    answer({"error": type(error).__name__, "says": str(error)})
"""


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def client(hub, tmp_path):
    """`client(code, **environment)`: what `answer(...)` in the code was called with, in a process of its own."""

    def start(code: str, **environment: str) -> subprocess.Popen:
        body = "\n".join("    " + line for line in code.strip().splitlines())
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", START + body + END],
            env={**kept, **ours, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(code: str, **environment: str):
        process = start(code, **environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return json.loads(out.partition("ANSWER")[2])

    run.start = start
    return run
