"""Generation over any backend: configuration, scores, stopping, streaming, the decode loop. Knows no torch modules.

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.generation.config import GenerationConfig as GenerationConfig
    from martlet.generation.config import GenerationMode as GenerationMode
    from martlet.generation.generate import generate_rows as generate_rows
    from martlet.generation.sampling import set_seed as set_seed

_HOMES = {
    "GenerationConfig": "config",
    "GenerationMode": "config",
    "build_processors": "processors",
    "build_stops": "stopping",
    "from_torch_processor": "processors",
    "generate_rows": "generate",
    "guide": "processors",
    "set_seed": "sampling",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
