"""`martlet inspect`: its numbers are the Arch's and the files', and it reads headers only."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from martlet import arch as arch_
from martlet.checkpoint import open_checkpoint
from martlet.cli.facts import gguf_tokenizer_facts
from martlet.engine import is_built
from martlet.formats.gguf import GgufFile
from martlet.tokenizers import Tokenizer

PROBE = """
import sys, builtins
from martlet.cli import main
code = main(["inspect", sys.argv[1], "--json"])
heavy = [name for name in ("torch", "transformers", "martlet.modeling", "martlet.nn") if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


@pytest.fixture
def facts(martlet):
    def read(path, *words):
        done = martlet("inspect", path, "--json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return read


def test_numbers_are_the_archs(facts, tiny):
    arch, said = open_checkpoint(tiny).arch, facts(tiny)
    assert said["model"] == str(tiny)
    assert (said["family"], said["classes"]) == ("llama", ["LlamaForCausalLM"])
    assert said["parameters"] == arch_.num_parameters(arch) == 2 * 260 * 16 + 2 * (3 * 16 * 24 + 48 * 16 + 32) + 16
    assert said["architecture"]["num_layers"] == 2
    assert said["architecture"]["max_position_embeddings"] == 4096
    assert [kind["layers"] for kind in said["architecture"]["layers"]] == [[0, 1]]
    assert said["architecture"]["layers"][0]["rope"]["theta"] == arch.layers[0].rope.theta
    for dtype, weight, value in (("float32", 4, 4), ("bfloat16", 2, 2), ("int8", 1, 2), ("int4", 0.5, 2)):
        assert said["memory"][dtype] == {
            "weights": arch_.weight_bytes(arch, weight),
            "per_1000_tokens": arch_.cache_bytes(arch, 1000, value),
            "full_context": arch_.cache_bytes(arch, 4096, value),
        }
    for dtype, value in (("float16", 2), ("bfloat16", 2), ("float32", 4)):
        token = 2 * 2 * arch.key_value_size * value  # layers, keys and values
        assert said["kv_cache"][dtype] == {"per_1000_tokens": 1000 * token, "full_context": 4096 * token}


def test_what_the_engine_needs_is_what_it_takes(facts, martlet, tiny, tmp_path):
    if not is_built():
        assert "was not compiled" in facts(tiny)["engine"]["problem"]
        return
    from martlet.auto import AutoModelForCausalLM

    for path in (tiny, tmp_path / "tiny.gguf"):
        if path != tiny:
            assert martlet("quantize", tiny, "--to", "q8_0", "--out", path).returncode == 0
        said = facts(path)["engine"]
        assert said["packed"] == AutoModelForCausalLM.from_pretrained(path, backend="native").engine.packed_bytes
        assert said["tables"] > 0
        assert "beside a torch model that generates, a second copy" in martlet("inspect", path).stdout


def test_files_weights_tokenizer_and_settings(facts, tiny):
    said = facts(tiny)
    files = {file["name"]: (file["bytes"], file["format"]) for file in said["files"]}
    assert files["model.safetensors"] == ((tiny / "model.safetensors").stat().st_size, "safetensors")
    assert files["config.json"][1] == "json"
    num_bytes = 4 * said["parameters"]
    assert said["weights"] == {
        "format": "safetensors",
        "files": ["model.safetensors"],
        "tensors": 21,
        "bytes": num_bytes,
        "dtypes": {"F32": {"tensors": 21, "parameters": said["parameters"], "bytes": num_bytes}},
    }
    assert said["tokenizer"] == {
        "kind": "BPE",
        "source": "tokenizer.json",
        "vocabulary": 260,
        "special_tokens": {"eos_token": {"token": "<|end|>", "id": 256}},
        "adds_bos": False,
        "adds_eos": False,
        "chat_template": True,
        "max_length": None,
    }
    assert said["generation"] == {
        "max_new_tokens": {"value": 12, "origin": "generation_config.json"},
        "repetition_penalty": {"value": 1.1, "origin": "generation_config.json"},
    }
    assert said["remote_code"] == {"named": {"AutoModel": "modeling_tiny.Tiny"}, "run": False}


def test_settings_of_config_json_are_said_to_be_its(facts, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "old")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "top_k": 7, "eos_token_id": [2, 3]}))
    assert facts(folder)["generation"] == {
        "top_k": {"value": 7, "origin": "config.json"},
        "eos_token_id": {"value": [2, 3], "origin": "config.json"},
    }


