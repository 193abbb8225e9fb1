"""The native CPU engine's Python side: packs weights, keeps rows, steps them. The one importer of the extension."""

from martlet.engine.extension import find_isa, instruction_sets, is_built, kinds
from martlet.engine.model import OPTIONS, EngineModel, begin_packing, build_engine_model, check_options, find_sizes
from martlet.engine.rows import KV_DTYPES, find_kv_dtype
from martlet.engine.session import EngineSession

__all__ = [
    "KV_DTYPES",
    "OPTIONS",
    "EngineModel",
    "EngineSession",
    "begin_packing",
    "build_engine_model",
    "check_options",
    "find_isa",
    "find_kv_dtype",
    "find_sizes",
    "instruction_sets",
    "is_built",
    "kinds",
]
