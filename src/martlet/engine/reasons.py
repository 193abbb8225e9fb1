"""Why a model generates on torch though the engine is there, and the one line of the log that says so."""

from __future__ import annotations

import logging
from functools import lru_cache

logger = logging.getLogger("martlet")
ASKED = "backend='torch' was asked for"


def say_why(reason: str) -> None:
    """Logs a reason once: as a warning, but where it is what was asked for."""
    _say_once(reason, logging.INFO if reason == ASKED else logging.WARNING)


@lru_cache(maxsize=256)
def _say_once(reason: str, level: int) -> None:
    logger.log(level, "generation runs on torch, not on the native engine: %s", reason)
