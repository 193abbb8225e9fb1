"""One file a family: `config.json -> Arch`, and rules where tensor names differ. No forward pass lives here."""

from martlet.families.config import Config
from martlet.families.registry import FAMILIES, Family, find_family, find_gguf_family, gguf_dialect, load_families

__all__ = ["FAMILIES", "Config", "Family", "find_family", "find_gguf_family", "gguf_dialect", "load_families"]
