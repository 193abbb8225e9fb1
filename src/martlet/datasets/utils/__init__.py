"""Hugging Face's names of this place, for scripts that say `datasets.utils.logging.set_verbosity_error()`."""

from martlet.datasets.modes import VerificationMode
from martlet.datasets.progress import (
    are_progress_bars_disabled,
    disable_progress_bar,
    disable_progress_bars,
    enable_progress_bar,
    enable_progress_bars,
    is_progress_bar_enabled,
)
from martlet.datasets.utils import logging
from martlet.datasets.utils.tqdm import tqdm
from martlet.datasets.version import Version

__all__ = [
    "VerificationMode",
    "Version",
    "are_progress_bars_disabled",
    "disable_progress_bar",
    "disable_progress_bars",
    "enable_progress_bar",
    "enable_progress_bars",
    "is_progress_bar_enabled",
    "logging",
    "tqdm",
]
