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
    needs_folder: bool = False
    has_logits: bool = True


PEERS = {
    "llama.cpp": Peer(
        "llama.cpp",
        "llama_cpp",
        'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python',
        {"llama.cpp": {}, "llama.cpp, flash attention": {"flash_attention": True}},
        needs_gguf=True,
    ),
    "transformers": Peer("transformers", "transformers", "pip install torch transformers", {"transformers, bf16": {}}),
    "CTranslate2": Peer(
        "CTranslate2",
        "ctranslate2",
        "pip install ctranslate2 torch transformers",
        {"CTranslate2, int8": {"compute_type": "int8"}, "CTranslate2, float32": {"compute_type": "float32"}},
        needs_folder=True,
    ),
    "OpenVINO": Peer(
        "OpenVINO",
        "openvino_genai",
        "pip install openvino-genai",
        {"OpenVINO, paged": {"attention": "PA"}, "OpenVINO, stateful": {"attention": "SDPA"}},
        needs_gguf=True,
        has_logits=False,
    ),
}


def why_unfit(peer: Peer, model: str, *, wants_logits: bool = False) -> str | None:
    """One line saying that a peer cannot do what is asked of it with this model; None if it can."""
    if peer.needs_gguf and not model.endswith(".gguf"):
        return f"{peer.name} is left out: it reads GGUF files alone"
    if peer.needs_folder and model.endswith(".gguf"):
        return f"{peer.name} is left out: it converts Hugging Face folders alone"
    if wants_logits and not peer.has_logits:
        return f"{peer.name} is left out: it does not hand out logits"
    return None


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
    peer: Peer, model: str, python: str, *, threads: int, context: int, rows: int, **more: Any
) -> tuple[dict[str, Worker], list[str]]:
    """Its processes with the model loaded, one for each of its settings, and a line for each that could not be.

    `more` are options of the peer's worker beside its settings.
    """
    started: dict[str, Worker] = {}
    problems: list[str] = []
    for name, options in peer.settings.items():
        worker = Worker(peer.name, python)
        try:
            worker.ask(do="load", model=model, threads=threads, context=context, rows=rows, options=options | more)
        except WorkerError as error:
            worker.close()
            problems.append(f"{name} is left out: {' '.join(str(error).split())[:300]}")
        else:
            started[name] = worker
    return started, problems
