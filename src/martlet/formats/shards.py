"""Several files of weights as one source, and a model saved over several files with Hugging Face's names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, FormatError, MartletError
from martlet.formats.files import AsideFile, read_json, reason, save_error
from martlet.formats.gguf import MAGIC as GGUF_MAGIC
from martlet.formats.gguf import GgufFile
from martlet.formats.pickles import TorchPickleFile
from martlet.formats.safetensors import SafetensorsFile, write_safetensors
from martlet.formats.tensors import OpenFile, Stored, TensorInfo, TensorSource, num_bytes

SINGLE_NAME = "model.safetensors"
MAX_FILE_NAME = 255  # bytes: NAME_MAX of Linux
INDEX_NAME = "model.safetensors.index.json"
_GGUF_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.ASCII)
_SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


class Shards(TensorSource):
    """Several sources as one. A name in two of them is a FormatError. Closing it closes them all."""

    def __init__(self, sources: Sequence[TensorSource], metadata: Mapping[str, Any] | None = None) -> None:
        self.sources = tuple(sources)
        self.paths = tuple(path for source in sources for path in source.paths)
        self.metadata = metadata if metadata is not None else (sources[0].metadata if sources else {})
        self._homes: dict[str, TensorSource] = {}
        for source in sources:
            for name in source.names():
                if name in self._homes:
                    raise FormatError(
                        f"{source.paths[0]}, tensor {name!r}", f"must not also be in {self._homes[name].paths[0].name}"
                    )
                self._homes[name] = source

    def names(self) -> tuple[str, ...]:
        return tuple(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def info(self, name: str) -> TensorInfo:
        return self._homes[name].info(name)

    def raw(self, name: str) -> NDArray[np.uint8]:
        return self._homes[name].raw(name)

    def place(self, name: str) -> tuple[OpenFile, int] | None:
        return self._homes[name].place(name)

    def read(self, name: str, begin: int, out: NDArray[np.uint8]) -> None:
        self._homes[name].read(name, begin, out)

    def close(self) -> None:
        for source in self.sources:
            source.close()


def open_file(path: str | os.PathLike[str]) -> TensorSource:
    """One file of weights, told apart by its first bytes: safetensors, GGUF or a torch pickle."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as problem:
        raise FormatError(str(path), "cannot be opened", found=reason(problem)) from problem
    if start.startswith(GGUF_MAGIC):
        return GgufFile(path)
    # before pickles: a header of 640 bytes begins as a pickle of protocol 2 does
    if start[8:9] == b"{" and (start[4:8] == bytes(4) or start[:1] != b"\x80"):
        return SafetensorsFile(path)
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return TorchPickleFile(path)
    if start.startswith(b"version https://git-lfs"):
        raise FormatError(
            str(path),
            "must be a file of weights",
            found="a Git LFS pointer to one",
            remedy="Fetch it with `git lfs pull`.",
        )
    raise FormatError(
        str(path), "must be safetensors, GGUF or a torch pickle", found=repr(start[:16]) if start else "an empty file"
    )


def open_shards(index_json_path: str | os.PathLike[str], resolve: Callable[[str], Path]) -> TensorSource:
    """The files that an index names (`model.safetensors.index.json`, `pytorch_model.bin.index.json`) as one source.

    `resolve` gives the local path of a file name; names that lead out of the folder never reach it. FormatError if a
    file lacks a tensor the index promises, or holds one that the index places elsewhere. A tensor that only a file
    knows is kept: whether it may be there is the caller's to say. `metadata` is the index's.
    """
    subject = str(index_json_path)
    index = read_json(index_json_path)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FormatError(
            subject, "weight_map must map tensors to files", found="nothing" if not places else reprlib.repr(places)
        )
    for name, filename in places.items():
        if not isinstance(filename, str) or not _stays_inside(filename):
            raise FormatError(
                f"{subject}, tensor {name!r}",
                "its file must be a plain path inside the folder",
                found=reprlib.repr(filename),
            )
    metadata = index.get("metadata")
    opened: dict[str, TensorSource] = {}
    with contextlib.ExitStack() as stack:
        for filename in dict.fromkeys(places.values()):
            opened[filename] = stack.enter_context(_open_shard(subject, filename, resolve))
        for name, filename in places.items():
            if name not in opened[filename]:
                raise FormatError(f"{subject}, tensor {name!r}", f"must be in {filename}", found="no such tensor there")
        for filename, source in opened.items():
            for name in source.names():
                if places.get(name, filename) != filename:
                    raise FormatError(
                        f"{subject}, tensor {name!r}", f"must be in {places[name]} only", found=f"it in {filename}"
                    )
        shards = Shards(list(opened.values()), metadata if isinstance(metadata, dict) else {})
        stack.pop_all()
        return shards


def _stays_inside(filename: str) -> bool:
    path = PurePosixPath(filename)
    plain = bool(filename) and not any(character in filename for character in "\\\0:")
    if not plain or not filename.isprintable() or len(filename.encode()) > 10 * MAX_FILE_NAME:
        return False
    fits = all(len(part.encode()) <= MAX_FILE_NAME for part in path.parts)
    return fits and not path.is_absolute() and ".." not in path.parts and bool(path.name)


def _open_shard(subject: str, filename: str, resolve: Callable[[str], Path]) -> TensorSource:
    path = resolve(filename)
    if path is None or not path.is_file():
        raise FormatError(subject, f"names {filename}", found="no such file", remedy="Is the checkpoint complete?")
    return open_file(path)


