"""Every reader against damage: random bytes, flipped bits, every truncation, numbers that lie; only FormatError.

Files made to deceive one reader are in test_formats_crafted.py.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from martlet.errors import FormatError, JsonError
from martlet.formats import open_shards, open_weights, to_float32
from martlet.formats.files import parse_json, read_json
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.safetensors import SafetensorsFile, save_safetensors
from martlet.formats.tensors import TensorSource

FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LYING = [0, 1, 7, 31, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]
Reader = Callable[[Path], TensorSource]


def use(source: TensorSource) -> None:
    """Reads all there is. What was accepted must lie in the file."""
    with source:
        for key in source.metadata:
            try:
                source.metadata[key]
            except FormatError:
                continue
        for name in source.names():
            info, raw = source.info(name), source.raw(name)
            assert raw.size == info.num_bytes and raw.dtype == np.uint8 and raw.ndim == 1
            assert int(raw.sum()) >= 0  # every byte can be read
            try:
                values = to_float32(raw, info.dtype, info.shape)
            except FormatError as error:
                assert "supported are" in str(error)
            else:
                assert values.shape == info.shape


def survives(reader: Reader, path: Path, data: bytes) -> bool:
    """Whether the file opened; any exception but FormatError fails the test."""
    path.write_bytes(data)
    try:
        use(reader(path))
    except FormatError as error:
        assert str(path) in str(error) and "\n" not in str(error)[len(str(path)) :]
        return False
    return True


def small_gguf(path: Path) -> bytes:
    metadata = {
        "general.architecture": "llama", "general.alignment": 8, "flag": True, "text": "é", "words": ["a", "", "ü"],
        "numbers": [1, -2], "flags": [True, False], "nested": [[1], [2, 3]], "real": 0.5, "large": 2**40,
    }  # fmt: skip
    tensors = {
        "a": ("F32", (2, 3), np.arange(6, dtype=np.float32)),
        "b": ("Q8_0", (1, 32), np.arange(34, dtype=np.uint8)),
        "c": ("IQ2_XXS", (256,), bytes(66)),
        "d": ("F16", (0, 4), b""),
    }
    save_gguf(path, metadata, tensors)
    return path.read_bytes()


def small_safetensors(path: Path) -> bytes:
    tensors = {
        "a": ("F32", (2, 3), np.arange(6, dtype=np.float32)),
        "é": ("BF16", (4,), bytes(8)),
        "b": ("BOOL", (2,), b"\0\1"),
        "none": ("F16", (0, 4), b""),
        "c": ("C64", (1,), bytes(8)),
    }
    save_safetensors(path, tensors, {"format": "pt"})
    return path.read_bytes()


def small_pickle(is_zip: bool) -> Callable[[Path], bytes]:
    def save(path: Path) -> bytes:
        base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
        state = OrderedDict(a=base, view=base[:, 1:], b=torch.zeros(2).bfloat16(), none=torch.zeros(0, 2), step=3)
        torch.save(state, path, _use_new_zipfile_serialization=is_zip)
        return path.read_bytes()

    return save


KINDS: dict[str, tuple[Reader, Callable[[Path], bytes]]] = {
    "gguf": (GgufFile, small_gguf),
    "safetensors": (SafetensorsFile, small_safetensors),
    "zip pickle": (TorchPickleFile, small_pickle(True)),
    "legacy pickle": (TorchPickleFile, small_pickle(False)),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    return {kind: make(folder / "x") for kind, (_, make) in KINDS.items()}


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """A few changes of a valid file: bits, bytes, numbers that lie, pieces cut out, doubled or moved, ends cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        # headers are at the front, or in a zip archive at the end
        place = draw(st.one_of(st.integers(0, len(data) - 1), st.integers(0, min(300, len(data) - 1))))
        match draw(st.sampled_from(["bit", "byte", "u32", "u64", "cut", "double", "end", "insert"])):
            case "bit":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "byte":
                data[place] = draw(st.sampled_from([0, 1, 0x22, 0x2D, 0x5B, 0x7B, 0x80, 0xFF, *b"09.:,]}"]))
            case "u32":
                data[place : place + 4] = struct.pack("<I", draw(st.sampled_from(LYING)) & 0xFFFFFFFF)
            case "u64":
                data[place : place + 8] = struct.pack("<Q", draw(st.sampled_from(LYING)))
            case "cut":
                del data[place : place + draw(st.integers(1, 40))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 40))]
            case "end":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data)


@EACH
def test_the_small_files_are_valid(kind, valid, tmp_path):
    assert survives(KINDS[kind][0], tmp_path / "x", valid[kind])


@EACH
def test_truncated_at_every_byte(kind, valid, tmp_path):
    reader, whole = KINDS[kind][0], valid[kind]
    opened = [length for length in range(len(whole)) if survives(reader, tmp_path / "x", whole[:length])]
    # only padding may go: a GGUF's last tensor is empty here, and the archive's directory is at the very end
    assert not opened or (kind == "gguf" and opened[0] > len(whole) - 32)


