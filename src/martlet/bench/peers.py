"""Other engines: how each is named, found and set up at its best."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from martlet.bench.run import Worker, WorkerError


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine that can be measured beside ours."""

    name: str
    module: str
    install: str
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # what it is called with -> its options
    needs_gguf: bool = False


PEERS = {
    "llama.cpp": Peer(
        "llama.cpp",
        "llama_cpp",
        'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python',
        {"llama.cpp": {}, "llama.cpp, flash attention": {"flash_attention": True}},
        needs_gguf=True,
    ),
    "transformers": Peer("transformers", "transformers", "pip install torch transformers", {"transformers, bf16": {}}),
}


def why_absent(peer: Peer, python: str = sys.executable) -> str | None:
    """One line saying that an interpreter does not have it, and how it gets it; None if it is there."""
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({peer.module!r}) is None)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{peer.name} is left out: {python} does not run ({error})"
    if done.returncode == 0:
        return None
    return f"{peer.name} is left out: {python} does not have it. Get it: {peer.install}"


def start_peer(
    peer: Peer, model: str, python: str, *, threads: int, context: int, rows: int
) -> tuple[dict[str, Worker], list[str]]:
    """Its processes with the model loaded, one for each of its settings, and a line for each that could not be."""
    started: dict[str, Worker] = {}
    problems: list[str] = []
    for name, options in peer.settings.items():
        worker = Worker(peer.name, python)
        try:
            worker.ask(do="load", model=model, threads=threads, context=context, rows=rows, options=options)
        except WorkerError as error:
            worker.close()
            problems.append(f"{name} is left out: {' '.join(str(error).split())[:300]}")
        else:
            started[name] = worker
    return started, problems
