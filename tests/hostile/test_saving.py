"""Saving while others save, while being killed, and onto a full disk: what was there, or what was written, whole."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers

import martlet

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SAVE = """
import sys, torch, martlet
model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(float(sys.argv[3]))
print("ready", flush=True)
for _ in range(int(sys.argv[4])):
    model.save_pretrained(sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(path)
    return path


def start(*arguments, before=""):
    command = [sys.executable, "-c", before + SAVE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def values(folder) -> set[float]:
    model = martlet.AutoModelForCausalLM.from_pretrained(folder)
    return {float(parameter.detach().max()) for parameter in model.parameters()}


def test_two_at_once(folder, tmp_path):
    processes = [start(folder, tmp_path / "out", value, 10) for value in (1, 2)]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert values(tmp_path / "out") in ({1.0}, {2.0})
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".safetensors")]


def test_killed_in_the_middle(folder, tmp_path):
    martlet.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "out")
    original = values(tmp_path / "out")
    for attempt in range(3):
        process = start(folder, tmp_path / "out", attempt, 100_000)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.05 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = values(tmp_path / "out")  # loads: of one save, or the first
        assert len(found) == 1 or found == original


def test_a_full_disk(folder, tmp_path):
    martlet.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    process = start(folder, tmp_path / "out", 1, 1, before=limit)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0 and "SaveError" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]
    assert torch.isfinite(martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight).all()
