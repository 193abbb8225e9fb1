"""One answer: how Ctrl-C ends it, and what is counted."""

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from martlet import AutoTokenizer, GenerationConfig
from martlet.cli.answer import answer
from martlet.cli.chat import Chat


class SlowModel:
    """Gives "a" for ever, after a prompt that takes `prompt_s` seconds and begins with `on_prompt`."""

    arch = SimpleNamespace(max_position_embeddings=1000)

    def __init__(self, a: int, prompt_s: float, on_prompt: Callable[[], None] = lambda: None) -> None:
        self.a, self.prompt_s, self.on_prompt = a, prompt_s, on_prompt
        self.generation_config = GenerationConfig(max_new_tokens=1000)

    def generate(self, rows, *, streamer, stop, **options):
        try:
            streamer.put(np.array(rows[0]))
            self.on_prompt()
            time.sleep(self.prompt_s)
            count = 0
            while count < 1000 and not stop():
                count += 1
                streamer.put(np.array([self.a]))
                time.sleep(0.01)
        except BaseException as error:
            streamer.fail(error)
            raise
        streamer.end()
        reason = "cancelled" if stop() else "length"
        return SimpleNamespace(finish_reasons=[reason], num_new_tokens=[count], sequences=[rows[0] + [self.a] * count])


@pytest.fixture
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_token_at_work(tokenizer):
    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 5:
            interrupt()

    result = answer(SlowModel(tokenizer.convert_tokens_to_ids("a"), 0), tokenizer, [1, 2, 3], show)
    assert result.reason == "cancelled"
    assert 5 <= result.num_new_tokens < 1000
    assert result.text == "".join(shown) == "a" * result.num_new_tokens
    assert result.num_prompt_tokens == 3
    assert 0 < result.first_token_s < result.generate_s
    assert 0 < result.tokens_per_second <= 100  # a token takes 10 ms or more


def test_ctrl_c_does_not_wait_for_a_long_prompt(tokenizer):
    result = answer(SlowModel(0, 3600, interrupt), tokenizer, [1, 2, 3], print)
    assert (result.reason, result.num_new_tokens, result.text) == ("cancelled", 0, "")
    assert result.first_token_s is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_message_without_any_answer_is_not_kept(tokenizer):
    chat = Chat(SlowModel(0, 3600, interrupt), tokenizer, "slow", None)
    chat.reply("hello")
    assert chat.messages == []
