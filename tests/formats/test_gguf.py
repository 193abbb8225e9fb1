"""GGUF against the `gguf` package, both ways. Hostile files are in tests/hostile."""

import gguf
import numpy as np
import pytest

from martlet.errors import ArgumentError, GgufError
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.tensors import TensorInfo, to_float32

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "negative": -5,
    "large": 2**40,
    "eps": 1e-5,
    "flag": True,
    "empty text": "",
    "tokens": ["a", "Ġthe", "", "日本"],
    "types": [1, 3, -1],
    "scores": [0.5, -1.0],
    "flags": [True, False],
    "none": [],
    "nested": [[1, 2], [3]],
    "exact": np.float64(0.1),
    "small": np.int16(-3),
    "per layer": np.array([1, 2, 3], np.uint32),
}


def tensors():
    rng = np.random.default_rng(0)
    made = {
        "f32": ("F32", (3, 5), rng.standard_normal((3, 5)).astype(np.float32)),
        "f16": ("F16", (7,), rng.standard_normal(7).astype(np.float16)),
        "f64": ("F64", (2,), rng.standard_normal(2)),
        "i8": ("I8", (5,), np.arange(5, dtype=np.int8)),
        "i64": ("I64", (2, 1, 3), np.arange(6)),
        "scalar": ("F32", (1,), np.float32([3])),
    }
    for dtype in ("Q4_0", "Q6_K", "IQ2_XXS"):
        block = BLOCKS[dtype]
        made[dtype] = (dtype, (2, 2 * block.size), rng.integers(0, 256, 4 * block.num_bytes, np.uint8))
    return made


