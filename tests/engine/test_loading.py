"""Weights on their way into the engine: bad numbers, files that become shorter, and how much memory it takes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import martlet
from martlet import engine
from martlet.arch import tensors
from martlet.errors import ArgumentError, FormatError, GenerationError, WeightsError
from martlet.families import Config
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.packed import PackedBlocks
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.safetensors import SafetensorsFile, save_safetensors
from martlet.formats.shards import Shards
from martlet.formats.tensors import TensorInfo, TensorSource, num_bytes, to_float32
from martlet.weights import Piece

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
UP = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def random_bf16(config, seed=0):
    rng = np.random.default_rng(seed)
    signs = np.array([0, 1], np.uint16) << 15
    return {
        name: ("BF16", shape, (rng.integers(0x3C00, 0x3D80, shape, np.uint16) | rng.choice(signs, shape)))
        for name, shape in tensors(Config(config).arch).items()
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    save_safetensors(tmp_path / "model.safetensors", random_bf16(LLAMA))
    return tmp_path


def load(folder, **keywords):
    return martlet.AutoModelForCausalLM.from_pretrained(folder, backend="native", **keywords)


@pytest.mark.parametrize("name", [UP, "model.norm.weight", EMBEDDING])
@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80], ids=["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_named(folder, name, bits):
    stored = random_bf16(LLAMA)
    stored[name][2].reshape(-1)[5] = bits
    save_safetensors(folder / "model.safetensors", stored)
    if name == EMBEDDING:  # read row by row: the one token's row is bad
        model = load(folder)
        assert model.generate([[1, 2]], max_new_tokens=1, do_sample=False, eos_token_id=None)
        with pytest.raises(GenerationError, match=rf"{EMBEDDING}: row 0 has NaN or infinity"):
            model.generate([[1, 0]], max_new_tokens=1, do_sample=False, eos_token_id=None)
    else:
        with pytest.raises(WeightsError, match=rf"{name}.*NaN or infinity"):
            load(folder)


class Blocks(TensorSource):
    """A tiny model's tensors, one of them in blocks."""

    def __init__(self, stored):
        self.stored, self.paths, self.metadata = stored, (), {}

    def names(self):
        return tuple(self.stored)

    def info(self, name):
        dtype, shape, data = self.stored[name]
        return TensorInfo(name, dtype, tuple(shape), data.nbytes)

    def raw(self, name):
        return self.stored[name][2].reshape(-1).view(np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("kind", engine.kinds()[3:] if engine.is_built() else [])
def test_scales_that_are_not_finite_are_named(kind):
    arch = Config(LLAMA).arch
    block = BLOCKS[kind]
    stored = random_bf16(LLAMA)
    count = 256 * 256 // block.size
    places = {
        "Q6_K": [208],
        "Q3_K": [108],
        "Q2_K": [80, 82],
        "Q4_1": [0, 2],
        "Q5_1": [0, 2],
        "Q4_K": [0, 2],
        "Q5_K": [0, 2],
    }
    for place in places.get(kind, [0]):
        blocks = np.zeros((count, block.num_bytes), np.uint8)
        stored[UP] = kind, (256, 256), blocks
        pieces = {name: Piece(name) for name in stored}
        engine.build_engine_model(arch, Blocks(stored), pieces)
        blocks[count // 2, place : place + 2] = [0, 0x7C]
        row = count // 2 * block.size // 256
        with pytest.raises(WeightsError, match=rf"{UP}: row {row} has NaN or infinity"):
            engine.build_engine_model(arch, Blocks(stored), pieces)


@pytest.mark.parametrize("kind", ["safetensors", "packed safetensors", "torch pickle", "GGUF"])
def test_a_file_that_becomes_shorter_is_an_error(tmp_path, kind):
    arch = Config(LLAMA).arch
    stored = random_bf16(LLAMA)
    path = tmp_path / "model"
    source: TensorSource
    if kind == "torch pickle":
        values = {
            name: torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16) for name, (_, _, bits) in stored.items()
        }
        torch.save(values, path)
        source = TorchPickleFile(path)
    elif kind == "GGUF":
        save_gguf(path, {"general.architecture": "llama"}, stored)
        source = GgufFile(path)
    else:
        save_safetensors(path, stored)
        source = Shards([SafetensorsFile(path)])
        if kind.startswith("packed"):
            source = PackedBlocks(source, {})
    pieces = {name: Piece(name) for name in source.names()}
    engine.build_engine_model(arch, source, pieces)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match="has become shorter since it was opened"):
        engine.build_engine_model(arch, source, pieces)


def test_a_file_that_becomes_shorter_later_is_an_error_too(folder):
    model = load(folder)
    keywords = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
    want = model.generate([[3, 4]], **keywords)
    with open(folder / "model.safetensors", "r+b") as file:
        whole = file.read()
        file.truncate(8)
        with pytest.raises(GenerationError, match=rf"{EMBEDDING}: its file has become shorter"):
            model.generate([[3, 4]], **keywords)
        file.seek(0)
        file.write(whole)
    assert model.generate([[3, 4]], **keywords) == want


