"""Several files as one, sharded saving with Hugging Face's names, and telling files apart by content."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from martlet.errors import ArgumentError, FormatError, JsonError, SaveError
from martlet.formats import open_shards, open_weights, save_sharded
from martlet.formats.files import write_json
from martlet.formats.gguf import GgufFile
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.safetensors import SafetensorsFile, save_safetensors
from martlet.formats.shards import Shards


def made(count=5, size=10):
    return {f"t{i}": ("F32", (size,), np.full(size, i, np.float32)) for i in range(count)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(source, tensors):
    assert set(source.names()) == set(tensors) and len(source) == len(tensors)
    for name, (dtype, shape, data) in tensors.items():
        assert (source.info(name).dtype, source.info(name).shape) == (dtype, shape)
        assert source.raw(name).tobytes() == data.tobytes()


def test_one_file_when_it_fits(tmp_path):
    assert save_sharded(tmp_path / "m", made(), 200) == [tmp_path / "m" / "model.safetensors"]
    assert_same(open_weights(tmp_path / "m" / "model.safetensors"), made())


def test_shards_when_it_does_not(tmp_path):
    paths = save_sharded(tmp_path, made(), 80, {"format": "pt"})
    assert [path.name for path in paths] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)] + [
        "model.safetensors.index.json"
    ]
    index = json.loads(paths[-1].read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["t2"] == "model-00002-of-00003.safetensors"
    assert SafetensorsFile(paths[0]).metadata == {"format": "pt"}
    with open_weights(paths[-1]) as source:
        assert_same(source, made())
        assert source.paths == tuple(paths[:-1]) and source.metadata == {"total_size": 200}
    assert_same(open_weights(paths[:-1]), made())


def test_a_tensor_over_the_limit_has_its_own_shard(tmp_path):
    tensors = {"a": ("U8", (5,), np.zeros(5, np.uint8)), "b": ("U8", (99,), np.zeros(99, np.uint8))} | made(1, 1)
    save_sharded(tmp_path, tensors, 10)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {name: f"model-0000{i}-of-00003.safetensors" for i, name in enumerate(tensors, 1)}
    with pytest.raises(ArgumentError, match="max_shard_bytes: must be at least 1; found 0"):
        save_sharded(tmp_path, tensors, 0)


def test_an_earlier_save_is_cleared_away_and_other_files_kept(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    kept = ["adapter_model.safetensors", "config.json"]
    save_sharded(tmp_path, made(), 40)
    save_sharded(tmp_path, made(4), 80)
    assert names(tmp_path) == [
        *kept, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
    ]  # fmt: skip
    save_sharded(tmp_path, made(), 10**6)
    assert names(tmp_path) == [*kept, "model.safetensors"]
    save_sharded(tmp_path, made(4), 80)
    assert "model.safetensors" not in names(tmp_path)


def test_a_save_may_read_from_the_files_it_replaces(tmp_path):
    save_sharded(tmp_path, made(), 80)
    source = open_weights(tmp_path / "model.safetensors.index.json")
    again = {name: ("F32", (10,), lambda name=name: source.raw(name)) for name in source.names()}
    save_sharded(tmp_path, again, 80)
    assert_same(open_weights(tmp_path / "model.safetensors.index.json"), made())


def test_a_failed_save_leaves_the_earlier_one_whole(tmp_path):
    save_sharded(tmp_path, made(), 80)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails():
        raise OSError(28, os.strerror(28))

    changed = {name: ("F32", (10,), np.ones(10, np.float32)) for name in made()} | {"t4": ("F32", (10,), fails)}
    with pytest.raises(SaveError, match="found ENOSPC"):
        save_sharded(tmp_path, changed, 80)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_hugging_face_loads_what_we_shard_and_the_reverse(tmp_path):
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=64
    )
    model = transformers.LlamaForCausalLM(config)
    state = model.state_dict()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    index = tmp_path / "theirs" / "model.safetensors.index.json"
    tensors = {name: ("F32", tuple(tensor.shape), tensor.numpy()) for name, tensor in state.items()}
    assert_same(open_weights(index), tensors)

    config.save_pretrained(tmp_path / "ours")
    save_sharded(tmp_path / "ours", tensors, 10_000, {"format": "pt"})
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.fixture
def index(tmp_path):
    """A function that writes an index over a.safetensors (t0, t1) and b.safetensors (t2), and opens it."""
    save_safetensors(tmp_path / "a.safetensors", dict(list(made(2).items())))
    save_safetensors(tmp_path / "b.safetensors", {"t2": made(3)["t2"]})

    def write(places, **extra):
        write_json(tmp_path / "index.json", {"weight_map": places} | extra)
        return open_shards(tmp_path / "index.json", lambda name: tmp_path / name)

    return write


A, B = "a.safetensors", "b.safetensors"


def test_an_index_and_tensors_it_does_not_name(index):
    assert_same(index({"t0": A, "t1": A, "t2": B}, metadata={"x": 1}), made(3))
    assert set(index({"t0": A, "t2": B}).names()) == {"t0", "t1", "t2"}


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ({}, "weight_map must map tensors to files; found nothing"),
        ([A], "weight_map must map tensors to files; found ['a.safetensors']"),
        ({"t0": "c.safetensors"}, "names c.safetensors; found no such file. Is the checkpoint complete?"),
        ({"t0": A, "t1": A, "t2": B, "t9": B}, "tensor 't9': must be in b.safetensors; found no such tensor there."),
        ({"t0": B, "t1": A, "t2": B}, "tensor 't0': must be in b.safetensors; found no such tensor there."),
        ({"t0": 3}, "its file must be a plain path inside the folder; found 3"),
    ]
    + [
        ({"t0": name}, "tensor 't0': its file must be a plain path inside the folder")
        for name in ("../a.safetensors", "/etc/passwd", "x/../../a", "..", "", ".", "C:\\x", "a\\..\\b", "a\0b")
    ],
)
def test_indices_that_lie(index, places, text):
    with pytest.raises(FormatError) as caught:
        index(places)
    assert text in str(caught.value)


def test_a_path_that_leads_out_is_never_resolved(tmp_path):
    write_json(tmp_path / "i", {"weight_map": {"good": "a", "bad": "../x"}})
    with pytest.raises(FormatError, match="must be a plain path"):
        open_shards(tmp_path / "i", lambda name: pytest.fail(f"resolved {name}"))


def test_a_tensor_in_two_files(tmp_path):
    save_safetensors(tmp_path / "a", made(2))
    save_safetensors(tmp_path / "b", made(1))
    with pytest.raises(FormatError, match="tensor 't0': must not also be in a"):
        open_weights([tmp_path / "a", tmp_path / "b"])
    write_json(tmp_path / "i", {"weight_map": {"t0": "a", "t1": "b"}})
    with pytest.raises(FormatError, match="tensor 't1': must be in b; found no such tensor there"):
        open_weights(tmp_path / "i")
    write_json(tmp_path / "i", {"weight_map": {"t0": "b", "t1": "a"}})
    with pytest.raises(FormatError, match="tensor 't0': must be in b only; found it in a"):
        open_weights(tmp_path / "i")


def test_a_bin_index(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"y": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {"x": "pytorch_model-00001-of-00002.bin", "y": "pytorch_model-00002-of-00002.bin"}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})
    source = open_weights(tmp_path / "pytorch_model.bin.index.json")
    assert source.names() == ("x", "y") and source.info("y").shape == (3,)


def test_files_are_told_apart_by_content(tmp_path):
    path = tmp_path / "weights.any"
    for is_zip in (True, False):
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=is_zip)
        assert isinstance(open_weights(path), TorchPickleFile)
    save_gguf(path, {}, {})
    assert isinstance(open_weights(str(path)), GgufFile)
    save_file({"a": torch.ones(1)}, path)
    assert isinstance(open_weights(path), SafetensorsFile)


def test_a_header_length_that_looks_like_a_brace(tmp_path):
    for length in range(1000):
        save_safetensors(tmp_path / "x", {"a" * length: ("U8", (1,), b"1")})
        data = (tmp_path / "x").read_bytes()
        header = data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip()
        if len(header) % 256 <= 123:
            break
    padded = header + b" " * (123 - len(header))
    (tmp_path / "x").write_bytes(len(padded).to_bytes(8, "little") + padded + b"1")
    assert (tmp_path / "x").read_bytes()[:1] == b"{"
    assert len(load_file(tmp_path / "x")) == 1
    assert isinstance(open_weights(tmp_path / "x"), SafetensorsFile)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", FormatError, "must be safetensors, GGUF or a torch pickle; found an empty file"),
        (b"<!DOCTYPE html>", FormatError, "found b'<!DOCTYPE html>'"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            FormatError,
            "a Git LFS pointer to one. Fetch it with `git lfs",
        ),
        (b'{"a": 1', JsonError, "must be whole JSON"),
        (b'{"model_type": "llama"}', FormatError, "weight_map must map tensors to files; found nothing"),
    ],
)
def test_other_files(tmp_path, data, error, text):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(error) as caught:
        open_weights(tmp_path / "x")
    assert text in str(caught.value)


def test_places_without_a_file(tmp_path):
    with pytest.raises(FormatError, match="cannot be opened; found No such file"):
        open_weights(tmp_path / "x")
    with pytest.raises(FormatError, match="must be a file of weights; found a folder"):
        open_weights(tmp_path)
    with pytest.raises(ArgumentError, match="needs at least one file"):
        open_weights([])


def test_a_split_gguf(tmp_path):
    for number in range(2):
        split = {"split.no": np.uint16(number), "split.count": np.uint16(2), "k": number}
        save_gguf(tmp_path / f"m-0000{number + 1}-of-00002.gguf", split, {f"t{number}": made(2)[f"t{number}"]})
    source = open_weights(tmp_path / "m-00001-of-00002.gguf")
    assert isinstance(source, Shards) and source.metadata["k"] == 0
    assert_same(source, made(2))
    with pytest.raises(FormatError, match=r"is one part of 2\. Open the first part, NAME-00001-of-00002\.gguf"):
        open_weights(tmp_path / "m-00002-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(FormatError, match=r"its part m-00002-of-00002\.gguf must be beside it"):
        open_weights(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize("header_bytes", [640, 896, 1152, 1408, 66176])
def test_a_safetensors_header_whose_length_looks_like_a_pickle(header_bytes: int, tmp_path: Path) -> None:
    """640 is 80 02 in hexadecimal, as a pickle of protocol 2 begins."""
    header = b'{"__metadata__":{"x":"%s"}}' % (b"a" * (header_bytes - 25))
    (tmp_path / "model.safetensors").write_bytes(header_bytes.to_bytes(8, "little") + header)
    with open_weights(tmp_path / "model.safetensors") as source:
        assert isinstance(source, SafetensorsFile) and len(source) == 0
