"""`martlet generate MODEL PROMPT`: one answer, shown as it is written, or one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from martlet.cli import options
from martlet.cli.loading import load_model, load_tokenizer, open_files
from martlet.errors import ArgumentError, EmptyPromptError, PromptTooLongError

if TYPE_CHECKING:
    from martlet.cli.answer import Answer

EXAMPLES = """\
examples:
  martlet generate ./model.gguf "What is the capital of France?" --greedy
  martlet generate Qwen/Qwen2.5-0.5B-Instruct --temperature 0.7 --seed 1 < question.txt
  martlet generate ./folder "Once upon a time" --no-chat --max-new-tokens 50 --json
"""
INTERRUPTED = 130


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet generate MODEL [PROMPT] [options]"
    parser.epilog = EXAMPLES
    options.add_model_options(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", default="-", help='the text; "-" or none reads stdin')
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="put PROMPT into the model's chat template (default: where it has one)",
    )
    prompt.add_argument("--system", metavar="TEXT", help="the system message before PROMPT")
    options.add_generation_options(parser)
    options.add_device_options(parser)
    parser.add_argument_group("output").add_argument(
        "--json", action="store_true", help="print one JSON object at the end: text, counts, seconds, memory, settings"
    )


def run(arguments: argparse.Namespace) -> int:
    """Answers, and returns 0, or 130 if Ctrl-C ended it."""
    from martlet.cli.answer import answer

    prompt = _read_prompt(arguments.prompt)
    started_s = time.monotonic()
    checkpoint = open_files(arguments)
    tokenizer, ids = None, []

    def read_prompt() -> None:
        nonlocal tokenizer, ids
        tokenizer = load_tokenizer(arguments, checkpoint)
        ids = _prompt_ids(arguments, tokenizer, prompt)
        if not arguments.truncate_prompt:
            _check_fits(len(ids), checkpoint.arch.max_position_embeddings)

    model = load_model(arguments, checkpoint, read_prompt)
    if model.generation_config.do_sample and model.generation_config.seed is None:
        model.generation_config = model.generation_config.but("drawn", seed=int.from_bytes(os.urandom(4), "little"))
    load_s = time.monotonic() - started_s
    show = _keep_quiet if arguments.json else _write
    result = answer(model, tokenizer, ids, show, truncates=arguments.truncate_prompt)
    if arguments.json:
        report = _report(arguments.model, model, load_s, result)
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print(flush=True)
    return INTERRUPTED if result.reason == "cancelled" else 0


def _read_prompt(said: str) -> str:
    """The prompt's text; stdin's without the newline at its end. EmptyPromptError, ArgumentError."""
    text = said
    if said == "-":
        if sys.stdin.isatty():
            print("Reading the prompt until Ctrl-D.", file=sys.stderr)
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArgumentError("stdin", "must be UTF-8 text", found=f"damage at byte {error.start}") from error
        text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise EmptyPromptError("PROMPT", "must have at least one character", remedy="See martlet generate --help.")
    if not text.isprintable():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ArgumentError("PROMPT", "must be UTF-8 text", found=f"damage at character {error.start}") from error
    return text


def _prompt_ids(arguments: argparse.Namespace, tokenizer: Any, prompt: str) -> list[int]:
    is_chat = tokenizer.chat_template is not None if arguments.chat is None else arguments.chat
    if not is_chat:
        if arguments.system is not None:
            raise ArgumentError(
                "--system", "needs a chat template", found="--no-chat" if arguments.chat is False else "a model without"
            )
        return list(tokenizer.encode(prompt))
    messages = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    messages.append({"role": "user", "content": prompt})
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def _check_fits(num_tokens: int, context: int) -> None:
    """PromptTooLongError, before weights are loaded, for a prompt that the model's context cannot hold."""
    if num_tokens > context:
        raise PromptTooLongError(
            "PROMPT",
            f"must fit the model's context of {context} tokens",
            found=f"{num_tokens} tokens",
            remedy="Shorten it, or pass --truncate-prompt to keep its end.",
        )


def _report(name: str, model: Any, load_s: float, result: Answer) -> dict[str, Any]:
    return {
        "model": name,
        "backend": model.generates_on,
        "text": result.text,
        "prompt_tokens": result.num_prompt_tokens,
        "new_tokens": result.num_new_tokens,
        "finish_reason": result.reason,
        "seconds": {
            "load": load_s,
            "first_token": result.first_token_s,
            "total": load_s + result.generate_s,
        },
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(),
        "settings": options.described(model.generation_config),
    }


def peak_memory_bytes() -> int | None:
    """The most memory this process has had, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _keep_quiet(text: str) -> None:
    """With --json nothing is shown before the end."""
