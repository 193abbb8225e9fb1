"""How much martlet.datasets says: the logger "martlet.datasets", and the bars, under Hugging Face's names."""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARN, WARNING

from martlet.datasets.progress import (
    disable_progress_bar,
    disable_progress_bars,
    enable_progress_bar,
    enable_progress_bars,
    is_progress_bar_enabled,
)

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "FATAL",
    "INFO",
    "NOTSET",
    "WARN",
    "WARNING",
    "disable_progress_bar",
    "disable_progress_bars",
    "disable_propagation",
    "enable_progress_bar",
    "enable_progress_bars",
    "enable_propagation",
    "get_logger",
    "get_verbosity",
    "is_progress_bar_enabled",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]
NAME = "martlet.datasets"


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger of that name; by default the one all of this package's stand under."""
    return logging.getLogger(name or NAME)


def get_verbosity() -> int:
    """The least level that is said."""
    return get_logger().getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Says what is of this level or above."""
    get_logger().setLevel(verbosity)


def set_verbosity_debug() -> None:
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    set_verbosity(ERROR)


def disable_propagation() -> None:
    """Records are not handed on to the root logger."""
    get_logger().propagate = False


def enable_propagation() -> None:
    """Records are handed on to the root logger. This is so at the start."""
    get_logger().propagate = True
