"""`martlet chat MODEL`: a conversation that the model is shown whole each time. Commands begin with a slash."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from martlet.cli import options
from martlet.cli.arguments import nearest
from martlet.cli.loading import load_model, load_tokenizer, open_files
from martlet.errors import ChatTemplateError, MartletError, PromptTooLongError

EXAMPLES = """\
examples:
  martlet chat ./model.gguf
  martlet chat Qwen/Qwen2.5-0.5B-Instruct --system "Answer in rhymes." --temperature 0.7
  printf 'Hello!\\n/save talk.json\\n' | martlet chat ./model.gguf
"""
HELP = """\
/system TEXT  set the system message (without TEXT: remove it)
/clear        forget the conversation; the system message stays
/save FILE    write the conversation to FILE as JSON
/help         this list
/exit         leave; Ctrl-D does too
//TEXT        a message that begins with a slash
Ctrl-C stops an answer; what was written of it stays in the conversation."""
COMMANDS = ("/system", "/clear", "/save", "/help", "/exit", "/quit")
PROMPT = "> "

Message = dict[str, str]


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet chat MODEL [options]"
    parser.epilog = f"in the chat:\n  {HELP}".replace("\n", "\n  ") + f"\n\n{EXAMPLES}"
    options.add_model_options(parser)
    parser.add_argument_group("conversation").add_argument("--system", metavar="TEXT", help="the system message")
    options.add_generation_options(parser)
    options.add_device_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talks until /exit or the end of input, and returns 0."""
    checkpoint = open_files(arguments)
    tokenizer = load_tokenizer(arguments, checkpoint)
    if tokenizer.chat_template is None:
        raise ChatTemplateError(
            arguments.model, "has no chat template, which a chat needs", remedy="Use `martlet generate` with it."
        )
    if hasattr(sys.stdin, "reconfigure"):  # bytes that are not UTF-8 become U+FFFD
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    model = load_model(arguments, checkpoint)
    chat = Chat(model, tokenizer, arguments.model, arguments.system, forgets=arguments.truncate_prompt)
    if chat.is_interactive:
        print("/help lists the commands; Ctrl-D leaves.", file=sys.stderr)
        with contextlib.suppress(ImportError):  # without it lines can be typed, but not edited
            import readline  # noqa: F401
    while True:
        try:
            line = chat.read_line()
            if line is None or not chat.take(line):
                return 0
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except BrokenPipeError:
            raise
        except MartletError as error:
            print("martlet:", " ".join(str(error).split()), file=sys.stderr)


@dataclass
class Chat:
    """The conversation so far. `forgets`: its oldest messages go when it no longer fits the model's context."""

    model: Any
    tokenizer: Any
    name: str
    system: str | None
    forgets: bool = False
    messages: list[Message] = field(default_factory=list)

    @property
    def is_interactive(self) -> bool:
        return sys.stdin.isatty()

    def read_line(self) -> str | None:
        """What the user types next, without its newline; None at the end."""
        if self.is_interactive:
            try:
                return input(PROMPT)
            except EOFError:
                print()
                return None
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None

    def take(self, line: str) -> bool:
        """Answers a message, or does what a command says; False to leave."""
        if not line.strip():
            return True
        if not line.startswith("/") or line.startswith("//"):
            self.reply(line.removeprefix("/"))
            return True
        command, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match command:
            case "/exit" | "/quit":
                return False
            case "/help":
                print(HELP)
            case "/clear":
                self.messages.clear()
            case "/system":
                self.system = rest or None
            case "/save":
                self.save(rest)
            case _:
                note = f"martlet: there is no command {command}. {nearest(command, COMMANDS) or '/help lists them.'}"
                print(note, file=sys.stderr)
        sys.stdout.flush()
        return True

    def reply(self, text: str) -> None:
        """Shows the answer to one message and keeps both. A message without any answer is not kept."""
        from martlet.cli.answer import answer

        self.messages.append({"role": "user", "content": text})
        try:
            result = answer(self.model, self.tokenizer, self._prompt_ids(), _write)
        except BaseException:
            self.messages.pop()
            raise
        print(flush=True)
        if result.reason == "cancelled" and not result.text:
            self.messages.pop()
        else:
            self.messages.append({"role": "assistant", "content": result.text})

    def save(self, name: str) -> None:
        """Writes the conversation to a file, which is replaced whole or not at all."""
        from martlet.formats.files import write_json

        if not name:
            print("martlet: /save needs the name of a file.", file=sys.stderr)
            return
        path = Path(name).expanduser()
        write_json(path, {"model": self.name, "messages": self._all_messages()})
        print(f"Saved {len(self.messages)} messages to {path}.", file=sys.stderr)

    def _all_messages(self) -> list[Message]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + self.messages

    def _prompt_ids(self) -> list[int]:
        """The conversation as ids, its oldest exchanges forgotten if it must be; PromptTooLongError."""
        context, config = self.model.arch.max_position_embeddings, self.model.generation_config
        room = min(config.max_new_tokens or 1, context // 2) if self.forgets else 0
        while True:
            ids = self.tokenizer.apply_chat_template(
                self._all_messages(), add_generation_prompt=True, return_dict=False
            )
            if len(ids) + room <= context:
                return list(ids)
            if not self.forgets or len(self.messages) == 1:
                raise PromptTooLongError(
                    "conversation",
                    f"must fit the model's context of {context} tokens",
                    found=f"{len(ids)} tokens",
                    remedy="/clear begins anew; --truncate-prompt forgets the oldest messages by itself.",
                )
            del self.messages[:2]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
