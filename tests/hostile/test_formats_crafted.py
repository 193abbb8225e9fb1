"""Files made to deceive one reader: each lie gets its own sentence, in little memory and time."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from martlet.errors import FormatError, GgufError, PickleError, SafetensorsError
from martlet.formats import open_shards, open_weights
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.safetensors import SafetensorsFile


def sentence(value: Any) -> str | None:
    """A test is known by what is said; the bytes would be unreadable."""
    return value[:60] if isinstance(value, str) else "-"


def refused(reader: Any, path: Path, data: bytes, kind: type[FormatError]) -> str:
    path.write_bytes(data)
    with pytest.raises(kind) as caught:
        reader(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and len(text) < 1000 + len(str(path))
    return text


# ---- safetensors


def packed(header: Any, size: int = 8, length: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data + bytes(size)


def f32(begin: int, end: int, *shape: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "must begin with 8 bytes of header length; found a file of 0 bytes"),
        (packed({}, length=2**63), "the header may have at most 100000000 bytes; found 9223372036854775808"),
        (packed({}, length=2**64 - 1), "the header may have at most 100000000 bytes; found 18446744073709551615"),
        (packed({}, length=99_999_999), "the header needs 99999999 bytes; found 10. Is the file truncated?"),
        (packed(b"[]"), "the header must begin with '{'"),
        (packed(b'{"a":'), "header: must be whole JSON"),
        (packed(b'{"\xff":1}'), "header: must be UTF-8; found byte 0xff at 2"),
        (packed(b'{"a":' * 60_000 + b"1" + b"}" * 60_000), "header: must not nest deeper than 100"),
        (packed({"a": f32(0, 8, 2)}, 12), "no byte may follow the last tensor; found 4"),
        (packed({"a": f32(0, 8, 2)}, 4), "the tensors take 8 bytes; found 4. Is the file truncated?"),
        (packed({"a": f32(0, 4, 1), "b": f32(2, 6, 1)}, 6), "tensor 'b': must not overlap 'a'"),
        (packed({"a": f32(0, 4, 1), "b": f32(0, 4, 1)}, 4), "tensor 'b': must not overlap 'a'"),
        (packed({"a": f32(0, 4, 1), "b": f32(6, 10, 1)}, 10), "tensor 'b': no byte may lie between tensors; found 2"),
        (packed({"a": f32(2**63 - 8, 2**63 - 4, 1)}), "tensor 'a': no byte may lie between tensors"),
        (packed({"a": f32(2**63, 2**63 + 8, 2)}), "tensor 'a': data_offsets must be [begin, end]"),
        (packed({"a": f32(8, 0, 2)}), "data_offsets must be [begin, end]; found [8, 0]"),
        (packed({"a": f32(-8, 0, 2)}), "data_offsets must be [begin, end]; found [-8, 0]"),
        (packed({"a": f32(0, 8, -2)}), "shape must be at most 32 whole numbers; found [-2]"),
        (packed({"a": f32(0, 8, 2.0)}), "shape must be at most 32 whole numbers; found [2.0]"),
        (packed({"a": f32(0, 8, True, 2)}), "shape must be at most 32 whole numbers; found [True, 2]"),
        (packed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), "whole numbers; found [nan]"),
        (packed({"a": f32(0, 8, *[1] * 33)}), "shape must be at most 32 whole numbers"),
        (packed({"a": f32(0, 8, *[2**62] * 20)}), "tensor 'a': may have at most 288230376151711744 elements"),
        (packed({"a": f32(0, 0, 0, 2**62)}, 0), "tensor 'a': may have at most 288230376151711744 elements"),
        (packed({"a": f32(0, 8, 3)}), "tensor 'a': F32 of shape [3] takes 12 bytes; found 8 bytes at [0, 8]"),
        (packed({"a": f32(0, 8, 2**57)}), "takes 5.76460752303423e+17 bytes; found 8 bytes at [0, 8]"),
        (packed({"a": f32(0, 8, 3, dtype="F4")}), "F4 of shape [3] takes 1.5 bytes; found 8 bytes"),
        (packed({"a": f32(0, 8, 2, dtype="f32")}), "dtype must be one of BOOL, F4"),
        (packed({"a": f32(0, 8, 2, dtype=["F32"])}), "dtype must be one of BOOL, F4"),
        (packed({"a": {"dtype": "F32"}}), "must have exactly dtype, shape and data_offsets; found 'dtype'"),
        (packed({"a": f32(0, 8, 2) | {"b": 1}}), "must have exactly dtype, shape and data_offsets"),
        (packed({"a": 5}), "must have exactly dtype, shape and data_offsets; found 5"),
        (packed({"__metadata__": {"a": 1}}, 0), "__metadata__ must map strings to strings"),
        (packed(b'{"a":1,"a":2}'), "a key may appear only once in an object; found 'a' twice"),
    ],
    ids=sentence,
)
def test_safetensors_that_lie(tmp_path, data, text):
    assert text in refused(SafetensorsFile, tmp_path / "x", data, SafetensorsError)


# ---- GGUF


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def key(name: bytes, code: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", code) + value


def tensor(name: bytes, *axes: int, code: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, code, offset)


def gguf_bytes(*parts: bytes, keys: int = 0, tensors: int = 0, version: int = 3, rest: int = 0) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    return start.ljust(-(-len(start) // 32) * 32, b"\0") + bytes(rest)


U64_MAX = struct.pack("<Q", 2**64 - 1)
NESTED = struct.pack("<IQ", 9, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGU", "must begin with 'GGUF'; found b'GGU'"),
        (gguf_bytes(version=1), "version: must be 2 or 3; found 1"),
        (gguf_bytes(version=0x03000000), "version: must be little-endian; found a big-endian file"),
        (gguf_bytes(tensors=2**63), "tensor count: 9223372036854775808 tensors do not fit"),
        (gguf_bytes(keys=2**64 - 1), "key count: 18446744073709551615 of at least 13 bytes must fit in the file"),
        (gguf_bytes(U64_MAX, keys=1, rest=32), "a key: may have at most 65535 bytes; found 18446744073709551615"),
        (gguf_bytes(key(b"k", 8, U64_MAX), keys=1), "key 'k': needs 18446744073709551615 bytes"),
        (gguf_bytes(key(b"k", 13, b""), keys=1), "key 'k': its value type must be 0 to 12; found 13"),
        (gguf_bytes(key(b"\xff", 0, b"1"), keys=1), "a key: must be UTF-8; found damage at byte 32"),
        (gguf_bytes(*[key(b"k", 0, b"1")] * 2, keys=2), "key 'k': may appear only once; found it twice"),
        (gguf_bytes(key(b"k", 9, struct.pack("<I", 0) + U64_MAX), keys=1), "key 'k', length: 18446744073709551615 of"),
        (gguf_bytes(key(b"k", 9, struct.pack("<IQ", 8, 2) + U64_MAX), keys=1, rest=32), "key 'k': needs"),
        (gguf_bytes(key(b"k", 9, struct.pack("<IQ", 99, 1)), keys=1), "key 'k', item type: must be 0 to 12; found 99"),
        (gguf_bytes(key(b"k", 9, NESTED * 20), keys=1), "key 'k': arrays may nest 8 deep at most"),
        (gguf_bytes(key(b"general.alignment", 4, struct.pack("<I", 24)), keys=1), "must be a power of two; found 24"),
        (gguf_bytes(key(b"general.alignment", 8, text(b"8")), keys=1), "must be a power of two; found '8'"),
        (gguf_bytes(tensor(b"t", 1, 1, 1, 1, 1), tensors=1), "tensor 't': may have at most 4 axes; found 5"),
        (gguf_bytes(tensor(b"t", 2**63, 2**63), tensors=1), "tensor 't': may have at most 288230376151711744 elements"),
        (gguf_bytes(tensor(b"t", 0, 2**63), tensors=1), "tensor 't': may have at most 288230376151711744 elements"),
        (gguf_bytes(tensor(b"t", 8, code=4), tensors=1), "its type must be one of F32, F16, I8"),
        (gguf_bytes(tensor(b"t", 33, code=8), tensors=1), "rows of Q8_0 must be a multiple of 32 long; found"),
        (gguf_bytes(tensor(b"t", code=8), tensors=1), "rows of Q8_0 must be a multiple of 32 long; found shape []"),
        (gguf_bytes(tensor(b"t", 8, offset=3), tensors=1), "its offset must be a multiple of 32; found 3"),
        (gguf_bytes(tensor(b"t", 8, offset=2**64 - 32), tensors=1, rest=32), "its 32 bytes at 18446744073709551584"),
        (gguf_bytes(tensor(b"t", 8), tensors=1, rest=31), "its 32 bytes at 0 must lie in the file; found 31 bytes"),
        (gguf_bytes(tensor(b"t", 8), tensor(b"t", 8), tensors=2), "tensor 't': a name may appear only once"),
        (gguf_bytes(tensor(b"t", 16), tensor(b"u", 8, offset=32), tensors=2, rest=64), "'u': must not overlap 't'"),
    ],
    ids=sentence,
)  # fmt: skip
def test_gguf_that_lies(tmp_path, data, said):
    assert said in refused(GgufFile, tmp_path / "x", data, GgufError)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (key(b"k", 7, b"\2"), "key 'k': a truth value must be 0 or 1; found 2"),
        (key(b"k", 8, text(b"\xff")), "key 'k': must be UTF-8"),
        (key(b"k", 9, struct.pack("<IQ", 8, 1) + text(b"\xff")), "key 'k', item 0: must be UTF-8"),
        (key(b"k", 9, struct.pack("<IQ", 7, 2) + b"\0\3"), "key 'k': a truth value must be 0 or 1; found 3"),
    ],
    ids=sentence,
)
def test_gguf_values_are_checked_when_they_are_read(tmp_path, value, said):
    (tmp_path / "x").write_bytes(gguf_bytes(value, keys=1))
    source = GgufFile(tmp_path / "x")
    with pytest.raises(GgufError) as caught:
        source.metadata["k"]
    assert said in str(caught.value)


@pytest.mark.parametrize("count", [np.array([2, 2], np.uint32), "2", 2.0, True, 0, -1, 2**62, 100_000])
def test_a_split_count_that_lies(tmp_path, count):
    path = tmp_path / "m-00001-of-00002.gguf"
    save_gguf(path, {"split.no": 0, "split.count": count}, {})
    with pytest.raises(FormatError, match=r"is one part of .* Open the first part"):
        open_weights(path)


# ---- torch pickles: nothing they name may run


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def archive(program: bytes, method: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("x/data.pkl", program)
        for name, data in ({"byteorder": b"little", "data/0": bytes(8)} | entries).items():
            made.writestr(f"x/{name}", data)
    return file.getvalue()


def legacy(program: bytes, keys: Any = (), storages: bytes = b"") -> bytes:
    facts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(fact, 2) for fact in facts) + program + pickle.dumps(list(keys), 2) + storages


def calls(marker: Path) -> dict[str, bytes]:
    import os

    command = f"touch {marker}"
    line = command.encode()
    made = {f"protocol {p}": pickle.dumps({"w": Call(os.system, command)}, p) for p in range(6)}
    made |= {
        "eval": pickle.dumps(Call(eval, f"open({str(marker)!r}, 'w')"), 2),
        "in a state": pickle.dumps({"a": {"b": [Call(exec, f"open({str(marker)!r}, 'w')")]}}, 4),
        "inst": b"(V" + line + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nV" + line + b"\no.",
        "newobj": b"\x80\2cos\nsystem\nX" + struct.pack("<I", len(line)) + line + b"\x85\x81.",
        "extension": b"\x80\2\x82\1)R.",
        "as a key": b"\x80\2}cos\nsystem\nX" + struct.pack("<I", len(line)) + line + b"\x85RK\1s.",
        "as a storage": b"\x80\2cos\nsystem\nX" + struct.pack("<I", len(line)) + line + b"\x85RQ.",
        "dotted name": b"\x80\4\x8c\5torch\x94\x8c\x0f_utils.os.system\x94\x93\x8c\1x\x85R.",
        "getattr": b"\x80\2c__builtin__\ngetattr\nctorch\nload\n\x86R.",
        "torch.load": b"\x80\2ctorch\nload\n\x8c\1x\x85R.",
        "module": pickle.dumps(torch.nn.Linear(1, 1), 2),
    }
    return made


@pytest.mark.parametrize("name", sorted(calls(Path("x"))))
@pytest.mark.parametrize("layout", [archive, legacy, bytes])
def test_no_pickle_runs_anything(tmp_path, name, layout):
    marker = tmp_path / "ran"
    said = refused(TorchPickleFile, tmp_path / "x", layout(calls(marker)[name]), PickleError)
    assert "was run" in said or "only the opcodes of torch.save are read" in said or "must be a torch.save file" in said
    assert not marker.exists()


def test_a_global_is_named_and_the_remedy_too(tmp_path):
    import os

    said = refused(TorchPickleFile, tmp_path / "x", archive(pickle.dumps(Call(os.system, "true"), 2)), PickleError)
    assert "holds more than weights, and no code of it was run; found the global posix.system. Save only" in said


def storage(key: bytes = b"0", count: int = 2, kind: bytes = b"FloatStorage") -> bytes:
    return (
        b"(X\7\0\0\0storagectorch\n" + kind + b"\nX\1\0\0\0" + key + b"X\3\0\0\0cpuJ" + struct.pack("<i", count) + b"tQ"
    )


def number(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def view(store: bytes, offset: int, shape: list[int], strides: list[int]) -> bytes:
    """The program of {"w": that view of that storage}."""
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + store + number(offset) + b"".join(sizes) + b"\x89}tR"
    return b"\x80\2}X\1\0\0\0w" + call + b"s."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive(view(storage(), 1, [2], [1])), "must lie in its storage; found a storage of 2 elements"),
        (archive(view(storage(), 0, [2, 2], [0, 0])), "must lie in its storage"),
        (archive(view(storage(), 0, [2**40], [0])), "must lie in its storage"),
        (archive(view(storage(), 0, [2], [2**61])), "must lie in its storage"),
        (archive(view(storage(), 2**61, [1], [1])), "must lie in its storage"),
        (archive(view(storage(), -1, [1], [1])), "a tensor needs an offset, sizes and strides"),
        (archive(view(storage(), 0, [-1], [1])), "a tensor needs an offset, sizes and strides"),
        (archive(view(storage(), 0, [1], [1, 1])), "a tensor needs an offset, sizes and strides"),
        (archive(view(storage(), 0, [2**61] * 30, [0] * 30)), "may have at most 288230376151711744 elements"),
        (archive(view(storage(), 0, [0, 2**61], [1, 1])), "may have at most 288230376151711744 elements"),
        (archive(view(storage(), 0, [1] * 33, [1] * 33)), "may have at most 32 axes; found 33"),
        (archive(view(storage(count=3), 0, [1], [1])), "storage 0 needs 12 bytes; found 8"),
        (archive(view(storage(count=2**31 - 1), 0, [1], [1])), "storage 0 needs 8589934588 bytes; found 8"),
        (archive(view(storage(count=-1), 0, [1], [1])), "a persistent id must name a storage"),
        (archive(view(storage(b"7"), 0, [1], [1])), "the archive must hold x/data/7. Is the file damaged?"),
        (archive(view(storage(kind=b"float32"), 0, [1], [1])), "must name a storage; found torch.float32"),
        (archive(view(b"N", 0, [1], [1])), "a tensor needs a storage; found NoneType"),
        (archive(b"\x80\2}\x8a\x09" + b"\xff" * 8 + b"\0K\1s."), "a key must be text or a small whole number"),
        (archive(b"\x80\2}" + b")" + b"\x85" * 2000 + b"K\1s."), "a key must be text or a small whole number"),
        (archive(b"\x80\2}\x94h\0h\0s."), "a key must be text or a small whole number"),
        (archive(b"\x80\2]\x94h\0a."), "must hold a dict of names to tensors; found a list"),
        (archive(b"\x80\2N"), "is a damaged pickle; found its end"),
        (archive(b"\x80\2."), "is a damaged pickle; found a missing value"),
        (archive(b"\x80\2NN."), "is a damaged pickle; found 1 values left over"),
        (archive(b"\x80\2X\xff\xff\xff\xffa."), "is a damaged pickle; found its end"),
        (archive(b"\x80\4\x8d" + U64_MAX + b"a."), "is a damaged pickle; found its end"),
        (archive(b"\x80\2c" + b"a" * 2000), "found an endless line"),
        (archive(b"\x80\2X\1\0\0\0\xff."), "text must be UTF-8"),
        (archive(b"\x80\6}."), "the pickle protocol may be at most 5; found 6"),
        (archive(b"\x80\2}.", zipfile.ZIP_DEFLATED), "must be stored as it is; found a compressed or encrypted entry"),
        (archive(b"\x80\2}.", byteorder=b"big"), "must be little-endian; found b'big'"),
        (archive(b"\x80\2}.", **{"constants.pkl": b""}), "holds a TorchScript program, and no code of it was run"),
        (archive(b"\x80\2}.", **{"sub/data.pkl": b""}), "a torch archive must hold one data.pkl; found 2"),
        (archive(b"\x80\2}.")[:-30], "must be a whole zip archive"),
        (legacy(b"\x80\2}.", [5]), "must list the storages of its tensors; found [5]"),
        (legacy(b"\x80\2}.", ["0"]), "must list the storages of its tensors; found ['0']"),
        (pickle.dumps(3, 2), "must be a torch.save file of weights; found another pickle"),
        (pickle.dumps({"a": 1}, 2), "must be a torch.save file of weights; found another pickle"),
    ],
    ids=sentence,
)  # fmt: skip
def test_pickles_that_lie(tmp_path, data, said):
    assert said in refused(TorchPickleFile, tmp_path / "x", data, PickleError)


def test_a_storage_the_old_layout_cuts_short(tmp_path):
    program = view(storage().replace(b"tQ", b"NtQ"), 0, [2], [1])
    whole = legacy(program, ["0"], struct.pack("<Q", 2) + bytes(8))
    (tmp_path / "x").write_bytes(whole)
    assert TorchPickleFile(tmp_path / "x").raw("w").tobytes() == bytes(8)
    for damaged in (whole[:-1], legacy(program, ["0"], struct.pack("<Q", 2**61 + 2) + bytes(8))):
        assert "storage 0 needs 8 bytes at" in refused(TorchPickleFile, tmp_path / "x", damaged, PickleError)


def test_any_stride_of_an_axis_of_one(tmp_path):
    (tmp_path / "x").write_bytes(archive(view(storage(), 0, [1, 2, 1], [2**61, 1, 2**61])))
    assert TorchPickleFile(tmp_path / "x").raw("w").tobytes() == bytes(8)
    (tmp_path / "x").write_bytes(archive(view(storage(count=2), 0, [1, 1, 2], [2**61, 2**61, 0])))
    assert TorchPickleFile(tmp_path / "x").info("w").shape == (1, 1, 2)
    assert TorchPickleFile(tmp_path / "x").raw("w").tobytes() == bytes(8)


def test_an_entry_that_comes_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(b"\x80\2}.", **{"data.pkl": b"\x80\2]."})
    assert "an archive entry may appear only once" in refused(TorchPickleFile, tmp_path / "x", data, PickleError)


# ---- bombs: bounded memory and time

BOMBS = """
import io, json, resource, struct, sys, zipfile
from pathlib import Path
from martlet.errors import FormatError
from martlet.formats import open_weights
from martlet.formats.files import read_json