def test_reads_what_the_reference_writes(tmp_path):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 4)
    writer.add_float32("eps", 1e-5)
    writer.add_bool("flag", True)
    writer.add_int8("tiny", -3)
    writer.add_uint64("huge", 2**63)
    writer.add_float64("double", 0.1)
    writer.add_array("tokens", ["a", "Ġb", ""])
    writer.add_array("scores", [0.5, 1.0])
    writer.add_array("layers", [1, 2, 3])
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("a.weight", values)
    writer.add_tensor("b.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c.weight", values[0].astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    source = GgufFile(path)
    assert source.version == 3
    metadata = dict(source.metadata)
    np.testing.assert_array_equal(metadata.pop("layers"), [1, 2, 3])
    np.testing.assert_array_equal(metadata.pop("scores"), np.float32([0.5, 1.0]))
    assert metadata == {
        "general.architecture": "llama", "llama.block_count": 4, "eps": float(np.float32(1e-5)), "flag": True,
        "tiny": -3, "huge": 2**63, "double": 0.1, "tokens": ["a", "Ġb", ""],
    }  # fmt: skip
    assert isinstance(source.metadata["flag"], bool) and isinstance(source.metadata["eps"], float)
    assert source.names() == ("a.weight", "b.weight", "c.weight")
    assert source.info("b.weight") == TensorInfo("b.weight", "Q8_0", (4, 64), 4 * 2 * 34)
    np.testing.assert_array_equal(to_float32(source.raw("a.weight"), "F32", (4, 64)), values)
    expected = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(to_float32(source.raw("b.weight"), "Q8_0", (4, 64)), expected)


@pytest.mark.parametrize("alignment", [None, 1, 8, 64, 4096])
def test_the_reference_reads_what_we_write_and_so_do_we(tmp_path, alignment):
    path = tmp_path / "x.gguf"
    metadata = ({} if alignment is None else {"general.alignment": alignment}) | METADATA
    save_gguf(path, metadata, tensors())
    if alignment != 1:
        reader = gguf.GGUFReader(path)
        for found in reader.tensors:
            dtype, shape, data = tensors()[found.name]
            assert (found.tensor_type.name, tuple(found.shape[::-1])) == (dtype, shape)
            assert found.data.tobytes() == data.tobytes()
            assert found.data_offset % (alignment or 32) == 0
        for key in ("general.architecture", "llama.block_count", "negative", "large", "flag", "tokens", "types"):
            assert reader.get_field(key).contents() == metadata[key], key

    source = GgufFile(path)
    assert list(source.metadata) == list(metadata)
    for key, value in metadata.items():
        found = source.metadata[key]
        if key == "nested":
            assert [part.tolist() for part in found] == value
        elif key == "eps":
            assert found == np.float32(value)
        elif isinstance(found, np.ndarray):
            assert found.tolist() == list(value)
        else:
            assert found == value and type(found) in (str, int, float, bool, list), key
    for name, (dtype, shape, data) in tensors().items():
        assert source.info(name).dtype == dtype and source.info(name).shape == shape
        assert source.raw(name).tobytes() == data.tobytes()
    assert source.metadata["per layer"].dtype == np.uint32


def test_metadata_is_decoded_on_first_use_only(tmp_path):
    save_gguf(tmp_path / "x", {"tokens": ["a"] * 10, "n": 1}, {})
    metadata = GgufFile(tmp_path / "x").metadata
    assert "tokens" in metadata and len(metadata) == 2 and not metadata._values
    assert metadata["n"] == 1 and list(metadata._values) == ["n"]
    assert metadata.take("tokens") == ["a"] * 10 and list(metadata._values) == ["n"]  # nor kept
    assert metadata["tokens"] is metadata["tokens"] is metadata.take("tokens")
    assert metadata.get("absent", 7) == 7


@pytest.mark.parametrize("strings", [[""], ["", "", "a"], ["a\0b", "\0", ""], ["é", "\n", "日本" * 200], ["x"] * 1000])
def test_lists_of_strings(tmp_path, strings):
    save_gguf(tmp_path / "x", {"before": "a\0", "strings": strings, "after": ["z", "\0"]}, {})
    metadata = GgufFile(tmp_path / "x").metadata
    assert metadata["after"] == ["z", "\0"]
    assert metadata["strings"] == strings


def test_a_string_that_is_not_utf8_is_named_each_time(tmp_path):
    save_gguf(tmp_path / "x", {"strings": ["good", "b\u00e9", "\u00e9d"]}, {})
    raw = (tmp_path / "x").read_bytes()
    # the letter's two bytes now end one string and begin the next: together they would be UTF-8
    damaged = raw.replace("b\u00e9".encode(), b"bb\xc3").replace("\u00e9d".encode(), b"\xa9dd")
    (tmp_path / "y").write_bytes(damaged)
    metadata = GgufFile(tmp_path / "y").metadata
    for _ in range(2):
        with pytest.raises(GgufError, match="key 'strings', item 1: must be UTF-8"):
            metadata["strings"]


def test_values_stay_when_the_file_is_closed(tmp_path):
    save_gguf(tmp_path / "x", {"tokens": ["a"]}, tensors())
    with GgufFile(tmp_path / "x") as source:
        raw = source.raw("f32")
        raw[:4] = 0
    assert raw.view(np.float32)[0] == 0 and source.metadata["tokens"] == ["a"]
    with pytest.raises(GgufError, match="has been closed"):
        source.raw("f32")
    assert (to_float32(GgufFile(tmp_path / "x").raw("f32"), "F32", (3, 5))[0, 0]) != 0


@pytest.mark.parametrize(
    ("metadata", "made", "text"),
    [
        ({"k": None}, {}, "GGUF key 'k': needs text, a number, a truth value or a list of one of these; found None"),
        ({"k": [1, "a"]}, {}, "GGUF key 'k': needs a list of one kind of item"),
        ({"k": 2**64}, {}, "found 18446744073709551616"),
        ({"general.alignment": 3}, {}, "general.alignment: must be a power of two; found 3"),
        ({}, {"a": ("BOOL", (1,), b"1")}, "tensor 'a': GGUF cannot hold its type; found BOOL"),
        ({}, {"a": ("F32", (1,) * 5, bytes(4))}, "tensor 'a': may have at most 4 axes; found 5"),
        ({}, {"a": ("Q8_0", (33,), bytes(34))}, "last axis must be a multiple of 32"),
        ({}, {"a": ("Q8_0", (32,), bytes(33))}, "needs 34 bytes; found 33"),
    ],
)
def test_what_cannot_be_written(tmp_path, metadata, made, text):
    with pytest.raises(ArgumentError) as caught:
        save_gguf(tmp_path / "x", metadata, made)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_tensor_of_a_real_model(smollm2):
    source, reader = GgufFile(smollm2), gguf.GGUFReader(smollm2)
    assert len(source) == len(reader.tensors) == 272
    for found in reader.tensors:
        info = source.info(found.name)
        expected = gguf.quants.dequantize(found.data, found.tensor_type)
        values = to_float32(source.raw(found.name), info.dtype, info.shape)
        assert values.shape == expected.shape
        np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template", "general.name"):
        assert source.metadata[key] == reader.get_field(key).contents()
