"""safetensors against the reference package, both ways. Hostile files are in tests/hostile."""

import numpy as np
import pytest
import torch
from safetensors import deserialize, safe_open
from safetensors.torch import load_file, save_file

from martlet.errors import ArgumentError, FormatError, SafetensorsError
from martlet.formats.safetensors import SafetensorsFile, save_safetensors
from martlet.formats.tensors import ELEMENT_BITS, float8_table, to_float32

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "U32": torch.uint32,
}  # fmt: skip


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    made = {word: (torch.randn(3, 5) * 4).abs().to(dtype) for word, dtype in TORCH.items()}
    return made | {"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "naïve": torch.randn(7)}


def test_reads_what_the_reference_writes(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with SafetensorsFile(tmp_path / "x.safetensors") as source:
        assert source.metadata == {"format": "pt"}
        assert set(source.names()) == set(tensors) and len(source) == len(tensors)
        for name, tensor in tensors.items():
            info = source.info(name)
            assert (info.shape, info.num_bytes) == (tuple(tensor.shape), tensor.nbytes)
            assert TORCH[info.dtype] == tensor.dtype
            assert source.raw(name).tobytes() == bytes_of(tensor)
            found = to_float32(source.raw(name), info.dtype, info.shape)
            np.testing.assert_array_equal(found, tensor.to(torch.float32).numpy())


def test_the_reference_reads_what_we_write(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    words = {dtype: word for word, dtype in TORCH.items()}
    stored = {
        name: (words[tensor.dtype], tuple(tensor.shape), lambda tensor=tensor: bytes_of(tensor))
        for name, tensor in tensors.items()
    }
    save_safetensors(path, stored, {"format": "pt"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and bytes_of(found[name]) == bytes_of(tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    data = path.read_bytes()
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0
    for name in tensors:
        source = SafetensorsFile(path)
        address = source.raw(name).ctypes.data
        assert address % (ELEMENT_BITS[source.info(name).dtype] // 8) == 0


def test_every_type_there_is_both_ways(tmp_path):
    """By the reference's own words and bytes; torch knows fewer types than the format."""
    rng = np.random.default_rng(0)
    made = {word: (word, (3, 8), rng.integers(0, 2, 3 * bits, np.uint8)) for word, bits in ELEMENT_BITS.items()}
    save_safetensors(tmp_path / "x", made)
    found = dict(deserialize((tmp_path / "x").read_bytes()))
    assert found.keys() == made.keys()
    for word, (_, shape, data) in made.items():
        assert (found[word]["dtype"], found[word]["shape"]) == (word, list(shape))
        assert bytes(found[word]["data"]) == data.tobytes()


def test_every_type_the_reference_writes(tmp_path):
    from safetensors.torch import _TYPES

    made = {word: torch.arange(1, 13).reshape(3, 4).to(dtype) for word, dtype in _TYPES.items()}
    assert made.keys() > TORCH.keys()
    save_file(made, tmp_path / "x")
    source = SafetensorsFile(tmp_path / "x")
    for word, tensor in made.items():
        assert (source.info(word).dtype, source.info(word).shape) == (word, (3, 4))
        assert source.raw(word).tobytes() == bytes_of(tensor)
        if word == "C64":
            with pytest.raises(FormatError, match="tensor type C64: has no values here; supported are BOOL, U8"):
                to_float32(source.raw(word), word, (3, 4))
        else:
            found = to_float32(source.raw(word), word, (3, 4))
            np.testing.assert_array_equal(found, tensor.to(torch.float32).numpy())


def test_raw_is_a_private_writable_view(tmp_path):
    path = tmp_path / "x.safetensors"
    values = np.arange(6, dtype=np.float32)
    save_safetensors(path, {"a": ("F32", (2, 3), values)})
    before = path.read_bytes()
    source = SafetensorsFile(path)
    raw = source.raw("a")
    assert raw.flags.writeable and not raw.flags.owndata and raw.dtype == np.uint8 and raw.ndim == 1
    raw.view(np.float32)[0] = 99
    assert source.raw("a").view(np.float32)[0] == 99 and path.read_bytes() == before
    source.close()
    source.close()
    assert raw.view(np.float32)[0] == 99
    with pytest.raises(SafetensorsError, match="has been closed"):
        source.raw("a")
    with pytest.raises(KeyError):
        source.info("b")


def test_one_tensor_in_memory_at_a_time(tmp_path):
    alive, most = 0, 0

    class Tracked(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def make():
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return np.zeros(1000, np.uint8).view(Tracked)

    save_safetensors(tmp_path / "x", {str(i): ("U8", (1000,), make) for i in range(5)})
    assert (most, alive) == (1, 0)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (("F32", (3,), b"12345678"), r"tensor 'a': F32 of shape \[3\] needs 12 bytes; found 8"),
        (("Q4_0", (32,), bytes(18)), "tensor 'a': safetensors cannot hold its type; found Q4_0"),
        (("F32", (2, 2), np.zeros((2, 2), np.float32).T[:, ::1]), "needs little-endian bytes in C order"),
        (("F32", (2,), np.zeros(2, ">f4")), "needs little-endian bytes in C order"),
    ],
)
def test_wrong_tensors_are_not_written(tmp_path, stored, text):
    if stored[1] == (2, 2):
        stored = ("F32", (2, 2), np.arange(4, dtype=np.float32).reshape(2, 2).T)
    with pytest.raises(ArgumentError, match=text):
        save_safetensors(tmp_path / "x", {"a": stored})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "dtype"),
    [
        ("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2), ("F8_E8M0", torch.float8_e8m0fnu),
        ("F8_E4M3FNUZ", torch.float8_e4m3fnuz), ("F8_E5M2FNUZ", torch.float8_e5m2fnuz),
    ],
)  # fmt: skip
def test_every_8_bit_float_is_torchs(word, dtype):
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float32).numpy()
    np.testing.assert_array_equal(float8_table(word), expected)


@pytest.mark.parametrize(("word", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_every_16_bit_float_is_torchs(word, dtype):
    codes = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    expected = codes.view(dtype).to(torch.float32).numpy()
    found = to_float32(codes.numpy().view(np.uint8), word, (65536,))
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


def test_real_model_reads_as_the_reference_does(minilm):
    path = next(minilm.glob("*.safetensors"))
    expected = load_file(path)
    source = SafetensorsFile(path)
    assert set(source.names()) == set(expected)
    assert all(source.raw(name).tobytes() == bytes_of(tensor) for name, tensor in expected.items())
