"""Text to token ids and back: loading, padding and masks, chat templates, streaming. Knows no models.

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken as AddedToken

    from martlet.tokenizers.auto import AutoTokenizer as AutoTokenizer
    from martlet.tokenizers.batch import BatchEncoding as BatchEncoding
    from martlet.tokenizers.made import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from martlet.tokenizers.streaming import StreamDetokenizer as StreamDetokenizer
    from martlet.tokenizers.tokenizer import PreTrainedTokenizerBase as PreTrainedTokenizerBase
    from martlet.tokenizers.tokenizer import Tokenizer as Tokenizer
    from martlet.tokenizers.tools import get_json_schema as get_json_schema

_HOMES = {
    "AddedToken": "vocabulary",
    "AutoTokenizer": "auto",
    "BatchEncoding": "batch",
    "PreTrainedTokenizerBase": "tokenizer",
    "PreTrainedTokenizerFast": "made",
    "StreamDetokenizer": "streaming",
    "Tokenizer": "tokenizer",
    "get_json_schema": "tools",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
