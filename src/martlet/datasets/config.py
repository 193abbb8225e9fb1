"""Hugging Face's `datasets.config`: the settings that are of use here. Another one is an error that says what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError

_set: dict[str, Any] = {}
_PACKAGES = {"PIL": "PIL", "SQLALCHEMY": "sqlalchemy", "TF": "tensorflow", "ZSTANDARD": "zstandard"}
ASYNC_CALLS = "MAX_NUM_RUNNING_ASYNC_MAP_FUNCTIONS_IN_PARALLEL"
NUMBERS: dict[str, float] = {  # with what they are at the start; intervals are seconds
    ASYNC_CALLS: 1000,
    "STREAMING_READ_MAX_RETRIES": 20,
    "STREAMING_READ_RETRY_INTERVAL": 5,
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 20,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 60,
    "STREAMING_OPEN_MAX_RETRIES": 20,
    "STREAMING_OPEN_RETRY_INTERVAL": 5,
}
SETTINGS = ("HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "IN_MEMORY_MAX_SIZE", *NUMBERS)
ASYNC_ROWS = 10_000
DEFAULT_MAX_BATCH_SIZE = 1000  # rows of a batch


def async_calls() -> int:
    """Coroutines of one map that run at a time."""
    return int(setting(ASYNC_CALLS))


def setting(name: str) -> float:
    """One of NUMBERS, as it was set. ArgumentError if that is no number."""
    value = _set.get(name, NUMBERS[name])
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ArgumentError(f"datasets.config.{name}", "must be a number, 0 or more", found=repr(value))
    return value


def batches_beside(batch_size: int | None) -> int:
    """Coroutines of batches that run at a time: so many, but no more than ASYNC_ROWS rows are held for it."""
    return 1 if batch_size is None else max(1, min(async_calls(), ASYNC_ROWS // batch_size))


def in_memory_max_size() -> int:
    """Bytes up to which a dataset is read into memory, not mapped: 0 (none), HF_DATASETS_IN_MEMORY_MAX_SIZE, or set."""
    asked = _set.get("IN_MEMORY_MAX_SIZE", os.environ.get("HF_DATASETS_IN_MEMORY_MAX_SIZE") or 0)
    try:
        return int(float(asked))
    except (TypeError, ValueError) as problem:
        raise ArgumentError("IN_MEMORY_MAX_SIZE", "must be a number of bytes", found=repr(asked)) from problem


def goes_to_memory(keep_in_memory: bool | None, files: list[Any]) -> bool:
    """Whether Arrow files are read into memory: as the call says, else if they are smaller than the setting."""
    if keep_in_memory is not None:
        return keep_in_memory
    limit = in_memory_max_size()
    return limit > 0 and 0 < sum(os.path.getsize(file) for file in files) < limit


def cache_of_settings() -> Path | None:
    """The cache's folder as HF_DATASETS_CACHE or HF_HOME say: one of ours in theirs."""
    if "HF_DATASETS_CACHE" in _set:
        return Path(_set["HF_DATASETS_CACHE"])
    if theirs := os.environ.get("HF_DATASETS_CACHE"):
        return Path(theirs).expanduser() / "martlet"
    home = os.environ.get("HF_HOME")
    return Path(home).expanduser() / "martlet" / "datasets" if home else None


class _Config(ModuleType):
    def __getattr__(self, name: str) -> Any:
        from huggingface_hub import constants

        if name == "IN_MEMORY_MAX_SIZE":
            return in_memory_max_size()
        if name in NUMBERS:
            return setting(name)
        if name == "HF_DATASETS_CACHE":
            from martlet.datasets.cache import cache_folder

            return cache_folder()
        if name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
            return constants.HF_HUB_OFFLINE
        if name == "HF_ENDPOINT":
            return constants.ENDPOINT
        package = _PACKAGES.get(name.rpartition("_")[0], name.rpartition("_")[0].lower())
        if name.endswith("_AVAILABLE"):
            return importlib.util.find_spec(package) is not None
        if name.endswith("_VERSION") and importlib.util.find_spec(package) is not None:
            from packaging import version

            return version.parse(importlib.metadata.version(package))
        raise AttributeError(f"datasets.config.{name} is not there; settings are {', '.join(SETTINGS)}")

    def __setattr__(self, name: str, value: Any) -> None:
        from huggingface_hub import constants

        if name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
            _set.setdefault("was_offline", constants.HF_HUB_OFFLINE)
            constants.HF_HUB_OFFLINE = bool(value)
        elif name in SETTINGS:
            _set[name] = value
        elif name.startswith("__"):
            super().__setattr__(name, value)
        else:
            raise UnsupportedError(f"datasets.config.{name}", f"is no setting here; those are {', '.join(SETTINGS)}")

    def __delattr__(self, name: str) -> None:
        from huggingface_hub import constants

        if name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
            constants.HF_HUB_OFFLINE = _set.pop("was_offline", constants.HF_HUB_OFFLINE)
        elif name in SETTINGS:  # as it was before it was set
            _set.pop(name, None)
        else:
            super().__delattr__(name)


sys.modules[__name__].__class__ = _Config
