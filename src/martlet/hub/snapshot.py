"""`Snapshot`: the local files of one revision, fetched one by one as they are asked for."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from martlet.errors import HubError, OfflineError

NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


@dataclass(slots=True)
class _Remote:
    """How a Hub snapshot is fetched. `revision` becomes a commit hash with the first file, so that all are of one."""

    repo: str
    revision: str
    cache_dir: str | None
    token: str | bool | None
    local_only: bool
    force: bool
    kind: str = "model"
    fetched: set[str] = field(default_factory=set)
    listing: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Local files of one revision. `root` is the folder of a local one, `single` the file of a one-file one."""

    name: str
    root: Path | None = None
    single: Path | None = None
    subfolder: str = ""
    remote: _Remote | None = None

    @property
    def revision(self) -> str | None:
        """The commit of a Hub snapshot, once a file has been found."""
        return self.remote.revision if self.remote and _is_commit(self.remote.revision) else None

    def file(self, filename: str) -> Path | None:
        """The file's local path, fetched if it has to be; None if this revision has no such file."""
        inside = PurePosixPath(self.subfolder, filename)
        if inside.is_absolute() or ".." in inside.parts or "\\" in filename:
            raise HubError(self.name, "a file name must stay inside the checkpoint", found=repr(filename))
        if self.remote is not None:
            return _fetch(self.name, self.remote, str(inside))
        if self.root is None:
            return self.single if self.single is not None and self.single.name == filename else None
        path = self.root / inside
        return path if path.is_file() else None

    def require(self, filename: str) -> Path:
        """The file's local path; HubError, with what is there, if there is none."""
        path = self.file(filename)
        if path is None:
            there = self.list()
            near = difflib.get_close_matches(filename, there, 1)
            raise HubError(
                self.name,
                f"must hold {filename}",
                found=", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "") or "no files",
                remedy=f"Is {near[0]} meant?" if near else "",
            )
        return path

    def list(self) -> tuple[str, ...]:
        """File names of this revision, below the subfolder. Offline, those that are cached."""
        if self.remote is not None:
            prefix = f"{self.subfolder}/" if self.subfolder else ""
            return tuple(n.removeprefix(prefix) for n in _listing(self.name, self.remote) if n.startswith(prefix))
        if self.root is None:
            return (self.single.name,) if self.single else ()
        top = self.root / self.subfolder
        return tuple(sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()))

    def folder(self, name: str) -> dict[str, Path]:
        """The files directly in one folder of this revision, by name; all fetched."""
        # asking for a file that cannot be leaves a note in the cache: this folder has been read whole
        note = str(PurePosixPath(self.subfolder, name, ".listed"))
        if self.remote is not None and _is_known_absent(self.remote, note):
            names = tuple(n.removeprefix(f"{self.subfolder}/") for n in _cached_files(self.remote))
        else:
            names = self.list()
        found = {}
        for each in names:
            top, _, rest = each.rpartition("/")
            if top == name and (path := self.file(each)) is not None:
                found[rest] = path
        if self.remote is not None:
            self.file(f"{name}/.listed")
        return found


