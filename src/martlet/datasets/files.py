"""`DataFile`: one file to read, wherever it is: local, remote through fsspec, compressed, or inside an archive."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import IO, Any, cast

from martlet.datasets.retrying import Retried, opened
from martlet.errors import (
    ArgumentError,
    DataFileError,
    DatasetNotFoundError,
    MartletError,
    MissingDependencyError,
)

MAX_EXPANSION = 200  # bytes out of one byte in, asked only of what unpacks to more than MAX_SMALL
MAX_SMALL = 1 << 30
log = logging.getLogger("martlet.datasets")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """`url` is a local path or an fsspec URL; `member` the name inside the archive that `url` is."""

    url: str
    member: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    @property
    def name(self) -> str:
        """The name that tells its format: of the member, or of the file."""
        return (self.member or self.url.split("::")[0]).rpartition("/")[2]

    @property
    def is_archive(self) -> bool:
        return self.member is None and self.name.lower().endswith(_ARCHIVES)

    def __str__(self) -> str:
        return f"{self.url}, {self.member}" if self.member else self.url

    def identity(self) -> tuple[str, ...]:
        """What changes when the file does: name, size, time or tag. For the key of what is made from it."""
        if self.is_local:
            try:
                found = os.stat(self.url)
            except OSError as problem:
                raise _missing(self, problem) from problem
            return (os.path.abspath(self.url), self.member or "", str(found.st_size), str(found.st_mtime_ns))
        with _reporting(self):
            fs, path = _filesystem(self)
            info = fs.info(path)
        tag = (
            info.get("ETag") or info.get("etag") or info.get("blob_id") or info.get("LastModified") or info.get("mtime")
        )
        return (self.url, self.member or "", str(info.get("size")), str(tag or ""))

    def size(self) -> int:
        """Bytes as stored, compressed or not."""
        if self.is_local:
            return os.stat(self.url).st_size
        fs, path = _filesystem(self)
        return int(fs.size(path) or 0)

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes, unpacked. Seekable where the file itself is not compressed and not in an archive."""
        if self.member is None:
            with self._stored() as raw:
                yield _unpacked(self, raw)
            return
        for name, file in _members(replace(self, member=None)):
            if name == self.member:
                yield file
                return
        raise DataFileError(self.url, f"must hold {self.member!r}", found="no such member")

    @contextlib.contextmanager
    def _stored(self) -> Iterator[IO[bytes]]:
        if self.is_local:
            try:
                file: IO[bytes] = open(self.url, "rb")  # noqa: SIM115
            except (OSError, ValueError) as problem:
                raise _missing(self, problem) from problem
        else:
            with _reporting(self):
                fs, path = _filesystem(self)
                file = cast(IO[bytes], Retried(self.url, opened(self.url, lambda: fs.open(path, "rb"))))
        with file:
            yield file

    def members(self) -> list[DataFile]:
        """The files inside an archive, in its order; hidden ones are left out."""
        return [
            replace(self, member=name)
            for name in _member_names(self)
            if not any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
        ]


def _filesystem(file: DataFile) -> tuple[Any, str]:
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(file.url, **file.storage_options))
    except ImportError as problem:
        protocol = file.url.split("://")[0]
        raise MissingDependencyError(
            f"{protocol}://", "needs a package that fsspec names", found=str(problem), remedy="Install it with pip."
        ) from problem
    except ValueError as problem:
        raise ArgumentError(file.url, "must be of a protocol fsspec knows", found=str(problem)) from problem


@contextlib.contextmanager
def _reporting(file: DataFile) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as problem:
        if isinstance(problem, MartletError):
            raise
        raise _missing(file, problem) from problem


def _missing(file: DataFile, problem: Exception) -> DatasetNotFoundError:
    reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:200] or type(problem).__name__
    return DatasetNotFoundError(str(file), "cannot be read", found=reason)


