"""Small files: JSON read strictly, and writing aside so that a failed save leaves the old file as it was."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from martlet.errors import ArgumentError, FormatError, JsonError, MartletError, SaveError

MAX_JSON_BYTES = 1 << 28
MAX_JSON_DEPTH = 100
MAX_JSON_ITEMS = 20_000_000  # keys and containers; each takes about 100 bytes once read

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

# what open(2) answers where the file system has no nameless files
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}


class AsideFile:
    """A file being written beside its final place: `finish` puts it on the disk, `commit` puts it in place.

    On Linux it has no name until `commit`, so not even a killed process leaves anything behind.
    A symbolic link at `path` is replaced by the file, never followed: what it pointed to may be shared.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str = "wb") -> None:
        if mode not in ("wb", "w"):
            raise ArgumentError("mode", "must be 'wb' or 'w'", found=repr(mode))
        self.path = Path(path)
        self._name: str | None = None
        self._folder = -1
        with self._reporting():
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.path.exists() and not self.path.is_file():  # a device, which a file must not take the place of
                raise OSError(errno.EINVAL, "not a file")
            self._folder = os.open(self.path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
            try:
                fd = self._create()
            except BaseException:
                os.close(self._folder)
                raise
        self.file: IO[Any] = os.fdopen(fd, "wb") if mode == "wb" else os.fdopen(fd, "w", encoding="utf-8", newline="\n")

    def _create(self) -> int:
        if hasattr(os, "O_TMPFILE"):
            try:
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=self._folder)
            except OSError as problem:
                if problem.errno not in _NO_TMPFILE:
                    raise
        self._name = self._new_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        return os.open(self._name, flags, 0o666, dir_fd=self._folder)

    def _new_name(self) -> str:
        return f".{self.path.name[:200]}.{os.urandom(8).hex()}.tmp"

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except MartletError:
            raise
        except OSError as problem:
            raise save_error(self.path, problem) from problem

    def finish(self) -> None:
        """Everything written is on the disk after this, still without its name."""
        with self._reporting():
            self.file.flush()
            old = self._old_mode()
            if old is not None:
                os.fchmod(self.file.fileno(), old)
            os.fsync(self.file.fileno())

    def _old_mode(self) -> int | None:
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return None
        return stat.S_IMODE(found.st_mode) if stat.S_ISREG(found.st_mode) else None

    def commit(self) -> None:
        """Take the final name in one step; whoever opens `path` sees the old file or the new one, whole."""
        with self._reporting():
            if self._name is None:
                self._name = self._new_name()
                # a folder descriptor makes this linkat(2), which can follow the /proc link to the nameless file
                source = f"/proc/self/fd/{self.file.fileno()}"
                os.link(source, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=True)
            os.replace(self._name, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._name = None
            os.fsync(self._folder)
        self.file.close()
        os.close(self._folder)
        self._folder = -1

    def abandon(self) -> None:
        """Forget the file: nothing stays behind. Idempotent; does nothing after `commit`."""
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self.file.close()
        if self._folder >= 0:
            if self._name is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._folder)
            os.close(self._folder)
            self._folder = -1


def reason(problem: OSError | ValueError) -> str:
    """Why a file could not be opened: the system's words, or Python's for a path no file can have."""
    return getattr(problem, "strerror", None) or str(problem)


def save_error(path: str | os.PathLike[str], problem: OSError) -> SaveError:
    """The SaveError for what the operating system said, with its errno kept."""
    code = errno.errorcode.get(problem.errno or 0, "")
    remedies = {"ENOSPC": "Free some space.", "EDQUOT": "Free some of your quota.", "ENOENT": "Does the folder exist?"}
    error = SaveError(
        f"{os.fspath(path)}",
        "could not be written, and what was there before is intact",
        found=f"{code} ({problem.strerror})" if code else str(problem),
        remedy=remedies.get(code, ""),
    )
    error.errno = problem.errno
    return error


@contextlib.contextmanager
def write_aside(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to, which takes the place of `path` when the block ends well; otherwise nothing changed.

    `mode` is "wb", or "w" for UTF-8 text. Two processes may save the same path at once: one of the two files, whole,
    is there afterwards. SaveError names what the operating system said, a full disk for one.
    """
    aside = AsideFile(path, mode)
    try:
        with aside._reporting():
            yield aside.file
        aside.finish()
        aside.commit()
    finally:
        aside.abandon()


def parse_json(data: bytes, subject: str, error: type[FormatError] = JsonError) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes. Duplicate keys, damage and endless nesting are errors; NaN is read."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise error(subject, "a key may appear only once in an object", found=f"{twice!r} twice")
        return result

    if (items := sum(map(data.count, (b"[", b"{", b":")))) > MAX_JSON_ITEMS:
        raise error(subject, f"must not hold more than {MAX_JSON_ITEMS} keys and lists", found=items)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(subject, "must be UTF-8", found=f"byte 0x{data[problem.start]:02x} at {problem.start}") from problem
    try:
        value = json.loads(text, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as problem:
        if not text.strip():
            raise error(subject, "must hold JSON", found="nothing") from problem
        if problem.pos >= len(text.rstrip()) or problem.msg.startswith("Unterminated"):
            raise error(
                subject, "must be whole JSON", found=f"its end after {len(text)} characters", remedy="Is it truncated?"
            ) from problem
        raise error(
            subject, "must be JSON", found=f"{problem.msg} at line {problem.lineno}, column {problem.colno}"
        ) from problem
    except RecursionError as problem:
        raise error(subject, f"must not nest deeper than {MAX_JSON_DEPTH}") from problem
    except FormatError:
        raise
    except ValueError as problem:  # a number of thousands of digits
        raise error(subject, "must be JSON", found=str(problem).split(";")[0]) from problem
    if not isinstance(value, dict):
        raise error(subject, "must be a JSON object", found=f"a {type(value).__name__}")
    if not _is_shallow(value):
        raise error(subject, f"must not nest deeper than {MAX_JSON_DEPTH}")
    if _SURROGATE.search(data):
        _check_unicode(value, subject, error)
    return value


def _check_unicode(value: dict[str, Any], subject: str, error: type[FormatError]) -> None:
    """JSON can spell half a character, which no file, tokenizer or terminal can take afterwards."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as problem:
        half = ascii(problem.object[problem.start])[1:-1]
        raise error(subject, "must hold Unicode text", found=f"{half}, half of a surrogate pair") from problem


def _is_shallow(value: Any) -> bool:
    """Nested no deeper than allowed, so that whoever walks it later cannot run out of stack."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inside = (item for holder in level for item in (holder.values() if isinstance(holder, dict) else holder))
        level = [item for item in inside if isinstance(item, dict | list)]
        if not level:
            return True
    return False


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file. JsonError for anything else, with the place of the damage."""
    try:
        with open(path, "rb") as file:
            is_small = os.fstat(file.fileno()).st_size <= MAX_JSON_BYTES
            data = file.read(MAX_JSON_BYTES + 1) if is_small else b""
    except (OSError, ValueError) as problem:
        raise JsonError(str(path), "cannot be read", found=reason(problem)) from problem
    if not is_small or len(data) > MAX_JSON_BYTES:
        raise JsonError(str(path), f"must not be larger than {MAX_JSON_BYTES} bytes")
    return parse_json(data, str(path))


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, aside. ArgumentError if JSON cannot hold it, SaveError if the disk fails."""
    try:
        data = (json.dumps(obj, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as problem:
        raise ArgumentError(str(path), "needs values that JSON can hold", found=str(problem)) from problem
    with write_aside(path) as file:
        file.write(data)