path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def refuse(reader, write):
    with open(path, "wb") as file:
        write(file)
    try:
        source = reader(path)
        for name in source.names():
            source.raw(name)
    except FormatError as error:
        assert len(str(error)) < 2000, len(str(error))
        return
    raise SystemExit(f"{write} was read")

def archive(program, method=zipfile.ZIP_STORED):
    def write(file):
        with zipfile.ZipFile(file, "w", method) as made:
            made.writestr("x/data.pkl", program)
    return write

def sparse(start, size):
    def write(file):
        file.write(start)
        file.truncate(size)
    return write

header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
refuse(open_weights, sparse(b"GGUF" + struct.pack("<IQQ", 3, 2**31, 2**30), 1 << 36))
refuse(open_weights, sparse(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**35), 1 << 36))
refuse(open_weights, sparse(len(header).to_bytes(8, "little") + header, 1 << 36))
refuse(open_weights, sparse((10**8).to_bytes(8, "little") + b"{", 1 << 30))
refuse(open_weights, archive(b"\\x80\\2}", zipfile.ZIP_DEFLATED))
refuse(open_weights, archive(bytes(64 << 20), zipfile.ZIP_DEFLATED))
refuse(open_weights, archive(b"\\x80\\2" + b"(" * 12_000_000 + b"."))
refuse(open_weights, archive(b"\\x80\\2" + b")" + b"\\x85" * 1_000_000 + b"."))
laughs = b"\\x80\\4]\\x94" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"e\\x94" for i in range(60))
refuse(open_weights, archive(laughs + b"."))
refuse(open_weights, archive(b"\\x80\\4X\\1\\0\\0\\0k\\x940}h\\0" + laughs[2:] + b"s."))
refuse(read_json, lambda file: file.write(b'{"a":[' + b"[]," * 20_000_000))
refuse(read_json, sparse(b"{", 1 << 36))
refuse(read_json, lambda file: file.write(b'{"a":' + b"9" * 10_000_000 + b"}"))
refuse(read_json, lambda file: file.write(b'{"a":' * 5_000_000))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(peak // 1024)
"""


def test_bombs_take_little_memory(tmp_path):
    """Sparse files of 64 GiB, archives that grow, programs of millions of steps, JSON of millions of lists."""
    command = [sys.executable, "-W", "error", "-c", BOMBS, str(tmp_path / "bomb")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    assert int(done.stdout) < 1000


def test_an_index_may_not_lead_out_or_in_circles(tmp_path):
    for filename in ("index.json", "../x", "/etc/passwd", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": filename}}))
        with pytest.raises(FormatError):
            open_shards(tmp_path / "index.json", lambda name: tmp_path / name)
