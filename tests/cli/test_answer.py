"""One answer: how Ctrl-C ends it, and what is counted."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from martlet import AutoTokenizer, GenerationConfig
from martlet.cli.answer import answer
from martlet.cli.chat import Chat


class SlowModel:
    """Gives "a" for ever, after reading its prompt for `prompt_s` seconds."""

    arch = SimpleNamespace(max_position_embeddings=1000)

    def __init__(self, a: int, prompt_s: float) -> None:
        self.a, self.prompt_s = a, prompt_s
        self.generation_config = GenerationConfig(max_new_tokens=1000)

    def generate(self, rows, *, streamer, stop, **options):
        try:
            streamer.put(np.array(rows[0]))
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


def interrupt_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_waits_for_the_token_at_work(tokenizer):
    shown: list[str] = []
    interrupt_after(0.2)
    result = answer(SlowModel(tokenizer.convert_tokens_to_ids("a"), 0), tokenizer, [1, 2, 3], shown.append)
    assert result.reason == "cancelled"
    assert 1 <= result.num_new_tokens < 100
    assert result.text == "".join(shown) == "a" * result.num_new_tokens
    assert result.num_prompt_tokens == 3
    assert 0 < result.first_token_s < result.generate_s < 5
    assert 10 < result.tokens_per_second < 100  # 10 ms each


def test_ctrl_c_does_not_wait_for_a_long_prompt(tokenizer):
    interrupt_after(0.2)
    result = answer(SlowModel(0, 30), tokenizer, [1, 2, 3], print)
    assert (result.reason, result.num_new_tokens, result.text) == ("cancelled", 0, "")
    assert result.generate_s < 10
    assert result.first_token_s is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_message_without_any_answer_is_not_kept(tokenizer):
    chat = Chat(SlowModel(0, 30), tokenizer, "slow", None)
    interrupt_after(0.2)
    chat.reply("hello")
    assert chat.messages == []
