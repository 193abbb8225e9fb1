"""The cache on the disk: results by the key of what they were made from, written aside, evicted when unused longest."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, CacheError
from martlet.formats.files import write_json

ENTRY_FILE = "entry.json"
DEFAULT_BYTES = 20_000_000_000
_state = {"is_enabled": True}
_chosen: ContextVar[Path | None] = ContextVar("chosen", default=None)


def cache_folder() -> Path:
    """Where results are kept: MARTLET_DATASETS_CACHE, else what `config` says, else ~/.cache/martlet/datasets."""
    from martlet.datasets.config import cache_of_settings

    asked = _chosen.get() or os.environ.get("MARTLET_DATASETS_CACHE") or cache_of_settings()
    return Path(asked or Path.home() / ".cache" / "martlet" / "datasets")


@contextlib.contextmanager
def in_folder(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Another cache folder for what is done inside; None changes nothing."""
    token = _chosen.set(Path(folder).expanduser() if folder is not None else _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


def cache_bytes() -> int:
    """What the cache may hold: MARTLET_DATASETS_CACHE_BYTES, else 20 GB."""
    text = os.environ.get("MARTLET_DATASETS_CACHE_BYTES", "")
    if not text:
        return DEFAULT_BYTES
    try:
        return int(float(text))
    except ValueError as problem:
        raise ArgumentError("MARTLET_DATASETS_CACHE_BYTES", "must be a number of bytes", found=repr(text)) from problem


def enable_caching() -> None:
    """Results of map and filter are kept and found again. This is so at the start."""
    _state["is_enabled"] = True


def disable_caching() -> None:
    """Results of map and filter are kept in temporary folders, and made anew each time."""
    _state["is_enabled"] = False


def is_caching_enabled() -> bool:
    """Whether results are kept."""
    return _state["is_enabled"]


@dataclass(frozen=True)
class Entry:
    """A result in the cache."""

    key: str
    folder: Path
    num_bytes: int
    last_used_s: float
    is_finished: bool
    about: str
    origin: str = ""  # what it was made from, over all steps; "" for what was loaded


def find(key: str) -> Path | None:
    """The folder of a finished result, marked as used just now; None if there is none."""
    folder = _folder(key)
    if not (folder / ENTRY_FILE).is_file():
        return None
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        os.utime(folder / ENTRY_FILE)
    return folder


@contextlib.contextmanager
def making(key: str) -> Iterator[Path | None]:
    """A folder to make the result in, ours alone until the end; None if another process finished it meanwhile.

    What an interrupted process left in it is still there. `finish` puts the folder in its place.
    CacheError if the cache cannot be written.
    """
    folder = _folder(key)
    aside = folder.with_name(f"{key}.part")
    lock = folder.with_name(f"{key}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as problem:
        raise cache_error(folder.parent, problem) from problem
    try:
        _lock(held)
        if (folder / ENTRY_FILE).is_file():
            yield None
            return
        try:
            aside.mkdir(exist_ok=True)
        except OSError as problem:
            raise cache_error(aside, problem) from problem
        yield aside
    finally:
        os.close(held)  # the file stays: others may wait for it


def finish(key: str, aside: Path, entry: dict[str, Any]) -> Path:
    """Puts a result in its place in one step, then evicts what was unused longest if the cache is too large."""
    folder = _folder(key)
    try:
        write_json(aside / ENTRY_FILE, entry)
        if folder.exists():  # of another version of us, or torn
            shutil.rmtree(folder)
        os.rename(aside, folder)
    except OSError as problem:
        raise cache_error(folder, problem) from problem
    evict(keep=key)
    return folder


def remove(key: str) -> None:
    """Forgets a result; what is mapped from it stays readable."""
    if _folder(key).exists():
        _remove(_folder(key))


def read_entry(folder: Path) -> dict[str, Any]:
    """What is written of a result. CacheError if it cannot be read."""
    try:
        found = json.loads((folder / ENTRY_FILE).read_text("utf-8"))
    except (OSError, ValueError) as problem:
        remedy = "Remove it: martlet cache clear."
        raise CacheError(f"cache entry {folder.name}", "cannot be read", found=problem, remedy=remedy) from problem
    assert isinstance(found, dict)
    return found


def entries() -> list[Entry]:
    """All results, the longest unused first; those in the making, or left by a killed process, too."""
    out = []
    for folder in sorted(cache_folder().glob("??/*")):
        if not folder.is_dir():
            continue
        key, is_finished, about, used = folder.name.removesuffix(".part"), not folder.name.endswith(".part"), "", 0.0
        origin = ""
        with contextlib.suppress(OSError, ValueError, CacheError):
            used = (folder / ENTRY_FILE if is_finished else folder).stat().st_mtime
            about = "not finished"
            if is_finished:
                written = read_entry(folder)
                about, origin = str(written.get("about", "")), str(written.get("origin", ""))
        out.append(Entry(key, folder, _size(folder), used, is_finished, about, origin))
    return sorted(out, key=lambda entry: entry.last_used_s)


def evict(*, keep: str = "", limit_bytes: int | None = None) -> list[Entry]:
    """Removes what was unused longest until the cache fits; what is in the making, and `keep`, stays.

    A dataset that still maps a removed file goes on reading it.
    """
    limit = cache_bytes() if limit_bytes is None else limit_bytes
    found = entries()
    total, removed = sum(entry.num_bytes for entry in found), []
    for entry in found:
        if total <= limit:
            break
        if entry.key == keep or not entry.is_finished:
            continue
        _remove(entry.folder)
        total -= entry.num_bytes
        removed.append(entry)
    return removed


def collect(*, older_than_s: float = 86_400.0) -> list[Entry]:
    """Removes what killed processes left unfinished, and evicts down to the limit. What is being made stays."""
    removed = []
    for entry in entries():
        if entry.is_finished or time.time() - entry.last_used_s < older_than_s or _is_locked(entry):
            continue
        _remove(entry.folder)
        removed.append(entry)
    _remove_locks()
    return removed + evict()


def origin_of(files: Sequence[str | os.PathLike[str]]) -> str:
    """What a table in these files was made from, over all steps: the key of what was loaded, or a folder."""
    if not files:
        return ""
    folder = Path(files[0]).absolute().parent
    with contextlib.suppress(CacheError):
        return str(read_entry(folder).get("origin") or folder.name)
    return str(folder)


def clear(*, keep: Collection[str] = (), origin: str | None = None) -> list[Entry]:
    """Removes everything but what is being made right now, and the keys in `keep`; with `origin` its results."""
    removed = [entry for entry in entries() if entry.key not in keep and not _is_locked(entry)]
    if origin is not None:
        removed = [entry for entry in removed if entry.origin == origin]
    for entry in removed:
        _remove(entry.folder)
    _remove_locks()
    return removed


def is_of_writing(problem: OSError) -> bool:
    """Whether it says that a file could not be written: the system's own, or Arrow's."""
    is_arrows = type(problem).__module__.startswith("pyarrow")
    return is_arrows or problem.errno is not None or "rror writing" in str(problem)


def cache_error(path: Path, problem: OSError) -> CacheError:
    """The CacheError of an OSError, with the remedy."""
    what = problem.strerror or (os.strerror(problem.errno) if problem.errno else str(problem))
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "space" in str(problem):
        remedy = "Free space: martlet cache clear."
    elif problem.errno == errno.ENOENT:
        remedy = "It was removed while it was in use: run it again."
    else:
        remedy = "Set MARTLET_DATASETS_CACHE to a folder you may write, or give keep_in_memory=True."
    return CacheError(f"cache {path}", "cannot be written", found=what, remedy=remedy)


def _folder(key: str) -> Path:
    return cache_folder() / key[:2] / key


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _remove(folder: Path) -> None:
    """In two steps, so that nobody finds half a result."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone")
    with contextlib.suppress(OSError):
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # no POSIX: the last to finish wins, each with a whole result
        return
    fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_locks() -> None:
    """Lock files that nobody used for a day."""
    for lock in cache_folder().glob("??/*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > 86_400:
                lock.unlink()


def _is_locked(entry: Entry) -> bool:
    try:
        import fcntl

        held = os.open(entry.folder.with_name(f"{entry.key}.lock"), os.O_RDWR)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(held)
