"""`martlet generate`: the text it shows, the JSON it prints, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from martlet import AutoModelForCausalLM, AutoTokenizer

QUESTION = "What is the capital of France? Answer in one sentence."


def expected(folder, prompt, num_new, *, chat):
    """What Python's own way gives."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(prompt)
    if chat:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    output = AutoModelForCausalLM.from_pretrained(folder).generate([ids], max_new_tokens=num_new, do_sample=False)
    return len(ids), tokenizer.decode(output[0][len(ids) :], skip_special_tokens=True)


def test_text_is_that_of_python(martlet, tiny):
    done = martlet("generate", tiny, "héllo", "--greedy")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected(tiny, "héllo", 12, chat=True)[1] + "\n"


def test_memory_of_keys_and_values(martlet, tiny):
    want = expected(tiny, "héllo", 12, chat=True)[1]
    for words in (("--kv-cache-dtype", "float32"), ("--kv-cache-bytes", "1MiB"), ("--kv-cache-bytes", 10**7)):
        done = martlet("generate", tiny, "héllo", "--greedy", *words)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", want + "\n")
    done = martlet("generate", tiny, "héllo", "--kv-cache-bytes", "1KB")
    assert done.returncode == 2 and "the keys and values of 16 tokens; found 1000" in done.stderr
    done = martlet("generate", tiny, "héllo", "--kv-cache-bytes", "2 gigabytes")
    assert done.returncode == 2 and "must be a number of bytes, as 2000000000 or 2GB or 512MiB" in done.stderr
    done = martlet("generate", tiny, "héllo", "--kv-cache-dtype", "float16", "--backend", "torch")
    assert done.returncode == 2 and "kv_cache_dtype: is for the native engine; found backend='torch'" in done.stderr


def test_stdin_without_a_template_and_json(martlet, tiny):
    done = martlet("generate", tiny, "--no-chat", "--greedy", "--json", "--max-new-tokens", "7", stdin="abc\n")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    num_prompt, text = expected(tiny, "abc", 7, chat=False)
    assert num_prompt == 3
    assert (report["text"], report["prompt_tokens"], report["new_tokens"]) == (text, 3, 7)
    assert report["finish_reason"] == "length"
    assert report["model"] == str(tiny)
    seconds = report["seconds"]
    assert set(seconds) == {"load", "first_token", "total"}
    assert 0 < seconds["first_token"] < seconds["total"]
    assert 0 < seconds["load"] < seconds["total"]
    assert report["tokens_per_second"] > 0
    assert 50e6 < report["peak_memory_bytes"] < 5e9
    assert isinstance(report["peak_memory_bytes"], int)
    assert report["settings"] == {
        "max_new_tokens": {"value": 7, "origin": "command line"},
        "do_sample": {"value": False, "origin": "command line"},
        "repetition_penalty": {"value": 1.1, "origin": "generation_config.json"},
    }


def test_sampling_repeats_with_the_seed_that_is_told(martlet, tiny):
    first = json.loads(martlet("generate", tiny, "abc", "--temperature", "1.5", "--json").stdout)
    assert first["settings"]["do_sample"] == {"value": True, "origin": "command line"}
    seed = first["settings"]["seed"]
    assert seed["origin"] == "drawn"
    again = martlet("generate", tiny, "-", "--sample", "--temperature=1.5", "--seed", seed["value"], stdin="abc")
    assert again.stdout == first["text"] + "\n"


def test_beams_and_other_fields(martlet, tiny):
    done = martlet("generate", tiny, "abc", "--num-beams", "2", "--set", "length_penalty=0.5", "--json")
    report = json.loads(done.stdout)
    assert report["settings"]["length_penalty"] == {"value": 0.5, "origin": "command line"}
    assert report["new_tokens"] == 12
    assert report["seconds"]["first_token"] is None
    assert report["tokens_per_second"] is None


def test_a_stop_text_ends_the_answer(martlet, tiny):
    text = martlet("generate", tiny, "abc", "--greedy").stdout
    stop = next(char for char in text if char.isascii() and char.isprintable())
    report = json.loads(martlet("generate", tiny, "abc", "--greedy", "--stop", stop, "--json").stdout)
    assert report["finish_reason"] == "stop_string"
    assert report["text"] == text[: text.index(stop) + 1]


def test_a_system_message_is_put_first(martlet, tiny):
    with_system = json.loads(martlet("generate", tiny, "abc", "--system", "xyz", "--json").stdout)
    # <|system|> xyz <|end|> <|user|> abc <|end|> <|assistant|>
    assert with_system["prompt_tokens"] == 1 + 3 + 1 + 1 + 3 + 1 + 1


def test_a_prompt_that_is_too_long_is_an_error_unless_it_may_be_cut(martlet, refused, tiny):
    prompt = "a" * 5000
    line = refused("generate", tiny, "--no-chat", stdin=prompt)
    assert "context of 4096 tokens; found 5000 tokens" in line
    assert "--truncate-prompt" in line
    report = json.loads(martlet("generate", tiny, "--no-chat", "--truncate-prompt", "--json", stdin=prompt).stdout)
    assert report["prompt_tokens"] == 4096 - 12


def test_ctrl_c_ends_an_answer_with_130_and_what_was_written(tiny):
    command = [sys.executable, "-m", "martlet", "generate", str(tiny), "abc", "--max-new-tokens", "4000", "--greedy"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    start = os.read(process.stdout.fileno(), 1)
    os.killpg(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b""
    text = (start + rest).decode()
    assert text.endswith("\n")
    assert len(text) < 4000


def test_ctrl_c_before_the_answer_is_silent(tiny):
    process = subprocess.Popen(
        [sys.executable, "-m", "martlet", "generate", str(tiny)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    time.sleep(0.5)  # it waits for its prompt
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (130, b"", b"")


def test_a_reader_that_leaves_is_no_error(tiny):
    command = [sys.executable, "-m", "martlet", "generate", str(tiny), "abc", "--max-new-tokens", "4000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), errors) == (141, b"")


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_model_answers(martlet, smollm2_gguf):
    done = martlet("generate", smollm2_gguf, QUESTION, "--greedy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")
    report = json.loads(martlet("generate", smollm2_gguf, QUESTION, "--greedy", "--json").stdout)
    assert report["text"] == "The capital of France is Paris."
    assert report["finish_reason"] == "eos"
    assert report["settings"]["eos_token_id"] == {"value": 2, "origin": "GGUF metadata"}
