"""What the README says is so: the path of a token, the families."""

import re
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

import martlet
from martlet import engine
from martlet.auto import supported_families

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCE = ROOT / "src" / "martlet"


def test_families():
    named = re.search(r"^Families: (.+)\.$", README, re.MULTILINE)
    assert named is not None and tuple(named[1].split(", ")) == supported_families()


def test_every_room_is_on_the_map():
    rooms = {
        path.name
        for path in SOURCE.iterdir()
        if path.name not in ("__init__.py", "__main__.py", "__pycache__", "py.typed")
    }
    table = README[README.index("## The rooms") : README.index("An import goes down")]
    named = {name.rstrip("/") for name in re.findall(r"`([\w/.]+)`", table)}
    assert rooms <= named


def path_of_a_token():
    said = README[README.index("The path of a token:") :].split("\n\n")[0]
    return re.findall(r"`([\w/]+\.(?:py|cpp|hpp))`", said)


def test_the_path_is_read_in_an_evening():
    files = [name for name in path_of_a_token() if not name.startswith("nn/")]
    assert len(files) >= 7
    assert sum(len((SOURCE / name).read_text().splitlines()) for name in files) < 2000


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_path_of_a_token(backend, tmp_path):
    if backend == "native" and not engine.is_built():
        pytest.skip("the native engine was not compiled")
    path = path_of_a_token()
    native, other = [name for name in path if not name.startswith("nn/")], [n for n in path if n.startswith("nn/")]
    assert all((SOURCE / name).is_file() for name in path)
    wanted = [n for n in native if n.endswith(".py")]
    if backend == "torch":
        wanted = [n for n in wanted if not n.startswith("engine/")] + other

    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    vocab = {chr(97 + i): i for i in range(26)}
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[])).save(str(tmp_path / "tokenizer.json"))
    pipe = martlet.pipeline("text-generation", model=str(tmp_path), model_kwargs={"backend": backend})
    pipe("a", max_new_tokens=1)  # imports what is imported late, whose classes would be taken for calls
    with torch.no_grad():
        visited: list[str] = []

        def note(frame, event, _):
            file = frame.f_code.co_filename
            name = frame.f_code.co_name
            is_work = event == "call" and name not in ("__init__", "open_session") and not name.startswith("<")
            if is_work and file.startswith(str(SOURCE)):
                name = Path(file).relative_to(SOURCE).as_posix()
                if name not in visited:
                    visited.append(name)

        sys.setprofile(note)
        try:
            pipe("abc", max_new_tokens=2, do_sample=False)
        finally:
            sys.setprofile(None)
    assert [name for name in visited if name in wanted] == wanted