@EACH
def test_every_bit_flipped(kind, valid, tmp_path):
    reader, whole = KINDS[kind][0], bytearray(valid[kind])
    # in the header and, for an archive, all over it in steps that miss no field for long
    step = 3 if kind in ("gguf", "safetensors") else 11
    for place in range(0, 8 * len(whole), step):
        whole[place // 8] ^= 1 << place % 8
        survives(reader, tmp_path / "x", bytes(whole))
        whole[place // 8] ^= 1 << place % 8


@EACH
def test_every_number_lies(kind, valid, tmp_path):
    reader, whole = KINDS[kind][0], valid[kind]
    for place in range(min(len(whole) - 8, 700)):
        for value in (2**64 - 1, 2**63, 2**31):
            survives(reader, tmp_path / "x", whole[:place] + struct.pack("<Q", value) + whole[place + 8 :])


@EACH
@FUZZ
@given(data=st.data())
def test_damaged_files(kind, valid, tmp_path, data):
    survives(KINDS[kind][0], tmp_path / "x", data.draw(damage(valid[kind])))


@FUZZ
@given(
    start=st.sampled_from([b"", b"GGUF\3\0\0\0", b"PK\3\4", b"\x80\2\x8a\n", b"{", b"\x10" + bytes(7) + b"{"]),
    rest=st.binary(max_size=300),
)
def test_random_bytes_told_apart_by_content(tmp_path, start, rest):
    survives(open_weights, tmp_path / "x", start + rest)


@FUZZ
@given(data=st.data())
def test_what_we_accept_the_reference_accepts(valid, tmp_path, data):
    damaged = data.draw(damage(valid["safetensors"]))
    if survives(SafetensorsFile, tmp_path / "x", damaged):
        found = {name: bytes(entry["data"]) for name, entry in deserialize(damaged)}
        ours = SafetensorsFile(tmp_path / "x")
        assert found == {name: ours.raw(name).tobytes() for name in ours.names()}


# ---- headers made of plausible but wrong parts

SIZES = st.one_of(st.integers(-2, 6), st.sampled_from(LYING), st.sampled_from([-(2**63), 1.0, "4", None, True, []]))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F4", "U8", "f32", "Q4_0", "", 5, None]),
        "shape": st.one_of(st.lists(SIZES, max_size=3), st.just([2**62] * 20), st.just([0, 2**63]), SIZES),
        "data_offsets": st.one_of(st.lists(SIZES, min_size=2, max_size=2), st.lists(SIZES, max_size=3), SIZES),
    },
    optional={"extra": st.just(1)},
)


@FUZZ
@given(
    entries=st.dictionaries(st.sampled_from(["a", "b", "", "__metadata__", "\ud800", "é" * 50]), ENTRIES, max_size=3),
    size=st.integers(0, 40),
    padding=st.sampled_from([b"", b" ", b"\0", b"}"]),
)
def test_safetensors_headers_that_lie(tmp_path, entries, size, padding):
    header = json.dumps(entries).encode() + padding
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    if survives(SafetensorsFile, tmp_path / "x", data):
        try:
            deserialize(data)
        except SafetensorError as error:  # pragma: no cover - the message says what we missed
            pytest.fail(f"the reference refuses it: {error}")


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


U64 = st.one_of(st.integers(0, 8), st.sampled_from(LYING)).map(lambda value: struct.pack("<Q", value))
U32 = st.one_of(st.integers(0, 45), st.sampled_from(LYING)).map(lambda value: struct.pack("<I", value & 0xFFFFFFFF))
NAMES = st.one_of(st.sampled_from([b"a", b"b", b"general.alignment", b"split.count", b"\xff"]), st.binary(max_size=4))
KEY = st.builds(
    lambda name, code, rest: gguf_text(name) + code + rest, NAMES, U32, st.one_of(U64, st.binary(max_size=30))
)
ARRAY = st.builds(
    lambda name, item, count, rest: gguf_text(name) + struct.pack("<I", 9) + item + count + rest,
    NAMES, U32, U64, st.binary(max_size=40),
)  # fmt: skip
TENSOR = st.builds(
    lambda name, axes, code, offset: gguf_text(name) + struct.pack("<I", len(axes)) + b"".join(axes) + code + offset,
    NAMES, st.lists(U64, max_size=5), U32, U64,
)  # fmt: skip