def open_weights(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> TensorSource:
    """The weights in a file, an index or a list of files, told apart by content and not by suffix.

    An index (a JSON file) opens the files it names beside itself; several files are read as one.
    """
    if not isinstance(path, str | os.PathLike):
        if not path:
            raise ArgumentError("open_weights", "needs at least one file")
        with contextlib.ExitStack() as stack:
            shards = Shards([stack.enter_context(open_weights(one)) for one in path])
            stack.pop_all()
            return shards
    path = Path(path)
    try:
        if path.is_dir():
            raise FormatError(str(path), "must be a file of weights", found="a folder")
        with open(path, "rb") as file:
            start = file.read(8)
    except FormatError:
        raise
    except (OSError, ValueError) as problem:
        raise FormatError(str(path), "cannot be opened", found=reason(problem)) from problem
    # a safetensors file may begin with "{" too: 123 as the low byte of its header's length, whose top bytes are 0
    is_json = start[:1] == b"{" and 0 not in start
    if start.startswith(GGUF_MAGIC):
        return open_gguf(path)
    return open_shards(path, lambda name: path.parent / name) if is_json else open_file(path)


def open_gguf(path: str | os.PathLike[str], resolve: Callable[[str], Path | None] | None = None) -> GgufFile | Shards:
    """A GGUF file; one that was split (`NAME-00001-of-0000N.gguf`) with all its parts, and the first one's metadata.

    `resolve` gives the path of a part by its file name; without it the parts lie beside the first. FormatError if
    another part than the first is opened, if one is missing, or if they are not parts of one model.
    """
    path = Path(path)
    first = GgufFile(path)
    count = first.metadata.get("split.count", 1)
    if type(count) is int and count == 1:
        return first
    found = _GGUF_PART.fullmatch(path.name)
    is_first = found is not None and found[2] == "00001" and _is_number(first, "split.no", 0)
    if found is None or not is_first or not _is_number(first, "split.count", int(found[3])):
        total = f"{count:05d}" if isinstance(count, int) else "0000N"
        raise FormatError(
            str(path), f"is one part of {count!r:.20}", remedy=f"Open the first part, NAME-00001-of-{total}.gguf."
        )
    parts: list[TensorSource] = [first]
    for number in range(2, int(found[3]) + 1):
        name = f"{found[1]}-{number:05d}-of-{found[3]}.gguf"
        place = resolve(name) if resolve is not None else path.with_name(name)
        if place is None or not place.is_file():
            raise FormatError(str(path), f"its part {name} must be beside it", found="no such file")
        part = GgufFile(place)
        if not (_is_number(part, "split.no", number - 1) and _is_number(part, "split.count", int(found[3]))):
            said = [f"{part.metadata.get(key)!r:.20}" for key in ("split.no", "split.count")]
            raise FormatError(
                str(place),
                f"must say it is part {number - 1} of {count}",
                found=f"split.no {said[0]}, split.count {said[1]}",
            )
        parts.append(part)
    shards = Shards(parts, first.metadata)
    promised = first.metadata.get("split.tensors.count", len(shards))
    if type(promised) is not int or promised != len(shards):
        raise FormatError(
            str(path),
            f"its parts must hold {promised!r:.20} tensors",
            found=len(shards),
            remedy="Are all parts of one model?",
        )
    return shards


def _is_number(source: GgufFile, key: str, wanted: int) -> bool:
    value = source.metadata.get(key)
    return type(value) is int and value == wanted


def gguf_models(names: Iterable[str]) -> list[str]:
    """Those of `names` that are a language model: of a split one the first part, and no image projectors."""
    models = [name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name]
    return [name for name in models if not (part := _GGUF_PART.fullmatch(name)) or part[2] == "00001"]


def save_sharded(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, Stored],
    max_shard_bytes: int,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Save as `model.safetensors`, or as numbered shards with an index if there are more than `max_shard_bytes`.

    Tensors keep their order; one larger than the limit has a shard to itself. All files are written aside and complete
    on the disk before the first takes its name; those of an earlier save that are in the way are removed afterwards.
    Returns the paths, the index last. SaveError if the disk refuses: then the earlier save is as it was.
    """
    folder = Path(folder)
    if max_shard_bytes < 1:
        raise ArgumentError("max_shard_bytes", "must be at least 1", found=max_shard_bytes)
    groups = _groups(tensors, max_shard_bytes)
    if len(groups) == 1:
        files = {SINGLE_NAME: groups[0]}
    else:
        files = {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [*files, INDEX_NAME] if len(files) > 1 else list(files)
        with contextlib.ExitStack() as stack:
            asides = []
            for name in names:
                aside = AsideFile(folder / name)
                stack.callback(aside.abandon)
                if name == INDEX_NAME:
                    aside.file.write(_index(files, tensors))
                else:
                    write_safetensors(aside.file, {key: tensors[key] for key in files[name]}, metadata)
                aside.finish()
                asides.append(aside)
            for aside in asides:
                aside.commit()
    except MartletError:
        raise
    except OSError as problem:
        raise save_error(folder, problem) from problem
    for old in folder.iterdir():
        is_ours = _SHARD_NAME.fullmatch(old.name) or old.name in (SINGLE_NAME, INDEX_NAME)
        if is_ours and old.name not in names:
            old.unlink(missing_ok=True)
    return [folder / name for name in names]


def _groups(tensors: Mapping[str, Stored], max_shard_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    held = 0
    for name, (dtype, shape, _) in tensors.items():
        size = num_bytes(dtype, tuple(shape))
        if groups[-1] and held + size > max_shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _index(files: Mapping[str, Sequence[str]], tensors: Mapping[str, Stored]) -> bytes:
    total = sum(num_bytes(dtype, tuple(shape)) for dtype, shape, _ in tensors.values())
    places = {name: filename for filename, names in files.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
