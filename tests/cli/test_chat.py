"""`martlet chat`: what the model is shown, the commands, and Ctrl-C."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from martlet import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def terminal(tiny):
    """`martlet chat` on a terminal: `write(text)`, `read_until(text)`, `interrupt()`; it must end by itself."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "martlet", "chat", str(tiny), "--max-new-tokens", "4000", "--greedy"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Terminal:
    def __init__(self, process: subprocess.Popen, ours: int) -> None:
        self.process, self.ours = process, ours
        self.seen = b""

    def write(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def read_until(self, text: str, timeout_s: float = 30) -> str:
        """What came up to `text`, which is taken from the stream."""
        wanted, end_s = text.encode(), time.monotonic() + timeout_s
        while wanted not in self.seen:
            left_s = end_s - time.monotonic()
            assert left_s > 0, self.seen
            assert select.select([self.ours], [], [], left_s)[0], self.seen
            self.seen += os.read(self.ours, 4096)
        before, _, self.seen = self.seen.partition(wanted)
        return before.decode(errors="replace")

    def read_some(self, num_bytes: int) -> None:
        """Waits until so many further bytes have come."""
        while len(self.seen) < num_bytes:
            self.seen += os.read(self.ours, 4096)


def answers(folder, messages, num_new=12):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    output = AutoModelForCausalLM.from_pretrained(folder).generate([ids], max_new_tokens=num_new)
    return tokenizer.decode(output[0][len(ids) :], skip_special_tokens=True)


def test_the_model_is_shown_the_whole_conversation(martlet, tiny, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text("what was there before")
    done = martlet("chat", tiny, "--system", "be brief", stdin=f"one\n\ntwo\n/save {path}\n/exit\nthree\n")
    assert done.returncode == 0
    assert done.stderr == f"Saved 4 messages to {path}.\n"
    saved = json.loads(path.read_text())
    assert saved["model"] == str(tiny)
    messages = saved["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[place]["content"] for place in (0, 1, 3)] == ["be brief", "one", "two"]
    assert messages[2]["content"] == answers(tiny, messages[:2])
    assert messages[4]["content"] == answers(tiny, messages[:4])
    assert done.stdout == messages[2]["content"] + "\n" + messages[4]["content"] + "\n"
    assert [each.name for each in tmp_path.iterdir()] == ["talk.json"]


def test_commands(martlet, tiny, tmp_path):
    path, other = tmp_path / "talk.json", tmp_path / "no folder" / "talk.json"
    lines = [
        "forgotten", "/clear", "/system be kind", "//one", f"/save {other}", "/save", "/sytem x", "/what", "/help",
        "/system", f"/save {path}",
    ]  # fmt: skip
    done = martlet("chat", tiny, stdin="\n".join(lines))
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert len(said) == 5, done.stderr
    assert "could not be written, and what was there before is intact; found ENOENT" in said[0]
    assert said[1:] == [
        "martlet: /save needs the name of a file.",
        "martlet: there is no command /sytem. Is /system meant?",
        "martlet: there is no command /what. /help lists them.",
        f"Saved 2 messages to {path}.",
    ]
    for command in ("/system TEXT", "/clear", "/save FILE", "/help", "/exit"):
        assert f"\n{command}" in done.stdout
    messages = json.loads(path.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "/one"
    kind = {"role": "system", "content": "be kind"}
    assert messages[1]["content"] == answers(tiny, [kind, messages[0]])


def test_a_conversation_that_no_longer_fits(martlet, tiny, tmp_path):
    path = tmp_path / "talk.json"
    lines = ["a" * 3000, "b" * 3000, f"/save {path}"]
    done = martlet("chat", tiny, stdin="\n".join(lines))
    assert done.returncode == 0
    assert "conversation: must fit the model's context of 4096 tokens; found 60" in done.stderr
    assert "/clear" in done.stderr
    messages = json.loads(path.read_text())["messages"]
    assert [message["content"][0] for message in messages[::2]] == ["a"]  # what could not be answered is not kept
    done = martlet("chat", tiny, "--truncate-prompt", stdin="\n".join(lines))
    assert done.stderr == f"Saved 2 messages to {path}.\n"
    messages = json.loads(path.read_text())["messages"]
    assert messages[0]["content"] == "b" * 3000
    assert messages[1]["content"] == answers(tiny, messages[:1])


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, tmp_path):
    path = tmp_path / "talk.json"
    terminal.read_until("> ")
    terminal.write("hello\n")
    terminal.read_until("hello\r\n")
    terminal.read_some(10)
    terminal.interrupt()
    shown = terminal.read_until("\r\n> ")
    assert "Traceback" not in shown
    time.sleep(0.5)  # readline shows its prompt a little before it listens
    terminal.interrupt()  # at the prompt it is a new prompt
    terminal.read_until("> ")
    terminal.write(f"/save {path}\n")
    terminal.read_until("Saved 2 messages")
    messages = json.loads(path.read_text())["messages"]
    assert messages[0] == {"role": "user", "content": "hello"}
    assert messages[1]["role"] == "assistant"
    assert 0 < len(messages[1]["content"]) < 4000
    terminal.read_until("> ")
    terminal.write("\x04")
    assert terminal.process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_model_remembers(martlet, smollm2_gguf):
    question = "What is the capital of France? Answer in one sentence."
    done = martlet("chat", smollm2_gguf, "--greedy", stdin=f"{question}\nAnd of Italy?\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The capital of France is Paris.\nThe capital of Italy is Rome.\n"