@FUZZ
@given(
    version=st.sampled_from([0, 1, 2, 3, 3, 3, 4, 0x03000000]),
    keys=st.lists(st.one_of(KEY, ARRAY), max_size=3),
    tensors=st.lists(TENSOR, max_size=3),
    counts=st.one_of(st.none(), st.tuples(U64, U64)),
    rest=st.binary(max_size=64),
)
def test_gguf_headers_that_lie(tmp_path, version, keys, tensors, counts, rest):
    counted = counts or (struct.pack("<Q", len(tensors)), struct.pack("<Q", len(keys)))
    data = b"GGUF" + struct.pack("<I", version) + b"".join([*counted, *keys, *tensors]) + rest
    survives(GgufFile, tmp_path / "x", data)
    survives(open_weights, tmp_path / "x", data)  # which asks for split.count


OPCODES = [opcode.code.encode("latin-1") for opcode in __import__("pickletools").opcodes]
PIECES = st.one_of(
    st.sampled_from(OPCODES),
    st.sampled_from([
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nSize\n", b"ctorch\nfloat32\n", b"X\1\0\0\0a", b"}", b")",
        b"(", b"X\7\0\0\0storage", b"X\1\0\0\0" + b"0", b"X\3\0\0\0cpu", b"K\1", b"K\0", b"J\xff\xff\xff\xff",
        b"\x8a\1\7", b"R", b"Q", b"t", b"\x85", b"\x86", b"\x87", b"s", b"u", b"b", b"q\0", b"h\0", b"\x94", b"2",
        b"\x8a\xff" + b"\x7f" * 255,
    ]),
    st.binary(max_size=3),
)  # fmt: skip


def archive(program: bytes) -> bytes:
    """A torch archive with this data.pkl and one storage of eight bytes."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", program)
        made.writestr("x/byteorder", "little")
        made.writestr("x/data/0", bytes(8))
    return file.getvalue()


@FUZZ
@given(pieces=st.lists(PIECES, max_size=30))
def test_pickle_programs(tmp_path, pieces):
    survives(TorchPickleFile, tmp_path / "x", archive(b"\x80\2" + b"".join(pieces) + b"."))
    facts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(fact, 2) for fact in facts)
    survives(
        TorchPickleFile,
        tmp_path / "x",
        start + b"\x80\2" + b"".join(pieces) + b"." + pickle.dumps(["0"], 2) + bytes(16),
    )


# ---- JSON and indices

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=10,
)
GOOD_JSON = b'{"a": [1, -2.5e3, true, null, "\\u00e9\\n"], "b": {"c": {}}, "d": NaN, "e": -Infinity}'


def parses(data: bytes) -> bool:
    try:
        found = parse_json(data, "x.json")
    except JsonError as error:
        assert str(error).startswith("x.json: ")
        return False
    assert isinstance(found, dict)
    return True


@FUZZ
@given(
    data=st.one_of(
        st.binary(max_size=60),
        damage(GOOD_JSON),
        st.text(alphabet='{}[]":,0-eE.tfn\\u \n', max_size=40).map(str.encode),
    )
)
def test_any_bytes_as_json(data):
    parses(data)


def test_json_truncated_at_every_byte_and_every_byte_replaced():
    assert parses(GOOD_JSON)
    assert not any(parses(GOOD_JSON[:length]) for length in range(len(GOOD_JSON)))
    for place in range(len(GOOD_JSON)):
        for byte in (0, 0x22, 0x7B, 0x5D, 0x80, 0xFF):
            parses(GOOD_JSON[:place] + bytes([byte]) + GOOD_JSON[place + 1 :])


@FUZZ
@given(value=JSON)
def test_json_is_what_pythons_reader_says(tmp_path, value):
    (tmp_path / "x.json").write_text(json.dumps({"value": value}))
    found = read_json(tmp_path / "x.json")
    assert repr(found) == repr({"value": json.loads(json.dumps(value))})


FILES = st.one_of(
    st.sampled_from([
        "a.safetensors", "b.safetensors", "b.safetensors/", "./a.safetensors", "../x", "/etc/passwd", "a\0b", "C:\\x",
        "", ".", "..", "index.json", "none", "\ud800", "x" * 300, "é" * 130, "a/" * 3000, "a\nb", "folder",
    ]),
    JSON,
)  # fmt: skip


@FUZZ
@given(
    places=st.one_of(JSON, st.dictionaries(st.sampled_from(["a", "b", "c", "\ud800"]), FILES, max_size=4)), more=JSON
)
def test_indices_that_lie(tmp_path, places, more):
    (tmp_path / "folder").mkdir(exist_ok=True)
    for name in "ab":
        save_safetensors(tmp_path / f"{name}.safetensors", {name: ("U8", (1,), b"x")})
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": places, "metadata": more}))
    try:
        use(open_shards(tmp_path / "index.json", lambda name: tmp_path / name))
    except FormatError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["a\0b", "x" * 300, "\ud800"])
def test_paths_no_file_can_have(text):
    for reader in (open_weights, GgufFile, SafetensorsFile, TorchPickleFile, read_json):
        with pytest.raises(FormatError, match=r"cannot be (opened|read); found "):
            reader(text)
