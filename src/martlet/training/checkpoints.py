"""Checkpoint folders: written aside, hashed, renamed; found, verified and rotated. What is inside is the trainer's."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from martlet.errors import CheckpointError, JsonError, RunFolderError
from martlet.formats.files import read_json, save_error, write_json

MANIFEST = "manifest.json"
LOCK = ".martlet.lock"
_NAME = re.compile(r"checkpoint-(\d+)")
_ASIDE = re.compile(r"\.(checkpoint-\d+)\.[0-9a-f]{16}\.(tmp|old)")

log = logging.getLogger(__name__)

_locks: weakref.WeakSet[IO[str]] = weakref.WeakSet()  # held by this process


def _let_locks_go() -> None:
    """In a process forked from a run: a worker that outlives a killed run must not keep its folder from the next."""
    for each in list(_locks):
        each.close()  # the lock stays as long as the parent has the file open
    _locks.clear()


os.register_at_fork(after_in_child=_let_locks_go)


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step}"


def write_checkpoint(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Makes `folder` by filling one beside it, hashing every file, and renaming it: whole, or not there at all.

    SaveError if the disk refuses; an older folder of that name is replaced only then.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        aside.mkdir(parents=True)
        fill(aside)
        write_manifest(aside)
        _sync_tree(aside)
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(aside, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as problem:
        system = (
            problem.__cause__ if isinstance(problem.__cause__, OSError) else problem
        )  # a SaveError names a file aside
        raise save_error(folder, system) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def write_manifest(folder: Path) -> None:
    """manifest.json: size and SHA-256 of every other file."""
    files = {name: {"bytes": path.stat().st_size, "sha256": digest(path)} for name, path in _files(folder)}
    write_json(folder / MANIFEST, {"format": 1, "files": files})


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = ((str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*")) if path.is_file())
    return [(name, path) for name, path in found if name != MANIFEST]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_checkpoint(folder: Path) -> None:
    """CheckpointError unless every file is there, of its size, with its hash."""
    try:
        read = read_json(folder / MANIFEST)
        manifest = [(str(name), int(said["bytes"]), said["sha256"]) for name, said in read["files"].items()]
    except (JsonError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise CheckpointError(str(folder), f"is not a checkpoint: {MANIFEST} cannot be read") from problem
    if not manifest:
        raise CheckpointError(str(folder), f"is not a checkpoint: {MANIFEST} names no file")
    for name, size, sha256 in manifest:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(str(folder), f"is torn: {name} is missing")
        if path.stat().st_size != size:
            found = f"{path.stat().st_size} bytes"
            raise CheckpointError(str(folder), f"is torn: {name} must have {size} bytes", found=found)
        if digest(path) != sha256:
            raise CheckpointError(str(folder), f"is torn: {name} is not what was written")


def list_checkpoints(output: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first, good or not."""
    if not output.is_dir():
        return []
    found = [(int(match[1]), path) for path in output.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_good(output: Path) -> Path | None:
    """The newest checkpoint that is whole; torn ones are passed over, and said. None if there is none."""
    for folder in reversed(list_checkpoints(output)):
        try:
            check_checkpoint(folder)
        except CheckpointError as problem:
            log.warning("passed over: %s", problem)
            continue
        return folder
    return None


def get_last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest whole checkpoint of a run's folder, or None."""
    found = newest_good(Path(folder))
    return None if found is None else str(found)


def rotate(output: Path, keep: int | None, protected: Iterable[Path]) -> None:
    """Deletes the oldest checkpoints beyond `keep`; `protected` ones stay and count. Each is renamed away first."""
    if keep is None:
        return
    safe = {path.resolve() for path in protected}
    present = list_checkpoints(output)
    others = [path for path in present if path.resolve() not in safe]
    surplus = len(present) - max(keep, len(present) - len(others))
    for path in others[: max(0, surplus)]:
        gone = path.with_name(f".{path.name}.{secrets.token_hex(8)}.old")
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(output: Path) -> None:
    """Clears what a killed run left half written, and puts back a checkpoint it was replacing."""
    for path in output.iterdir() if output.is_dir() else ():
        match = _ASIDE.fullmatch(path.name)
        if match and match[2] == "old" and not (output / match[1]).exists() and (path / MANIFEST).exists():
            os.replace(path, output / match[1])
        elif match:
            shutil.rmtree(path, ignore_errors=True)


def lock_folder(output: Path) -> IO[str]:
    """Holds `output` for this run until the file is closed or the process ends. RunFolderError if another has it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  (held as long as the run)
    except OSError as problem:
        raise save_error(output, problem) from problem
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise RunFolderError(
            str(output),
            "another run writes here",
            found=f"process {holder}" if holder else None,
            remedy="Give this run an output_dir of its own, or wait.",
        ) from problem
    _locks.add(file)
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    except OSError as problem:
        file.close()
        raise save_error(output, problem) from problem
    return file


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _sync(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        os.fsync(fd)
