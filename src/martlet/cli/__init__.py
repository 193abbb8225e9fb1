"""The command `martlet`: picks a command, and turns every error into one line. The commands are a file each."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from martlet.cli.arguments import Parser, nearest
from martlet.errors import ArgumentError, MartletError

# name -> what it does; martlet.cli.<name> has `build(parser)` and `run(arguments) -> exit code`
COMMANDS = {
    "generate": "continue a prompt, or answer it",
    "chat": "talk with a model",
    "train": "train a model as a YAML file says; plan, verify",
    "inspect": "say what a model is and what it needs, without loading it",
    "bench": "measure how fast a model runs here",
    "quantize": "make a model smaller, by measured divergence",
    "cache": "show, tidy or clear what martlet.datasets keeps on the disk",
}
USAGE, FAILURE, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141  # exit codes; the last two are 128 + the signal's number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input, 130 after Ctrl-C, 1 for a fault of ours.

    Anything wrong is one line on stderr; MARTLET_TRACEBACK=1 or --traceback shows where it came from instead.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(50_000, *gc.get_threshold()[1:])  # a vocabulary's tuples are no garbage, and many
    shows_traceback = os.environ.get("MARTLET_TRACEBACK", "") not in ("", "0") or "--traceback" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 shows an escape instead of failing
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        if sys.stdout is not None:  # it can be closed from the start
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes once more as it ends, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if shows_traceback:
            raise
        return _report(error)


def _run(words: list[str]) -> int:
    while words and words[0] == "--traceback":
        words = words[1:]
    if words and words[0] in COMMANDS:
        name, parser = words[0], _command_parser(words[0])
        module = import_module(f"martlet.cli.{name}")
        module.build(parser)
        return int(module.run(parser.parse(words[1:])))
    if words and not words[0].startswith("-"):
        remedy = nearest(words[0], COMMANDS) or f"There are {', '.join(COMMANDS)}."
        raise ArgumentError("martlet", f"has no command {words[0]!r}", remedy=remedy)
    top = _top_parser()
    top.parse(words)
    top.print_help(sys.stderr)
    return USAGE


def _top_parser() -> Parser:
    from martlet import __version__

    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="martlet",
        usage="martlet COMMAND ...",
        description="Open transformer models from the command line.",
        epilog=f"commands:\n{listed}\n\n"
        "`martlet COMMAND --help` explains each.\n\n"
        'example:\n  martlet generate ./model.gguf "What is the capital of France?"',
    )
    parser.add_argument("--version", action="version", version=f"martlet {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def _command_parser(name: str) -> Parser:
    summary = COMMANDS[name]
    return Parser(prog=f"martlet {name}", description=f"{summary[0].upper()}{summary[1:]}.")


def _report(error: Exception) -> int:
    """One line for an error; returns the exit code."""
    if isinstance(error, MartletError):
        line, code = str(error), USAGE
    elif isinstance(error, OSError | MemoryError):
        line, code = str(error) or "not enough memory", FAILURE
    else:
        line = f"internal error: {type(error).__name__}: {error} (MARTLET_TRACEBACK=1 shows where)"
        code = FAILURE
    line = " ".join(line.split())
    print(line if line.startswith("martlet") else f"martlet: {line}", file=sys.stderr)
    return code