def open_snapshot(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool | None = None,
    force_download: bool = False,
    subfolder: str = "",
    kind: str = "model",
) -> Snapshot:
    """The files of "org/name" on the Hub, of a folder, or a single file. `kind` is "model" or "dataset".

    A cached file costs no network call; `force_download` asks the Hub again. Environment variables mean what they
    mean to huggingface_hub. HubError if there is nothing by that name; OfflineError if it is not cached and the network
    is not to be used.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if not name:
        raise HubError("model", "must be named: a folder, a file or a Hub id; '' is not a Hub id")
    if path.is_dir():
        if subfolder and not (path / subfolder).is_dir():
            raise HubError(name, f"has no subfolder {subfolder!r}", found=_entries(path))
        return Snapshot(name, root=path, subfolder=subfolder)
    if path.is_file():
        return Snapshot(name, single=path)
    if isinstance(name_or_path, os.PathLike) or _looks_local(name) or not NAME.fullmatch(name):
        parent = path.parent
        while not parent.is_dir() and parent != parent.parent:
            parent = parent.parent
        raise HubError(
            name,
            "no such folder or file, and it is not a Hub id of the form org/name",
            found=f"in {parent}: {_entries(parent, path.name)}",
        )
    remote = _Remote(
        repo=name,
        revision=revision or "main",
        cache_dir=os.fspath(cache_dir) if cache_dir is not None else None,
        token=token,
        local_only=bool(local_files_only),
        force=force_download,
        kind=kind,
    )
    return Snapshot(name, subfolder=subfolder, remote=remote)


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith((".gguf", ".safetensors", ".bin")) or name.count("/") > 1


def _entries(folder: Path, near: str = "") -> str:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    shown = difflib.get_close_matches(near, names, 6, 0.3) or names[:6]
    return ", ".join(shown) or "nothing"


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _fetch(name: str, remote: _Remote, filename: str) -> Path | None:
    import huggingface_hub
    from huggingface_hub import constants, errors

    if not remote.force or filename in remote.fetched:
        cached: Any = huggingface_hub.try_to_load_from_cache(
            remote.repo, filename, cache_dir=remote.cache_dir, revision=remote.revision, repo_type=remote.kind
        )
        if isinstance(cached, str):
            return _pin(remote, filename, cached)
        if cached is not None:  # the cache remembers that this revision has no such file
            return None
    if remote.local_only or constants.HF_HUB_OFFLINE:
        if _cached_files(remote):
            return None  # without the network, what is cached of a revision is all there is of it
        raise _offline(name, remote, filename)
    try:
        found = huggingface_hub.hf_hub_download(
            remote.repo,
            filename,
            repo_type=remote.kind,
            revision=remote.revision,
            cache_dir=remote.cache_dir,
            token=remote.token,
            force_download=remote.force and filename not in remote.fetched,
        )
    except errors.LocalEntryNotFoundError as error:
        raise _offline(name, remote, filename) from error
    except errors.EntryNotFoundError:
        return None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise _explained(name, remote, error) from error
    return _pin(remote, filename, found)


def _is_known_absent(remote: _Remote, filename: str) -> bool:
    import huggingface_hub

    cached: Any = huggingface_hub.try_to_load_from_cache(
        remote.repo, filename, cache_dir=remote.cache_dir, revision=remote.revision
    )
    return cached is not None and not isinstance(cached, str)


def _pin(remote: _Remote, filename: str, path: str) -> Path:
    """All further files are of the commit this one came from."""
    parts = Path(path).parts
    if "snapshots" in parts:
        commit = parts[len(parts) - parts[::-1].index("snapshots")]
        if _is_commit(commit):
            remote.revision = commit
    remote.fetched.add(filename)
    return Path(path)


def _listing(name: str, remote: _Remote) -> tuple[str, ...]:
    import huggingface_hub
    from huggingface_hub import constants, errors

    if remote.listing is None:
        if remote.local_only or constants.HF_HUB_OFFLINE:
            return _cached_files(remote)
        try:
            api = huggingface_hub.HfApi(token=remote.token)
            if remote.kind == "dataset":  # files and the commit they are of, in one answer
                about = api.dataset_info(remote.repo, revision=remote.revision)
                remote.listing = tuple(sorted(sibling.rfilename for sibling in about.siblings or ()))
                if about.sha:
                    _remember(remote, about.sha)
            else:
                remote.listing = tuple(sorted(api.list_repo_files(remote.repo, revision=remote.revision)))
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            raise _explained(name, remote, error) from error
    return remote.listing


def _remember(remote: _Remote, commit: str) -> None:
    """Take this commit for the revision, and note it where huggingface_hub does, for when there is no network."""
    if not _is_commit(remote.revision):
        note = _cache_of(remote) / "refs" / remote.revision
        with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to fail here
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(commit)
    remote.revision = commit


def _cache_of(remote: _Remote) -> Path:
    from huggingface_hub import constants

    return Path(remote.cache_dir or constants.HF_HUB_CACHE) / f"{remote.kind}s--{remote.repo.replace('/', '--')}"


def _cached_files(remote: _Remote) -> tuple[str, ...]:
    folder = _cache_of(remote)
    ref = folder / "refs" / remote.revision
    commit = ref.read_text().strip() if ref.is_file() else remote.revision
    top = folder / "snapshots" / commit
    return tuple(sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file())) if top.is_dir() else ()


def _offline(name: str, remote: _Remote, filename: str) -> OfflineError:
    cached = _cached_files(remote)
    return OfflineError(
        name,
        f"{filename} is not cached and the Hub cannot be asked",
        found=f"in the cache: {', '.join(cached[:8]) or f'nothing of this {remote.kind}'}",
        remedy="Run once with the network, or give the path of a local folder.",
    )


def _explained(name: str, remote: _Remote, error: Exception) -> HubError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{remote.repo}"
        return HubError(name, "is gated", remedy=f"Ask for access at {page}, then pass token= or set HF_TOKEN.")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(name, f"has no revision {remote.revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            name,
            "is not on the Hub, or is private",
            remedy=f"Check the name; for a private {remote.kind} pass token= or set HF_TOKEN; a folder needs its path.",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(name, "the network is not to be used (HF_HUB_OFFLINE)")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 429:
        return HubError(name, "the Hub is limiting requests", found="status 429", remedy="Wait, or pass token=.")
    return HubError(name, "could not be fetched from the Hub", found=" ".join(str(error).split())[:200])