def test_tables_say_the_same(martlet, tiny):
    done = martlet("inspect", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "family llama",
        "parameters 12,240",
        "context, tokens 4,096",
        "output head its own matrix",
        "positions, all layers rotary, theta 10,000",
        "F32 21 12,240 49.0 kB",
        "chat template yes",
        "repetition_penalty 1.1 from generation_config.json",
        "int4 6.1 kB 64.0 kB 262.1 kB",
        "AutoModel: modeling_tiny.Tiny",
        "named by the checkpoint; none of it is run",
    ):
        assert line in lines, (line, done.stdout)


def test_a_model_of_a_config_alone(facts, tiny, tmp_path):
    shutil.copy(tiny / "config.json", tmp_path)
    said = facts(tmp_path)
    assert said["weights"] is None
    assert "needs tokenizer.json" in said["tokenizer"]["problem"]
    assert said["parameters"] == 12_240


def test_a_model_of_the_hub_is_told_without_its_weights(martlet, tiny, tmp_path):
    commit = "0123456789" * 4
    repo = tmp_path / "hub" / "models--someone--tiny"
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny / name, folder)
    absent = repo / ".no_exist" / commit  # how the cache remembers what this revision has not
    absent.mkdir(parents=True)
    for name in ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"):
        (absent / name).touch()
    done = martlet("inspect", "someone/tiny", "--json", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["revision"] == commit
    assert said["weights"] is None
    assert [file["name"] for file in said["files"]] == sorted(path.name for path in folder.iterdir())
    assert said["tokenizer"]["vocabulary"] == 260


def test_no_torch_and_no_weight_is_touched(tiny, tmp_path):
    """Weights that cannot be read past their header are of no concern; torch is not imported."""
    done = subprocess.run([sys.executable, "-c", PROBE, str(tiny)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def check_facts_of_gguf_tokenizer(metadata):
    """What is said without making the tokenizer is what the tokenizer says."""
    said, tokenizer = gguf_tokenizer_facts("x", metadata), Tokenizer.from_gguf(metadata)
    assert said["kind"] == type(tokenizer.backend_tokenizer.model).__name__
    assert said["vocabulary"] == len(tokenizer)
    assert said["special_tokens"] == {
        name: {"token": token, "id": tokenizer.convert_tokens_to_ids(token)}
        for name, token in tokenizer.special_tokens_map.items()
    }
    assert (said["adds_bos"], said["adds_eos"]) == (tokenizer.add_bos_token, tokenizer.add_eos_token)
    assert said["chat_template"] == (tokenizer.chat_template is not None)


@pytest.mark.parametrize("also", [{}, {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}])
def test_a_sentencepiece_tokenizer_of_a_gguf_file(also):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab"]
    kinds = [2, 3, 3, *[6] * 256, 1, 1, 1, 1]
    check_facts_of_gguf_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
            "tokenizer.ggml.token_type": np.array(kinds, dtype=np.int32),
            "tokenizer.chat_template": "{{ messages }}",
            **also,
        }
    )


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_tokenizer_of_a_gguf_file(smollm2_gguf):
    with GgufFile(smollm2_gguf) as file:
        check_facts_of_gguf_tokenizer(file.metadata)


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_gguf_file(facts, smollm2_gguf):
    said = facts(smollm2_gguf)
    assert said["parameters"] == 134_515_008
    assert {name: kind["tensors"] for name, kind in said["weights"]["dtypes"].items()} == {
        "Q4_1": 210, "Q8_0": 1, "F32": 61
    }  # fmt: skip
    assert said["tokenizer"]["source"] == "GGUF metadata (gpt2)"
    assert said["tokenizer"]["vocabulary"] == 49_152
    assert said["tokenizer"]["special_tokens"]["eos_token"] == {"token": "<|im_end|>", "id": 2}
    assert said["generation"]["eos_token_id"] == {"value": 2, "origin": "GGUF metadata"}
    assert said["memory"]["bfloat16"]["weights"] == 2 * 134_515_008
    # 30 layers of 3 heads of 64, keys and values, 2 bytes each
    assert said["memory"]["bfloat16"]["per_1000_tokens"] == 1000 * 30 * 3 * 64 * 2 * 2
