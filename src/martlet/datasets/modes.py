"""How `load_dataset` goes about what is there already, and about downloads: Hugging Face's names for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError


class DownloadMode(Enum):
    """Whether rows that were converted before are taken again."""

    REUSE_DATASET_IF_EXISTS = "reuse_dataset_if_exists"
    REUSE_CACHE_IF_EXISTS = "reuse_cache_if_exists"
    FORCE_REDOWNLOAD = "force_redownload"


class VerificationMode(Enum):
    """Whether the splits are compared with what the dataset's card says of them."""

    ALL_CHECKS = "all_checks"
    BASIC_CHECKS = "basic_checks"
    NO_CHECKS = "no_checks"


def mode_of(modes: type[Enum], value: Any, name: str) -> Any:
    """A mode by its value, or itself; the first for None. ArgumentError for another."""
    if value is None:
        return next(iter(modes))
    try:
        return modes(value)
    except ValueError as problem:
        rule = f"must be one of {', '.join(repr(mode.value) for mode in modes)}"
        raise ArgumentError(name, rule, found=repr(value)) from problem


@dataclass
class DownloadConfig:
    """How files are fetched: `token`, `storage_options`, `cache_dir`, `num_proc` and `force_download` count.

    Archives are read in place, so that what Hugging Face's says of extracting them has nothing to act on.
    """

    cache_dir: str | Path | None = None
    force_download: bool = False
    resume_download: bool = False
    local_files_only: bool = False
    proxies: dict[str, str] | None = None
    user_agent: str | None = None
    extract_compressed_file: bool = False
    force_extract: bool = False
    delete_extracted: bool = False
    extract_on_the_fly: bool = False
    use_etag: bool = True
    num_proc: int | None = None
    max_retries: int = 1
    token: str | bool | None = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    download_desc: str | None = None
    disable_tqdm: bool = False

    def __post_init__(self) -> None:
        remedies = {
            "local_files_only": "Set HF_HUB_OFFLINE=1.",
            "proxies": "Set HTTPS_PROXY.",
            "user_agent": "Set HF_HUB_USER_AGENT_ORIGIN.",
        }
        for name, remedy in remedies.items():
            if getattr(self, name):
                raise UnsupportedError("DownloadConfig", f"has no {name}=", remedy=remedy)

    def copy(self) -> DownloadConfig:
        """A deep copy."""
        return DownloadConfig(**{each.name: copy.deepcopy(getattr(self, each.name)) for each in fields(self)})


def fetching(config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """`token`, `storage_options`, `cache_dir`, `num_proc` of a call, filled up from its DownloadConfig."""
    if config is None:
        return dict(given)
    if not all(hasattr(config, name) for name in given):
        raise ArgumentError("download_config", "must be a DownloadConfig", found=type(config).__name__)
    return {name: getattr(config, name) if value is None else value for name, value in given.items()}
