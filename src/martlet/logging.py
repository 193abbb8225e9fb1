"""How much is said, under Hugging Face's names: `from martlet import logging; logging.set_verbosity_error()`."""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING

__all__ = ["CRITICAL", "DEBUG", "ERROR", "INFO", "WARNING"]


def get_logger(name: str = "martlet") -> logging.Logger:
    """The logger of that name; all of this library's stand under "martlet"."""
    return logging.getLogger(name)


def get_verbosity() -> int:
    """The least level that is said."""
    return logging.getLogger("martlet").getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Says what is of this level or above."""
    logging.getLogger("martlet").setLevel(verbosity)


def set_verbosity_error() -> None:
    set_verbosity(ERROR)


def set_verbosity_warning() -> None:
    set_verbosity(WARNING)


def set_verbosity_info() -> None:
    set_verbosity(INFO)


def set_verbosity_debug() -> None:
    set_verbosity(DEBUG)


def disable_progress_bar() -> None:
    """Downloads show no bar."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def enable_progress_bar() -> None:
    """Downloads show a bar."""
    from huggingface_hub.utils.tqdm import enable_progress_bars

    enable_progress_bars()