class _Guarded(io.RawIOBase):
    """Bytes as they come out of a decompressor, counted: a bomb is an error before it fills anything."""

    def __init__(self, file: DataFile, inner: Any, packed_bytes: int) -> None:
        self._file, self._inner, self._allowed = file, inner, max(MAX_SMALL, packed_bytes * MAX_EXPANSION)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except MartletError:  # a lost connection is no damage
            raise
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError) as problem:
            raise _damaged(self._file, problem) from problem
        except Exception as problem:  # lzma and zlib have errors of their own, without a common parent
            raise _damaged(self._file, problem) from problem
        self._seen += len(data)
        if self._seen > self._allowed:
            raise DataFileError(
                str(self._file),
                f"must not unpack to more than {MAX_EXPANSION} times its size",
                found=f"more than {self._allowed} bytes",
                remedy="If it is what it should be, unpack it first.",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _damaged(file: DataFile, problem: Exception) -> DataFileError:
    return DataFileError(
        str(file), "cannot be unpacked", found=str(problem) or type(problem).__name__, remedy="Is it truncated?"
    )


def _unpacked(file: DataFile, raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is None:
        return raw
    raw.seek(0, os.SEEK_END)
    packed = raw.tell()
    raw.seek(0)
    return io.BufferedReader(_Guarded(file, _decompressor(kind, raw), packed), 1 << 20)


def _decompressor(kind: str, raw: IO[bytes]) -> Any:
    if kind == "xz":
        import lzma

        return lzma.LZMAFile(raw)
    if kind in ("gzip", "bz2"):
        import bz2
        import gzip

        # pyarrow's own gzip takes a cut stream for a whole one
        return gzip.GzipFile(fileobj=raw) if kind == "gzip" else bz2.BZ2File(raw)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), kind)


def _inside(file: DataFile, name: str) -> str:
    """A member's name, if it stays inside the folder it would be unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataFileError(file.url, "an archive must stay inside its own folder", found=repr(name))
    return name


def _member_names(file: DataFile) -> list[str]:
    if file.name.lower().endswith(".zip"):
        with file._stored() as raw, _zip(file, raw) as archive:
            return [_inside(file, info.filename) for info in archive.infolist() if not info.is_dir()]
    return [name for name, _ in _members(file)]


def _zip(file: DataFile, raw: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, OSError, ValueError) as problem:
        raise _damaged(file, problem) from problem


def _members(file: DataFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and bytes of each file in an archive, one after the other; nothing is unpacked to the disk."""
    if file.name.lower().endswith(".zip"):
        with file._stored() as raw, _zip(file, raw) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                name = _inside(file, info.filename)
                try:
                    inner = archive.open(info)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as problem:
                    raise _damaged(file, problem) from problem
                inside = replace(file, member=name)
                yield name, _decoded(inside, _Guarded(inside, inner, info.compress_size))
        return
    yield from tar_members(file)


def tar_members(file: DataFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and bytes of each file in a tar, read front to back; links and devices are left out, which is said."""
    left: list[str] = []
    with file.open() as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for info in archive:
                    if not info.isfile():
                        left += [] if info.isdir() else [info.name]
                        continue
                    inner = archive.extractfile(info)
                    assert inner is not None
                    yield _inside(file, info.name), inner
        except (tarfile.TarError, EOFError) as problem:
            raise _damaged(file, problem) from problem
    if left:
        what = "1 link or device" if len(left) == 1 else f"{len(left)} links and devices"
        log.warning("%s: left out %s (the first: %s): an archive's links are not followed", file, what, left[0])


def _decoded(file: DataFile, guarded: _Guarded) -> IO[bytes]:
    """A member that is itself compressed (data.csv.gz in a zip) is unpacked once more."""
    buffered = io.BufferedReader(guarded, 1 << 20)
    start = buffered.peek(6)[:6]
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is None:
        return buffered
    packed = MAX_SMALL // MAX_EXPANSION
    return io.BufferedReader(_Guarded(file, _decompressor(kind, buffered), packed), 1 << 20)
