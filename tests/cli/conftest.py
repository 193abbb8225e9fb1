"""`martlet` as people run it: a process of its own, on a tiny model with a real tokenizer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CONTEXT = 4096
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def martlet() -> Run:
    """`martlet(*words, stdin="", **environment)` runs the command; text streams are UTF-8."""

    def run(*words: Any, stdin: str | bytes = "", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "martlet", *map(str, words)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "MARTLET_TRACEBACK": "", **environment},
            timeout=900,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def refused(martlet: Run) -> Callable[..., str]:
    """The one line that bad input gives; everything else about it is asserted here."""

    def run(*words: Any, **options: Any) -> str:
        done = martlet(*words, **options)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert done.stdout == ""
        assert done.stderr.endswith("\n")
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("martlet")
        return done.stderr.strip()

    return run


def save_tokenizer(folder: Path, **config: Any) -> None:
    """A byte-level tokenizer of 256 bytes and four special tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({char: place for place, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with a chat template and settings of its own. It never ends an answer."""
    from martlet import AutoConfig, AutoModelForCausalLM, set_seed

    folder = tmp_path_factory.mktemp("tiny")
    config = AutoConfig.for_model(
        "llama",
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        auto_map={"AutoModel": "modeling_tiny.Tiny"},
    )
    set_seed(0)
    AutoModelForCausalLM.from_config(config, dtype="float32").save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.1, "max_new_tokens": 12}))
    save_tokenizer(folder, chat_template=TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without a chat template."""
    folder = tmp_path_factory.mktemp("plain")
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    save_tokenizer(folder)
    return folder
