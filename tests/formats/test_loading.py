"""Files into models: what is mapped and what is read, split GGUF files, packed weights in the dtype wanted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from martlet import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from martlet.errors import ArgumentError, FormatError, GgufError
from martlet.formats import open_weights, to_float32
from martlet.formats.files import write_json
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.gguf_writer import save_gguf

IDS = torch.tensor([[1, 7, 3, 9]])
CONFIG = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, "max_position_embeddings": 64,
}  # fmt: skip
KEYS = {
    "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 64, "llama.embedding_length": 64,
    "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4, "llama.vocab_size": 40,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b", "ab", *(f"<{i}>" for i in range(35))],
    "tokenizer.ggml.token_type": [3, 3, *[1] * 3, *[4] * 35], "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}  # fmt: skip


def packed(rng: np.random.Generator, rows: int, columns: int) -> tuple[str, tuple[int, int], np.ndarray]:
    values = rng.standard_normal((rows, columns)).astype(np.float32) / 8
    return "Q8_0", (rows, columns), gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)


def llama_tensors(ffn: int = 96, down: str = "Q8_0") -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    rng = np.random.default_rng(0)
    made = {"token_embd.weight": packed(rng, 40, 64)}
    for layer in range(2):
        for name, rows, columns in [
            ("attn_q", 64, 64), ("attn_k", 32, 64), ("attn_v", 32, 64), ("attn_output", 64, 64),
            ("ffn_gate", ffn, 64), ("ffn_up", ffn, 64), ("ffn_down", 64, ffn),
        ]:  # fmt: skip
            made[f"blk.{layer}.{name}.weight"] = packed(rng, rows, columns)
        if down != "Q8_0":
            num_bytes = 64 * ffn // BLOCKS[down].size * BLOCKS[down].num_bytes
            made[f"blk.{layer}.ffn_down.weight"] = (down, (64, ffn), np.zeros(num_bytes, np.uint8))
        for name in ("attn_norm", "ffn_norm"):
            made[f"blk.{layer}.{name}.weight"] = ("F32", (64,), rng.random(64, np.float32))
    return made | {"output_norm.weight": ("F32", (64,), np.ones(64, np.float32)), "output.weight": packed(rng, 40, 64)}


def save_split(folder: Path, num_parts: int = 3) -> Path:
    """As llama-gguf-split does: all keys in the first part, which need not hold a tensor."""
    everything = list(llama_tensors().items())
    cuts = [0, *(len(everything) * part // (num_parts - 1) for part in range(num_parts))]
    for part in range(num_parts):
        keys = {"split.no": np.uint16(part), "split.count": np.uint16(num_parts)}
        keys["split.tensors.count"] = np.int32(len(everything))
        path = folder / f"tiny-{part + 1:05d}-of-{num_parts:05d}.gguf"
        save_gguf(path, (KEYS if part == 0 else {}) | keys, dict(everything[cuts[part] : cuts[part + 1]]))
    return folder / f"tiny-00001-of-{num_parts:05d}.gguf"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    save_gguf(path, KEYS, llama_tensors())
    return path


def maps_of(path: Path) -> list[range]:
    """Addresses at which this process has `path` mapped."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


# ---- split GGUF


@pytest.mark.parametrize("how", ["first part", "folder", "gguf_file", "text"])
def test_a_split_gguf_is_the_whole_one(tmp_path, whole, how):
    first = save_split(tmp_path)
    name, keywords = first, {}
    if how in ("folder", "gguf_file"):
        name, keywords = tmp_path, {"gguf_file": first.name} if how == "gguf_file" else {}
    elif how == "text":
        name = str(first)
    expected, found = (
        AutoModelForCausalLM.from_pretrained(whole),
        AutoModelForCausalLM.from_pretrained(name, **keywords),
    )
    assert torch.equal(found(IDS).logits, expected(IDS).logits)
    assert AutoConfig.from_pretrained(name, **keywords).to_dict() == AutoConfig.from_pretrained(whole).to_dict()
    tokenizer = AutoTokenizer.from_pretrained(name, **keywords)
    assert tokenizer("abab").input_ids == AutoTokenizer.from_pretrained(whole)("abab").input_ids == [4, 4]


def test_another_part_than_the_first(tmp_path):
    first = save_split(tmp_path)
    with pytest.raises(FormatError, match=r"is one part of 3\. Open the first part, NAME-00001-of-00003\.gguf"):
        AutoModelForCausalLM.from_pretrained(first.with_name("tiny-00002-of-00003.gguf"))
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(FormatError, match="Open the first part"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "renamed.gguf")


def test_parts_that_are_missing_or_of_another_model(tmp_path):
    first = save_split(tmp_path)
    second, third = (first.with_name(f"tiny-0000{part}-of-00003.gguf") for part in (2, 3))
    kept = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(FormatError, match=r"must say it is part 1 of 3; found split\.no 2, split\.count 3"):
        open_weights(first)
    save_gguf(second, {"split.no": np.uint16(1), "split.count": np.uint16(3)}, {})
    with pytest.raises(FormatError, match=r"its parts must hold 21 tensors; found \d+\. Are all parts of one model\?"):
        open_weights(first)
    second.write_bytes(kept)
    assert len(open_weights(first)) == 21
    second.unlink()
    with pytest.raises(FormatError, match=r"its part tiny-00002-of-00003\.gguf must be beside it; found no such file"):
        AutoModelForCausalLM.from_pretrained(first)