def test_the_plain_set_runs_everywhere_and_a_missing_one_says_what_it_needs(folder, monkeypatch):
    keywords = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    want = load(folder).generate([[3, 4, 5]], **keywords)
    monkeypatch.setenv("MARTLET_ISA", "scalar")
    assert load(folder).generate([[3, 4, 5]], **keywords) == want
    for each in engine.instruction_sets():
        monkeypatch.setenv("MARTLET_ISA", each.name)
        if each.is_usable:
            assert load(folder).generate([[3, 4, 5]], **keywords) == want
        else:
            with pytest.raises(ArgumentError, match=rf"MARTLET_ISA.*{each.name} needs .*processor or operating system"):
                load(folder)


MEASURE = """
import sys, martlet
from martlet.engine.extension import native
import martlet.auto, martlet.inference, martlet.generation

def kilobytes(word):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(word)))

small = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native")
small.generate([[1, 2]], max_new_tokens=2, do_sample=False, eos_token_id=None)
before = kilobytes("VmRSS")
model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[2], backend="native")
model.generate([[1, 2]], max_new_tokens=2, do_sample=False, eos_token_id=None)
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("tied", [True, False])
def test_float_weights_are_in_memory_once(folder, tmp_path, tied):
    large = LLAMA | {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "vocab_size": 20000}
    large |= {"num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": tied}
    other = tmp_path / "large"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(large))
    save_safetensors(other / "model.safetensors", random_bf16(large))
    size = (other / "model.safetensors").stat().st_size
    out = subprocess.run([sys.executable, "-c", MEASURE, folder, other], capture_output=True, text=True, check=True)
    grown = int(out.stdout)
    assert 0.5 * size < grown < 1.15 * size, (grown / size, size)


def filled(path, kind, rows, columns, num_rows_there, order, num_threads):
    """The numbers of a matrix that a filling took from a file."""
    native = engine.extension.native()
    packed, filling = native.make_packed(kind, rows, columns), native.Filling()
    with open(path, "rb") as file:
        filling.add_file(packed, kind, file.fileno(), 7, num_rows_there, order)
    filling.begin(num_threads)
    assert filling.finish(num_threads != 1) is None
    out = np.empty((rows, columns), np.float32)
    packed.unpack(out)
    return out


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_a_filling_takes_rows_in_any_order(tmp_path, kind, num_threads):
    rng = np.random.default_rng(4)
    rows, columns = 700, 64
    raw = rng.integers(0, 60, rows * num_bytes(kind, (columns,)), np.uint8)
    path = tmp_path / "rows"
    path.write_bytes(b"7 bytes" + raw.tobytes())
    values = to_float32(raw, kind, (rows, columns))
    near = np.concatenate([part[::-1] for part in np.array_split(np.arange(rows), 9)])
    for order in (None, near, rng.integers(0, rows, 333), np.array([rows - 1, 0])):
        wanted = values if order is None else values[order]
        found = filled(path, kind, len(wanted), columns, rows, order, num_threads)
        np.testing.assert_array_equal(found, wanted)


def test_a_filling_says_what_failed_first(tmp_path):
    native = engine.extension.native()
    path = tmp_path / "rows"
    values = np.ones((40, 32), np.float32)
    path.write_bytes(values.tobytes())
    bad = values.copy()
    bad[17, 3], bad[33, 0] = np.nan, np.inf
    for num_threads in (0, 2):
        filling = native.Filling()
        with open(path, "rb") as file:
            filling.add_file(native.make_packed("F32", 40, 32), "F32", file.fileno(), 0, 40)
            filling.add_memory(native.make_packed("Q8_0", 40, 32), "F32", bad.view(np.uint8).reshape(-1))
            filling.add_file(native.make_packed("F32", 40, 32), "F32", file.fileno(), 100, 40)
        filling.begin(num_threads)
        assert filling.finish() == (1, "row 17 has NaN or infinity", False)
        with pytest.raises(ValueError, match="takes no more"):
            filling.add_memory(native.make_packed("F32", 1, 32), "F32", np.zeros(128, np.uint8))
    filling = native.Filling()
    with open(path, "rb") as file:
        filling.add_file(native.make_packed("F32", 40, 32), "F32", file.fileno(), 100, 40)
    filling.begin(1)
    assert filling.finish() == (0, "", True)
    with pytest.raises(ValueError, match="rows: out of range"):
        native.Filling().add_memory(native.make_packed("F32", 1, 32), "F32", np.zeros(128, np.uint8), np.array([1]))
    with pytest.raises(ValueError, match="Q8_0 is not encoded as F32"):
        native.Filling().add_memory(native.make_packed("F32", 1, 32), "Q8_0", np.zeros(34, np.uint8))
    with pytest.raises(ValueError, match="the file is not open"):
        native.Filling().add_file(native.make_packed("F32", 1, 32), "F32", 9999, 0, 1)
