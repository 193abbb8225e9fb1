"""The native CPU engine's Python side: packs weights, keeps rows, steps them. The one importer of the extension."""

from martlet.engine.extension import find_isa, instruction_sets, is_built, kinds
from martlet.engine.model import EngineModel, build_engine_model
from martlet.engine.session import EngineSession

__all__ = ["EngineModel", "EngineSession", "build_engine_model", "find_isa", "instruction_sets", "is_built", "kinds"]
