"""torch.save files read without torch. Hostile ones are in tests/hostile."""

import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from martlet.errors import FormatError, PickleError
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.tensors import to_float32

BOTH = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def state():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    made = OrderedDict(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict())
    made |= {
        "base": base, "transposed": base.t(), "slice": base[1:3, ::2], "row": base[2], "tied": base,
        "bf16": torch.randn(5).bfloat16(), "half": torch.randn(5).half(), "double": torch.randn(2).double(),
        "parameter": torch.nn.Parameter(torch.randn(3)), "long": torch.arange(4), "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(3.5), "ones": torch.randn(1, 1, 3).transpose(0, 2),
    }  # fmt: skip
    return made


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_saves(tmp_path, is_zip, protocol):
    made = state()
    torch.save(made, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    with TorchPickleFile(tmp_path / "x.bin") as source:
        assert source.names() == tuple(made)
        for name, tensor in made.items():
            info = source.info(name)
            assert (info.shape, info.num_bytes) == (tuple(tensor.shape), tensor.numel() * tensor.element_size())
            assert source.raw(name).tobytes() == bytes_of(tensor), name
            np.testing.assert_array_equal(
                to_float32(source.raw(name), info.dtype, info.shape), tensor.detach().float().numpy()
            )


@BOTH
def test_parts_are_read_from_the_file(tmp_path, is_zip):
    torch.save(state(), tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    with TorchPickleFile(tmp_path / "x.bin") as source:
        for name in source.names():
            raw = source.raw(name)
            for begin, end in [(0, raw.size), (raw.size // 3, raw.size - 1)]:
                out = np.empty(max(end - begin, 0), np.uint8)
                source.read(name, begin, out)
                np.testing.assert_array_equal(out, raw[begin:end], err_msg=name)


@BOTH
@pytest.mark.parametrize("name", ["base", "transposed"])
def test_a_file_that_becomes_shorter_is_an_error(tmp_path, is_zip, name):
    base = torch.randn(300, 400)
    torch.save({"base": base, "transposed": base.t()}, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    with TorchPickleFile(tmp_path / "x.bin") as source:
        out = np.empty(source.info(name).num_bytes, np.uint8)
        os.truncate(tmp_path / "x.bin", 5000)
        for look in (lambda: source.raw(name), lambda: source.read(name, 0, out)):
            with pytest.raises(FormatError, match=rf"tensor '{name}'.* has become shorter since it was opened"):
                look()


@BOTH
def test_equal_to_torchs_own_reader(tmp_path, is_zip):
    """Every type, and views of every kind over one storage, which stay views of one storage."""
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32]
    kinds += [torch.int16, torch.int8, torch.uint8, torch.bool]
    if is_zip:
        kinds += [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
        kinds += [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
    made = {str(kind): torch.arange(24).reshape(2, 3, 4).to(kind) for kind in kinds}
    base = torch.randn(5, 6, 7)
    made |= {
        "base": base, "permuted": base.permute(2, 0, 1), "stepped": base[::2, 1::2, ::3], "offset": base[3:],
        "diagonal": base.diagonal(), "one row": base[0, :1], "added axes": base[None, :, None], "flat": base.view(-1),
        "window": base.view(-1).unfold(0, 3, 3), "ids": torch.arange(9).expand(1, -1), "none": base[2:2],
    }  # fmt: skip
    torch.save(made, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    expected = torch.load(tmp_path / "x.bin", weights_only=True)
    source = TorchPickleFile(tmp_path / "x.bin")
    assert source.names() == tuple(expected)
    for name, tensor in expected.items():
        assert source.info(name).shape == tuple(tensor.shape)
        assert source.raw(name).tobytes() == bytes_of(tensor), name
    start = source.raw("base").ctypes.data
    for name in ("offset", "one row", "added axes", "flat"):
        inside = expected[name].data_ptr() - expected["base"].data_ptr()
        assert source.raw(name).ctypes.data - start == inside


def test_expanded_tensors_are_refused_with_their_numbers(tmp_path):
    """A few bytes could otherwise stand for any amount of memory."""
    torch.save({"w": torch.ones(1).expand(1000)}, tmp_path / "x.bin")
    with pytest.raises(
        PickleError, match=r"shape \[1000\], strides \[0\] at 0 must lie in its storage; found a storage of 1"
    ):
        TorchPickleFile(tmp_path / "x.bin")


@BOTH
def test_tied_tensors_share_memory_and_writing_stays_private(tmp_path, is_zip):
    path = tmp_path / "x.bin"
    torch.save(state(), path, _use_new_zipfile_serialization=is_zip)
    before = path.read_bytes()
    source = TorchPickleFile(path)
    source.raw("base").view(np.float32)[12] = 99
    assert source.raw("tied").view(np.float32)[12] == source.raw("row").view(np.float32)[0] == 99
    assert path.read_bytes() == before
    assert not np.shares_memory(source.raw("base"), source.raw("transposed"))
    source.close()
    with pytest.raises(PickleError, match="has been closed"):
        source.raw("base")


def test_newer_types(tmp_path):
    made = {"f8": torch.randn(4).to(torch.float8_e4m3fn), "u16": torch.arange(6).to(torch.uint16)[::2]}
    torch.save(made, tmp_path / "x.bin")
    source = TorchPickleFile(tmp_path / "x.bin")
    assert [source.info(name).dtype for name in made] == ["F8_E4M3", "U16"]
    assert all(source.raw(name).tobytes() == bytes_of(tensor) for name, tensor in made.items())


@BOTH
def test_numbers_and_text_beside_the_tensors_are_metadata(tmp_path, is_zip):
    torch.save({"w": torch.ones(2), "step": 3, "name": "x"}, tmp_path / "x", _use_new_zipfile_serialization=is_zip)
    source = TorchPickleFile(tmp_path / "x")
    assert source.names() == ("w",) and source.metadata == {"step": 3, "name": "x"}


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"state_dict": {"w": torch.ones(1)}},
            "a flat dict of names to tensors; found a dict under 'state_dict'",
        ),
        ([torch.ones(1)], "must hold a dict of names to tensors; found a list"),
        (torch.ones(1), "must hold a dict of names to tensors; found a single tensor"),
        ({1: torch.ones(1)}, "found a tensor under 1"),
    ],
)
def test_only_a_flat_dict_of_tensors_is_weights(tmp_path, is_zip, value, text):
    torch.save(value, tmp_path / "x", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(PickleError) as caught:
        TorchPickleFile(tmp_path / "x")
    assert text in str(caught.value) and "torch.save(model.state_dict(), path)" in str(caught.value)


def test_needs_no_torch(tmp_path):
    torch.save(state(), tmp_path / "x.bin")
    code = (
        "import sys; from martlet.formats import open_weights; source = open_weights(sys.argv[1]);"
        "assert 'torch' not in sys.modules; print(len(source))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.bin"], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(state())