def test_two_models_in_a_folder_are_named(tmp_path, whole):
    save_split(tmp_path)
    (tmp_path / "other.gguf").write_bytes(whole.read_bytes())
    (tmp_path / "mmproj-f16.gguf").write_bytes(b"")
    with pytest.raises(ArgumentError) as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "several GGUF files; found other.gguf, tiny-00001-of-00003.gguf. Pass gguf_file=." in str(caught.value)


def test_a_single_file_of_another_kind(tmp_path):
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(tmp_path)
    with pytest.raises(
        FormatError, match=rf"a single file must be GGUF; found .* Pass its folder, {re.escape(str(tmp_path))}"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model.safetensors")


# ---- packed weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_packed_weights_come_in_the_dtype_wanted(whole, dtype, monkeypatch):
    monkeypatch.setattr("martlet.nn.load.PART_WEIGHTS", 320)  # parts that end inside rows, the last one short
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=dtype)
    source = GgufFile(whole)
    for ours, theirs in {
        "lm_head.weight": "output.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    }.items():
        info = source.info(theirs)
        expected = torch.from_numpy(to_float32(source.raw(theirs), info.dtype, info.shape)).to(dtype)
        assert torch.equal(model.get_parameter(ours).detach(), expected), ours


def test_a_block_type_without_values_opens_and_says_so_when_it_is_read(tmp_path):
    path = tmp_path / "x.gguf"
    save_gguf(path, KEYS | {"llama.feed_forward_length": 256}, llama_tensors(256, down="IQ2_XXS"))
    source = GgufFile(path)
    assert source.info("blk.1.ffn_down.weight").dtype == "IQ2_XXS"
    assert source.raw("blk.1.ffn_down.weight").size == 64 * 66
    assert AutoConfig.from_pretrained(path).intermediate_size == 256
    with pytest.raises(GgufError, match=r"block type IQ2_XXS: is not supported; supported are F32, .*IQ4_XS\. Take a"):
        AutoModelForCausalLM.from_pretrained(path)


def test_the_map_of_a_packed_file_goes(whole):
    model = AutoModelForCausalLM.from_pretrained(whole, backend="torch")
    assert not maps_of(whole)
    assert model.dtype == torch.float32


# ---- torch pickles


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("num_files", [1, 3])
def test_torch_pickles_make_the_model_hugging_face_makes(tmp_path, is_zip, num_files):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG | {"tie_word_embeddings": True})).eval()
    theirs.config.save_pretrained(tmp_path)
    state = list(theirs.state_dict().items())
    for number in range(num_files):
        name = f"pytorch_model-{number + 1:05d}-of-{num_files:05d}.bin" if num_files > 1 else "pytorch_model.bin"
        torch.save(dict(state[number::num_files]), tmp_path / name, _use_new_zipfile_serialization=is_zip)
    if num_files > 1:
        places = {key: f"pytorch_model-{i % 3 + 1:05d}-of-00003.bin" for i, (key, _) in enumerate(state)}
        write_json(tmp_path / "pytorch_model.bin.index.json", {"metadata": {"total_size": 1}, "weight_map": places})
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=1e-5)


# ---- plain weights


def test_stored_weights_are_the_files_own_pages(tmp_path):
    AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    (mapped,) = maps_of(tmp_path / "model.safetensors")
    parameters = dict(model.named_parameters())
    assert len(parameters) == 21
    assert all(parameter.data_ptr() in mapped for parameter in parameters.values())
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # the pages are copied when they are written to
    assert (tmp_path / "model.safetensors").read_bytes() == before
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    (again,) = maps_of(tmp_path / "model.safetensors")
    assert again == mapped and not any(parameter.data_ptr() in again for parameter in other.parameters())


MEASURE = """
import sys
import torch
import martlet.modeling
from martlet import AutoModelForCausalLM

def anonymous_and_all():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS")]

torch.zeros(1).to(torch.bfloat16)
before = anonymous_and_all()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **eval(sys.argv[2]))
loaded = anonymous_and_all()
peak = [int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
sum(float(parameter.detach().view(torch.uint8).sum()) for parameter in model.parameters())
touched = anonymous_and_all()
size = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
print(size, loaded[0] - before[0], loaded[1] - before[1], touched[0] - before[0], peak - before[1])
"""


def measure(path: Path, keywords: str = "{}") -> list[float]:
    """MiB in a fresh process: the model; anonymous and all pages by loading; anonymous ones after use; the peak."""
    command = [sys.executable, "-c", MEASURE, str(path), keywords]
    return [float(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def test_a_mapped_model_takes_no_memory_until_it_is_used(tmp_path):
    config = CONFIG | {"vocab_size": 128_000, "hidden_size": 128}
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    size, own, resident, own_after_use, _ = measure(tmp_path)
    assert size > 124
    assert own < 16 and resident < 24
    assert own_after_use < 24  # pages of the file, which every process shares


@pytest.mark.slow
@pytest.mark.downloads
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_a_packed_model_is_the_models_own(smollm2_gguf, dtype):
    size, own, _, _, peak = measure(smollm2_gguf, f"dict(dtype='{dtype}')")
    file_size = smollm2_gguf.stat().st_size / 2**20
    assert size > 250
    assert own < size + 40  # 16 MiB of it are float32 on the way to the dtype
    assert peak < size + file_size + 60
