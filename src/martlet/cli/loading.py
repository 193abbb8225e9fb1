"""A model and its tokenizer for a command, with a word on a terminal while they load."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from martlet.cli.options import cache_options, from_file, hub_options, settings

if TYPE_CHECKING:
    from martlet.checkpoint import Checkpoint


def open_files(arguments: argparse.Namespace) -> Checkpoint:
    """MODEL's files, of which only the config is read; ConfigError for what no family of ours covers."""
    # huggingface_hub reads these as it is imported; what goes wrong is our one line, without its retries before it.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _import_numpy()
    from martlet.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(arguments.model, **hub_options(arguments))
    checkpoint.config.arch  # noqa: B018
    return checkpoint


def _import_numpy() -> None:
    """Without the threads that its BLAS starts at import, a quarter of the time: a command has no use for them."""
    name = "OPENBLAS_NUM_THREADS"
    if "numpy" in sys.modules or name in os.environ:
        return
    os.environ[name] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[name]


def load_tokenizer(arguments: argparse.Namespace, checkpoint: Checkpoint | None = None) -> Any:
    """MODEL's tokenizer; of a GGUF file, from its keys as they were read."""
    from martlet.tokenizers.auto import AutoTokenizer
    from martlet.tokenizers.tokenizer import Tokenizer

    gguf = checkpoint.gguf if checkpoint is not None else None
    if gguf is not None and (arguments.gguf_file or arguments.model.endswith(".gguf")):
        return Tokenizer.from_gguf(gguf, arguments.model)
    return AutoTokenizer.from_pretrained(arguments.model, **hub_options(arguments))


def load_model(
    arguments: argparse.Namespace, checkpoint: Checkpoint, meanwhile: Callable[[], None] | None = None
) -> Any:
    """MODEL on its device, with what the command line says in its generation config.

    `meanwhile` is called before or beside the loading of weights; what it raises ends it.
    """
    from martlet.auto import load_for_generation

    with saying(f"Loading {arguments.model} ..."):
        model = load_for_generation(
            arguments.model,
            device_map=arguments.device,
            dtype=arguments.dtype,
            backend=None if arguments.backend == "auto" else arguments.backend,
            opened=checkpoint,
            meanwhile=meanwhile,
            **hub_options(arguments),
            **cache_options(arguments),
        )
    config = from_file(model.generation_config, is_gguf=checkpoint.gguf is not None)
    model.generation_config = settings(arguments, config)
    return model


@contextlib.contextmanager
def saying(line: str) -> Iterator[None]:
    """Shows `line` on stderr meanwhile, if stderr is a terminal; otherwise says nothing."""
    if not sys.stderr.isatty():
        yield
        return
    sys.stderr.write(line)
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
